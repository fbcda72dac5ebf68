"""One sample on its way from noise to an image, as pictures."""

import logging
import os
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from pixeldit_jax.images.grid import image_grid, write_png
from pixeldit_jax.sampling.checkpoint_weights import restore_run
from pixeldit_jax.sampling.sample_set import parse_labels
from pixeldit_jax.sampling.sampler import make_sample_fn, sample_images
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

MOMENTS = 12  # of the still strip
FRAME_MS, LAST_MS = 60, 1500  # each frame, and the finished image


def draw_path(
  config: ConfigDict,
  workdir: str,
  out: str | os.PathLike,
  *,
  labels: str | None = None,
  ema: bool = True,
  step: int | None = None,
) -> None:
  """Draws the path of sample 0, called by all processes.

  Writes trajectory.png, an animated PNG of the noise and what each step makes
  of it, and trajectory_strip.png, a row of moments at even distances.

  Args:
    config: of the run, with the sampler and seed wanted.
    workdir: the run.
    out: a folder.
    labels: classes as `parse_labels` reads them; the first one is drawn.
    ema, step: which weights.
  """
  (label,) = parse_labels(labels, config.model.num_classes, 1)
  mesh, weights, _ = restore_run(config, workdir, ema=ema, step=step)
  sample = make_sample_fn(config, mesh, path=True)
  first, classes = np.array([0]), np.array([label])
  ((path,),) = sample_images(config, mesh, sample, weights, first, classes, 1)
  if jax.process_index() == 0:
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_animation(out / 'trajectory.png', path)
    moments = np.linspace(0, len(path) - 1, min(MOMENTS, len(path)))
    strip = path[np.rint(moments).astype(int)]
    write_png(out / 'trajectory_strip.png', image_grid(strip, len(strip)))
    log.info('Wrote %s', out / 'trajectory.png')


def write_animation(path: pathlib.Path, images: UInt8[np.ndarray, 'N H W C']):
  """Writes an animated PNG: exact colours, which a GIF has not."""
  frames = [Image.fromarray(image_grid(image[None], 1)) for image in images]
  beside = path.with_name(path.name + '.tmp')
  frames[0].save(
    beside,
    format='png',
    save_all=True,
    append_images=frames[1:],
    duration=[FRAME_MS] * (len(frames) - 1) + [LAST_MS],
  )
  os.replace(beside, path)
