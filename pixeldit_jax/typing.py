"""Shape letters and array types used in signatures everywhere.

| letter | axis                      | letter | axis                         |
|--------|---------------------------|--------|------------------------------|
| B      | batch                     | D      | width of tokens or features  |
| I, J   | images of a set, of another | E    | width of a pixel token       |
| H, W   | image height, width       | A      | width of attention of pixels |
| C      | channels                  | F      | hidden width of an MLP       |
| L      | patches; queries          | G      | width of a teacher's features |
| S      | keys; a teacher's patches | N      | attention heads              |
| P      | pixels in one patch       | K      | size of one head             |
| T      | text tokens               | R      | rotated pairs of a head, K/2 |

M stands for the modulation vectors of a block. A small letter is the same axis
at another size: `hH,BHWC,wW->BhwC` resizes an image. Arrays carry their shape
as a suffix where it changes: `q_BLNK`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, BFloat16, Bool, Float, Int, UInt8, UInt32

Key = jax.Array  # a typed PRNG key (jax.random.key)
PyTree = Any
AnyArray = Array | np.ndarray  # on devices or on the host


class TextCondition(NamedTuple):
  """Embedded texts, from the encoder to the network.

  Attributes:
    tokens: embeddings [B, T, C], bfloat16 as encoders give them.
    mask: which tokens are text [B, T], bool; None where all are used.
  """

  tokens: Float[AnyArray, 'B T C']
  mask: Bool[AnyArray, 'B T'] | None = None


class GroundedCondition(NamedTuple):
  """Labels, and the features of a frozen encoder of the same noisy images.

  Attributes:
    labels: [B].
    features: of each patch [B, L, G].
    dropped: images that are treated as if they had no features [B], bool; None
      where there are none.
  """

  labels: Int[Array | np.ndarray, 'B']
  features: Float[Array, 'B L G']
  dropped: Bool[Array, 'B'] | None = None


# What an image is to show: labels [B], with features or without, or texts.
Condition = Int[AnyArray, 'B'] | GroundedCondition | TextCondition
# v(x, t): images [B H W C] at times [B] to velocities [B H W C].
VelocityFn = Callable[[jax.Array, jax.Array], jax.Array]

__all__ = [
  'AnyArray',
  'Array',
  'BFloat16',
  'Bool',
  'Condition',
  'Float',
  'GroundedCondition',
  'Int',
  'Key',
  'PyTree',
  'TextCondition',
  'UInt8',
  'UInt32',
  'VelocityFn',
]
