"""The configuration of each network of the family, and published sizes.

All share the patch path of `model.pixeldit`. `FAMILIES` has the fields of
`ModelConfig` in which a network differs from PixelDiT, `SIZES` its widths and
depths; the ImageNet ones are for patches of 16 unless they say otherwise.
"""

from collections.abc import Mapping
from typing import Any

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig

FAMILIES: Mapping[str, Mapping[str, Any]] = {
  # arXiv 2511.20645: PiT blocks on pixel tokens.
  'pixeldit': {},
  # arXiv 2511.19365: pixels by themselves, conditioned by their patch.
  'deco': dict(
    decoder='deco', pixel_width=32, pixel_depth=3, zero_modulation=False
  ),
  # arXiv 2507.23268: a neural field for each patch.
  'pixnerd': dict(decoder='nerf_field', pixel_width=64, zero_modulation=False),
  # arXiv 2609.24919: predicts the image, grounded in a frozen DINOv3.
  'pixeldit2': dict(
    decoder='linear',
    pixel_depth=0,
    prediction='image',
    context_tokens=32,
    context_start=8,
    condition_silu=2,
    grounding_width=384,
    zero_grounding=False,
  ),
  # The plain pixel DiT that DeCo is compared with.
  'flatdit': dict(
    decoder='linear',
    pixel_depth=0,
    output_norm='plain',
    zero_modulation=False,
  ),
  # arXiv 2511.13720: predicts the image, from a narrow embedding of patches.
  'jit': dict(
    decoder='linear',
    pixel_depth=0,
    prediction='image',
    bottleneck=128,
    positions='both',
    rotary='row_column',
    position_grid=16,
    context_tokens=32,
    context_start=4,
    biases=True,
    init='xavier',
    time_period=10_000.0,
  ),
  # arXiv 2212.09748: predicts the noise of latents, and its variance.
  'dit': dict(
    decoder='linear',
    pixel_depth=0,
    prediction='noise',
    variance=True,
    in_channels=4,
    patch_size=2,
    norm='plain',
    qk_norm='none',
    mlp='gelu',
    positions='absolute',
    position_grid=16,
    biases=True,
    init='xavier',
    time_period=10_000.0,
  ),
  # arXiv 2504.07963: climbs through resolutions.
  'pixelflow': dict(
    decoder='linear',
    pixel_depth=0,
    patch_size=4,
    output_norm='plain',
    attention_norm='plain',
    qk_norm='joint',
    mlp='gelu',
    rotary='column_row',
    biases=True,
    init='xavier',
    time_period=10_000.0,
    time_closed=True,
    size_embed=True,
  ),
  # arXiv 2601.22158: one evaluation an image.
  'pmf': dict(
    decoder='linear',
    pixel_depth=0,
    prediction='image',
    mean_flow='tokens',
    branch_depth=8,
    velocity_branch=True,
    rotary='row_column',
    position_grid=16,
    bottleneck=128,
    bottleneck_bias=True,
    init='narrow',
    time_period=10_000.0,
  ),
}

SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
  'pixeldit': {
    'B': dict(patch_depth=12, pixel_depth=2, width=768, heads=12),
    'L': dict(patch_depth=22, pixel_depth=4, width=1024, heads=16),
    'XL': dict(patch_depth=26, pixel_depth=4, width=1152, heads=16),
    'T2I': dict(
      patch_depth=14,
      pixel_depth=2,
      width=1536,
      heads=24,
      pixel_attention_width=1152,
      pixel_heads=16,
      num_classes=0,
      text_width=2304,  # Gemma-2-2b
      text_tokens=300,
      time='noise',
      zero_modulation=False,
    ),
  },
  'deco': {
    'L': dict(patch_depth=22, width=1024, heads=16),
    'XL': dict(patch_depth=28, width=1152, heads=16),
  },
  'pixnerd': {
    'L': dict(patch_depth=22, pixel_depth=2, width=1024, heads=16),
    'XL': dict(patch_depth=26, pixel_depth=4, width=1152, heads=16),
  },
  # By H and the side of a patch at 512; the encoder is a DINOv3-B there.
  'pixeldit2': {
    'B': dict(patch_depth=12, width=768, heads=12, context_start=4),
    'L': dict(patch_depth=24, width=1024, heads=16),
    'H': dict(patch_depth=32, width=1280, heads=16, dropout=0.2),
    'H512': dict(
      patch_depth=32,
      width=1280,
      heads=16,
      dropout=0.2,
      grounding_width=768,
      condition_silu=1,
      mlp_multiple=32,
    ),
    # Not released.
    'H32': dict(
      patch_size=32, patch_depth=32, width=1280, heads=16, dropout=0.2
    ),
    'G32': dict(
      patch_size=32, patch_depth=40, width=1664, heads=16, dropout=0.2
    ),
  },
  'flatdit': {
    'L': dict(patch_depth=24, width=1024, heads=16),
    'XL': dict(patch_depth=28, width=1152, heads=16),
  },
  'jit': {
    'B': dict(patch_depth=12, width=768, heads=12),
    'L': dict(patch_depth=24, width=1024, heads=16, context_start=8),
    'H': dict(
      patch_depth=32,
      width=1280,
      heads=16,
      context_start=10,
      bottleneck=256,
      dropout=0.2,
    ),
    # Not released; the bottleneck makes the published 2B parameters.
    'G': dict(
      patch_depth=40,
      width=1664,
      heads=16,
      context_start=10,
      bottleneck=256,
      dropout=0.2,
    ),
  },
  # With patches of 2; released are XL, at 256 and 512.
  'dit': {
    'S': dict(patch_depth=12, width=384, heads=6),
    'B': dict(patch_depth=12, width=768, heads=12),
    'L': dict(patch_depth=24, width=1024, heads=16),
    'XL': dict(patch_depth=28, width=1152, heads=16),
  },
  'pixelflow': {
    'XL': dict(patch_depth=28, width=1152, heads=16),
  },
  'pmf': {
    'B': dict(patch_depth=16, width=768, heads=12),
    'L': dict(patch_depth=32, width=1024, heads=16),
    'H': dict(
      patch_depth=48,
      width=1280,
      heads=16,
      bottleneck=256,
      mlp_multiple=8,
    ),
  },
}
# The fields that tell families apart; of the others each may have any value.
STRUCTURE = (
  'decoder',
  'pixel_attention',
  'pixel_adaln',
  'norm',
  'attention_norm',
  'qk_norm',
  'mlp',
  'output_norm',
  'positions',
  'rotary',
  'biases',
  'time',
  'time_period',
  'time_closed',
  'size_embed',
  'variance',
  'mean_flow',
)


def preset(family: str, size: str | None = None) -> dict[str, Any]:
  """Fields of `ModelConfig` of a network, for `config.model.update`.

  Args:
    family: one of `FAMILIES`.
    size: one of its `SIZES`; None leaves widths and depths as they are.

  Raises:
    UserError: a family or a size that there is not.
  """
  if family not in FAMILIES:
    raise UserError(f'model={family!r}: use one of {list(FAMILIES)}.')
  if size is None:
    return dict(FAMILIES[family])
  if size not in SIZES[family]:
    raise UserError(
      f'size={size!r} with model={family!r}: use one of {list(SIZES[family])}.'
    )
  return {**FAMILIES[family], **SIZES[family][size]}


def family_of(config: ModelConfig) -> tuple[str, dict[str, Any]]:
  """The family that a network is of, or is nearest to.

  Returns:
    Its name, and the fields of the network in which it departs from it, none
    if it is one of that family.
  """
  found = {}
  for family, fields in FAMILIES.items():
    standard = ModelConfig(**fields)
    found[family] = {
      name: getattr(config, name)
      for name in STRUCTURE
      if getattr(config, name) != getattr(standard, name)
    }
  nearest = min(found, key=lambda family: len(found[family]))
  return nearest, found[nearest]


def released_start(family: str, width: int, depth: int) -> int:
  """Before which block the released sizes take in the tokens of the class.

  Raises:
    UserError: there is no such size.
  """
  for size in SIZES[family]:
    fields = preset(family, size)
    if (fields['width'], fields['patch_depth']) == (width, depth):
      return fields['context_start']
  raise UserError(
    f'weights do not tell before which of the {depth} blocks the tokens of the '
    f'class are taken in, and no {family} that is released has this depth and '
    f'width={width}: give context_start.'
  )


def released_heads(family: str, width: int) -> int:
  """The attention heads of the released sizes of this width.

  Raises:
    UserError: there is no such size.
  """
  for size in SIZES[family].values():
    if size['width'] == width:
      return size['heads']
  raise UserError(
    f'weights do not tell how many heads attend, and no {family} that is '
    f'published has width={width}: give heads.'
  )
