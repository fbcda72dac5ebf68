"""The device mesh, and the one table from logical axes to mesh axes.

Modules name the axes of their weights and activations (`'embed'`, `'mlp'`);
only this file knows which of them are split, and over what.
"""

import contextlib
import contextvars
import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pixeldit_jax.typing import PyTree

# data: replicas; fsdp: batch and weights; sequence: patches; tensor: heads.
MESH_AXES = ('data', 'fsdp', 'sequence', 'tensor')

Rules = Mapping[str, str | tuple[str, ...] | None]

RULES: Rules = {
  'batch': ('data', 'fsdp'),
  'patches': 'sequence',
  'layers': None,
  'embed': 'fsdp',
  'heads': 'tensor',
  'mlp': 'tensor',
  'pixels': 'tensor',
}

_context: contextvars.ContextVar[tuple[Mesh, Rules] | None] = (
  contextvars.ContextVar('mesh_and_rules', default=None)
)


def make_mesh(sizes: Mapping[str, int], devices=None) -> Mesh:
  """The mesh of `MESH_AXES`; a size of -1 takes the devices left over.

  Args:
    sizes: axis name to number of devices; axes not named have 1.
    devices: the devices to use, all by default.

  Raises:
    ValueError: unknown axes, or sizes whose product is not the device count.
  """
  devices = jax.devices() if devices is None else devices
  unknown = set(sizes) - set(MESH_AXES)
  if unknown:
    raise ValueError(
      f'mesh axes {sorted(unknown)} are not known; use {MESH_AXES}.'
    )
  shape = [sizes.get(axis, 1) for axis in MESH_AXES]
  product = ' x '.join(f'{a}={n}' for a, n in zip(MESH_AXES, shape))
  if any(n < 1 and n != -1 for n in shape) or shape.count(-1) > 1:
    raise ValueError(
      f'mesh {product}: sizes are positive, and at most one of them is -1.'
    )
  known = math.prod(n for n in shape if n != -1)
  if len(devices) % known or (-1 not in shape and known != len(devices)):
    raise ValueError(
      f'mesh {product} takes {"a multiple of " if -1 in shape else ""}{known} '
      f'devices, but there are {len(devices)}: change config.mesh.'
    )
  shape = [len(devices) // known if n == -1 else n for n in shape]
  auto = (AxisType.Auto,) * len(shape)
  return jax.make_mesh(shape, MESH_AXES, axis_types=auto, devices=devices)


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = RULES):
  """Within it, programs are compiled for `mesh`.

  `constrain` places activations on it by `rules`, and attention takes it from
  JAX's context.
  """
  token = _context.set((mesh, rules))
  try:
    with jax.set_mesh(mesh):
      yield
  finally:
    _context.reset(token)


def spec(axes: tuple[str | None, ...], rules: Rules = RULES) -> PartitionSpec:
  """Logical axis names to the mesh axes that split them."""
  unknown = {a for a in axes if a is not None} - set(rules)
  if unknown:
    raise ValueError(
      f'logical axes {sorted(unknown)} are not in the rules {sorted(rules)}.'
    )
  return PartitionSpec(*(None if a is None else rules[a] for a in axes))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Fixes how an activation is split; nothing outside `use`."""
  if (context := _context.get()) is None:
    return x
  mesh, rules = context
  sharding = NamedSharding(mesh, spec(axes, rules))
  return jax.lax.with_sharding_constraint(x, sharding)


def weight_shardings(axes: PyTree, mesh: Mesh, rules: Rules = RULES) -> PyTree:
  """A sharding for each leaf of a tree of logical axis names (tuples)."""
  return jax.tree.map(
    lambda names: NamedSharding(mesh, spec(names, rules)),
    axes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
  """The first axis split over the devices that share a batch."""
  return NamedSharding(mesh, spec(('batch',), rules))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: PyTree, sharding: NamedSharding) -> PyTree:
  """Each process's rows, as NumPy, to one global array on the devices."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )
