"""Edits pictures with a run: FlowEdit, SDEdit, inpainting, upscaling.

  pixeldit edit --workdir=runs/t2i --images=photos --out=edited \\
    --source_prompt='a red three' --target_prompt='a blue three'
  ... --method=inpaint --mask=box:0.5,0,1,1 --repeats=5
  ... --method=sdedit --strength=0.5
  ... --method=vary --strength=0.4
  ... --method=upscale --height=512 --width=512 --strength=0.35
  ... --table=edits.csv

--images is a file or a folder; both prompts may be classes, by
number or name. --table has a line for each picture, with columns image, target,
source, mask and region. A mask is a file, box:LEFT,TOP,RIGHT,BOTTOM or
colour:R,G,B[,TOLERANCE]; not: turns it round. Outside of it every pixel stays.

Writes before/*.png, after/*.png, edits.png (pairs) and edits.csv, a table of
what was done. Stopped and run again, the command continues where it was.

--measure adds PSNR, SSIM and the structure distance outside of --region (or the
mask), and the change inside; --autoencoder= the same of the edits after a way
through one, as latent networks take it; --judge=digits or captions also says
whether the edit shows its target.
"""

from absl import flags

from pixeldit_jax import outputs
from pixeldit_jax.cli import cluster_flags, path_flag, run_command, sample_flags
from pixeldit_jax.errors import UserError

_OUT = path_flag.define_out()
_IMAGES = path_flag.define(
  'images',
  None,
  'A picture, or a folder of them.',
  schemes=path_flag.BUCKETS,
)
_TABLE = path_flag.define(
  'table',
  None,
  'A CSV with a line for each edit.',
  schemes=path_flag.BUCKETS,
)
_TARGET = flags.DEFINE_string(
  'target_prompt', '', 'Class or prompt that is wanted.'
)
_SOURCE = flags.DEFINE_string(
  'source_prompt', '', 'Class or prompt that is there.'
)
_MASK = path_flag.define('mask', '', 'The part that may change.', kinds=True)
_REGION = path_flag.define(
  'region', '', 'The part that should; measured.', kinds=True
)
_GROW = flags.DEFINE_integer(
  'grow', 0, 'Pixels around masks and regions.', lower_bound=0
)
_METHOD = flags.DEFINE_enum(
  'method',
  'flowedit',
  ['flowedit', 'sdedit', 'inpaint', 'vary', 'upscale'],
  'vary and upscale are SDEdit towards what the picture shows.',
)
_STRENGTH = flags.DEFINE_float(
  'strength', None, 'Share of the steps that are done, above 0 and at most 1.'
)
_SOURCE_GUIDANCE = flags.DEFINE_float(
  'source_guidance', 1.5, "FlowEdit's, towards the source."
)
_TARGET_GUIDANCE = flags.DEFINE_float(
  'target_guidance', None, 'Towards the target; as the run samples by default.'
)
_AVERAGE = flags.DEFINE_integer('average', 1, "FlowEdit's draws a step.")
_FREE_STEPS = flags.DEFINE_integer(
  'free_steps', 0, "FlowEdit's last steps, without the source."
)
_REPEATS = flags.DEFINE_integer('repeats', 1, 'Of each step of inpainting.')
_NEGATIVE = flags.DEFINE_string(
  'negative_prompt', '', 'What guidance leads away from.'
)
_HEIGHT = flags.DEFINE_integer(
  'height', None, 'Pixels; as trained by default.', lower_bound=1
)
_WIDTH = flags.DEFINE_integer(
  'width', None, 'Pixels; as trained by default.', lower_bound=1
)
_MEASURE = flags.DEFINE_bool('measure', False, 'Compare before and after.')
_AUTOENCODER = path_flag.define(
  'autoencoder',
  None,
  'With --measure, what the edits are encoded and decoded by to measure them '
  'again: a name on the hub, a folder or a file.',
  schemes=path_flag.HUB,
)
_JUDGE = flags.DEFINE_enum(
  'judge',
  None,
  ['digits', 'captions'],
  'What tells whether an edit shows its target: the classifier of the digits '
  'of the quickstart, or that of its captions.',
)
flags.adopt_module_key_flags(cluster_flags)
flags.adopt_module_key_flags(sample_flags)
flags.mark_flag_as_required('workdir')

# Shares of the steps that leave a digit or a photograph what it is.
_STRENGTHS = dict(flowedit=0.7, sdedit=0.6, inpaint=1.0, vary=0.4, upscale=0.35)


def main():
  import jax

  from pixeldit_jax.api import Model
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.editing import edit_set
  from pixeldit_jax.sampling.checkpoint_weights import image_settings
  from pixeldit_jax.train.checkpoint.restore import restore_weights

  cluster_flags.initialize()
  start_log(jax.process_index())
  context, ref = sample_flags.read_run()
  edits, options = _read_edits(), _read_options(context.config)
  detour = _read_detour()
  side = context.config.data.resolution
  size = (_HEIGHT.value or side, _WIDTH.value or side)
  context.model.grid(*size)
  restored, ref = restore_weights(
    ref, context.model, context.mesh, context.rules
  )
  model = Model(context, restored, ref)
  conditions = model.edit_conditions_of(edits, _NEGATIVE.value)
  asked = image_settings(context.config, restored, ref) | dict(
    options=vars(options), method=_METHOD.value, negative=_NEGATIVE.value
  )
  chosen = edit_set.EditSet(
    outputs.path_of(_OUT.value), edits, size, asked, _GROW.value
  )
  chosen.check(sample_flags.OVERWRITE.value)
  rows = chosen.write(
    model.editor(options, size, len(edits)),
    restored,
    conditions,
    seed=sample_flags.SEED.value,
    judge=_judge(),
    measure=_MEASURE.value,
    detour=detour,
  )
  for name, value in edit_set.summarize(rows).items():
    print(f'{name:12} {value:.4f}')


def _read_edits():
  """The lines of --table, or one for each picture of --images."""
  import dataclasses

  from pixeldit_jax.editing.edit_set import Edit, read_table
  from pixeldit_jax.editing.pictures import find_pictures

  target, source = _TARGET.value, _SOURCE.value
  if _METHOD.value in ('vary', 'upscale'):
    target = target or source
  given = Edit('', target, source, _MASK.value, _REGION.value)
  if bool(_TABLE.value) == bool(_IMAGES.value):
    raise UserError('give --images or --table, one of them.')
  if _IMAGES.value:
    edits = [
      dataclasses.replace(given, image=path)
      for path in find_pictures(_IMAGES.value)
    ]
  else:
    edits = read_table(_TABLE.value or '', given)
  if _METHOD.value == 'inpaint' and not all(edit.mask for edit in edits):
    raise UserError('--method=inpaint needs --mask: the part that is new.')
  if _MEASURE.value and not all(edit.mask or edit.region for edit in edits):
    raise UserError(
      '--measure needs --region, the part that should change, or --mask.'
    )
  return edits


def _read_options(config):
  from pixeldit_jax.editing.editor import EditOptions

  method = _METHOD.value
  scale = _TARGET_GUIDANCE.value
  return EditOptions(
    method='sdedit' if method in ('vary', 'upscale') else method,
    strength=_STRENGTHS[method] if _STRENGTH.value is None else _STRENGTH.value,
    source_guidance=_SOURCE_GUIDANCE.value,
    target_guidance=config.sampler.guidance if scale is None else scale,
    average=_AVERAGE.value,
    free_steps=_FREE_STEPS.value,
    repeats=_REPEATS.value,
  )


def _read_detour():
  """The way through --autoencoder and back, or None."""
  import functools

  from pixeldit_jax.convert.autoencoder import load_autoencoder
  from pixeldit_jax.editing.through_autoencoder import through_autoencoder

  if not _AUTOENCODER.value:
    return None
  if not _MEASURE.value:
    raise UserError('--autoencoder is for --measure: give that too.')
  found = load_autoencoder(_AUTOENCODER.value)
  return functools.partial(through_autoencoder, found)


def _judge():
  """What says whether an edit shows its target, or None."""
  if _JUDGE.value == 'captions':
    from pixeldit_jax.demo.caption_agreement import agrees

    return agrees
  if _JUDGE.value == 'digits':
    from pixeldit_jax.demo.digit_classifier import predict

    return lambda images, targets: predict(images) == [int(t) for t in targets]
  return None


if __name__ == '__main__':
  run_command.run(main)
