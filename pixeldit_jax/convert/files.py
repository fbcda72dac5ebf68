"""Weight files of any released form, by path or from the Hugging Face hub."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pixeldit_jax import files
from pixeldit_jax.convert.lazy import LazyTensors
from pixeldit_jax.convert.lightning import EMA, RAW, read_lightning
from pixeldit_jax.convert.safetensors import read_safetensors
from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  UserError,
  is_of_hub,
  one_line,
)
from pixeldit_jax.storage import buckets, downloads

# What torch.compile, data-parallel and checkpointing wrappers add in a name.
WRAPPERS = re.compile(
  r'(?<![^.])'
  r'(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
SUFFIXES = ('.safetensors', '.ckpt', '.pth')
INDEX = '.safetensors.index.json'  # of weights in several files
# Tensors that are not of the network, with a prefix or without.
OTHER_TENSORS = ('diffusion_trainer.', '_repa_projector.')
TEXT = 'core.'  # what the names of the text-to-image release begin with
# What ComfyUI puts before a release's names, the first part not always.
COMFYUI = 'model.diffusion_model.'
DIFFUSION = COMFYUI.removeprefix('model.')


def read_weights(
  path: str | os.PathLike, ema: bool = True, second: bool = False
) -> LazyTensors:
  """The weights in a file, by the plain inner names of the release.

  Takes Lightning `.ckpt`, `.pth` (plain or nested) and `.safetensors`.
  Prefixes (`denoiser.`, `ema_denoiser.`, `core.`, `net.`,
  `model.diffusion_model.`) and what wrappers add to names are removed; what
  is not of the network
  (`diffusion_trainer.*`, `_repa_projector.*`) is left out.

  Args:
    path: a local file, gs://bucket/file, s3://bucket/file or
      hf://organisation/repository/file (the file may be left out where it is
      the only one of weights).
    ema: the averaged weights, or those last trained. A file of one set that
      no name calls either gives that set.
    second: the other average of a file that has two (JiT).

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: PyTorch's files need PyTorch, the hub huggingface_hub.
    UserError: the file is damaged, or has not the set that was asked for.
  """
  given, path = os.fspath(path), fetch(path)
  if path.suffix == '.safetensors' or path.name.endswith(INDEX):
    if second:
      raise UserError(f'{path}: a .safetensors has one average, ask for ema.')
    tensors = (
      read_safetensors(path)
      if path.suffix == '.safetensors'
      else _read_several(given, path)
    )
  else:
    tensors = read_lightning(path, ema, second)
  return tensors.renamed(_inner_names(tensors, ema, path))


def _read_several(given: str, index: pathlib.Path) -> LazyTensors:
  """The tensors of all files that an index names, which lie next to it.

  Raises:
    UserError: the index is damaged, or a file has not what it says.
  """
  file_of = files.read_json(index, form={'weight_map': dict})['weight_map']
  files.check_inside(file_of.values(), index)
  folder = given.rpartition('/')[0] or '.'
  parts = {
    name: read_safetensors(fetch(f'{folder}/{name}'))
    for name in sorted(set(file_of.values()))
  }
  missing = [name for name, file in file_of.items() if name not in parts[file]]
  if missing:
    raise UserError(
      f'{index}: {len(missing)} tensors are not in the files that it names, as '
      f'{missing[0]!a} in {file_of[missing[0]]!a}. Download all of them again.'
    )
  specs = {name: parts[file].specs[name] for name, file in file_of.items()}
  return LazyTensors(specs, lambda name: parts[file_of[name]][name])


def _common_prefix(names: list[str]) -> str:
  """What a training program put before all names, as JiT's 'net.'."""
  start = os.path.commonprefix(names)
  return start[: start.rfind('.') + 1] if len(names) > 1 else ''


def fetch(path: str | os.PathLike) -> pathlib.Path:
  """A local file for a path, downloaded and kept if it is on a hub or bucket.

  Raises:
    FileNotFoundError: there is none, or the hub cannot be reached.
    ImportError: huggingface_hub is not installed.
    UserError: hf:// without organisation and repository; or without a file,
      where the repository has none of weights or several.
  """
  text = os.fspath(path)
  if buckets.is_bucket(text):
    return downloads.fetch(text)
  if not text.startswith('hf://'):
    if not os.path.isfile(text):
      raise MissingFileError(
        f'{text} is no file. Give a .ckpt, .pth or .safetensors file, or '
        'hf://organisation/repository/file.'
      )
    return pathlib.Path(text)
  parts = text.removeprefix('hf://').split('/', 2)
  if len(parts) < 2 or not all(parts[:2]) or parts[1].endswith(SUFFIXES):
    raise UserError(f'{text}: expected hf://organisation/repository/file.')
  try:
    import huggingface_hub
  except ImportError as error:
    raise MissingPackageError(
      f"{text} needs huggingface_hub: pip install -e '.[hub]', or download the "
      'file and give its path.'
    ) from error
  repository, name = '/'.join(parts[:2]), ''.join(parts[2:])
  try:
    if not name:
      name = _only_weights(text, huggingface_hub.list_repo_files(repository))
    local = huggingface_hub.hf_hub_download(repository, name)
  except Exception as error:
    if not is_of_hub(error):
      raise
    raise MissingFileError(
      f'{text} could not be fetched ({one_line(error)}). Download it where '
      'there is a network and give its path.'
    ) from error
  return pathlib.Path(local)


def find_weights(
  source: str,
  *,
  what: str,
  by_name: str,
  by_path: str,
  file: str = 'model.safetensors',
) -> pathlib.Path:
  """The file that a name, a folder or a path stands for, downloaded if needed.

  Args:
    source: a name on the hub, with hf:// before it or without, a folder that
      has `file`, or a file.
    what: it is of, for the error.
    by_name, by_path: the two ways to get it, for the error.
    file: of the repository or folder.

  Raises:
    MissingFileError: it names the two ways.
  """
  location = source = downloads.here(source)
  if os.path.isdir(source):
    location = os.path.join(source, file)
  elif not os.path.exists(source) and (
    name := re.fullmatch(r'(?:hf://)?([\w.-]+/[\w.-]+)', source)
  ):
    location = f'hf://{name[1]}/{file}'
  try:
    return fetch(location)
  except (FileNotFoundError, ImportError) as error:
    raise MissingFileError(
      f'no weights of {what} at {source!r}. Two ways to get them: (1) by name, '
      'where there is a network and with pip install huggingface_hub: '
      f'{by_name}; (2) by path: download {by_path}.\nThe cause: {error}'
    ) from error


def _only_weights(text: str, names: Sequence[str]) -> str:
  """The one file of weights among those of a repository."""
  found = [name for name in names if name.endswith(SUFFIXES)]
  if len(found) == 1:
    return found[0]
  there = ', '.join(sorted(found)[:5]) or 'none'
  raise UserError(
    f'{text} names no file, and the repository has {len(found)} of weights '
    f'({there}): expected hf://organisation/repository/file.'
  )


def _inner_names(
  names: Mapping[str, np.ndarray], ema: bool, path: pathlib.Path
) -> dict[str, str]:
  """Plain name to name in the file, of the set that was asked for."""
  plain: dict[str, str] = {}
  for name in names:
    inner = WRAPPERS.sub('', name).removeprefix(COMFYUI)
    inner = inner.removeprefix(DIFFUSION)
    if inner in plain:
      raise UserError(
        f'{path} has both {plain[inner]} and {name}, which are one tensor '
        'without the names of wrappers: remove one of them.'
      )
    plain[inner] = name
  prefix = ''
  if any(name.startswith((RAW, EMA)) for name in plain):
    prefix = EMA if ema else RAW
    if not any(name.startswith(prefix) for name in plain):
      raise UserError(
        f'{path} has no {prefix}* tensors: it holds only '
        f'{"the raw weights; ask for ema=False" if ema else "the EMA"}.'
      )
  elif any(name.startswith(TEXT) for name in plain):
    prefix = TEXT
  else:
    prefix = _common_prefix(list(plain))
  return {
    inner.removeprefix(prefix): name
    for inner, name in plain.items()
    if inner.startswith(prefix)
    and not inner.startswith(OTHER_TENSORS)
    and not inner.endswith('n_averaged')
  }
