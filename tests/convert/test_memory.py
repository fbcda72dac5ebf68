"""A released file of XL size goes through in the memory of a few tensors."""

import dataclasses
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.lazy import LazyTensors, Spec, compare
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import abstract_model
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.workdir import read_config


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


def random_weights():
  """Tensors of XL, each made of the same random numbers when it is read."""
  specs = {k: Spec(v, np.dtype(np.float32)) for k, v in xl_shapes().items()}
  starts = {name: i for i, name in enumerate(specs)}
  numbers = np.random.default_rng(0).normal(size=2**20).astype(np.float32)

  def read(name):
    return np.resize(0.02 * numbers[starts[name] :], specs[name].shape)

  return LazyTensors(specs, read)


MEASURED = """
import re, sys
from pixeldit_jax.train.checkpoint import released
source, target = sys.argv[1:]
if target.endswith('.safetensors'):
  released.from_workdir(source, target)
else:
  released.to_workdir(source, target, released.infer_run(source, {}))
print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])
"""


def peak_bytes(source, target):
  """The largest resident memory of a process that converts."""
  command = [sys.executable, '-c', MEASURED, str(source), str(target)]
  out = subprocess.run(command, check=True, capture_output=True, text=True)
  return 1024 * int(out.stdout)


@pytest.mark.slow
def test_xl_converts_in_less_memory_than_its_size_and_loads(tmp_path):
  pytest.importorskip('torch')
  if not sys.platform.startswith('linux'):
    pytest.skip('peak memory is read from /proc')
  if shutil.disk_usage(tmp_path).free < 14 * 2**30:
    pytest.skip('the files take 10 GB')
  from pixeldit_jax.convert.lightning import write_pth

  ema = random_weights()
  size = sum(spec.nbytes for spec in ema.specs.values())
  assert round(size / 4e6, 1) == 797.4
  released, run = tmp_path / 'released.ckpt', tmp_path / 'run'
  back = tmp_path / 'back.safetensors'
  write_pth(released, ema.renamed({f'ema_denoiser.{k}': k for k in ema}))
  into = peak_bytes(released, run)
  released.unlink()
  out = peak_bytes(run, back)
  print(f'{size / 1e9:.2f} GB: {into / 1e9:.2f} in, {out / 1e9:.2f} out')
  assert into < size and out < size  # a few copies of the largest tensor
  found = read_weights(back)
  compare(xl_shapes(), found)
  for name in list(found)[::20]:
    assert found[name].tobytes() == ema[name].tobytes(), name
  back.unlink()

  config = read_config(str(run))
  model = model_config(config)
  assert dataclasses.replace(
    model, pixel_attention_width=0, pixel_heads=0
  ) == ModelConfig(**preset('pixeldit', 'XL'))
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  weights, _ = restore_weights(CheckpointRef(str(run)), model, mesh)
  network = nnx.merge(nnx.graphdef(abstract_model(model)), weights)
  velocity = nnx.jit(lambda net, x, y: net(x, 0.5, y))(
    network, jnp.ones((1, 32, 32, 3)), jnp.array([7])
  )
  assert velocity.shape == (1, 32, 32, 3)
  assert jnp.isfinite(velocity).all() and jnp.ptp(velocity) > 0
