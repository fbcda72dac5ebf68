"""Released files to workdirs that are sampled and fine-tuned, and back.

Both ways one tensor is in memory at a time, and files appear complete
under its name or not at all.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pixeldit_jax import files, outputs
from pixeldit_jax.config import get_config, model_config, validate
from pixeldit_jax.config.family_recipes import sample_as_published
from pixeldit_jax.convert.adapters import (
  with_adapters_added,
  without_adapters,
  write_adapters,
)
from pixeldit_jax.convert.files import COMFYUI, TEXT, read_weights
from pixeldit_jax.convert.lazy import LazyTensors
from pixeldit_jax.convert.lightning import write_lightning, write_pth
from pixeldit_jax.convert.official import (
  fields_of,
  native_of,
  recognise,
  released_of,
)
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.stored import read_stored, write_stored
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.progress import Progress
from pixeldit_jax.settings import flatten
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.checkpoint.folders import FOLDER, folder_of
from pixeldit_jax.train.checkpoint.restore import CheckpointRef
from pixeldit_jax.train.run import trained_on, workdir

log = logging.getLogger(__name__)

SETS = ('ema', 'ema2', 'raw', 'both')
DTYPES = ('float32', 'bfloat16')
FORMS = ('release', 'comfyui')
SUFFIXES = ('.safetensors', '.pth', '.ckpt')
# Keys that decide images, as those of the sampler, and that no shape decides.
UNDECIDED = ('data.resolution', 'flow.noise_scale', 'model.prediction')
# All that there is in a workdir that was converted.
FILES = {'config.json', 'history.jsonl', 'parameters.txt', 'text.json', FOLDER}


def address(source: str | os.PathLike) -> str:
  """The name of the source in the history of a workdir, from any folder."""
  text = os.fspath(source)
  return text if text.startswith('hf://') else os.path.abspath(text)


def infer_run(
  source: str | os.PathLike,
  overrides: Mapping[str, Any],
  which: str = 'ema',
  family: str | None = None,
) -> ConfigDict:
  """The configuration of a released file, its network seen from its shapes.

  Its sampler is that of the paper, where there is a recipe.

  Args:
    source: as `files.read_weights` takes it; nothing but shapes is read.
    overrides: values by key, as 'data.resolution', that shapes do not tell.
    which: see `to_workdir`.
    family: whose names the file has; recognised by default.

  Raises:
    UserError: the file is of texts, of which shapes do not tell enough; or of
      no family, or of several.
  """
  config = get_config()
  weights = _read(source, which)
  family = family or recognise(weights)
  known = {k.removeprefix('model.'): v for k, v in overrides.items()}
  sizes = fields_of(weights, family, known)
  if 'text_width' in sizes:
    raise UserError(
      f'{source} is a network of texts: give the configuration that has its '
      'sampler, as --config=configs/t2i_1024_stage3.py.'
    )
  config.model.update(sizes)
  config.data.resolution = _resolution(config.model)
  config.update_from_flattened_dict(dict(overrides))
  sample_as_published(config, family)
  config.update_from_flattened_dict(dict(overrides))
  taken = {
    key: value
    for key, value in flatten(config.to_dict()).items()
    if key.startswith('sampler.') or key in UNDECIDED
  }
  unknown = [f'{k}={v}' for k, v in taken.items() if k not in overrides]
  log.warning(
    'The weights do not decide these, which are defaults: %s. '
    '--config.KEY=VALUE changes one, --config= gives the file that the network '
    'was trained by.',
    ', '.join(unknown),
  )
  return config


def _resolution(model: ConfigDict) -> int:
  """Of the images that released weights were trained on, as weights tell."""
  if model.prediction == 'image' and model.position_grid:
    return model.position_grid * model.patch_size
  return 512 if model.grounding_width == 768 else 256  # PixelDiT2


def _read(source: str | os.PathLike, which: str) -> LazyTensors:
  """One of `SETS` of a file; of both, the average."""
  return read_weights(source, which != 'raw', second=which == 'ema2')


def to_workdir(
  source: str | os.PathLike,
  folder: str,
  config: ConfigDict,
  *,
  which: str = 'ema',
  text: Mapping[str, Any] | None = None,
  overwrite: bool = False,
) -> None:
  """Makes a workdir of a released file.

  Its only checkpoint, of step 0, has only weights. They are where a run has
  its EMA, which is what sampling and fine-tuning read.

  Args:
    source: as `files.read_weights` takes it.
    folder: the workdir to make.
    config: its network is that of the file, its sampler is what samples are
      made with.
    which: the set of the file, 'ema', 'ema2' (the second average of JiT's
      files) or 'raw' (those last trained). 'both' also keeps the raw ones,
      where a run has its weights.
    text: `meta` of the text encoder, of a network of texts.
    overwrite: replace a workdir that came from here.

  Raises:
    FileNotFoundError, ImportError: see `files.read_weights`.
    UserError: tensors that are not those of `config.model`, all of them
      listed; or the workdir is there already.
  """
  target = epath.Path(folder)
  validate(config)
  _check_text(config, text)
  check_free(folder, overwrite)
  model = model_config(config)
  sets = {'ema': which}
  if which == 'both':
    sets['weights'] = 'raw'
  found = {item: _read(source, name) for item, name in sets.items()}
  try:
    items = {item: native_of(tensors, model) for item, tensors in found.items()}
  except ValueError as error:
    raise UserError(f'{source} is not of config.model: {error}') from error
  files.remove_temporaries(str(target.parent), [target.name, _old(target).name])
  with files.temporary(target) as partial:
    step = folder_of(str(partial)) / '0'
    for item, tensors in zip(items, _checked(*items.values())):
      write_stored(step / item, tensors)
    integrity.write_manifest(step)
    workdir.write_config(str(partial), config)
    workdir.write_overview(str(partial), weights_of(abstract_model(model)))
    facts = dict(source=address(source), which=which)
    workdir.add_history(str(partial), workdir.CONVERTED, **facts)
    if text:
      trained_on.keep_text_encoder(str(partial), text)
    _replace(partial, target)
  log.info('Wrote workdir %s', folder)


def from_workdir(
  folder: str,
  target: str | os.PathLike,
  *,
  which: str | None = None,
  dtype: str | None = None,
  step: int | None = None,
  checksums: bool = True,
  overwrite: bool = False,
  form: str = 'release',
) -> None:
  """Writes the weights of a run as a file of the released form.

  Args:
    folder: a workdir.
    target: `.safetensors` (plain names), `.pth` (plain, or below 'core.' if
      of texts) or `.ckpt` (Lightning, 'denoiser.' and 'ema_denoiser.').
    which: 'ema', 'raw' or, of a `.ckpt`, 'both'; one set alone stands in both
      places there. None is 'both' where file and run have them, else 'ema'.
    dtype: 'float32' or 'bfloat16', the default of 'comfyui'.
    step: which checkpoint, the newest by default.
    checksums: see `CheckpointRef`.
    overwrite: replace a file.
    form: 'release', or 'comfyui': a `.safetensors` of a network of texts.

  Raises:
    FileNotFoundError: no run, or no checkpoint with these weights.
    ImportError: PyTorch's files need PyTorch.
    UserError: a target that is there or cannot be, or a network of ours alone.
  """
  out = outputs.path_of(target)
  config = workdir.read_config(folder)
  model = model_config(config)
  _check_form(form, out, model.text_width)
  _check_target(out, model.text_width, which, overwrite)
  dtype = dtype or ('bfloat16' if form == 'comfyui' else 'float32')
  main = CheckpointRef(folder, step, which != 'raw', checksums).verified()
  raw = dataclasses.replace(main, ema=False)
  if which is None and out.suffix == '.ckpt':
    which = 'both' if raw.path.is_dir() else 'ema'
  if which == 'both':
    raw.verified()  # refuses where there are none

  refs = [main]
  if out.suffix == '.ckpt':
    refs.append(raw if which == 'both' else main)
  weights, *other = _checked(
    *(_released_tensors(ref, model).cast(dtype) for ref in refs)
  )
  prefix = TEXT if model.text_width and out.suffix == '.pth' else ''
  prefix = COMFYUI + TEXT if form == 'comfyui' else prefix
  named = weights.renamed({prefix + name: name for name in weights})
  with outputs.replacing(out) as made:
    if other:
      write_lightning(made, other[0], weights)
    elif out.suffix == '.pth':
      write_pth(made, named)
    else:
      write_safetensors(made, named)
  log.info('Wrote %s, of step %d', out, main.step)


def _released_tensors(ref: CheckpointRef, model: ModelConfig) -> LazyTensors:
  """Those of a checkpoint by released names, adapters added to them."""
  native = with_adapters_added(read_stored(ref.path), model)
  return released_of(native, without_adapters(model))


def adapters_from_workdir(
  ref: CheckpointRef, target: str | os.PathLike, overwrite: bool = False
) -> None:
  """Writes the adapters of a run alone, see `convert.adapters`.

  `from_workdir` adds them to the weights.

  Args:
    ref: of a run of `lora.rank`.
    target: a `.safetensors`.
    overwrite: replace a file.

  Raises:
    FileNotFoundError: no run, or no checkpoint with these weights.
    UserError: the target is there already, or the run has no adapters.
  """
  out = outputs.path_of(target)
  model = model_config(workdir.read_config(ref.workdir))
  if out.suffix != '.safetensors':
    raise UserError(f'{out}: adapters are written as .safetensors.')
  _check_target(out, model.text_width, None, overwrite)
  ref = ref.verified()
  with outputs.replacing(out) as made:
    write_adapters(made, read_stored(ref.path), model)
  log.info('Wrote the adapters %s, of step %d', out, ref.step)


def _check_text(config: ConfigDict, text: Mapping[str, Any] | None) -> None:
  """Raises UserError for an encoder whose embeddings do not fit."""
  width, tokens = config.model.text_width, config.model.text_tokens
  if text and not (text['width'] == width and text['tokens'] <= tokens):
    raise UserError(
      f'the text encoder {text["encoder"]!r} makes {text["tokens"]} embeddings '
      f'{text["width"]} wide; the network takes {tokens} that are {width} wide.'
    )
  if width and not text:
    log.warning(
      'Without --text_encoder the workdir can be fine-tuned, not sampled.'
    )


def check_free(folder: str, overwrite: bool) -> None:
  """Raises UserError for a workdir that must not be replaced."""
  target = epath.Path(folder)
  found = {path.name for path in target.iterdir()} if target.exists() else set()
  if not found:
    return
  events = {line['event'] for line in workdir.read_history(str(target))}
  if events != {workdir.CONVERTED} or not found <= FILES:
    raise UserError(
      f'workdir {target} holds a run, or other files, which are never '
      'overwritten: give another --workdir.'
    )
  if not overwrite:
    raise UserError(
      f'workdir {target} was converted already: --overwrite replaces it.'
    )


def _check_target(
  target: epath.Path, text: int, which: str | None, overwrite: bool
) -> None:
  """Raises UserError for a file that cannot or must not be written."""
  if target.suffix not in SUFFIXES:
    raise UserError(f'{target}: the name must end in one of {SUFFIXES}.')
  if target.suffix == '.ckpt' and text:
    raise UserError(
      f'{target}: networks of texts are released as .pth; write that.'
    )
  if target.suffix != '.ckpt' and which == 'both':
    raise UserError(f'{target}: only a .ckpt has both sets; write ema or raw.')
  if target.exists() and not overwrite:
    raise UserError(f'{target} is there already: --overwrite replaces it.')
  outputs.check([target])


def _check_form(form: str, target: epath.Path, text: int) -> None:
  """Raises UserError for what ComfyUI would not read."""
  if form != 'comfyui':
    return
  if target.suffix != '.safetensors':
    raise UserError(f'{target}: ComfyUI reads .safetensors; name it so.')
  if not text:
    raise UserError(
      'the run is of classes: ComfyUI draws with PixelDiT for texts alone.'
    )


def _checked(*sets: LazyTensors) -> list[LazyTensors]:
  """The same, which log how far their reading is, and must be finite."""
  specs = [item for tensors in sets for item in tensors.specs.items()]
  for name, spec in specs:
    if not jnp.issubdtype(spec.dtype, jnp.floating):
      raise UserError(f'{name} is {spec.dtype}: weights are floats.')
  size = sum(spec.nbytes for _, spec in specs)
  count, done = -(-size // 10**6), 0
  report = Progress('Wrote', count, unit='MB')

  def read(name, array):
    nonlocal done
    if not np.isfinite(array).all():
      raise UserError(
        f'{name} holds NaN or infinity: such weights are not converted.'
      )
    done += array.nbytes
    report(count if done == size else done // 10**6)
    return array

  return [tensors.mapped(read) for tensors in sets]


def _replace(partial: epath.Path, target: epath.Path) -> None:
  """Renames, and removes what was there before."""
  with files.temporary(_old(target)) as old:
    if target.exists():
      target.rename(old)
    partial.rename(target)


def _old(target: epath.Path) -> epath.Path:
  return target.with_name(f'{target.name}.old')
