"""Parameters and operations against the paper's table."""

import dataclasses

import jax
import pytest
from flax import nnx

from pixeldit_jax.model.config import SIZES, ModelConfig
from pixeldit_jax.model.cost import count_parameters, forward_flops
from pixeldit_jax.model.pixeldit import abstract_model, weights_of


@pytest.mark.parametrize(
  'size, parameters',
  [('B', 184.7e6), ('L', 569.6e6), ('XL', 797.4e6), ('T2I', 1302.5e6)],
)
def test_parameters_are_the_papers(size, parameters):
  assert count_parameters(ModelConfig(**SIZES[size])) == pytest.approx(
    parameters, rel=1e-3
  )


@pytest.mark.parametrize(
  'size, side, gflops',
  [
    ('B', 256, 75.43),
    ('B', 128, 18.39),
    ('L', 256, 227.77),
    ('XL', 256, 311.19),
    ('XL', 512, 1352.24),
    ('T2I', 512, 1432.57),
    ('T2I', 1024, 6183.12),
  ],
)
def test_operations_are_the_papers(size, side, gflops):
  flops = forward_flops(ModelConfig(**SIZES[size]), side, side)
  assert flops / 1e9 == pytest.approx(gflops, rel=1e-3)


def test_operations_without_compaction_are_the_papers():
  config = ModelConfig(**SIZES['XL'], pixel_attention='full')
  assert forward_flops(config, 256, 256) / 1e9 == pytest.approx(82247, abs=1)


@pytest.mark.parametrize(
  'overrides',
  [
    dict(),
    dict(modulation='post'),
    dict(pixel_adaln='patch'),
    dict(pixel_adaln='global'),
    dict(pixel_attention='none'),
    dict(pixel_attention='channel', attention='xla'),
    dict(pixel_attention='full', attention='xla'),
    dict(pixel_depth=0),
  ],
  ids=str,
)
def test_operations_are_those_of_the_compiled_network(overrides):
  """XLA counts matrix products as we do, and elementwise work besides."""
  config = ModelConfig(
    patch_size=4,
    width=256,
    heads=4,
    patch_depth=2,
    pixel_width=16,
    pixel_depth=2,
    scan=False,
  )
  config = dataclasses.replace(config, **overrides)
  network = abstract_model(config)
  graphdef, model = nnx.graphdef(network), weights_of(network)
  shapes = (
    jax.ShapeDtypeStruct((1, 32, 32, 3), 'float32'),
    jax.ShapeDtypeStruct((1,), 'float32'),
    jax.ShapeDtypeStruct((1,), 'int32'),
  )
  lowered = jax.jit(
    lambda weights, x, t, y: nnx.merge(graphdef, weights)(x, t, y)
  ).lower(model, *shapes)
  counted = lowered.cost_analysis()['flops']
  assert 1 < counted / forward_flops(config, 32, 32) < 1.2
