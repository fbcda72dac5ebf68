"""Pictures of the trajectory of one sample, from noise to an image."""

import logging
import os

import jax
import numpy as np
from PIL import Image

from pixeldit_jax import outputs
from pixeldit_jax.images.grid import image_grid, write_png
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.class_labels import parse_labels
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.run.trained_on import read_class_names
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

ANIMATION, STRIP = 'trajectory.png', 'trajectory_strip.png'
MOMENTS = 12  # of the still strip
FRAME_MS, LAST_MS = 60, 1500  # each frame, and the finished image


def draw_trajectory(
  context: RunContext,
  ref: CheckpointRef,
  out: str | os.PathLike,
  *,
  labels: str | None = None,
) -> None:
  """Draws the trajectory of sample 0, called by all processes.

  Writes trajectory.png, an animated PNG of the noise and what each step makes
  of it, and trajectory_strip.png, a row of moments at even distances.

  Args:
    context: of the run, with the sampler and seed wanted.
    ref: the weights.
    out: a folder.
    labels: classes as `parse_labels` reads them; the first one is drawn.
  """
  names = read_class_names(ref.workdir)
  first = parse_labels(labels, context.config.model.num_classes, 1, names)
  weights, _ = restore_weights(ref, context.model, context.mesh, context.rules)
  sampler = Sampler(context, batch_size=1, return_trajectory=True)
  ((images,),) = sampler.sample(weights, np.array([0]), first)
  if jax.process_index() == 0:
    folder = outputs.path_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_animation(folder / ANIMATION, images)
    moments = np.linspace(0, len(images) - 1, min(MOMENTS, len(images)))
    strip = images[np.rint(moments).astype(int)]
    with outputs.replacing(folder / STRIP) as temporary:
      write_png(temporary, image_grid(strip, len(strip)))
    log.info('Wrote %s', folder / ANIMATION)


def write_animation(
  path: str | os.PathLike, images: UInt8[np.ndarray, 'I H W C']
) -> None:
  """Writes an animated PNG, which keeps all colours; a GIF has 256."""
  frames = [Image.fromarray(image_grid(image[None], 1)) for image in images]
  with outputs.replacing(path) as temporary:
    frames[0].save(
      temporary,
      format='png',
      save_all=True,
      append_images=frames[1:],
      duration=[FRAME_MS] * (len(frames) - 1) + [LAST_MS],
    )
