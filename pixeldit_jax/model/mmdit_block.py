"""A block of image and text tokens: MM-DiT (arXiv 2403.03206, figure 2b)."""

import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.patch_block import PatchBlock
from pixeldit_jax.model.rope import Rotary
from pixeldit_jax.typing import Array, Bool, Float

Streams = tuple[Float[Array, 'B L D'], Float[Array, 'B T D']]


class MMDiTBlock(nnx.Module):
  """Two patch blocks, one for each stream, that share their attention.

  Every token, of the image or the text, attends to [text, image].
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
    self.image = PatchBlock(config, rngs=rngs)
    self.text = PatchBlock(config, tokens=None, rngs=rngs)

  def __call__(
    self,
    streams: Streams,
    c: Float[Array, 'B 1 D'],
    rotary: tuple[Rotary | None, Rotary | None],
    mask: Bool[Array, 'B T'] | None,
  ) -> Streams:
    """The image and text tokens after the block.

    Args:
      streams: image and text tokens.
      c: the condition, of both.
      rotary: of the image and of the text tokens.
      mask: True for text tokens that may be attended; all if None.
    """
    x, text = streams
    L, T = x.shape[1], text.shape[1]
    image_qkv, image_m = self.image.pre_attention(x, c, rotary[0])
    text_qkv, text_m = self.text.pre_attention(text, c, rotary[1])
    q, k, v = (jnp.concatenate(p, 1) for p in zip(text_qkv, image_qkv))
    if mask is not None:
      mask = jnp.pad(mask, ((0, 0), (0, L)), constant_values=True)
    attended = self.image.attn.attend(q, k, v, mask)
    return (
      self.image.post_attention(x, attended[:, T:], image_m),
      self.text.post_attention(text, attended[:, :T], text_m),
    )
