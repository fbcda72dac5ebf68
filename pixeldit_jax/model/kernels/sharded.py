"""Attention on a mesh: each device runs a kernel over its own queries.

Batch and heads are independent. Of a split sequence each device keeps its
queries and gathers all keys and values: a ring of `ppermute`s was measured
against that and left out. By the TPU compiler, one bfloat16 image of 65,536
tokens on n devices, forward and backward, gathered with flash attention and in
a ring with JAX's splash attention:

| heads x size, chips, n     | gathered: peak, sent | ring: peak, sent |
|----------------------------|----------------------|------------------|
| 1 x 64, v5e:4x4, 4         | 52 MiB, 24 MiB       | 64 MiB, 64 MiB   |
| 1 x 64, v5p:4x4x4, 4       | 46 MiB, 24 MiB       | 42 MiB, 64 MiB   |
| 1 x 64, v5p:4x4x4, 16      | 36 MiB, 30 MiB       | 11 MiB, 64 MiB   |
| 4 x 64, v5p:4x4x4, 4       | 184 MiB, 96 MiB      | 200 MiB, 256 MiB |
| 4 x 64, v5p:4x4x4, 16      | 142 MiB, 120 MiB     | 42 MiB, 256 MiB  |

Sent is per device; the ring's backward pass moves keys, values and both their
gradients in float32 all the way round. It saves at most 100 MiB of the 95 GiB
of a v5p, and pays with twice the traffic, 6n permutes for 2 gathers and 2
reduce-scatters, n times as many and smaller kernel calls, and a backward pass
that reaches into the kernel's private parts. Far wider keys, or n beyond 16,
would turn the balance.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from pixeldit_jax.typing import Array, Bool, Float

Axes = str | tuple[str, ...] | None


class MeshAxes(NamedTuple):
  """The mesh axes that split the batch, the tokens and the heads."""

  batch: Axes
  sequence: Axes
  heads: Axes


def sharded(
  kernel: Callable[..., jax.Array],
  q_BLNK: Float[Array, 'B L N K'],
  k_BSNK: Float[Array, 'B S N K'],
  v_BSNK: Float[Array, 'B S N K'],
  mask_BS: Bool[Array, 'B S'] | None,
  mesh: Mesh | AbstractMesh,
  axes: MeshAxes,
) -> Float[Array, 'B L N K']:
  """`kernel(q, k, v, mask)`, each device on its share of batch, heads, queries.

  A mesh axis that does not divide its array axis is left out: its devices then
  repeat the same work, which costs time but never a wrong result.
  """
  (B, L, N, _), S = q_BLNK.shape, k_BSNK.shape[1]
  batch, heads = _fitting(mesh, axes.batch, B), _fitting(mesh, axes.heads, N)
  queries = _fitting(mesh, axes.sequence, L)
  keys = _fitting(mesh, axes.sequence, S)

  def local(q_BLNK, k_BSNK, v_BSNK, mask_BS):
    if k_BSNK.shape[1] < S:
      k_BSNK, v_BSNK = _gather(k_BSNK, keys), _gather(v_BSNK, keys)
      if mask_BS is not None:
        mask_BS = _gather(mask_BS, keys)
    return kernel(q_BLNK, k_BSNK, v_BSNK, mask_BS)

  specs_q = PartitionSpec(batch, queries, heads)
  specs_k = PartitionSpec(batch, keys, heads)
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(specs_q, specs_k, specs_k, PartitionSpec(batch, keys)),
    out_specs=specs_q,
    check_vma=False,  # Pallas calls have no type that names their axes
  )(q_BLNK, k_BSNK, v_BSNK, mask_BS)


def _fitting(mesh, axes: Axes, size: int) -> tuple[str, ...] | None:
  """Those mesh axes that together divide `size`."""
  chosen = []
  for axis in (axes,) if isinstance(axes, str) else axes or ():
    if axis in mesh.shape and size % mesh.shape[axis] == 0:
      chosen.append(axis)
      size //= mesh.shape[axis]
  return tuple(chosen) or None


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(x_BS, axes: tuple[str, ...]):
  """The shards of axis 1 from all devices along `axes`."""
  return jax.lax.all_gather(x_BS, axes, axis=1, tiled=True)


def _gather_forward(x_BS, axes):
  return _gather(x_BS, axes), None


def _scatter(axes, _, dx_BS):
  """Sums the gradients of all devices and keeps the own shard's.

  Scattered over a new leading axis: along axis 1 the TPU compiler makes it an
  all-reduce, twice the traffic, and then drops all but a slice.
  """
  B, S = dx_BS.shape[:2]
  shards = jax.lax.axis_size(axes)
  dx_BnS = dx_BS.reshape(B, shards, S // shards, *dx_BS.shape[2:])
  dx_nBS = jnp.moveaxis(dx_BnS, 1, 0)
  return (jax.lax.psum_scatter(dx_nBS, axes, scatter_dimension=0),)


_gather.defvjp(_gather_forward, _scatter)
