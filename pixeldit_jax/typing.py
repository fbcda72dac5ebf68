"""Shape letters and array types used in signatures everywhere.

| letter | axis                  | letter | axis                          |
|--------|-----------------------|--------|-------------------------------|
| B      | batch                 | D      | width of the patch path       |
| H, W   | image height, width   | E      | width of a pixel token        |
| C      | image channels        | F      | hidden width of an MLP        |
| L      | patches (tokens)      | N      | attention heads               |
| P      | pixels in one patch   | K      | size of one head              |
| T      | text tokens           | M      | modulation vectors of a block |
| S      | keys of an attention  |        |                               |

Arrays carry their shape as a suffix where it changes: `q_BLNK`.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int, UInt8

Key = jax.Array  # a typed PRNG key (jax.random.key)
PyTree = Any
# What an image is to show: labels [B], or dict(text=[B T C], mask=[B T]).
Condition = Int[Array, 'B'] | dict[str, Array]
# v(x, t): images [B H W C] at times [B] to velocities [B H W C].
VelocityFn = Callable[[jax.Array, jax.Array], jax.Array]

__all__ = [
  'Array',
  'Bool',
  'Condition',
  'Float',
  'Int',
  'Key',
  'PyTree',
  'UInt8',
  'VelocityFn',
]
