"""The three stages of text to image, each from the EMA of the one before."""

import importlib.util
import pathlib

import chex
import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from pixeldit_jax import config as defaults
from pixeldit_jax.data.prepare import prepare, text_embeddings
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.encoders.vision import DINOv2, VisionConfig
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.loop import train

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
SIZE = (32, 128)  # of the images: one bucket, and one program of each stage
TEACHER = VisionConfig(
  width=24, depth=1, heads=2, patch_size=7, grid=4, dtype='float32', scan=False
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """f(size, buckets) -> a source of the same pictures at about that size."""
  root = tmp_path_factory.mktemp('stages')
  (root / 'in').mkdir()
  random = np.random.default_rng(0)
  for i in range(8):
    pixels = random.integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(root / f'in/{i:02d}.png')
    (root / f'in/{i:02d}.txt').write_text(f'picture {i}')

  def make(size, buckets):
    out = str(root / f'{size}-{buckets}')
    settings = PrepareSettings(f'images:{root}/in', size, bucketed=buckets)
    prepare.prepare(settings, out, num_processes=1)
    text_embeddings.store(out, WordEncoder(), batch_size=8)
    return f'shards:{out}'

  return make


def stage(name: str, size: int, source: str, changes):
  """A stage's configuration, small, but with its own rules of training."""
  path = CONFIGS / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config, repa = module.get_config(), module.get_config().repa
  buckets = config.data.buckets
  defaults.make_debug(config)
  config.model.update(patch_size=16, patch_depth=1, dtype='float32', scan=False)
  config.data.update(
    source=source, resolution=size, buckets=buckets, num_threads=1
  )
  config.repa.update(weight=repa.weight, block=1)
  config.steps, config.ema.decay = 2, 0.5
  config.update_from_flattened_dict(changes)
  defaults.validate(config)
  return config


def test_rates_rise_as_those_of_the_release():
  """CAME's first steps are large, and the teacher looks after block 6."""
  for name in ('t2i_512_stage1', 't2i_512_stage2', 't2i_1024_stage3'):
    module = importlib.import_module(f'pixeldit_jax.configs.{name}')
    assert module.get_config().optimizer.warmup_steps == 2000
    if name == 't2i_512_stage1':
      assert module.get_config().repa.block == 6


@pytest.mark.slow
def test_each_stage_starts_from_the_ema_of_the_one_before(data, tmp_path):
  run = [str(tmp_path / str(number)) for number in range(4)]
  teacher = (
    TEACHER,
    jax.device_get(weights_of(DINOv2(TEACHER, rngs=nnx.Rngs(0)))),
  )
  one = stage('t2i_512_stage1', 64, data(64, False), {})
  assert one.repa.weight == 0.5 and one.optimizer.name == 'came'
  first = train(
    RunContext.build(one, jax.devices()[:1]), run[1], teacher=teacher
  )
  assert first.projector is not None

  quick = {'optimizer.name': 'adamw'}  # to compile
  start = quick | {'init_from': run[1]}
  two = stage('t2i_512_stage2', 64, data(64, True), start)
  assert two.data.buckets and two.repa.weight == 0
  second = train(RunContext.build(two, jax.devices()[:1]), run[2])
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(second.ema, first.ema)

  # Twice the side; without a rate of learning, it stays where it started.
  start = quick | {'init_from': run[2]}
  three = stage('t2i_1024_stage3', 128, data(128, True), start)
  assert three.flow.shift == 4 and three.optimizer.clip_norm == 0.1
  three.optimizer.learning_rate = 0.0
  third = train(RunContext.build(three, jax.devices()[:1]), run[3])
  chex.assert_trees_all_equal(third.weights, second.ema)
  chex.assert_trees_all_equal(third.ema, second.ema)
  assert int(third.step) == 2  # it counts anew
