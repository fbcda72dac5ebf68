"""Stored features are those that the teacher gives in the step."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.prepare import (
  prepare,
)
from pixeldit_jax.data.prepare import (
  teacher_features as stored_features,
)
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources import open_source
from pixeldit_jax.encoders.vision import (
  DINOv2,
  VisionConfig,
  teacher_features,
)
from pixeldit_jax.model.pixeldit import weights_of

CONFIG = VisionConfig(width=16, depth=1, heads=2, grid=2, dtype='float32')


@pytest.fixture(scope='module')
def teacher():
  model = DINOv2(CONFIG, rngs=nnx.Rngs(0))
  return model, weights_of(model)


@pytest.fixture
def out(tmp_path):
  (tmp_path / 'in').mkdir()
  rng = np.random.default_rng(0)
  for i in range(11):
    pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'in' / f'{i:02d}.png')
  settings = PrepareSettings(f'images:{tmp_path}/in', 16, shard_size=4)
  prepare.prepare(settings, str(tmp_path / 'out'), num_processes=1)
  return str(tmp_path / 'out')


@pytest.mark.slow
def test_the_step_reads_what_the_teacher_would_give(teacher, out):
  model, weights = teacher
  meta = stored_features.describe('tiny', weights, 16, 8)
  features = stored_features.make_features(CONFIG, weights, 8)
  manifest = stored_features.store(out, features, meta, batch_size=3)
  assert manifest['shape'] == [4, 16] and manifest['examples'] == 11

  source = open_source.open_source(f'shards:{out}', arrays=['features'])
  assert source.arrays['features'].meta == meta
  options = LoaderOptions(resolution=16, batch_size=8, seed=0)
  batch = next(make_batches(source, options))
  assert batch['features'].dtype == jax.numpy.bfloat16
  want = teacher_features(model, transforms.normalize(batch['image']), 8)
  np.testing.assert_allclose(
    batch['features'].astype(np.float32), want, atol=0.02
  )


def test_the_checksum_is_of_every_weight(teacher):
  _, weights = teacher
  one = stored_features.describe('tiny', weights, 16, 8)
  assert one['grid'] == [2, 2] and len(one['sha256']) == 64
  assert one == stored_features.describe('tiny', weights, 16, 8)
  leaves, tree = jax.tree.flatten(weights)
  for k, leaf in enumerate(leaves):
    changed = jax.tree.unflatten(
      tree, [*leaves[:k], leaf.at[..., 0].add(1.0), *leaves[k + 1 :]]
    )
    other = stored_features.describe('tiny', changed, 16, 8)
    assert other['sha256'] != one['sha256']


def test_images_that_the_teacher_cannot_see_are_refused(teacher, tmp_path):
  with pytest.raises(ValueError, match='16 pixels: .* got 7'):
    stored_features.describe('tiny', teacher[1], 16, 7)
  (tmp_path / 'in').mkdir()
  Image.new('RGB', (8, 4)).save(tmp_path / 'in' / 'a.png')
  settings = PrepareSettings(f'images:{tmp_path}/in', 512, bucketed=True)
  out = str(tmp_path / 'out')
  prepare.prepare(settings, out, num_processes=1)
  with pytest.raises(ValueError, match='holds buckets'):
    stored_features.store(out, np.asarray, {})
