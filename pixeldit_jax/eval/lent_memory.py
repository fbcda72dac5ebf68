"""Arrays of a CPU device that take no memory: a stand-in for a device's own.

The memory of an accelerator is not that of its host. On a CPU it is; there the
same few pages of random numbers are mapped again and again, and arrays lie on
them. They can be read as any others. What is donated is copied first, as always
where NumPy looks at an array too.
"""

import ctypes
import math
import mmap
import os

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import PyTree

_PERIOD = 1 << 26  # bytes, far beyond what a compressor looks back
_RESERVE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FIXED = mmap.MAP_SHARED | 0x10  # MAP_FIXED: in the place of what is there


def lend(like: PyTree) -> PyTree:
  """Arrays of random numbers, placed as `like`; whole numbers are zero.

  Args:
    like: shapes, types and shardings; floats are of 32 bits.
  """
  shards = [
    math.prod(a.sharding.shard_shape(a.shape))
    for a in jax.tree.leaves(like)
    if a.dtype == jnp.float32
  ]
  numbers = _repeated(4 * max(shards, default=0))

  def make(a):
    shape = a.sharding.shard_shape(a.shape)
    if a.dtype == jnp.float32:
      shard = numbers[: math.prod(shape)].reshape(shape)
    else:
      shard = np.zeros(shape, a.dtype)
    return jax.make_array_from_callback(a.shape, a.sharding, lambda _: shard)

  return jax.tree.map(make, like)


def _repeated(size: int) -> np.ndarray:
  """At least `size` bytes of float32; _PERIOD of them are real."""
  size = max(1, -(-size // _PERIOD)) * _PERIOD
  rng = np.random.default_rng(0)
  file = os.memfd_create('numbers')
  os.write(file, rng.standard_normal(_PERIOD // 4, np.float32).tobytes())
  libc = ctypes.CDLL(None, use_errno=True)
  libc.mmap.restype = ctypes.c_void_p
  libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3
  libc.mmap.argtypes += [ctypes.c_long]
  start = libc.mmap(None, size, 0, _RESERVE, -1, 0)
  for place in range(start, start + size, _PERIOD):
    if libc.mmap(place, _PERIOD, mmap.PROT_READ, _FIXED, file, 0) != place:
      raise OSError(ctypes.get_errno(), 'mmap')
  os.close(file)
  return np.frombuffer((ctypes.c_char * size).from_address(start), np.float32)
