"""The benchmark of checkpoints, and the buffer that its state aliases."""

import jax
import jax.numpy as jnp
import numpy as np

from pixeldit_jax import sharding
from pixeldit_jax.benchmarks.checkpoint_time import (
  aliased_arrays,
  measure_checkpoint,
)
from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.run_context import RunContext


def test_aliased_arrays_share_their_memory():
  spread = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = dict(
    a=jax.ShapeDtypeStruct((4, 100), jnp.float32, sharding=spread),
    b=jax.ShapeDtypeStruct((300,), jnp.float32, sharding=spread),
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=spread),
  )
  arrays = aliased_arrays(abstract)
  a, b = (arrays[name].unsafe_buffer_pointer() for name in 'ab')
  assert a == b and int(arrays['step']) == 0
  numbers = np.asarray(arrays['a']).ravel()
  assert 0.8 < numbers.std() < 1.2
  np.testing.assert_array_equal(arrays['b'], numbers[:300])


def test_aliased_arrays_have_the_shardings_asked_for():
  mesh = sharding.make_mesh(dict(fsdp=8))
  spread = jax.sharding.NamedSharding(mesh, jax.P('fsdp'))
  abstract = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=spread)
  assert aliased_arrays(abstract).sharding == spread


def test_a_save_is_measured(tmp_path):
  config = get_config()
  make_debug(config)
  config.model.update(width=16, patch_depth=1)
  report = measure_checkpoint(RunContext.build(config), 2, str(tmp_path))
  assert 0 < report['held_seconds'] < report['written_seconds']
  assert report['steps_while_writing'] > 0
  assert 1e-4 < report['state_gigabytes'] < 1e-2
  assert report['host_memory_over_state'] > 0
  assert not list(tmp_path.iterdir())
