"""Attention on meshes of eight simulated devices equals that on one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.kernels.flash import flash_attention
from pixeldit_jax.model.kernels.sharded import MeshAxes, sharded
from pixeldit_jax.model.kernels.splash import splash_attention
from pixeldit_jax.sharding import use

AXES = ('data', 'fsdp', 'sequence', 'tensor')
SPEC = PartitionSpec(('data', 'fsdp'), 'sequence', 'tensor')


MESH_AXES = MeshAxes(('data', 'fsdp'), 'sequence', 'tensor')


def make_mesh(*sizes):
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4)


def example(B=8, L=64, S=64, N=8, K=16):
  rng = np.random.default_rng(0)
  shapes = [(B, L, N, K), (B, S, N, K), (B, S, N, K), (B, L, N, K)]
  arrays = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
  return *arrays, jnp.asarray(rng.random((B, S)) < 0.7).at[:, 0].set(True)


def outputs(q, k, v, do, mask=None, **options):
  """The output and the gradients of q, k and v."""

  def run(q, k, v):
    return attend(q, k, v, mask_BS=mask, **options)

  o, backward = jax.vjp(run, q, k, v)
  return o, *backward(do)


def assert_equal(actual, expected):
  for a, e in zip(actual, expected):
    np.testing.assert_allclose(a, e, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  'sizes',
  [(8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8), (1, 2, 2, 2)],
)
@pytest.mark.parametrize('implementation', ['xla', 'blockwise'])
def test_sharded_is_unsharded(sizes, implementation):
  *arrays, mask = example()
  run = functools.partial(outputs, implementation=implementation)
  expected = jax.jit(run)(*arrays, mask)
  mesh = make_mesh(*sizes)
  arrays = [jax.device_put(x, NamedSharding(mesh, SPEC)) for x in arrays]
  with use(mesh):
    actual = jax.jit(run)(*arrays, mask)
  expected_sharding = NamedSharding(mesh, SPEC)
  assert actual[0].sharding.is_equivalent_to(expected_sharding, 4)
  assert_equal(actual, expected)


@pytest.mark.parametrize('kernel', [splash_attention, flash_attention])
def test_a_pallas_kernel_runs_on_a_mesh(kernel):
  *arrays, do, mask = example(B=2, L=256, S=256, N=2)
  kernel = functools.partial(kernel, interpret=True)
  mesh = make_mesh(1, 2, 2, 2)

  @jax.jit
  def actual(q, k, v, do, mask):
    def run(q, k, v):
      return sharded(kernel, q, k, v, mask, mesh, MESH_AXES)

    o, backward = jax.vjp(run, q, k, v)
    return o, *backward(do)

  assert_equal(actual(*arrays, do, mask), outputs(*arrays, do, mask))


@pytest.mark.parametrize('L, S', [(30, 13), (13, 30)])
def test_axes_that_do_not_divide_are_left_out(L, S):
  *arrays, mask = example(B=3, L=L, S=S, N=5)
  expected = outputs(*arrays, mask)
  options = dict(mesh=make_mesh(1, 2, 2, 2), axes=MESH_AXES)
  actual = jax.jit(functools.partial(outputs, **options))(*arrays, mask)
  assert_equal(actual, expected)


def test_axes_can_be_renamed():
  """Heads over two axes, the batch over none."""
  *arrays, _ = example()
  axes = MeshAxes(batch=None, heads=('sequence', 'tensor'), sequence=())
  options = {'mesh': make_mesh(2, 1, 2, 2), 'axes': axes}
  actual = jax.jit(functools.partial(outputs, **options))(*arrays)
  assert_equal(actual, outputs(*arrays))


def test_inside_a_shard_map_arrays_are_taken_as_they_are():
  *arrays, _ = example()
  batch = PartitionSpec('data')
  with use(make_mesh(8, 1, 1, 1)):
    run = jax.shard_map(outputs, in_specs=batch, out_specs=batch)
    actual = jax.jit(run)(*arrays)
  assert_equal(actual, outputs(*arrays))


def test_only_keys_values_and_their_gradients_travel():
  """A sequence axis costs two gathers and two reduce-scatters."""
  q, k, v, do, _ = example(B=2, N=2)
  with use(make_mesh(1, 1, 8, 1)):
    sharding = NamedSharding(jax.sharding.get_mesh(), SPEC)
    arrays = [jax.device_put(x, sharding) for x in (q, k, v, do)]
    program = jax.jit(outputs).lower(*arrays).compile().as_text()
  assert len(re.findall(r'= .* all-gather\(', program)) == 2
  assert len(re.findall(r'= .* reduce-scatter\(', program)) == 2
  assert not re.findall(r'= .* (all-reduce|all-to-all)\(', program)


@pytest.mark.slow
def test_65536_tokens_over_eight_devices(optimised):
  """Against float64 on the queries that have a gradient, and in little memory.

  The matrix of scores would be 17 GB, and a device's share of it 2 GB.
  """
  L, K = 65536, 16
  rng = np.random.default_rng(0)
  q, k, v, do = (
    rng.standard_normal((1, L, 1, K)).astype(np.float32) for _ in range(4)
  )
  rows = np.array([0, 1, 8191, 8192, 40000, L - 1])
  do *= np.isin(np.arange(L), rows)[None, :, None, None]
  with use(make_mesh(1, 1, 8, 1)):
    sharding = NamedSharding(jax.sharding.get_mesh(), SPEC)
    arrays = [jax.device_put(x, sharding) for x in (q, k, v, do)]
    compiled = jax.jit(outputs).lower(*arrays).compile(optimised)
  assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
  o, dq, dk, dv = (np.asarray(x)[0, :, 0] for x in compiled(*arrays))

  q, k, v, do = (x[0, :, 0].astype(np.float64) for x in (q, k, v, do))
  scores = q[rows] @ k.T * K**-0.5
  p = np.exp(scores - scores.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  dp = do[rows] @ v.T
  ds = p * (dp - (p * dp).sum(1, keepdims=True)) * K**-0.5
  for actual, expected in (
    (o[rows], p @ v),
    (dq[rows], ds @ k),
    (dk, ds.T @ q[rows]),
    (dv, p.T @ do[rows]),
  ):
    assert np.abs(actual - expected).max() < 2e-5 * np.abs(expected).max()
