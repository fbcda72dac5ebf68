"""The device mesh, and the one table from logical axes to mesh axes.

Modules name the axes of their weights and activations (`'embed'`, `'mlp'`);
only this table says which of them are split, and over what.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from pixeldit_jax.errors import UserError
from pixeldit_jax.typing import Int, PyTree

# data: replicas; fsdp: batch and weights; sequence: patches; tensor: heads.
MESH_AXES = ('data', 'fsdp', 'sequence', 'tensor')

# Logical axis to mesh axes, with commas between several; '' is not split.
# `config.mesh.rules` has a copy, for a run to change.
Rules = Mapping[str, str]

RULES: Rules = {
  'batch': 'data,fsdp',
  'patches': 'sequence',
  'layers': '',
  'embed': 'fsdp',
  'heads': 'tensor',
  'mlp': 'tensor',
  'pixels': 'tensor',
}

# The rules of `use`; the mesh itself is in JAX's own context.
_rules: contextvars.ContextVar[Rules | None] = contextvars.ContextVar(
  'rules', default=None
)


def make_mesh(config: Mapping, devices: Sequence | None = None) -> Mesh:
  """The mesh of `MESH_AXES`; a size of -1 takes the devices left over.

  Args:
    config: `config.mesh`: the size of each axis, by default 1; 'slices', the
      groups of devices that only the data center's network joins (the data axis
      goes across them, the other axes stay inside one); 'rules' are not read.
    devices: the devices to use, all by default.

  Raises:
    UserError: unknown axes, or sizes whose product is not the device count.
  """
  devices = jax.devices() if devices is None else devices
  sizes = {k: v for k, v in config.items() if k not in ('rules', 'slices')}
  unknown = set(sizes) - set(MESH_AXES)
  if unknown:
    raise UserError(
      f'mesh axes {sorted(unknown)} are not known; use {MESH_AXES}.'
    )
  shape = _shape(sizes, len(devices))
  auto = (AxisType.Auto,) * len(shape)
  slices = config.get('slices', 1)
  found = len({getattr(d, 'slice_index', 0) for d in devices})
  # GPUs report their hosts as slices; there a mesh may go across them freely.
  free = slices == 1 and devices[0].platform != 'tpu'
  if slices != found and not free:
    raise UserError(
      f'mesh slices={slices}, but the devices are of {found}: set '
      f'config.mesh.slices={found}.'
    )
  if shape[0] % slices:
    raise UserError(
      f'mesh data={shape[0]} does not divide over slices={slices}: the data '
      'axis is the one that goes across slices.'
    )
  try:
    if slices == 1:
      return jax.make_mesh(shape, MESH_AXES, axis_types=auto, devices=devices)
    grid = _grid(shape, slices, devices)
  except NotImplementedError:  # a mesh axis is a part of one of the torus
    grid = _grid(shape, slices, devices, allow_split_physical_axes=True)
  return Mesh(grid, MESH_AXES, axis_types=auto)


def _grid(
  shape: Sequence[int], slices: int, devices: Sequence, **options: bool
) -> np.ndarray:
  """Devices by the axes of a mesh, the first of which goes across slices."""
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, **options)
  data, *inner = shape
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, *inner), (slices, 1, 1, 1), devices, **options
  )


def _shape(sizes: Mapping[str, int], devices: int) -> list[int]:
  """Devices along each mesh axis."""
  shape = [sizes.get(axis, 1) for axis in MESH_AXES]
  product = ' x '.join(f'{a}={n}' for a, n in zip(MESH_AXES, shape))
  if any(n < 1 and n != -1 for n in shape) or shape.count(-1) > 1:
    raise UserError(
      f'mesh {product}: sizes are positive, and at most one of them is -1.'
    )
  known = math.prod(n for n in shape if n != -1)
  if devices % known or (-1 not in shape and known != devices):
    raise UserError(
      f'mesh {product} takes {"a multiple of " if -1 in shape else ""}{known} '
      f'devices, but there are {devices}: change config.mesh.'
    )
  return [devices // known if n == -1 else n for n in shape]


def make_rules(config: Mapping) -> Rules:
  """The rules of `config.mesh`: `RULES` with the changes of its 'rules'.

  Raises:
    UserError: a logical or mesh axis that does not exist.
  """
  changes = dict(config.get('rules', {}))
  if unknown := set(changes) - set(RULES):
    raise UserError(
      f'config.mesh.rules: logical axes {sorted(unknown)} are not known; '
      f'there are {sorted(RULES)}.'
    )
  for name, axes in changes.items():
    chosen = _split(axes)
    if set(chosen) - set(MESH_AXES) or len(set(chosen)) < len(chosen):
      raise UserError(
        f'config.mesh.rules.{name}={axes!r}: write mesh axes of {MESH_AXES}, '
        "each at most once, as 'data,fsdp', or '' for none."
      )
  return {**RULES, **changes}


def _split(axes: str) -> tuple[str, ...]:
  return tuple(axes.split(',')) if axes else ()


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = RULES) -> Iterator[None]:
  """Within it, programs are traced for a mesh whose axes `rules` assign.

  `constrain` and attention take both from the context.
  """
  token = _rules.set(rules)
  try:
    with jax.set_mesh(mesh):
      yield
  finally:
    _rules.reset(token)


def platform(mesh: Mesh | AbstractMesh | None = None) -> str:
  """The platform that a program is compiled for: 'cpu', 'gpu' or 'tpu'.

  Args:
    mesh: the devices; by default those of the context, else JAX's default.
  """
  if mesh is None:
    abstract = jax.sharding.get_abstract_mesh()
  else:
    abstract = mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh
  device = abstract.abstract_device
  return jax.default_backend() if device is None else device.platform


def mesh_axes(name: str) -> tuple[str, ...]:
  """The mesh axes that split a logical axis, by the rules of `use`.

  Raises:
    RuntimeError: outside `use`, where no rules are known.
  """
  if (rules := _rules.get()) is None:
    raise RuntimeError(
      f'which mesh axes split {name!r} is known only inside sharding.use(mesh, '
      'rules).'
    )
  return _split(rules[name])


def spec(axes: tuple[str | None, ...], rules: Rules = RULES) -> PartitionSpec:
  """The partition of an array by the names of its logical axes.

  Raises:
    UserError: a name without a rule, or a mesh axis that splits two.
  """
  names = [a for a in axes if a is not None]
  if unknown := set(names) - set(rules):
    raise UserError(
      f'logical axes {sorted(unknown)} are not in the rules {sorted(rules)}.'
    )
  used = [axis for name in names for axis in _split(rules[name])]
  if len(set(used)) < len(used):
    which = ', '.join(f'{name}={rules[name]!r}' for name in names)
    raise UserError(
      f'config.mesh.rules split two axes of one array over the same mesh axis: '
      f'{which}.'
    )
  return PartitionSpec(
    *(None if a is None else _split(rules[a]) or None for a in axes)
  )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains the sharding of an activation; a no-op outside `use`."""
  if (rules := _rules.get()) is None:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, rules))


def weight_shardings(axes: PyTree, mesh: Mesh, rules: Rules = RULES) -> PyTree:
  """A sharding for each leaf of a tree of logical axis names (tuples)."""
  return jax.tree.map(
    lambda names: NamedSharding(mesh, spec(names, rules)),
    axes,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Abstract arrays: shapes with shardings, nothing is allocated.

  Raises:
    UserError: an axis that the mesh does not divide.
  """

  def check(path, a, sharding):
    for size, axes in zip(a.shape, sharding.spec):
      axes = (axes,) if isinstance(axes, str) else axes or ()
      parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
      if size % parts:
        raise UserError(
          f'{jax.tree_util.keystr(path, simple=True, separator="/")} '
          f'{a.shape}: {size} does not divide over {" x ".join(axes)} = '
          f'{parts} devices: change config.mesh or config.mesh.rules.'
        )
    return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(check, shapes, shardings)


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
  """The sharding of a batch: its first axis is split over the devices."""
  return NamedSharding(mesh, spec(('batch',), rules))


def batch_shards(mesh: Mesh, rules: Rules = RULES) -> int:
  """The number of parts that a batch is split into."""
  return math.prod(mesh.shape[axis] for axis in _split(rules['batch']))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device has a copy of."""
  return NamedSharding(mesh, PartitionSpec())


def local_rows(
  sharding: NamedSharding, batch_size: int
) -> Int[np.ndarray, 'B']:
  """The rows of a global batch that devices of this process hold, ascending.

  On a pod these need not be consecutive, and processes may share some.
  """
  parts = sharding.addressable_devices_indices_map((batch_size,)).values()
  rows = [np.arange(batch_size)[index] for index in parts]
  return np.unique(np.concatenate(rows))


def put_batch(batch: PyTree, sharding: NamedSharding) -> PyTree:
  """Makes global arrays of each process's rows (`local_rows`)."""

  def put(x):
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  # With several processes, JAX takes this transfer for an implicit one, which
  # the training loop forbids.
  with jax.transfer_guard_host_to_device('allow'):
    return jax.tree.map(put, batch)
