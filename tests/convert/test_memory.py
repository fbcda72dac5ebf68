"""A released file of XL size goes through in the memory of a few tensors."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lazy import LazyTensors, Spec, compare


def xl_shapes():
  """The tensors of PixelDiT-XL/16 for ImageNet, by the release's names."""
  D, N, E, P, F, K = 1152, 16, 16, 256, 3072, 72

  def linear(name, outputs, inputs):
    return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}

  def attention(name):
    return {
      f'{name}.qkv.weight': (3 * D, D),
      f'{name}.q_norm.weight': (K,),
      f'{name}.k_norm.weight': (K,),
      **linear(f'{name}.proj', D, D),
    }

  shapes = {
    **linear('pixel_embedder.proj', E, 3),
    **linear('s_embedder.proj', D, 3 * P),
    **linear('t_embedder.mlp.0', D, 256),
    **linear('t_embedder.mlp.2', D, D),
    'y_embedder.embedding_table.weight': (1001, D),
    'final_layer.norm.weight': (E,),
    **linear('final_layer.linear', 3, E),
  }
  for i in range(26):
    name = f'patch_blocks.{i}'
    shapes |= {
      f'{name}.norm1.weight': (D,),
      **attention(f'{name}.attn'),
      f'{name}.norm2.weight': (D,),
      f'{name}.mlp.w1.weight': (F, D),
      f'{name}.mlp.w3.weight': (F, D),
      f'{name}.mlp.w2.weight': (D, F),
      **linear(f'{name}.adaLN_modulation.0', 6 * D, D),
    }
  for i in range(4):
    name = f'pixel_blocks.{i}'
    shapes |= {
      **linear(f'{name}.compress_to_attn', D, P * E),
      **linear(f'{name}.expand_from_attn', P * E, D),
      f'{name}.norm1.weight': (E,),
      **attention(f'{name}.attn'),
      f'{name}.norm2.weight': (E,),
      **linear(f'{name}.mlp.fc1', 4 * E, E),
      **linear(f'{name}.mlp.fc2', E, 4 * E),
      **linear(f'{name}.adaLN_modulation.0', 6 * P * E, D),
    }
  assert K * N == D
  return shapes


def random_weights(seed):
  """Random tensors of XL, each made when it is read."""
  specs = {k: Spec(v, np.dtype(np.float32)) for k, v in xl_shapes().items()}
  numbers = {name: i for i, name in enumerate(specs)}

  def read(name):
    rng = np.random.default_rng([seed, numbers[name]])
    return rng.random(specs[name].shape, np.float32)

  return LazyTensors(specs, read)


MEASURED = """
import re, sys
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lightning import write_lightning
from pixeldit_jax.convert.safetensors import write_safetensors
source, target = sys.argv[1:]
if target.endswith('.ckpt'):
  weights = read_weights(source)
  write_lightning(target, weights, weights)
else:
  write_safetensors(target, read_weights(source, ema=True))
print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])
"""


def peak_bytes(source, target):
  """The largest resident memory of a process that converts a file."""
  command = [sys.executable, '-c', MEASURED, str(source), str(target)]
  out = subprocess.run(command, check=True, capture_output=True, text=True)
  return 1024 * int(out.stdout)


@pytest.mark.slow
def test_xl_converts_in_much_less_memory_than_its_size(tmp_path):
  pytest.importorskip('torch')
  if not sys.platform.startswith('linux'):
    pytest.skip('peak memory is read from /proc')
  if shutil.disk_usage(tmp_path).free < 14 * 2**30:
    pytest.skip('the files take 10 GB')
  from pixeldit_jax.convert.lightning import write_lightning

  raw, ema = random_weights(0), random_weights(1)
  size = 4 * sum(int(np.prod(shape)) for shape in xl_shapes().values())
  assert round(size / 4e6, 1) == 797.4
  released = tmp_path / 'released.ckpt'
  plain, again = tmp_path / 'plain.safetensors', tmp_path / 'again.ckpt'
  write_lightning(released, raw, ema)
  into = peak_bytes(released, plain)
  released.unlink()
  back = peak_bytes(plain, again)
  plain.unlink()
  print(f'{size / 1e9:.2f} GB: {into / 1e9:.2f} in, {back / 1e9:.2f} out')
  # PyTorch itself, what is mapped at a time, and a few of the largest tensors.
  assert into < 1e9 and back < 1e9
  found = read_weights(again)
  compare(xl_shapes(), found)
  for name in list(found)[::20]:
    assert found[name].tobytes() == ema[name].tobytes(), name
  again.unlink()
