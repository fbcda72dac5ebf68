"""Pictures without classes: trained on, drawn, and sampled without guidance."""

import jax
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval.sample_grid_evaluator import SampleGridEvaluator
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sample_set import make_sample_set
from pixeldit_jax.train.checkpoint.restore import CheckpointRef
from pixeldit_jax.train.loop import train


def config_of(folder, spec='images'):
  """A tiny run on pictures of a folder, or of folders."""
  for i in range(9):
    path = folder / str(i % 3) / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  config = get_config()
  make_debug(config)
  config.steps = 2
  config.model.update(num_classes=0, width=16, patch_depth=1)
  config.data.source = f'{spec}:{folder}'
  return config


@pytest.mark.slow
def test_a_run_without_classes(tmp_path):
  config = config_of(tmp_path / 'data')
  config.log.update(samples_every=2, samples=4)
  context = RunContext.build(config)
  workdir = str(tmp_path / 'run')
  state = train(context, workdir, [SampleGridEvaluator(context)])
  assert state.weights['class_embed']['table'].shape == (1, 16)
  path, ref = tmp_path / 'samples.npz', CheckpointRef(workdir)
  settings = make_sample_set(context, ref, path, 5)
  assert settings['labels'] == 'none'
  with np.load(path) as file:
    images = file['arr_0']
    assert images.shape == (5, 28, 28, 3) and not file['arr_1'].any()
  # There is nothing for guidance to lead away from.
  other = config.copy_and_resolve_references()
  other.sampler.guidance = 7.0
  again = tmp_path / 'again.npz'
  make_sample_set(RunContext.build(other), ref, again, 5)
  with np.load(again) as file:
    np.testing.assert_array_equal(file['arr_0'], images)
  with pytest.raises(UserError, match='there are none'):
    make_sample_set(context, ref, tmp_path / 'c.npz', 5, labels='1')


@pytest.mark.slow
def test_classes_of_the_data_may_be_left_out(tmp_path):
  one, other = (
    train(
      RunContext.build(config_of(tmp_path / 'data', spec)),
      str(tmp_path / spec),
    )
    for spec in ('images', 'folder')
  )
  jax.tree.map(
    np.testing.assert_array_equal, *map(jax.device_get, (one.ema, other.ema))
  )
