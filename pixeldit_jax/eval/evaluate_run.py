"""From a run, or a set of images, to a result on disk; all processes call it.

All processes sample. The first one alone runs the feature network, on its own
devices, while the others wait: 50,000 images take minutes on one host.
"""

import json
import logging
import os
import pathlib

import jax
from ml_collections import ConfigDict

from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.eval.report import evaluate_images, write_result
from pixeldit_jax.images.image_sets import FolderImages, NpzImages, open_images
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.progress import Progress
from pixeldit_jax.sampling.sample_set import (
  make_sample_set,
  write_grid,
  write_pngs,
)

log = logging.getLogger(__name__)

SAMPLES, GRID, PNGS = 'samples.npz', 'samples.png', 'images'
RESULT = 'result.json'


def measure_run(
  config: ConfigDict,
  workdir: str,
  out: str | os.PathLike,
  count: int,
  *,
  network: FeatureNetwork,
  reference: Reference | None,
  png: bool = False,
  **which,
) -> dict | None:
  """Makes or completes a sample set and measures it.

  What was measured before, of the same samples by the same network and
  reference, is read again.

  Args:
    config: of the run, with the sampler and seed wanted.
    workdir: the run.
    out: folder for samples.npz, samples.png (a grid) and result.json.
    count: images to make.
    network: the feature network.
    reference: what to compare with; needed by the first process alone.
    png: whether to write every image as PNG too.
    **which: labels, ema, step and overwrite of `make_sample_set`.

  Returns:
    The result, in the first process.
  """
  out = pathlib.Path(out)
  settings = make_sample_set(config, workdir, out / SAMPLES, count, **which)
  if jax.process_index():
    return None
  write_grid(out / GRID, out / SAMPLES)
  if png:
    write_pngs(out / PNGS, out / SAMPLES)
  if result := _measured(out / RESULT, settings, network, reference):
    log.info('%s was measured before.', out / SAMPLES)
    return result
  images = open_images(out / SAMPLES, count)
  return measure_images(
    images, out, network=network, reference=reference, settings=settings
  )


def measure_images(
  images: NpzImages | FolderImages,
  out: str | os.PathLike,
  *,
  network: FeatureNetwork,
  reference: Reference,
  settings: dict | None = None,
) -> dict:
  """Measures images that are there, and writes result.json."""
  result = evaluate_images(
    images,
    reference,
    network,
    settings=settings or {},
    progress=Progress('Measured', images.count),
  )
  write_result(pathlib.Path(out) / RESULT, result)
  return result


def _measured(path, settings, network, reference) -> dict | None:
  """The result at `path`, if it is of these samples and this reference."""
  if not path.exists():
    return None
  result = json.loads(path.read_text())
  asked = json.loads(json.dumps(settings))  # tuples become lists
  same = (
    {k: result['settings'].get(k) for k in asked} == asked
    and result['network']['checksum'] == network.checksum
    and result['reference']['checksum'] == reference.checksum
    and result['reference']['kind'] == reference.kind
  )
  return result if same else None
