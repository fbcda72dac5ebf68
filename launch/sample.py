"""Samples images from a run.

  pixeldit sample --workdir=runs/mnist --out=samples

Writes samples.png (a grid), images/000000.png and on, and samples.npz
(uint8 'arr_0' [N, H, W, 3], the form of the ADM evaluation suite, and the
labels as 'arr_1'). Sample i depends only on the seed and i. Stopped and run
again, the command continues where it was.

--config=imagenet256:preset=ep320 samples a run, or released weights
that pixeldit convert made one of, as the paper did after 320 epochs.

A run with texts takes --prompts='a red seven; a blue two' or --prompts_file in
stead of --labels; the grid shows them. --export writes the four images of each
prompt that GenEval and DPG-Bench read into --out.

--trajectory also shows how the first sample comes out of the noise:
trajectory.png is animated, trajectory_strip.png a row of moments.
"""

from absl import flags

from pixeldit_jax import outputs
from pixeldit_jax.cli import cluster_flags, path_flag, run_command, sample_flags
from pixeldit_jax.errors import UserError

_OUT = path_flag.define_out()
_NUM_SAMPLES = flags.DEFINE_integer(
  'num_samples', None, 'Images to make; 100, or one of each prompt.'
)
_PROMPTS = flags.DEFINE_string('prompts', None, 'Divided by semicolons.')
_PROMPTS_FILE = path_flag.define(
  'prompts_file', None, 'One on each line.', schemes=path_flag.BUCKETS
)
_EXPORT = path_flag.define(
  'export',
  None,
  'geneval:FILE (evaluation_metadata.jsonl) or dpg:FOLDER (of prompts): writes '
  'four images of each of its prompts to --out, as that benchmark reads them.',
  kinds=True,
)
_NEGATIVE = flags.DEFINE_string(
  'negative_prompt', '', 'What guidance leads away from.'
)
_HEIGHT = flags.DEFINE_integer('height', None, 'Pixels; as trained by default.')
_WIDTH = flags.DEFINE_integer('width', None, 'Pixels; as trained by default.')
_SIZES = flags.DEFINE_string(
  'sizes',
  None,
  'Several sizes in turn, as 480x544,544x480 (height x width), or "buckets": '
  "those of the run's data, in their shares. Each is a set of its own, and all "
  'images are below images/.',
)
_TEXT_ENCODER = path_flag.define(
  'text_encoder', '', 'Where the encoder of the run is now, if elsewhere.'
)
_TRAJECTORY = flags.DEFINE_bool('trajectory', False, 'Draw one sampling path.')
flags.adopt_module_key_flags(cluster_flags)
flags.adopt_module_key_flags(sample_flags)
flags.mark_flag_as_required('workdir')


def main():
  import jax

  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.sampling import (
    benchmark_exports,
    sample_set,
    set_pictures,
    trajectory,
  )
  from pixeldit_jax.train.run.trained_on import read_class_names

  cluster_flags.initialize()
  start_log(jax.process_index())
  out = outputs.path_of(_OUT.value)
  context, ref = sample_flags.read_run()
  labels = sample_flags.LABELS.value
  overwrite = sample_flags.OVERWRITE.value
  prompts, benchmark = _read_prompts(context.config, ref.workdir)
  if benchmark:
    benchmark_exports.export_run(
      context, ref, benchmark, prompts, overwrite=overwrite
    )
    return
  if jax.process_index() == 0:
    drawn = ['images', 'samples.png']
    if _TRAJECTORY.value:
      drawn += [trajectory.ANIMATION, trajectory.STRIP]
    set_pictures.adopt_older(out, prompts)
    outputs.check(out / name for name in drawn)
  count = len(prompts.texts) if prompts else 100
  if _SIZES.value:
    given = count if _NUM_SAMPLES.value is None else _NUM_SAMPLES.value
    sample_set.make_sized_sets(
      *(context, ref, out, given, prompts),
      _read_sizes(context.config, _SIZES.value),
      overwrite=overwrite,
    )
    return
  sample_set.make_sample_set(
    context,
    ref,
    out / 'samples.npz',
    count if _NUM_SAMPLES.value is None else _NUM_SAMPLES.value,
    labels=labels,
    prompts=prompts,
    size=_size(context.config),
    overwrite=overwrite,
  )
  if jax.process_index() == 0:
    set_pictures.write_pngs(out / 'images', out / 'samples.npz')
    names = read_class_names(ref.workdir)
    set_pictures.write_grid(
      out / 'samples.png', out / 'samples.npz', prompts, names
    )
  if _TRAJECTORY.value:
    trajectory.draw_trajectory(context, ref, out, labels=labels)
  if jax.process_index() == 0:
    print(_next(out))


def _next(out):
  """Where the samples are, and what a user may do with them."""
  return (
    f'Drawn: {out}/samples.png, {out}/images and {out}/samples.npz. Next:\n'
    f'  pixeldit evaluate --images={out}/samples.npz --reference=... --out=...'
  )


def _read_prompts(config, workdir):
  """What the flags ask a text network for, and the benchmark if it is one's."""
  asked = (_PROMPTS, _PROMPTS_FILE, _EXPORT, _NEGATIVE)
  if not config.model.text_width:
    if _TRAJECTORY.value and (_HEIGHT.value or _WIDTH.value):
      raise UserError(
        '--trajectory with --height or --width: give one of them.'
      )
    for other in (*asked, _SIZES):
      if other.value not in (None, ''):
        raise UserError(f'--{other.name}: the run is of classes; use --labels.')
    return None, None
  if sample_flags.LABELS.value or _TRAJECTORY.value:
    raise UserError('--labels and --trajectory are of runs with classes.')
  from pixeldit_jax.encoders.text import open_encoder
  from pixeldit_jax.sampling import benchmark_exports, text_sampler
  from pixeldit_jax.train.run.trained_on import read_text_encoder

  benchmark = None
  if _EXPORT.value:
    for flag in (_PROMPTS, _PROMPTS_FILE, _NUM_SAMPLES, _SIZES):
      if flag.value is not None:
        raise UserError(f'--{flag.name} with --export, which has its own.')
    benchmark = benchmark_exports.open_export(_EXPORT.value, _OUT.value)
    texts = benchmark.prompts
  else:
    texts = text_sampler.read_prompts(_PROMPTS.value, _PROMPTS_FILE.value)
  meta = read_text_encoder(workdir)
  encoder = open_encoder(meta, _TEXT_ENCODER.value)
  prompts = text_sampler.Prompts(texts, encoder, _NEGATIVE.value, _size(config))
  return prompts, benchmark


def _size(config):
  """Height and width; what no flag gives is as trained."""
  return tuple(
    config.data.resolution if flag.value is None else flag.value
    for flag in (_HEIGHT, _WIDTH)
  )


def _read_sizes(config, text):
  """Sizes with their shares: of a flag, or of the data of the run."""
  if _HEIGHT.value or _WIDTH.value:
    raise UserError('--sizes with --height or --width: give one of them.')
  if text == 'buckets':
    from pixeldit_jax.data.sources.open_source import open_source
    from pixeldit_jax.train.inputs import image_sizes

    if not config.data.buckets:
      raise UserError(
        '--sizes=buckets: the run was trained on squares (data.buckets=False); '
        'give sizes, as 480x544,544x480.'
      )
    return image_sizes(config, open_source(config.data.source))
  try:
    sizes = [tuple(map(int, part.split('x'))) for part in text.split(',')]
    return {(height, width): 1.0 for height, width in sizes}
  except ValueError:
    raise UserError(
      f'--sizes={text!r}: write heights and widths as 480x544,544x480, or '
      'buckets.'
    ) from None


if __name__ == '__main__':
  run_command.run(main)
