"""What a PixelDiT is made of: sizes, ablations, precision, and their checks."""

import dataclasses
from typing import Any

from pixeldit_jax.errors import UserError

PIXEL_ATTENTION = ('patch', 'channel', 'full', 'none')
PIXEL_ADALN = ('pixel', 'patch', 'global')
MODULATION = ('pre', 'post')
NORMS = ('rms', 'layer')
POSITIONS = ('rope', 'absolute')
TIME = ('unit', 'noise')
DTYPES = ('float32', 'bfloat16')
REMAT = ('none', 'matmuls', 'full')
ATTENTION = ('auto', 'xla', 'blockwise', 'flash', 'cudnn')

# Table 1 of the paper; ImageNet at 256 is trained with patches of 16.
SIZES: dict[str, dict[str, Any]] = {
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
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Any PixelDiT. Every ablation of the paper is a value here.

  Attributes:
    num_classes: labels 0..num_classes-1; num_classes itself is "no class". 0
      where a text is the condition.
    text_width: of the text embeddings; 0 where a class is the condition. With
      a text, image and text tokens go through MM-DiT blocks.
    text_tokens: the most tokens that a text has.
    text_mask: attend only to the text tokens that the mask of a text names;
      the release attends to all.
    in_channels: channels of the image.
    patch_size: side p of a patch; both image sides are multiples of it.
    width: D, the width of the patch path.
    heads: attention heads of the patch path.
    patch_depth: blocks of the patch path.
    pixel_width: E, the width of one pixel token.
    pixel_depth: PiT blocks; 0 has only the patch path (single level).
    pixel_attention: 'patch' compacts the p*p pixels of a patch to one token
      before attention (section 3.3); 'channel' compacts the channels instead,
      so that all H*W pixel tokens attend to each other at a narrow width;
      'full' does that at the width of the patch path (the ablation without
      compaction); 'none' has no attention in PiT blocks.
    pixel_attention_width: A, the width of that attention. 0 is 128 for
      'channel', `width` otherwise.
    pixel_heads: heads of that attention. 0 is one for 'channel', `heads`
      otherwise.
    pixel_adaln: one modulation for each pixel ('pixel'), for each patch
      ('patch'), or for the image from time and class ('global'; the
      patch tokens are then added to the pixel tokens, once).
    modulation: 'pre' scales and shifts what enters attention and MLP and gates
      what leaves; 'post' scales and shifts what leaves (no loss spikes).
    norm: 'rms' or 'layer', for all norms.
    positions: 'rope', 2-D rotary in attention, or 'absolute', fixed 2-D
      sine-cosine added to the patch tokens.
    time: what the features of time are of: t ('unit', as for classes), or the
      noise level 1000 (1 - t) ('noise', as the text-to-image release).
    zero_modulation: blocks start with modulation zero, as the identity if
      'pre'; the text-to-image release starts them random.
    dtype: of activations and matrix products; parameters are float32.
    scan: blocks as one scanned loop (quick to compile, TPU and GPU), or
      unrolled (faster on CPU). The weights are stacked either way.
    patch_remat: what the backward pass of the patch path keeps: everything
      ('none'), results of matrix products and of attention over long
      sequences ('matmuls'), only block inputs ('full').
    pixel_remat: the same for the pixel path.
    attention: the kernel; 'auto' chooses by platform and length, the others
      are those of `model.attention`.
  """

  num_classes: int = 1000
  text_width: int = 0
  text_tokens: int = 300
  text_mask: bool = False
  in_channels: int = 3
  patch_size: int = 16
  width: int = 1152
  heads: int = 16
  patch_depth: int = 26
  pixel_width: int = 16
  pixel_depth: int = 4
  pixel_attention: str = 'patch'
  pixel_attention_width: int = 0
  pixel_heads: int = 0
  pixel_adaln: str = 'pixel'
  modulation: str = 'pre'
  norm: str = 'rms'
  positions: str = 'rope'
  time: str = 'unit'
  zero_modulation: bool = True
  dtype: str = 'float32'
  scan: bool = True
  patch_remat: str = 'none'
  pixel_remat: str = 'none'
  attention: str = 'auto'

  def __post_init__(self):
    for name, least in (
      ('num_classes', 0),
      ('text_width', 0),
      ('text_tokens', 1),
      ('in_channels', 1),
      ('patch_size', 1),
      ('patch_depth', 1),
      ('pixel_depth', 0),
    ):
      if getattr(self, name) < least:
        raise UserError(
          f'model.{name}={getattr(self, name)}: at least {least}.'
        )
    if bool(self.num_classes) == bool(self.text_width):
      raise UserError(
        f'model.num_classes={self.num_classes} with '
        f'model.text_width={self.text_width}: the condition is a class or a '
        'text; set one of them and let the other be 0.'
      )
    _check_heads('', self.width, self.heads)
    _check_heads('pixel_attention_', *self.pixel_attention_size)
    if self.pixel_width < 4 or self.pixel_width % 4:
      raise UserError(
        f'model.pixel_width={self.pixel_width}: a multiple of 4, for 2-D '
        'sine-cosine positions.'
      )
    for name, known in (
      ('pixel_attention', PIXEL_ATTENTION),
      ('pixel_adaln', PIXEL_ADALN),
      ('modulation', MODULATION),
      ('norm', NORMS),
      ('positions', POSITIONS),
      ('time', TIME),
      ('dtype', DTYPES),
      ('patch_remat', REMAT),
      ('pixel_remat', REMAT),
      ('attention', ATTENTION),
    ):
      if getattr(self, name) not in known:
        raise UserError(
          f'model.{name}={getattr(self, name)!r}: use one of {known}.'
        )

  @property
  def head_size(self) -> int:
    return self.width // self.heads

  @property
  def pixel_attention_size(self) -> tuple[int, int]:
    """Width and heads of the attention in PiT blocks."""
    narrow = self.pixel_attention == 'channel'
    # A head of 128 fills a TPU's matrix unit; one of 64 takes it as long.
    width, heads = (128, 1) if narrow else (self.width, self.heads)
    return self.pixel_attention_width or width, self.pixel_heads or heads

  @property
  def mlp_width(self) -> int:
    """Hidden width of SwiGLU: two thirds of 4 D, as three matrices."""
    return 2 * 4 * self.width // 3

  @property
  def pixels(self) -> int:
    """P, the pixels of one patch."""
    return self.patch_size**2

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """Patches down and across an image.

    Raises:
      ValueError: a side that is not a multiple of the patch size.
    """
    p = self.patch_size
    if height < p or width < p or height % p or width % p:
      near = [max(p, round(side / p) * p) for side in (height, width)]
      raise UserError(
        f'an image of {height} x {width} does not divide into patches of '
        f'{p} x {p} (model.patch_size): use {near[0]} x {near[1]}.'
      )
    return height // p, width // p


def _check_heads(path: str, width: int, heads: int) -> None:
  """Raises UserError for a width that does not divide into heads."""
  unit = 4 * max(1, heads)  # 2-D rotary turns 4 channels together
  if heads < 1 or width < 1 or width % unit:
    raise UserError(
      f'model.{path}width={width} with {heads} heads: the width must be a '
      f'multiple of 4 x heads, such as {unit * max(1, round(width / unit))}.'
    )
