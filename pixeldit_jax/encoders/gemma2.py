"""Gemma 2 (arXiv 2408.00118, section 2), the encoder of text to image.

A causal language model. A block has a norm before and one after each of its two
parts; every other block sees a window of tokens only; a few heads of keys and
values serve all queries; scores of attention are capped.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from pixeldit_jax.encoders.bert import check_length, embed, embedding_table
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.layers import Linear, RMSNorm, matmul_precision
from pixeldit_jax.model.rope import Rotary, rotary_1d, rotate
from pixeldit_jax.model.stack import run_blocks, stack_blocks
from pixeldit_jax.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Gemma2Config:
  """A Gemma 2. The defaults are those of 2B.

  Attributes:
    vocabulary: token numbers.
    width: of the tokens.
    depth: blocks; the first, third and so on see a window.
    heads: of queries.
    groups: heads of keys and values; divides `heads`.
    head_size: of each.
    mlp_width: hidden width of the MLP.
    positions: tokens of a text at most.
    window: tokens that a block with a window sees, itself the last.
    query_scale: scores are divided by its square root.
    score_cap: c in c tanh(score / c).
    epsilon: of the norms.
    dtype: of activations and matrix products; norms and softmax are float32.
    scan: blocks as one loop, or unrolled; see `ModelConfig`.
  """

  vocabulary: int = 256000
  width: int = 2304
  depth: int = 26
  heads: int = 8
  groups: int = 4
  head_size: int = 256
  mlp_width: int = 9216
  positions: int = 8192
  window: int = 4096
  query_scale: float = 256.0
  score_cap: float = 50.0
  epsilon: float = 1e-6
  dtype: str = 'bfloat16'
  scan: bool = True

  def __post_init__(self):
    if self.heads % self.groups:
      raise UserError(
        f'{self.heads} heads of queries do not divide over {self.groups} of '
        'keys: give groups that divide heads.'
      )


class Gemma2Block(nnx.Module):
  """x += norm(Attn(norm x)); x += norm(MLP(norm x))."""

  def __init__(self, config: Gemma2Config, *, rngs: nnx.Rngs):
    self.config = config
    width, size = config.width, config.head_size

    def linear(inputs, outputs, axes):
      return Linear(
        inputs, outputs, axes, bias=False, dtype=config.dtype, rngs=rngs
      )

    def norm():
      return RMSNorm(width, config.epsilon)

    self.norm1, self.norm2, self.norm3, self.norm4 = (norm() for _ in range(4))
    # There are few heads of keys, so that no rule for 'heads' need divide them.
    self.q = linear(width, (config.heads, size), ('embed', 'heads', None))
    self.kv = linear(
      width, (2, config.groups, size), ('embed', None, None, None)
    )
    self.proj = linear((config.heads, size), width, ('heads', None, 'embed'))
    self.up = linear(width, (2, config.mlp_width), ('embed', None, 'mlp'))
    self.down = linear(config.mlp_width, width, ('mlp', 'embed'))

  def __call__(
    self,
    x: Float[Array, 'B T D'],
    rotary: Rotary,
    mask: Bool[Array, 'B T'],
    windowed: Bool[Array, ''],
  ) -> Float[Array, 'B T D']:
    h = self._attend(self.norm1(x), rotary, mask, windowed)
    x += self.norm2(h)
    gate_up_BT2F = self.up(self.norm3(x))
    gate = jax.nn.gelu(gate_up_BT2F[:, :, 0], approximate=True)
    return x + self.norm4(self.down(gate * gate_up_BT2F[:, :, 1]))

  def _attend(self, x, rotary, mask, windowed):
    config = self.config
    q_BTNK = rotate(self.q(x), rotary)
    k_BSGK, v_BSGK = jnp.unstack(self.kv(x), axis=2)
    k_BSGK = rotate(k_BSGK, rotary)
    B, T, N, K = q_BTNK.shape
    q_BTGRK = q_BTNK.reshape(B, T, config.groups, -1, K)
    # Scores and softmax in float32: bfloat16 has 8 bits for a sum over keys.
    scores = jnp.einsum(
      'BTGRK,BSGK->BGRTS', q_BTGRK, k_BSGK, preferred_element_type=jnp.float32
    )
    cap = config.score_cap
    scores = cap * jnp.tanh(scores / (cap * math.sqrt(config.query_scale)))
    ahead = jnp.arange(T)[:, None] - jnp.arange(T)
    seen = (ahead >= 0) & (~windowed | (ahead < config.window))
    seen = seen & mask[:, None, None, None]
    scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, -1).astype(v_BSGK.dtype)
    h = jnp.einsum('BGRTS,BSGK->BTGRK', weights, v_BSGK)
    return self.proj(h.reshape(B, T, N, K))


class Gemma2(nnx.Module):
  """Token numbers to the last hidden state, normed."""

  def __init__(self, config: Gemma2Config, *, rngs: nnx.Rngs):
    self.config = config
    self.words = embedding_table(config.vocabulary, config.width, rngs)
    self.blocks = stack_blocks(
      lambda rngs: Gemma2Block(config, rngs=rngs), config.depth, rngs
    )
    self.norm = RMSNorm(config.width, config.epsilon)

  def __call__(
    self, ids: Int[Array, 'B T'], mask: Bool[Array, 'B T']
  ) -> Float[Array, 'B T D']:
    """The last hidden state, in `config.dtype`, of padding too.

    Args:
      ids: numbers of the tokens, filled up on the right.
      mask: True for tokens of the text; no other token is attended.

    Raises:
      UserError: more tokens than there are positions.
    """
    config, length = self.config, ids.shape[1]
    check_length(length, config.positions)
    dtype = jnp.dtype(config.dtype)
    with matmul_precision(config.dtype):
      # The factor is rounded as the activations are: so it was trained.
      scale = jnp.asarray(math.sqrt(config.width), dtype)
      x = embed(self.words, ids).astype(dtype) * scale
      x, _ = run_blocks(
        self.blocks,
        x,
        rotary_1d(length, config.head_size),
        mask,
        scan=config.scan,
        remat='none',
        each=(jnp.arange(config.depth) % 2 == 0,),
      )
      return self.norm(x)
