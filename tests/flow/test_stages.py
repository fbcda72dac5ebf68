"""PixelFlow's stages and its training batch, against its public code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from pixeldit_jax.convert.official import from_official, rename_to_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.stages import (
  Stages,
  block_factor,
  block_noise,
  deal,
  jump_weights,
  next_stage,
  stage_pair,
)
from pixeldit_jax.model.embed import patchify
from pixeldit_jax.model.pixeldit import weights_of


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.mark.parametrize('count', [4, 3])
def test_tables_and_times_are_the_public_codes(golden, count):
  arrays = golden('rivals/pixelflow').below(f'sched_T1000_S{count}')
  stages = Stages(count)

  def check(found, name):
    np.testing.assert_allclose(found, arrays[name], rtol=1e-5, atol=1e-6)

  check(stages.starts, 'start_t')
  check(stages.ends, 'end_t')
  check(stages.bounds, 'T_first_last')
  jumps = [jump_weights(stages, i) for i in range(1, count)]
  for i, name in enumerate(('jump_alpha', 'jump_beta')):
    check([weights[i] for weights in jumps], name)
  for steps, shift in ((4, 1.0), (10, 1.0), (30, 1.0), (6, 2.0)):
    name = f'steps{steps}_shift{shift}'
    times = stages.times(steps, shift)
    check(times, f'{name}/t')
    for stage in range(count):
      told = stages.time_of(stage, times[:-1])
      check(told, f'{name}/stage{stage}_T')


def test_jumps_are_the_public_codes(golden, assert_close):
  arrays = golden('rivals/pixelflow')
  np.testing.assert_allclose(block_factor(), arrays['block_chol'], atol=1e-4)
  factor = block_factor().astype('d')
  np.testing.assert_allclose(factor @ factor.T, arrays['block_cov'], atol=2e-6)
  a = arrays.below('sample')
  eps = a['stage1_block_eps'].reshape(2, 3, 8, 8, 4).transpose(0, 2, 3, 1, 4)
  noise = block_noise(jnp.asarray(eps))
  assert_close(noise, nhwc(a['stage1_block_noise']))
  for stage in (1, 2, 3):
    noise = nhwc(a[f'stage{stage}_block_noise'])
    before = nhwc(a[f'stage{stage - 1}_end'])
    found = next_stage(Stages(), stage, before, noise)
    assert_close(found, nhwc(a[f'stage{stage}_start']))


@pytest.mark.slow
def test_a_batch_of_all_stages_trains_as_in_the_public_code(
  golden, assert_close
):
  """In one compiled program; theirs packs the tokens in one row."""
  arrays = golden('rivals/pixelflow')
  a, stages = arrays.below('train'), Stages()
  model = from_official(arrays.below('w'), heads=2)
  graphdef, patch = nnx.graphdef(model), model.config.patch_size
  pairs, at = [], 0
  for row, size in enumerate(a['latent_size']):
    stage = int(np.log2(size * patch / 8))
    index = np.flatnonzero(a['stage_of_image'] == stage)
    t = jnp.asarray(a['t_index'][index] / 1000, jnp.float32)
    x, target = stage_pair(
      stages, stage, nhwc(a['images'][index]), nhwc(a[f'noise_{row}']), t
    )
    told = stages.time_of(stage, t)
    assert_close(told, a['T'][row : row + 1])
    count = a['seqlens'][row]
    for found, name in ((x, 'tokens'), (target, 'target')):
      tokens = patchify(found, patch)[0].swapaxes(1, 2).reshape(count, -1)
      assert_close(tokens, a[name][at : at + count])
    at += count
    pairs.append((x, target, told, jnp.asarray(a['packed_labels'][[row]])))

  @jax.jit
  def loss(weights):
    model = nnx.merge(graphdef, weights)
    each = [
      jnp.mean((model(x, told, y) - target) ** 2)
      for x, target, told, y in pairs
    ]
    return sum(each) / len(each), jnp.stack(each)

  grad = jax.value_and_grad(loss, has_aux=True)
  (total, each), gradient = grad(weights_of(model))
  assert_close(each, a['loss_items'])
  assert_close(total, a['loss'])
  named = rename_to_official(jax.tree.map(np.asarray, gradient), model.config)
  for name, expected in arrays.below('train/grad').items():
    assert_close(named[name], expected)


def test_what_does_not_go_into_stages_is_told():
  assert Stages().sides(64, 128) == [(8, 16), (16, 32), (32, 64), (64, 128)]
  with pytest.raises(UserError, match='36 x 32 in 4 stages: both sides must'):
    Stages().sides(36, 32)
  with pytest.raises(UserError, match='a batch of 6 images in 4 stages'):
    deal(jnp.arange(6), Stages())
  with pytest.raises(UserError, match='in 3 stages: its shares are known'):
    Stages(3).guidance(2.0)


def test_each_device_deals_its_own_images():
  dealt = deal(dict(a=jnp.arange(8), b=None), Stages())
  np.testing.assert_array_equal(
    [part['a'] for part in dealt], np.arange(8).reshape(2, 4).T
  )
  mesh = jax.make_mesh((8,), ('data',))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  program = jax.jit(
    lambda batch: deal(batch, Stages()), in_shardings=rows, out_shardings=rows
  )
  compiled = program.lower(jnp.zeros((32, 4, 4, 3))).compile().as_text()
  for collective in ('all-gather', 'all-to-all', 'all-reduce', 'permute'):
    assert collective not in compiled
