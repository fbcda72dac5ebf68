"""Eight simulated devices on CPU, and no silent change of precision.

XLA optimises little here, so that small networks compile three times as fast,
and equal programs of different tests are compiled once. It aborts where one
device waits 40 seconds for another: a busy machine may take longer.
"""

import os
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_backend_optimization_level=0',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
    '--xla_cpu_collective_timeout_seconds=600',
  ]
)

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp())
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

import json  # noqa: E402
import pathlib  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')

GOLDEN = pathlib.Path(__file__).parent / 'golden'


class Golden:
  """Arrays that the authors' code produced."""

  def __init__(self, name: str):
    with np.load(GOLDEN / f'{name}.npz') as file:
      self.arrays = dict(file)
    self.meta = json.loads(bytes(self.arrays.pop('meta')))

  def __getitem__(self, name: str) -> np.ndarray:
    return self.arrays[name]

  def below(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with 'prefix/', without it."""
    start = prefix + '/'
    return {
      name.removeprefix(start): array
      for name, array in self.arrays.items()
      if name.startswith(start)
    }


@pytest.fixture
def golden():
  """f(name) -> the arrays of tests/golden/<name>.npz."""
  return Golden


def relative_error(actual, expected) -> float:
  """Largest difference over the largest expected value."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture
def assert_close():
  """f(actual, expected): within 1e-4, relative to the largest value."""

  def check(actual, expected, tolerance=1e-4):
    assert relative_error(actual, expected) < tolerance

  return check
