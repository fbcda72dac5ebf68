"""From a run, or a set of images, to a result on disk; all processes call it.

All processes sample. Only the first one runs the feature network, on its own
devices, while the others wait: 50,000 images take minutes on one host.
"""

import dataclasses
import logging
import os

import jax
from etils import epath

from pixeldit_jax import outputs
from pixeldit_jax.eval.reference import Reference
from pixeldit_jax.eval.report import evaluate_images, write_result
from pixeldit_jax.files import read_json
from pixeldit_jax.images.image_sets import FolderImages, NpzImages, open_images
from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
from pixeldit_jax.progress import Progress
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling import provenance
from pixeldit_jax.sampling.sample_set import make_sample_set
from pixeldit_jax.sampling.set_pictures import (
  adopt_older,
  write_grid,
  write_pngs,
)
from pixeldit_jax.settings import as_json, differences
from pixeldit_jax.train.checkpoint.restore import CheckpointRef
from pixeldit_jax.train.run.trained_on import read_class_names

log = logging.getLogger(__name__)

SAMPLES, GRID, PNGS = 'samples.npz', 'samples.png', 'images'
RESULT = 'result.json'


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How samples of a run are made and measured.

  Attributes:
    network: the feature network.
    reference: what to compare with; the other processes need none.
    labels: classes that are used in turn, see `sample_set.parse_labels`.
    png: write every image as PNG too.
    overwrite: remove a sample set of other settings first.
  """

  network: FeatureNetwork
  reference: Reference | None
  labels: str | None = None
  png: bool = False
  overwrite: bool = False


def evaluate_run(
  context: RunContext,
  ref: CheckpointRef,
  out: str | os.PathLike,
  count: int,
  options: EvaluationOptions,
) -> dict | None:
  """Makes or completes a sample set and measures it.

  A result of the same samples, network and reference is read, not made again.

  Args:
    context: of the run, with the sampler and seed wanted.
    ref: the weights.
    out: folder for samples.npz, samples.png (a grid) and result.json.
    count: images to make.
    options: how they are measured.

  Returns:
    The result, in the first process.
  """
  folder = outputs.path_of(out)
  if jax.process_index() == 0:
    adopt_older(folder)
    pngs = [folder / PNGS] if options.png else []
    outputs.check([folder / GRID, folder / RESULT, *pngs])
  settings = make_sample_set(
    context,
    ref,
    folder / SAMPLES,
    count,
    labels=options.labels,
    overwrite=options.overwrite,
  )
  reference = options.reference
  if jax.process_index() or reference is None:
    return None
  names = read_class_names(ref.workdir)
  write_grid(folder / GRID, folder / SAMPLES, class_names=names)
  if options.png:
    write_pngs(folder / PNGS, folder / SAMPLES)
  result = _stored_result(folder / RESULT, settings, options.network, reference)
  if result is not None:
    log.info('%s was measured before.', folder / SAMPLES)
    return result
  images = open_images(folder / SAMPLES, count)
  patch = context.model.patch_size
  return measure_images(
    images, folder, options.network, reference, settings, patch
  )


def measure_images(
  images: NpzImages | FolderImages,
  out: str | os.PathLike,
  network: FeatureNetwork,
  reference: Reference,
  settings: dict | None = None,
  patch: int = 0,
) -> dict:
  """Measures images on disk, and writes result.json.

  Args:
    images: from `open_images`.
    out: folder for the result.
    network: the feature network.
    reference: what to compare with.
    settings: how the images were made, where that is known.
    patch: side of the patches they were made of, 0 where it is not known.
  """
  result = evaluate_images(
    images,
    reference,
    network,
    settings=settings or {},
    progress=Progress('Measured', images.count),
    patch=patch,
  )
  with outputs.replacing(outputs.path_of(out) / RESULT) as temporary:
    write_result(temporary, result)
  return result


def _stored_result(
  path: epath.Path,
  settings: dict,
  network: FeatureNetwork,
  reference: Reference,
) -> dict | None:
  """The result at `path`, if it is of these samples and this reference."""
  if not path.exists():
    return None
  result = read_json(path)
  asked = as_json(settings)
  stored = provenance.with_defaults(result['settings'])
  if differences(stored, asked, keys=asked):
    return None
  measured_by = (
    result['network']['checksum'],
    result['reference']['checksum'],
    result['reference']['kind'],
  )
  wanted = network.checksum, reference.checksum, reference.kind
  return result if measured_by == wanted else None
