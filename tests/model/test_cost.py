"""Parameters and operations against the paper's table."""

import dataclasses

import jax
import pytest
from flax import nnx

from pixeldit_jax.encoders import dinov3
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.cost import count_parameters, forward_flops
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import abstract_model, weights_of


@pytest.mark.parametrize(
  'size, parameters',
  [('B', 184.7e6), ('L', 569.6e6), ('XL', 797.4e6), ('T2I', 1302.5e6)],
)
def test_parameters_are_the_papers(size, parameters):
  assert count_parameters(
    ModelConfig(**preset('pixeldit', size))
  ) == pytest.approx(parameters, rel=1e-3)


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
  flops = forward_flops(ModelConfig(**preset('pixeldit', size)), side, side)
  assert flops / 1e9 == pytest.approx(gflops, rel=1e-3)


# Parameters and GFLOPs at 256 and 512, counted as here on the public code, and
# the published figures. Papers other than PixelDiT's publish multiply-adds,
# half of ours; JiT's weights include its fixed positions, `position_grid`^2
# vectors that are not trained.
PUBLISHED = [
  ('deco', 'L', 16, 426_938_019, 155.03, 690.17),  # 426M
  ('deco', 'XL', 16, 682_282_851, 244.94, 1079.86),  # 682M
  ('flatdit', 'L', 16, 459_171_584, 162.15, 724.98),  # 459M
  ('flatdit', 'XL', 16, 676_360_128, 238.12, 1052.59),
  ('pixnerd', 'L', 16, 452_113_795, 170.36, 751.47),
  ('pixnerd', 'XL', 16, 700_589_219, 268.55, 1167.17),  # 700M, 134
  ('jit', 'B', 16, 131_123_712, 50.45, None),  # 131M, 25
  ('jit', 'L', 16, 458_877_664, 175.89, None),  # 459M, 88
  ('jit', 'H', 16, 952_514_368, 363.89, None),  # 953M, 182
  ('jit', 'G', 16, 2_007_130_000, 767.49, None),  # 2B, 383
  ('jit', 'B', 32, 133_190_400, None, 51.50),  # 133M
  ('jit', 'L', 32, 461_534_176, None, 177.25),  # 462M
  ('jit', 'H', 32, 956_055_616, None, 365.70),  # 956M
]


@pytest.mark.parametrize(
  'family, size, patch, parameters, at_256, at_512',
  PUBLISHED,
  ids=lambda value: str(value),
)
def test_the_family_counts_as_the_public_code(
  family, size, patch, parameters, at_256, at_512
):
  config = ModelConfig(**preset(family, size) | dict(patch_size=patch))
  assert count_parameters(config) == parameters
  for side, gflops in ((256, at_256), (512, at_512)):
    if gflops:
      flops = forward_flops(config, side, side)
      assert flops / 1e9 == pytest.approx(gflops, rel=2e-4)


@pytest.mark.parametrize(
  'size, side, parameters, gflops',
  [
    ('S', 32, 32_963_360, 12.11),
    ('B', 32, 130_512_416, 46.01),
    ('L', 32, 458_102_816, 161.40),
    ('XL', 32, 675_129_632, 237.24),  # published: 119 multiply-adds
    ('XL', 64, 675_129_632, 1049.08),
  ],
)
def test_dit_counts_as_the_public_code(size, side, parameters, gflops):
  """Its weights include 256 fixed positions, which are not trained."""
  config = ModelConfig(**preset('dit', size))
  assert count_parameters(config) + 256 * config.width == parameters
  assert forward_flops(config, side, side) / 1e9 == pytest.approx(gflops, 4e-4)


def test_pixelflow_counts_as_the_public_code():
  config = ModelConfig(**preset('pixelflow', 'XL'))
  assert count_parameters(config) == 676_611_120
  for side, gflops in (
    (32, 58.08),
    (64, 237.27),
    (128, 1049.19),
    (256, 5818.9),
  ):
    flops = forward_flops(config, side, side)
    assert flops / 1e9 == pytest.approx(gflops, rel=1e-4)


def test_operations_without_compaction_are_the_papers():
  config = ModelConfig(**preset('pixeldit', 'XL'), pixel_attention='full')
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
    preset('deco') | dict(pixel_width=16),
    preset('pixnerd') | dict(pixel_width=16),
    preset('flatdit'),
    preset('jit') | dict(context_start=1),
    preset('dit') | dict(in_channels=3),
    preset('pixelflow'),
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


@pytest.mark.parametrize(
  'size,side,parameters,gflops,published',
  [
    ('B', 256, 143_729_024, 79.01, 91.50),
    ('L', 256, 480_843_648, 268.16, 280.65),
    ('H', 256, 986_193_568, 555.54, 568.03),
    ('H512', 512, 988_036_768, 2222.52, 2437.56),
  ],
)
def test_pixeldit2_has_its_published_cost(
  size, side, parameters, gflops, published
):
  """The published figures are with the encoder, which is not counted here."""
  config = ModelConfig(**preset('pixeldit2', size))
  assert count_parameters(config) == parameters
  assert forward_flops(config, side, side) / 1e9 == pytest.approx(gflops, 1e-4)
  encoder = dinov3.of_width(config.grounding_width)
  total = forward_flops(config, side, side)
  total += dinov3.forward_flops(encoder, side, side)
  assert total / 1e9 == pytest.approx(published, 1e-4)


def test_without_features_the_patches_share_their_modulation():
  """As coded there it is computed for each: 74.72 GFLOP of B at 256."""
  config = ModelConfig(**preset('pixeldit2', 'B'))
  D, L, context = config.width, 256, config.context_tokens
  blocks = config.patch_depth * L
  blocks += (config.patch_depth - config.context_start) * context
  shared = forward_flops(config, 256, 256, grounded=False)
  each = 2 * (blocks - config.patch_depth) * 6 * D * D + 4 * (L - 1) * D * D
  assert (shared + each) / 1e9 == pytest.approx(74.72, 1e-4)
