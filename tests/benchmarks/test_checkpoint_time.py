"""The benchmark of checkpoints, and the memory that its state lies in."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax import sharding
from pixeldit_jax.benchmarks.checkpoint_time import lent, measure_checkpoint
from pixeldit_jax.config import get_config, make_debug


def test_lent_arrays_share_their_memory():
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = dict(
    a=jax.ShapeDtypeStruct((4, 100), jnp.float32, sharding=place),
    b=jax.ShapeDtypeStruct((300,), jnp.float32, sharding=place),
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=place),
  )
  arrays = lent(like)
  a, b = (arrays[name].unsafe_buffer_pointer() for name in 'ab')
  assert a == b and int(arrays['step']) == 0
  numbers = np.asarray(arrays['a']).ravel()
  assert 0.8 < numbers.std() < 1.2
  np.testing.assert_array_equal(arrays['b'], numbers[:300])


def test_lent_arrays_lie_as_they_are_asked_to():
  mesh = sharding.make_mesh(dict(fsdp=8))
  place = jax.sharding.NamedSharding(mesh, jax.P('fsdp'))
  like = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=place)
  assert lent(like).sharding == place


def test_a_save_is_measured(tmp_path):
  config = get_config()
  make_debug(config)
  config.model.update(width=16, patch_depth=1)
  report = measure_checkpoint(config, 2, str(tmp_path))
  assert 0 < report['held_seconds'] < report['written_seconds']
  assert report['steps_while_writing'] > 0
  assert 1e-4 < report['state_gigabytes'] < 1e-2
  assert report['host_memory_over_state'] > 0
  assert not list(tmp_path.iterdir())
