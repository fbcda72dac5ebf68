"""PyTorch's files: Lightning checkpoints and plain or nested `.pth`.

A file is a zip archive of one pickle, with names, shapes and dtypes,
and one record of bytes for each tensor. Pickles are loaded with weights only:
nothing that a file names is imported or run.
"""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from pixeldit_jax.convert.lazy import (
  LazyTensors,
  Spec,
  specs_of,
)
from pixeldit_jax.errors import MissingPackageError, UserError, one_line
from pixeldit_jax.files import replacing

# Keys of the weights in a checkpoint, which has optimizers and more.
EMA_KEYS = (
  'ema',
  'state_dict_ema',
  'ema_state_dict',
  'model_ema',
  'model_ema1',
)
SECOND_EMA_KEYS = ('model_ema2',)  # where there are two averages, as of JiT
RAW_KEYS = ('state_dict', 'model', 'module')

# What the names of the two sets begin with where they stand together.
RAW, EMA = 'denoiser.', 'ema_denoiser.'

# Pages of a mapped file count as memory until it is unmapped.
MAPPED_BYTES = 256 * 2**20
ALIGNMENT = 64


class _Inert:
  """Stands for any class but a tensor that a checkpoint names."""

  def __new__(cls, *args, **kwargs):
    return super().__new__(cls)

  def __init__(self, *args, **kwargs):
    pass

  def __setstate__(self, state):
    pass


def _torch(path: str | os.PathLike):
  try:
    import torch
  except ImportError as error:
    raise MissingPackageError(
      f"{path} is a PyTorch file and needs PyTorch: pip install 'torch>=2.6', "
      'or use a .safetensors file.'
    ) from error
  return torch


def _compare_checksums(path: str | os.PathLike) -> None:
  """Reads every record once, as PyTorch does not compare the zip's checksums.

  Raises:
    UserError: a record is damaged; the first is named.
  """
  reason = 'its checksum differs from that of the zip'
  try:
    with zipfile.ZipFile(path) as archive:
      packed = [m for m in archive.infolist() if m.compress_type]
      bad = packed[0].filename if packed else archive.testzip()
      reason = (
        'it is compressed, as PyTorch never writes it' if packed else reason
      )
  # Whatever damaged headers of members lead the reader to.
  except Exception as error:
    bad, reason = 'the zip', one_line(error)
  if bad:
    raise UserError(
      f'{path} is damaged at {bad!a}: {reason}. Download it again, or save it '
      'again if it was saved without checksums (set_crc32_options(False)).'
    )


def _load(path: str | os.PathLike) -> Any:
  """What is in a file; the tensors are mapped, not read."""
  torch = _torch(path)
  mapped = zipfile.is_zipfile(path)  # not so before PyTorch 1.6
  unknown: list[str] = []
  try:
    if mapped:
      unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(_Inert, n) for n in unknown]):
      return torch.load(
        path, map_location='cpu', weights_only=True, mmap=mapped
      )
  except pickle.UnpicklingError as error:
    raise UserError(
      f'{path} holds more than weights, and nothing else is loaded from a '
      'pickle. Where its origin is trusted, load it in PyTorch and save its '
      'state_dict alone.'
    ) from error
  # Other bytes are taken for a pickle, whose reader then stumbles anywhere.
  except (
    *(RuntimeError, EOFError, LookupError, ValueError, TypeError, OSError),
    *(AttributeError, AssertionError, struct.error),
  ) as error:
    raise UserError(
      f'{path} is no PyTorch file, or is cut off ({one_line(error)}). Download '
      'it again.'
    ) from error


def _tensors(found: Any, keys: tuple[str, ...]) -> dict[str, Any]:
  """The dict of tensors in a checkpoint, however deep, below such keys."""
  if not isinstance(found, Mapping):
    return {}
  for key in keys:
    if isinstance(found.get(key), Mapping):
      return _tensors(found[key], keys + RAW_KEYS)
  return {k: v for k, v in found.items() if hasattr(v, 'data_ptr')}


def _spec_of(path: str | os.PathLike, name: Any, tensor) -> Spec:
  """Shape and dtype of a tensor, once it was found to be a plain one."""
  import torch

  kind = ''
  if not isinstance(name, str):
    kind = 'under a name that is no text'
  elif tensor.is_meta:
    kind = 'on the meta device, without values'
  elif tensor.is_quantized:
    kind = 'quantized'
  elif tensor.layout != torch.strided:
    kind = 'sparse'
  if kind:
    raise UserError(
      f'{path}: {name!a} is {kind}; expected plain arrays. Save it as '
      'tensor.to_dense().float().'
    )
  dtype = str(tensor.dtype).removeprefix('torch.')
  try:
    return Spec(tuple(tensor.shape), np.dtype(dtype))
  except TypeError as error:
    raise UserError(f'{path}: {name!a} is {dtype}, unknown here.') from error


def _to_numpy(tensor) -> np.ndarray:
  """A copy in memory of its own; bfloat16, new to NumPy, goes as bits."""
  import torch

  tensor = tensor.detach().contiguous()
  if tensor.dtype == torch.bfloat16:
    return tensor.view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
  if tensor.dtype.itemsize == 1 and tensor.is_floating_point():
    name = str(tensor.dtype).removeprefix('torch.')
    return tensor.view(torch.uint8).numpy().copy().view(np.dtype(name))
  return tensor.numpy().copy()


def read_lightning(
  path: str | os.PathLike, ema: bool, second: bool = False
) -> LazyTensors:
  """The tensors of a `.ckpt` or `.pth`, under the names they have there.

  Args:
    path: the file.
    ema: where it keeps two nested sets apart, the averaged one. A set named
      by prefixes, or the only one, is returned as it is.
    second: the other average, of a file that has two.

  Raises:
    ImportError: PyTorch is not installed.
    UserError: the file is cut off, or holds no tensors.
  """
  keys = (EMA_KEYS if ema else ()) + RAW_KEYS
  if second:
    keys = SECOND_EMA_KEYS
  try:
    is_zip = zipfile.is_zipfile(path)
  except zipfile.BadZipFile:
    is_zip = True  # a damaged one
  if is_zip:
    _compare_checksums(path)
  loaded = _load(path)
  tensors = _tensors(loaded, keys)
  if second and not any(key in loaded for key in keys):
    raise UserError(
      f'{path} holds no second average under {keys}: ask for ema.'
    )
  if not tensors:
    raise UserError(
      f'{path} holds no tensors by name, neither at the top nor under {keys}.'
    )
  specs = {name: _spec_of(path, name, t) for name, t in tensors.items()}
  mapped = 0

  def read(name):
    nonlocal tensors, mapped
    if mapped > MAPPED_BYTES:
      tensors, mapped = _tensors(_load(path), keys), 0
    array = _to_numpy(tensors[name])
    mapped += array.nbytes
    return array

  return LazyTensors(specs, read)


def write_lightning(
  path: str | os.PathLike,
  weights: Mapping[str, np.ndarray],
  ema_weights: Mapping[str, np.ndarray],
) -> None:
  """Writes a checkpoint in the release's layout, one tensor at a time.

  Args:
    path: the `.ckpt` to make; any file there is replaced at the end.
    weights: names without prefix to arrays, stored as `denoiser.*`.
    ema_weights: their averages, stored as `ema_denoiser.*`.

  Raises:
    ImportError: PyTorch is not installed.
  """
  sources = {
    prefix + name: (tensors, name)
    for prefix, tensors in ((RAW, weights), (EMA, ema_weights))
    for name in tensors
  }
  others = {
    'epoch': 0,
    'global_step': 0,
    'pytorch-lightning_version': '2.0.0',
  }
  _write(path, sources, lambda tensors: others | {'state_dict': tensors})


def write_pth(
  path: str | os.PathLike, weights: Mapping[str, np.ndarray]
) -> None:
  """Writes a dict of tensors, one at a time; see `write_lightning`."""
  _write(path, {name: (weights, name) for name in weights}, dict)


def _write(
  path: str | os.PathLike,
  sources: Mapping[str, tuple[Mapping[str, np.ndarray], str]],
  checkpoint: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
  """Writes what `checkpoint` makes of tensors by name.

  `sources` says where each is read: f[key] for (f, key).
  """
  torch = _torch(path)
  specs = {id(f): specs_of(f) for f, _ in sources.values()}
  # Memory that is never touched, and so never taken.
  tensors = {}
  for name, (f, key) in sources.items():
    shape, dtype = specs[id(f)][key]
    tensors[name] = torch.empty(shape, dtype=getattr(torch, dtype.name))
  with replacing(path) as part:
    outline = part.with_suffix('.outline')
    try:
      with torch.serialization.skip_data():
        torch.save(checkpoint(tensors), outline)
      with zipfile.ZipFile(outline) as source, part.open('wb') as file:
        _fill(source, file, list(sources.values()))
    finally:
      outline.unlink(missing_ok=True)


def _fill(
  outline: zipfile.ZipFile,
  file: BinaryIO,
  sources: list[tuple[Mapping[str, np.ndarray], str]],
) -> None:
  """Copies an archive, the bytes of its tensors taken from `sources`."""
  with zipfile.ZipFile(file, 'w') as archive:
    for record in outline.infolist():
      name = record.filename.split('/', 1)[1]
      data: bytes | memoryview
      if name.startswith('data/'):
        tensors, key = sources[int(name.removeprefix('data/'))]
        array = np.ascontiguousarray(tensors[key])
        data = array.reshape(-1).view(np.uint8).data
      else:
        data = outline.read(record)
      entry = zipfile.ZipInfo(f'archive/{name}')
      # A mapped tensor must begin at a multiple of its dtype: PyTorch's writer
      # pads the header before it, as an extra field 'FB'.
      end = file.tell() + 30 + len(entry.filename) + 4
      padding = -end % ALIGNMENT
      entry.extra = b'FB' + struct.pack('<H', padding) + bytes(padding)
      archive.writestr(entry, data)
