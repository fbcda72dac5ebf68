"""PixelDiT: pixel-space diffusion transformers in JAX and Flax NNX.

`load` reads a network and gives a `Model` that draws and edits; see `api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from pixeldit_jax.api import Images, Model, load

__all__ = ['Images', 'Model', 'load']


def __getattr__(name: str) -> Any:
  """Imports the interface when it is first used: JAX takes seconds to load."""
  if name in __all__:
    from pixeldit_jax import api

    return getattr(api, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
