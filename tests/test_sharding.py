"""Meshes and the table from logical to mesh axes."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pixeldit_jax import sharding


@pytest.mark.parametrize(
  'sizes, shape',
  [
    ({'data': -1}, (8, 1, 1, 1)),
    ({'data': 2, 'fsdp': -1}, (2, 4, 1, 1)),
    ({'fsdp': 2, 'sequence': 2, 'tensor': 2}, (1, 2, 2, 2)),
  ],
)
def test_a_mesh_takes_all_devices(sizes, shape):
  mesh = sharding.make_mesh(sizes)
  assert mesh.devices.shape == shape
  assert mesh.axis_names == sharding.MESH_AXES


@pytest.mark.parametrize(
  'sizes, named',
  [
    ({'fsdp': 3}, 'fsdp=3.* takes 3 devices, but there are 8'),
    ({'data': -1, 'fsdp': 3}, 'a multiple of 3 devices, but there are 8'),
    ({'data': -1, 'fsdp': -1}, 'at most one of them is -1'),
    ({'data': 0}, 'positive'),
    ({'model': 8}, r"\['model'\]"),
  ],
)
def test_impossible_meshes_are_refused_with_the_arithmetic(sizes, named):
  with pytest.raises(ValueError, match=named):
    sharding.make_mesh(sizes)


@dataclasses.dataclass(frozen=True)
class Device:
  """Stands in for a chip of a slice."""

  id: int
  slice_index: int
  coords: tuple[int, int, int]
  core_on_chip: int = 0
  platform: str = 'tpu'
  device_kind: str = 'stand-in'
  process_index: int = 0


# Not in the order of their slices.
TWO_SLICES = [Device(i, i % 2, (i // 2 % 2, i // 4, 0)) for i in range(8)]


def test_the_data_axis_goes_across_slices():
  sizes = dict(data=-1, fsdp=2, slices=2)
  mesh = sharding.make_mesh(sizes, TWO_SLICES)
  assert mesh.devices.shape == (4, 2, 1, 1)
  slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
  np.testing.assert_array_equal(slices[:2], 0)
  np.testing.assert_array_equal(slices[2:], 1)


@pytest.mark.parametrize(
  'sizes, named',
  [
    ({'data': 8}, 'slices=1, but the devices are of 2: .*slices=2'),
    ({'data': 8, 'slices': 4}, 'slices=4, but the devices are of 2'),
    ({'fsdp': 8, 'slices': 2}, 'data=1 does not divide over slices=2'),
  ],
)
def test_slices_that_do_not_fit_are_refused(sizes, named):
  with pytest.raises(ValueError, match=named):
    sharding.make_mesh(sizes, TWO_SLICES)


def test_rules_can_be_changed():
  rules = sharding.make_rules({'rules': {'mlp': 'fsdp,tensor', 'embed': ''}})
  assert sharding.spec(('embed', 'mlp'), rules) == PartitionSpec(
    None, ('fsdp', 'tensor')
  )
  assert sharding.make_rules({}) == sharding.RULES


@pytest.mark.parametrize(
  'changes, named',
  [
    ({'color': 'data'}, r"\['color'\].*there are \['batch', 'embed'"),
    ({'embed': 'model'}, "rules.embed='model'.*'tensor'"),
    ({'batch': 'data,data'}, "rules.batch='data,data'.*at most once"),
  ],
)
def test_rules_that_cannot_be_are_refused(changes, named):
  with pytest.raises(ValueError, match=named):
    sharding.make_rules({'rules': changes})


def test_one_mesh_axis_does_not_split_two_axes_of_a_weight():
  rules = sharding.make_rules({'rules': {'mlp': 'fsdp'}})
  with pytest.raises(ValueError, match="embed='fsdp', mlp='fsdp'"):
    sharding.spec(('embed', 'mlp'), rules)


def test_a_weight_that_does_not_divide_is_named():
  mesh = sharding.make_mesh({'fsdp': 4, 'tensor': 2})
  shapes = {'up': {'kernel': jax.ShapeDtypeStruct((6, 4), np.float32)}}
  places = sharding.weight_shardings({'up': {'kernel': ('embed', 'mlp')}}, mesh)
  with pytest.raises(ValueError, match=r'up/kernel \(6, 4\): 6 .* fsdp = 4'):
    sharding.with_shardings(shapes, places)


def test_rules_turn_logical_axes_into_mesh_axes():
  spec = sharding.spec(('batch', None, 'patches', 'mlp'))
  assert spec == PartitionSpec(('data', 'fsdp'), None, 'sequence', 'tensor')
  with pytest.raises(ValueError, match='color'):
    sharding.spec(('color',))


def test_constrain_places_activations_inside_use_only():
  mesh = sharding.make_mesh({'data': 8})
  x = np.zeros((8, 4), np.float32)

  def place(x):
    return sharding.constrain(x, 'batch', None) + 1

  with sharding.use(mesh):
    inside = jax.jit(place)(x)
  assert inside.sharding.shard_shape((8, 4)) == (1, 4)
  outside = jax.jit(lambda x: place(x) * 1)(x)
  assert len(outside.sharding.device_set) == 1


def test_rules_are_known_inside_use_only():
  mesh = sharding.make_mesh({'data': 8})
  rules = sharding.make_rules({'rules': {'heads': ''}})
  with sharding.use(mesh, rules):
    assert sharding.mesh_axes('batch') == ('data', 'fsdp')
    assert sharding.mesh_axes('heads') == ()
  with jax.set_mesh(mesh), pytest.raises(RuntimeError, match='sharding.use'):
    sharding.mesh_axes('heads')
