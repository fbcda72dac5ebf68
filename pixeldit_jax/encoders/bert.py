"""BERT (arXiv 1810.04805), the small encoder of texts: MiniLM is one.

Tokens look both ways; norms come after each residual sum, positions are
learned, and GELU is exact.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.errors import UserError
from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.layers import (
  LayerNorm,
  Linear,
  matmul_precision,
  normal,
  zeros,
)
from pixeldit_jax.model.stack import run_blocks, stack_blocks
from pixeldit_jax.sharding import constrain
from pixeldit_jax.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """A BERT. The defaults are those of MiniLM-L6.

  Attributes:
    vocabulary: token numbers.
    width: of the tokens.
    depth: blocks.
    heads: attention heads.
    mlp_width: hidden width of the MLP.
    positions: tokens of a text at most.
    kinds: of tokens; texts here are all of the first kind.
    epsilon: of the norms.
    dtype: of activations and matrix products; norms and softmax are float32.
    scan: blocks as one loop, or unrolled; see `ModelConfig`.
  """

  vocabulary: int = 30522
  width: int = 384
  depth: int = 6
  heads: int = 12
  mlp_width: int = 1536
  positions: int = 512
  kinds: int = 2
  epsilon: float = 1e-12
  dtype: str = 'float32'
  scan: bool = True

  def __post_init__(self):
    if self.width % self.heads:
      raise UserError(
        f'a text encoder of width {self.width} has no {self.heads} equal '
        'heads: give heads that divide it.'
      )


def embedding_table(count: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
  """A vector for each of `count` numbers, [count, width]."""
  value = normal(rngs.params(), (count, width), jnp.float32)
  return nnx.Param(value, axes=(None, 'embed'))


def check_length(tokens: int, positions: int) -> None:
  """Raises UserError for more tokens than a network has positions."""
  if tokens > positions:
    raise UserError(
      f'{tokens} tokens for a text encoder of {positions} positions: lower '
      'tokens.'
    )


def embed(table: nnx.Param, ids: Int[Array, 'B T']) -> Float[Array, 'B T D']:
  """The vector of each number, texts split over the devices.

  Each device looks up its columns for all texts, and hands over those of other
  devices' texts: the table, over a gigabyte in Gemma 2, is not gathered.
  """
  ids = constrain(ids, None, None)
  x = constrain(table[...][ids], None, None, 'embed')
  return constrain(x, 'batch', None, None)


class BertBlock(nnx.Module):
  """x = norm(x + Attn(x)); x = norm(x + MLP(x))."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    width, heads = config.width, config.heads

    def linear(inputs, outputs, axes):
      return Linear(
        inputs, outputs, axes, bias_init=zeros, dtype=config.dtype, rngs=rngs
      )

    qkv_axes = ('embed', None, 'heads', None)
    size = width // heads
    self.qkv = linear(width, (3, heads, size), qkv_axes)
    self.proj = linear((heads, size), width, ('heads', None, 'embed'))
    self.norm1 = LayerNorm(width, config.epsilon)
    self.up = linear(width, config.mlp_width, ('embed', 'mlp'))
    self.down = linear(config.mlp_width, width, ('mlp', 'embed'))
    self.norm2 = LayerNorm(width, config.epsilon)

  def __call__(
    self, x: Float[Array, 'B T D'], mask: Bool[Array, 'B T']
  ) -> Float[Array, 'B T D']:
    q, k, v = jnp.unstack(self.qkv(x), axis=2)
    # Texts are short: the kernels that never hold all scores gain nothing.
    h = attend(q, k, v, mask_BS=mask, implementation='xla')
    x = self.norm1(x + self.proj(h))
    h = jax.nn.gelu(self.up(x), approximate=False)
    return self.norm2(x + self.down(h))


class Bert(nnx.Module):
  """Token numbers to the last hidden state."""

  def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.words = embedding_table(config.vocabulary, config.width, rngs)
    self.positions = embedding_table(config.positions, config.width, rngs)
    self.kinds = embedding_table(config.kinds, config.width, rngs)
    self.norm = LayerNorm(config.width, config.epsilon)
    self.blocks = stack_blocks(
      lambda rngs: BertBlock(config, rngs=rngs), config.depth, rngs
    )

  def __call__(
    self, ids: Int[Array, 'B T'], mask: Bool[Array, 'B T']
  ) -> Float[Array, 'B T D']:
    """The last hidden state, in `config.dtype`, of padding too.

    Args:
      ids: numbers of the tokens.
      mask: True for tokens of the text; no other token is attended.

    Raises:
      UserError: more tokens than there are positions.
    """
    config, length = self.config, ids.shape[1]
    check_length(length, config.positions)
    with matmul_precision(config.dtype):
      # Tables may be held in bfloat16; their sum and its norm are float32.
      parts = (
        embed(self.words, ids),
        self.positions[...][:length],
        self.kinds[...][0],
      )
      words, positions, kind = (x.astype(jnp.float32) for x in parts)
      x = self.norm(words + positions + kind).astype(config.dtype)
      x, _ = run_blocks(self.blocks, x, mask, scan=config.scan, remat='none')
      return x
