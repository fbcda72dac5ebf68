"""The pictures show the trajectory of sample 0, from its noise to itself."""

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.images.grid import image_grid
from pixeldit_jax.sampling import sample_set, trajectory


@pytest.mark.slow
def test_the_trajectory_ends_in_the_sample(tiny_run, tmp_path):
  trajectory.draw_trajectory(*tiny_run, tmp_path, labels='7')
  animation = Image.open(tmp_path / 'trajectory.png')
  frames = []
  for i in range(animation.n_frames):
    animation.seek(i)
    frames.append(np.asarray(animation.convert('RGB')))
  assert len(frames) == tiny_run[0].config.sampler.steps + 1
  strip = np.asarray(Image.open(tmp_path / 'trajectory_strip.png'))
  width = (strip.shape[1] - 2) // len(frames)
  for i, frame in enumerate(frames):  # as few steps as the strip has room for
    moment = strip[:, i * width : i * width + width + 2]
    np.testing.assert_array_equal(moment, frame)
  assert np.abs(frames[0].astype(int) - frames[1]).max() > 5
  path = tmp_path / 'samples.npz'
  sample_set.make_sample_set(*tiny_run, path, 1, labels='7')
  with np.load(path) as file:
    sample = image_grid(file['arr_0'], 1)
  assert np.abs(sample.astype(int) - frames[-1]).max() <= 1
