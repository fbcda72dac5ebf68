"""Meshes and the table from logical to mesh axes."""

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


def test_rules_turn_logical_axes_into_mesh_axes():
  spec = sharding.spec(('batch', None, 'embed', 'mlp'))
  assert spec == PartitionSpec(('data', 'fsdp'), None, 'fsdp', 'tensor')
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
