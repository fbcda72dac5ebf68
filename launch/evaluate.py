"""Measures samples of a run, or images: FID, KID, IS, precision, recall.

  pixeldit evaluate --config=imagenet256 --workdir=runs/xl \\
    --reference=VIRTUAL_imagenet256_labeled.npz --out=evaluation/xl
  ... --sweep=guidance=2.5,2.75,3.0 --sweep=ema=true,false
  pixeldit evaluate --images=FOLDER_OR_NPZ --reference=... --out=...
  pixeldit evaluate --reference=folder:/data/imagenet/train \\
    --resolution=256 --make_reference=imagenet256.npz

Writes samples.npz (the form of the ADM evaluation suite), samples.png (a grid)
and result.json, with all that was measured and on what, and prints a table.
Sample i depends only on the seed and i; stopped and run again, the command
continues where it was.

--sweep measures every combination with --sweep_samples images first (a table
and a plot in OUT/sweep), and then the best with --num_samples.

The Inception network's weights (--weights) are those of 2015 that every paper
uses. Without them, --features=digits measures 28x28 digits offline.
"""

from absl import flags

from pixeldit_jax import outputs
from pixeldit_jax.cli import cluster_flags, path_flag, run_command, sample_flags
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval import feature_networks

_OUT = path_flag.define_out(default='', required=False)
_NUM_SAMPLES = flags.DEFINE_integer(
  'num_samples', None, 'Images to make, 50,000 by default; or of --images.'
)
_IMAGES = path_flag.define(
  'images',
  None,
  'A .npz or folder to measure in place of a run.',
  schemes=path_flag.BUCKETS,
)
_PNG = flags.DEFINE_bool('png', False, 'Write every sample as PNG too.')
_REFERENCE = path_flag.define(
  'reference',
  None,
  'A .npz of images or statistics (of ADM, EDM, JiT or --make_reference), a '
  'folder of images, or a data source such as folder:/path or digits.',
  kinds=True,
)
_RESOLUTION = flags.DEFINE_integer(
  'resolution', None, 'Side that a data source is cropped to.'
)
_MAKE_REFERENCE = path_flag.define(
  'make_reference',
  None,
  'File for the statistics of --reference.',
  schemes=path_flag.BUCKETS,
)
_FEATURES = flags.DEFINE_enum(
  'features',
  'inception',
  ['inception', 'efficientnet_lite0', 'digits', 'none'],
  'Network of the metrics; none measures the borders of patches alone.',
)
_PATCH_SIZE = flags.DEFINE_integer(
  'patch_size', 0, 'Side of the patches of --images, to measure their borders.'
)
_WEIGHTS = path_flag.define(
  'weights',
  feature_networks.FILE,
  'File of the Inception network.',
  schemes=path_flag.BUCKETS,
)
_FEATURE_BATCH = flags.DEFINE_integer(
  'feature_batch', 0, 'Images that the network sees at once; 0 is its own.'
)
_NEAREST = flags.DEFINE_integer(
  'nearest',
  0,
  'Draw so many samples beside the nearest picture of --reference, a data '
  'source or a folder, into nearest.png: are they copies?',
)
_SWEEP = flags.DEFINE_multi_string(
  'sweep',
  [],
  'A factor and its values, as guidance=2.5,3.0 or interval=0.1:1.0,0.1:0.9, '
  'steps, shift, solver or ema=true,false; repeat for their combinations.',
)
_SWEEP_SAMPLES = flags.DEFINE_integer(
  'sweep_samples', 5_000, 'Images of each point of a sweep.'
)
flags.adopt_module_key_flags(cluster_flags)
flags.adopt_module_key_flags(sample_flags)


def main():
  import jax
  from jax.experimental import multihost_utils

  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.eval.report import result_table

  cluster_flags.initialize()
  start_log(jax.process_index())
  _check_flags()
  if result := _measure(first=jax.process_index() == 0):
    print(result_table(result))
    print(f'All of it: {_OUT.value}/result.json')
    if _NEAREST.value:
      _draw_nearest()
  multihost_utils.sync_global_devices('measured')


def _check_flags():
  run, images = sample_flags.WORKDIR.value, _IMAGES.value
  if run and images:
    raise UserError('--workdir samples a run, --images takes none: give one.')
  if not (run or images or _MAKE_REFERENCE.value):
    raise UserError('give --workdir, --images or --make_reference.')
  of_run = (sample_flags.SOURCE, sample_flags.LABELS, sample_flags.STEP)
  for flag in (*of_run, _SWEEP, _PNG):
    if flag.present and not run:
      raise UserError(f'--{flag.name} is of a run: give --workdir.')
  if (run or images) and not _OUT.value:
    raise UserError('--out is missing: the folder for the result.')
  made = [_MAKE_REFERENCE.value] if _MAKE_REFERENCE.value else []
  outputs.check(made + ([f'{_OUT.value}/result.json'] if images else []))
  if not _REFERENCE.value and _FEATURES.value != 'digits':
    raise UserError(
      '--reference is missing: for ImageNet at 256, that of the ADM evaluation '
      'suite is VIRTUAL_imagenet256_labeled.npz.'
    )


def _draw_nearest():
  """Writes nearest.png of the samples that were measured."""
  from pixeldit_jax.data.sources.kinds import is_source
  from pixeldit_jax.eval.evaluate_run import SAMPLES
  from pixeldit_jax.eval.nearest_images import draw_nearest
  from pixeldit_jax.eval.reference import SourceImages
  from pixeldit_jax.images.image_sets import open_images

  out = outputs.path_of(_OUT.value)
  samples = open_images(_IMAGES.value or out / SAMPLES)
  spec = _REFERENCE.value or 'digits'
  data = (
    SourceImages(spec, _RESOLUTION.value or samples.shape[0])
    if is_source(spec)
    else open_images(spec)
  )
  draw_nearest(out / 'nearest.png', samples, data.batches(256), _NEAREST.value)


def _measure(first: bool):
  """The result in the first process, or None."""
  from pixeldit_jax.eval import evaluate_run
  from pixeldit_jax.images import image_sets

  # What may be missing is found before hours of reading and sampling.
  network = feature_networks.open_network(
    _FEATURES.value, _WEIGHTS.value, _FEATURE_BATCH.value
  )
  images = context = ref = None
  points = []
  resolution = 28 if _FEATURES.value == 'digits' else None
  if sample_flags.WORKDIR.value:
    context, ref, points = _read_run()
    side = context.config.data.resolution
    resolution, _, _ = context.image_shape(side, side)
  elif _IMAGES.value:
    images = image_sets.open_images(_IMAGES.value, _NUM_SAMPLES.value)
    resolution = images.shape[0]
    sizes = images.sizes()
    if len(sizes) > 1:
      print(f'{_IMAGES.value} holds images of {len(sizes)} sizes.')
      resolution = None  # the reference keeps its sizes too
  reference = None
  if first:
    reference = _read_reference(network, _RESOLUTION.value or resolution)
    if images:
      return evaluate_run.measure_images(
        images, _OUT.value, network, reference, patch=_PATCH_SIZE.value
      )
  if context is None or ref is None:
    return None
  options = evaluate_run.EvaluationOptions(
    network=network,
    reference=reference,
    labels=sample_flags.LABELS.value,
    png=_PNG.value,
    overwrite=sample_flags.OVERWRITE.value,
  )
  if points:
    context, ref = _best_of_sweep(context, ref, points, options)
  return evaluate_run.evaluate_run(context, ref, _OUT.value, _count(), options)


def _count() -> int:
  return 50_000 if _NUM_SAMPLES.value is None else _NUM_SAMPLES.value


def _read_run():
  """The run with its weights, and the points of the sweep, all checked."""
  from pixeldit_jax.eval import sweep
  from pixeldit_jax.sampling.class_labels import parse_labels
  from pixeldit_jax.train.run.trained_on import read_class_names

  context, ref = sample_flags.read_run()
  model = context.config.model
  if model.text_width:
    raise UserError(
      'the run draws what prompts ask for: make samples with pixeldit sample '
      '--prompts_file=, and measure them by --images=.../samples.npz.'
    )
  points = sweep.parse_factors(_SWEEP.value)
  for point in points:
    sweep.at_point(context, ref, point)
  count = min(_count(), _SWEEP_SAMPLES.value) if points else _count()
  labels = sample_flags.LABELS.value
  names = read_class_names(ref.workdir)
  parse_labels(labels, model.num_classes, count, names)
  ref.resolve()  # refuses a checkpoint that does not exist
  return context, ref, points


def _best_of_sweep(context, ref, points, options):
  """The run at its best point, found with fewer samples."""
  from pixeldit_jax.eval import sweep

  folder = outputs.path_of(_OUT.value) / 'sweep'
  count = _SWEEP_SAMPLES.value
  best = sweep.sweep(context, ref, folder, points, count, options)
  print(f'Best: {sweep.name_of(best)}')
  return sweep.at_point(context, ref, best)


def _read_reference(network, resolution):
  """The reference, written to --make_reference where that is asked for."""
  from pixeldit_jax.eval import reference, statistics_file

  path = _MAKE_REFERENCE.value
  read = feature_networks.open_reference(
    _REFERENCE.value,
    network,
    resolution,
    keep=reference.KEPT_FEATURES if path else None,
  )
  if path:
    source = f'{read.path}, SHA-256 {read.checksum}'
    with outputs.replacing(path) as made:
      statistics_file.write_statistics(made, read.statistics, network, source)
    print(f'Wrote {path}, of {read.statistics.pooled.count:,} images.')
  return read


if __name__ == '__main__':
  run_command.run(main)
