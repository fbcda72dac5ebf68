"""Weight files of any released form, by path or from the Hugging Face hub."""

import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from pixeldit_jax.convert.lazy import LazyTensors
from pixeldit_jax.convert.lightning import EMA, RAW, read_lightning
from pixeldit_jax.convert.safetensors import read_safetensors
from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  UserError,
)

# What torch.compile and data-parallel wrappers add inside a name.
WRAPPERS = re.compile(r'(?<![^.])(_orig_mod|module)\.')
# Tensors that are not of the network, with a prefix or without.
OTHER_TENSORS = ('diffusion_trainer.', '_repa_projector.')
TEXT = 'core.'  # what the names of the text-to-image release begin with
COMFYUI = 'model.diffusion_model.'  # what ComfyUI puts before a release's names
NET = 'net.'  # and those of JiT's


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
    path: a local file, or hf://organisation/repository/file.
    ema: the averaged weights, or those last trained. A file of one set that
      no name calls either gives that set.
    second: the other average of a file that has two (JiT).

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: PyTorch's files need PyTorch, the hub huggingface_hub.
    UserError: the file is damaged, or has not the set that was asked for.
  """
  path = fetch(path)
  if path.suffix == '.safetensors':
    if second:
      raise UserError(f'{path}: a .safetensors has one average, ask for ema.')
    tensors = read_safetensors(path)
  else:
    tensors = read_lightning(path, ema, second)
  return tensors.renamed(_inner_names(tensors, ema, path))


def fetch(path: str | os.PathLike) -> pathlib.Path:
  """A local file for a path, downloaded and kept if it begins with hf://.

  Raises:
    FileNotFoundError: there is none, or the hub cannot be reached.
    ImportError: huggingface_hub is not installed.
    UserError: hf:// without organisation, repository and file.
  """
  text = os.fspath(path)
  if not text.startswith('hf://'):
    if not os.path.isfile(text):
      raise MissingFileError(
        f'{text} is no file. Give a .ckpt, .pth or .safetensors file, or '
        'hf://organisation/repository/file.'
      )
    return pathlib.Path(text)
  parts = text.removeprefix('hf://').split('/', 2)
  if len(parts) != 3 or not all(parts):
    raise UserError(f'{text}: expected hf://organisation/repository/file.')
  try:
    import huggingface_hub
  except ImportError as error:
    raise MissingPackageError(
      f"{text} needs huggingface_hub: pip install -e '.[hub]', or download the "
      'file and give its path.'
    ) from error
  organisation, repository, name = parts
  try:
    local = huggingface_hub.hf_hub_download(
      f'{organisation}/{repository}', name
    )
  except OSError as error:  # what the hub raises for absence and no network
    raise MissingFileError(
      f'{text} could not be fetched ({error}). Download it where there is a '
      'network and give its path.'
    ) from error
  return pathlib.Path(local)


def _inner_names(
  names: Mapping[str, np.ndarray], ema: bool, path: pathlib.Path
) -> dict[str, str]:
  """Plain name to name in the file, of the set that was asked for."""
  plain: dict[str, str] = {}
  for name in names:
    inner = WRAPPERS.sub('', name).removeprefix(COMFYUI)
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
  elif all(name.startswith(NET) for name in plain):
    prefix = NET
  return {
    inner.removeprefix(prefix): name
    for inner, name in plain.items()
    if inner.startswith(prefix)
    and not inner.startswith(OTHER_TENSORS)
    and not inner.endswith('n_averaged')
  }
