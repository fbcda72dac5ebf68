"""Weights to and from other layouts."""

from pixeldit_jax.convert.official import from_official, to_official

__all__ = ['from_official', 'to_official']
