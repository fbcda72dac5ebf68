"""Autoguidance: away from a weaker network, given the same class."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling import sample_set
from pixeldit_jax.sampling.guided_velocity import guided_velocity, network_of
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.sampling.weak_network import load_weak
from pixeldit_jax.train.checkpoint.restore import CheckpointRef
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.state import init_state


def of(context, **options):
  config = context.config.copy_and_resolve_references()
  config.sampler.update(options)
  return dataclasses.replace(context, config=config)


@pytest.fixture(scope='module')
def narrow_run(tmp_path_factory):
  """A run of half the width, with weights at random, after step 7."""
  config = get_config()
  make_debug(config)
  config.model.update(width=config.model.width // 2)
  context = RunContext.build(config)
  tx = make_optimizer(context)
  weights = jax.jit(lambda: init_state(context.model, tx, 1).weights)()
  rng = np.random.default_rng(1)
  weights = jax.tree.map(
    lambda a: a + rng.normal(0, 0.1, a.shape).astype(np.float32),
    jax.device_get(weights),
  )
  workdir = tmp_path_factory.mktemp('narrow')
  (workdir / 'config.json').write_text(config.to_json())
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(workdir / 'checkpoints' / '7' / 'ema', weights)
  return context, weights, str(workdir)


@pytest.mark.slow
def test_a_network_away_from_itself_is_not_guided(tiny_run, tiny_weights):
  context, ref = tiny_run
  numbers = np.arange(8)
  options = dict(steps=3, interval=(0.0, 1.0))
  images = []
  for more in (dict(guidance=1.0), dict(guidance=3.0, weak=ref.workdir)):
    sampler = Sampler(of(context, **options, **more), batch_size=8)
    images += sampler.sample(tiny_weights[1], numbers, numbers)
  np.testing.assert_array_equal(*images)


@pytest.mark.slow
def test_the_velocity_leads_away_from_the_weaker_one(
  tiny_run, tiny_weights, narrow_run
):
  weak_context, weak_weights, workdir = narrow_run
  weights, weak_weights = jax.device_put((tiny_weights[1], weak_weights))
  context = of(tiny_run[0], weak=f'{workdir}@7', interval=(0.0, 1.0))
  x = jax.random.normal(jax.random.key(0), (8, 28, 28, 3))
  labels, t = jnp.arange(8), jnp.float32(0.4)
  with context.use():
    weak = load_weak(context)
    found = jax.jit(
      lambda: guided_velocity(context, weights, labels, None, 2.5, weak=weak)(
        x, t
      )
    )()
    v = network_of(context, weights)(x, t, labels)
    u = network_of(weak_context, weak_weights)(x, t, labels)
  np.testing.assert_allclose(found, u + 2.5 * (v - u), atol=2e-5)


def test_the_step_of_the_weaker_one_is_among_the_settings(
  tiny_run, narrow_run, tmp_path
):
  context = of(tiny_run[0], weak=narrow_run[2], steps=2)
  made = sample_set.make_sample_set(context, tiny_run[1], tmp_path / 'a.npz', 2)
  assert made['weak_step'] == 7 and made['sampler']['weak'] == narrow_run[2]


def test_a_checkpoint_is_named_with_its_step():
  for text, expected in (
    ('runs/x', ('runs/x', None)),
    ('runs/x@1000', ('runs/x', 1000)),
    ('gs://me@home/x', ('gs://me@home/x', None)),
  ):
    ref = CheckpointRef.of_text(text)
    assert (ref.workdir, ref.step) == expected


def test_what_does_not_fit_is_refused(tiny_run, narrow_run, tmp_path):
  context, ref = tiny_run

  def make(**options):
    sample_set.make_sample_set(of(context, **options), ref, tmp_path / 'x', 2)

  with pytest.raises(MissingFileError, match='step 8|no checkpoint'):
    make(weak=f'{narrow_run[2]}@8')
  with pytest.raises(UserError, match='reuse_patch_tokens'):
    make(weak=narrow_run[2], reuse_patch_tokens=2)
  other = tmp_path / 'other'
  shutil.copytree(narrow_run[2], other)
  config = json.loads((other / 'config.json').read_text())
  config['model']['num_classes'] = 7
  (other / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match='num_classes=7, and this run 10'):
    make(weak=str(other))
  assert [p.name for p in tmp_path.iterdir()] == ['other']
  edited = of(context, weak=narrow_run[2])
  with pytest.raises(UserError, match='only samples are guided by a weaker'):
    guided_velocity(edited, None, jnp.arange(2), None, 2.0)
