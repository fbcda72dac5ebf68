"""Converts released weights into a run, and a run into released files.

  pixeldit convert --workdir=runs/released \\
    --source=hf://nvidia/PixelDiT-ImageNet/imagenet512_pixeldit_xl.ckpt \\
    --config=imagenet512
  pixeldit sample --workdir=runs/released --out=samples
  pixeldit train ... --config.init_from=runs/released
  pixeldit convert --workdir=runs/mine --out=mine.safetensors
  pixeldit convert --workdir=runs/t2i --out=t2i.safetensors --to=comfyui
  pixeldit convert --workdir=runs/mine --out=export/mine.safetensors \\
    --push=hf://me/mine

--source is a .ckpt, .pth or .safetensors, here or on the Hugging Face hub. The
workdir has the sampler of --config. Without --config the network is seen from
the file. --out is a .safetensors, .pth or .ckpt with the names of the release.
"""

from absl import flags

from pixeldit_jax.cli import config_flag, path_flag, run_command
from pixeldit_jax.errors import UserError

_CONFIG = config_flag.define(
  'Of the run that --source becomes; --config.key=value changes one value.',
  required=False,
)
_SOURCE = path_flag.define(
  'source',
  None,
  'File, gs://bucket/file, s3://bucket/file or hf://organisation/repository/'
  'file.',
  schemes=(*path_flag.HUB, *path_flag.BUCKETS),
)
_WORKDIR = path_flag.define_workdir()
_OUT = path_flag.define_out('File to write.', required=False)
_WEIGHTS = flags.DEFINE_enum(
  'weights',
  None,
  ['ema', 'ema2', 'raw', 'both'],
  'The average, or those last trained. ema by default; both in a .ckpt; ema2 '
  "is the second average in JiT's files.",
)
_FAMILY = flags.DEFINE_string(
  'family',
  None,
  'Of --source, where its names do not tell: pixeldit, pixeldit2, deco, '
  'pixnerd, flatdit, jit, dit or pixelflow.',
)
_TO = flags.DEFINE_enum(
  'to',
  'release',
  ['release', 'comfyui', 'adapters'],
  'Whose names --out has. That of ComfyUI goes into its models/ folder; '
  'adapters are those of a run of lora.rank alone.',
)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  None,
  ['float32', 'bfloat16'],
  'Of the tensors in --out: float32, and bfloat16 for ComfyUI, by default.',
)
_CARD = flags.DEFINE_bool(
  'card',
  None,
  'Also writes README.md next to --out: what the weights are, how they were '
  'trained and measured, and a picture of samples. By default where the folder '
  'of --out is made by this command.',
)
_PUSH = path_flag.define(
  'push',
  None,
  'Also puts --out and its card into this repository of the Hugging Face hub, '
  'hf://user/name, which is made if absent. Log in before: `hf auth login`.',
  schemes=path_flag.HUB,
)
_PRIVATE = flags.DEFINE_bool(
  'private', False, 'Only its owner sees a repository made by --push.'
)
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; the newest by default.')
_VERIFY = flags.DEFINE_enum(
  'verify',
  'checksums',
  ['checksums', 'sizes'],
  'How files of weights are compared with what was written: sizes reads none.',
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace what was converted before.'
)
_TEXT_ENCODER = path_flag.define(
  'text_encoder',
  None,
  'Of a network of texts, to sample it: a Hugging Face model, by name or '
  'folder, as google/gemma-2-2b-it.',
)
_INSTRUCTION = path_flag.define(
  'instruction', 'default', 'As that of pixeldit encode-text.'
)


def main():
  import jax

  from pixeldit_jax.cli.log import start_log

  jax.config.update('jax_platforms', 'cpu')  # accelerators stay free
  start_log()
  _check_flags()
  if _SOURCE.value:
    _into_workdir(_SOURCE.value)
  elif _OUT.value:
    _out_of_workdir(_OUT.value)


def _check_flags():
  if bool(_SOURCE.value) == bool(_OUT.value):
    raise UserError('give --source or --out, one of them.')
  if _FAMILY.present and (_OUT.value or _CONFIG.present):
    given = 'config' if _CONFIG.present else 'out'
    raise UserError(f'--family means nothing with --{given}, which names it.')
  if _OUT.value and _WEIGHTS.value == 'ema2':
    raise UserError('--weights=ema2 is of a --source: a run has one average.')
  unused = (
    (_STEP, _DTYPE, _TO, _VERIFY, _PUSH)
    if _SOURCE.value
    else (_TEXT_ENCODER, _INSTRUCTION)
  )
  for flag in unused:
    if flag.present:
      given = 'source' if _SOURCE.value else 'out'
      raise UserError(f'--{flag.name} means nothing with --{given}.')


def _into_workdir(source: str):
  from pixeldit_jax.train.checkpoint import released

  released.check_free(_WORKDIR.value, _OVERWRITE.value)  # before a download
  which = _WEIGHTS.value or 'ema'
  if _CONFIG.present:
    config = _CONFIG.value
  else:
    overrides = config_flag.overrides()
    family = _FAMILY.value
    config = released.infer_run(source, overrides, which, family)
  released.to_workdir(
    source,
    _WORKDIR.value,
    config,
    which=which,
    text=_read_text(config),
    overwrite=_OVERWRITE.value,
  )
  print(
    f'Next:\n  pixeldit sample --workdir={_WORKDIR.value} '
    f'--out={_WORKDIR.value}/samples'
  )


def _read_text(config):
  """The `meta` of --text_encoder, which is loaded to know its checksum."""
  if not _TEXT_ENCODER.value:
    return None
  from pixeldit_jax.encoders.text import TextEncoder, read_instruction

  return TextEncoder(
    _TEXT_ENCODER.value,
    tokens=config.model.text_tokens,
    instruction=read_instruction(_INSTRUCTION.value),
  ).meta


def _out_of_workdir(out: str):
  from pixeldit_jax import outputs
  from pixeldit_jax.convert import hub
  from pixeldit_jax.train.checkpoint import released
  from pixeldit_jax.train.checkpoint.model_card import (
    check_card,
    write_model_card,
  )
  from pixeldit_jax.train.checkpoint.restore import CheckpointRef

  if _TO.value == 'adapters':
    if _PUSH.value:
      raise UserError('--push is not for adapters: give --to=release.')
    raw, checksums = _WEIGHTS.value == 'raw', _VERIFY.value == 'checksums'
    ref = CheckpointRef(_WORKDIR.value, _STEP.value, not raw, checksums)
    released.adapters_from_workdir(ref, out, _OVERWRITE.value)
    return
  target, repository = outputs.path_of(out), ''
  new_folder = _CARD.value is None and not target.parent.exists()
  if card := _CARD.value or bool(_PUSH.value) or new_folder:
    check_card(target)
  if _PUSH.value:
    if '://' in out:
      raise UserError(f'--out={out}: --push sends files of a disk; give one.')
    repository = hub.create_repository(_PUSH.value, _PRIVATE.value)
  released.from_workdir(
    _WORKDIR.value,
    out,
    which=_WEIGHTS.value,
    dtype=_DTYPE.value,
    step=_STEP.value,
    checksums=_VERIFY.value == 'checksums',
    overwrite=_OVERWRITE.value,
    form=_TO.value,
  )
  if not card:
    return
  ref = CheckpointRef(_WORKDIR.value, _STEP.value, _WEIGHTS.value != 'raw')
  step = ref.resolve().step or 0
  written = write_model_card(_WORKDIR.value, target, step, repository)
  if repository:
    paths = [target, *written]
    print(hub.push_files(repository, paths, f'Weights of step {step}'))


if __name__ == '__main__':
  run_command.run(main)
