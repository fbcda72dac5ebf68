"""Reads sets of images: ADM's `.npz` batches and folders, in parts.

An ADM batch (arXiv 2105.05233) is a `.npz` with uint8 `arr_0` [N, H, W, 3]. At
256x256, 50,000 images are 9.8 GB: they are read as a stream out of the zip.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from pixeldit_jax import files
from pixeldit_jax.errors import MissingFileError, UserError, one_line
from pixeldit_jax.images.image_files import is_image, open_image, walk
from pixeldit_jax.storage import downloads
from pixeldit_jax.typing import Int, UInt8

_UNFINISHED = ('.tmp', '.part', '.partial', '.crdownload')
MOST_SIZES = 64  # each is a program of its own to compile
_DECODERS = 8  # threads; Pillow decodes without Python's lock


def open_images(
  path: str | os.PathLike, count: int | None = None
) -> 'NpzImages | FolderImages':
  """Opens a `.npz` or a folder of image files.

  Args:
    path: the file or folder; of a bucket a copy is read.
    count: images that it must hold; any number if None.

  Raises:
    FileNotFoundError: nothing there.
    UserError: not uint8 [N, H, W, 3], unfinished, or of another count.
  """
  path = downloads.fetch(path)
  images: FolderImages | NpzImages
  if path.is_dir():
    images = FolderImages(path)
  elif path.is_file():
    images = NpzImages(path)
  else:
    raise MissingFileError(f'No images at {path}.')
  if count is not None and images.count != count:
    raise UserError(
      f'{path} holds {images.count:,} images, expected {count:,}. Finish it, '
      f'or ask for num_samples={images.count}.'
    )
  return images


class NpzImages:
  """The images of a `.npz`, streamed from its member `arr_0`.

  Attributes:
    path: the file.
    count: number of images.
    shape: (H, W, 3) of each.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = downloads.fetch(path)
    with self._open() as stream, _refuse_damage(self.path):
      shape = self._read_header(stream)
      self._start = stream.tell()
    self.count, self.shape = shape[0], shape[1:]
    with zipfile.ZipFile(self.path) as archive:
      size = archive.getinfo('arr_0.npy').file_size - self._start
    if size != np.prod(shape, dtype=np.int64):
      raise UserError(f'{self.path} is damaged: arr_0 is not of its {shape}.')
    files.check_size(size // self.count, f'an image of {self.path}')

  def _open(self):
    try:
      return zipfile.ZipFile(self.path).open('arr_0.npy')
    except KeyError as error:
      raise UserError(
        f'{self.path} has no arr_0; a batch of images is written by '
        'np.savez(path, images).'
      ) from error
    except FileNotFoundError:
      raise
    # Damaged headers: impossible places, passwords, unknown methods.
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
      raise UserError(
        f'{self.path} is not a complete .npz ({error}): was its writing or '
        'download interrupted?'
      ) from error

  def _read_header(self, stream) -> tuple[int, ...]:
    version = np.lib.format.read_magic(stream)
    read = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, by_columns, dtype = read(stream)
    right = len(shape) == 4 and shape[3] == 3 and min(shape) > 0
    if not right or dtype != np.uint8 or by_columns:
      order = ' in Fortran order' if by_columns else ''
      raise UserError(
        f'{self.path} holds {dtype} of shape {shape}{order}; metrics are of '
        'uint8 [N, H, W, 3] with values 0 to 255.'
      )
    return shape

  def batches(self, size: int) -> Iterator[UInt8[np.ndarray, 'B H W 3']]:
    """Yields images in their order, `size` at a time."""
    with self._open() as stream:
      stream.read(self._start)
      for start in range(0, self.count, size):
        shape = (min(size, self.count - start), *self.shape)
        with _refuse_damage(self.path):
          data = stream.read(int(np.prod(shape)))
        yield np.frombuffer(data, np.uint8).reshape(shape)

  def sizes(self) -> set[tuple[int, int]]:
    """Height and width, of all images alike."""
    height, width, _ = self.shape
    return {(height, width)}

  def labels(self) -> Int[np.ndarray, 'N'] | None:
    """The class of each image, if the file has them (`arr_1`).

    Raises:
      ValueError: not one number for each image.
    """
    with zipfile.ZipFile(self.path) as archive:
      if 'arr_1.npy' not in archive.namelist():
        return None
      size = archive.getinfo('arr_1.npy').file_size
    files.check_size(size, f'arr_1 of {self.path}')
    with _refuse_damage(self.path), np.load(self.path) as arrays:
      labels = arrays['arr_1']
    if labels.shape != (self.count,) or labels.dtype.kind not in 'iu':
      raise UserError(
        f'{self.path} holds {labels.dtype} labels of shape {labels.shape}, '
        f'expected integers of ({self.count},).'
      )
    return labels

  def checksum(self) -> str:
    """SHA-256 of the file."""
    with open(self.path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def _refuse_damage(path):
  """The zip's own checks: lengths, compression, CRC at the end."""
  try:
    yield
  except UserError:
    raise
  # A damaged shape asks for more memory than there is.
  except (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(ValueError, KeyError, MemoryError),
  ) as error:
    raise UserError(f'{path} is damaged: {one_line(error)}.') from error


class FolderImages:
  """The image files of a folder and of those below, in the order of names.

  Opaque images of any 8-bit mode count as RGB. They may have a few sizes, as
  samples of a run with aspect-ratio buckets do.

  Attributes:
    path: the folder.
    count: number of images.
    shape: (H, W, 3) of the first.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    names = sorted(
      f'{inside}/{name}' if inside else name
      for inside, there in walk(self.path)
      for name in there
    )
    unfinished = [n for n in names if n.endswith(_UNFINISHED)]
    if unfinished:
      raise UserError(
        f'{self.path} is still being written: it holds {unfinished[0]}.'
      )
    self._names = [n for n in names if is_image(n)]
    if not self._names:
      raise UserError(f'{self.path} holds no image files.')
    _refuse_gaps(self.path, self._names)
    self.count = len(self._names)
    self.shape = self._decode(self._names[0]).shape

  def _decode(self, name: str) -> UInt8[np.ndarray, 'H W 3']:
    try:
      image = open_image(files.read_limited(self.path / name))
      return np.asarray(_opaque(image).convert('RGB'))
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f'{self.path / name} is no image: {error}.') from error

  def sizes(self) -> set[tuple[int, int]]:
    """Heights and widths, by the heads of the files.

    Raises:
      UserError: more than `MOST_SIZES`, or a file that is no image.
    """
    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
      found = set(pool.map(self._size_of, self._names))
    if len(found) > MOST_SIZES:
      raise UserError(
        f'{self.path} holds images of {len(found)} sizes: expected one, or as '
        f'many as there are aspect-ratio buckets, {MOST_SIZES} at most.'
      )
    return found

  def _size_of(self, name: str) -> tuple[int, int]:
    from PIL import Image

    try:
      with Image.open(self.path / name) as image:
        return image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f'{self.path / name} is no image: {error}.') from error

  def batches(self, size: int) -> Iterator[UInt8[np.ndarray, 'B H W 3']]:
    """Yields images in the order of their names, at most `size` at a time.

    Those of a batch have one size.
    """
    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool:
      for start in range(0, self.count, size):
        images = pool.map(self._decode, self._names[start : start + size])
        for _, alike in itertools.groupby(images, lambda image: image.shape):
          yield np.stack(list(alike))

  def labels(self) -> None:
    """A folder of images has no classes."""

  def checksum(self) -> str:
    """SHA-256 over the names and contents of the files."""
    digest = hashlib.sha256()
    for name in self._names:
      content = hashlib.sha256((self.path / name).read_bytes()).hexdigest()
      digest.update(f'{name} {content}\n'.encode())
    return digest.hexdigest()


def _opaque(image):
  """The image, refused where its mode has no meaning as opaque 8-bit RGB."""
  if image.mode in ('RGB', 'L'):
    return image
  if image.mode not in ('RGBA', 'LA', 'P', 'PA', '1', 'CMYK', 'YCbCr'):
    raise UserError(f'its mode is {image.mode}, expected 8-bit RGB or grey')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    if image.getextrema()[3][0] < 255:
      raise UserError('it has transparent pixels; put it on a background first')
  return image


def _refuse_gaps(path: pathlib.Path, names: list[str]):
  """Files that are numbered in a row have no gap, or some are missing.

  Numbers with more gaps than files, such as the ids of COCO, are only names.
  """
  stems = [os.path.splitext(os.path.basename(name))[0] for name in names]
  if not all(stem.isascii() and stem.isdecimal() for stem in stems):
    return
  numbers = sorted(int(stem) for stem in stems)
  span = numbers[-1] - numbers[0] + 1
  if len(set(numbers)) < len(numbers) or span > 2 * len(numbers):
    return
  for expected, number in enumerate(numbers, start=numbers[0]):
    if number != expected:
      raise UserError(
        f'{path} is not complete: its {len(names):,} images are numbered '
        f'{numbers[0]} to {numbers[-1]}, but number {expected} is missing.'
      )
