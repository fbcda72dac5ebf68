"""The benchmark of checkpoints, and the memory that it stands on."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax import sharding
from pixeldit_jax.eval.checkpoint_speed import measure_checkpoint
from pixeldit_jax.eval.lent_memory import lend
from pixeldit_jax.train.config import get_config, make_debug

GIGABYTE = 2**30


def private_bytes():
  with open('/proc/self/status') as file:
    (line,) = [line for line in file if line.startswith('RssAnon:')]
  return 1024 * int(line.split()[1])


def test_lent_arrays_take_no_memory():
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = dict(
    a=jax.ShapeDtypeStruct((4, GIGABYTE), jnp.float32, sharding=place),
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=place),
  )
  before = private_bytes()
  lent = lend(like)
  assert private_bytes() - before < GIGABYTE / 4
  assert lent['a'].shape == (4, GIGABYTE) and int(lent['step']) == 0
  far = np.asarray(lent['a'])[3, -1000:]
  assert np.isfinite(far).all() and 0.9 < far.std() < 1.1


def test_lent_arrays_lie_as_they_are_asked_to():
  mesh = sharding.make_mesh(dict(fsdp=8))
  place = jax.sharding.NamedSharding(mesh, jax.P('fsdp'))
  like = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=place)
  assert lend(like).sharding == place


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
