"""Image sets are streamed, in order, and refused where they are not whole."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.images import image_sets


def _images(count=23, side=5):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def _npz(path, images, compressed=False):
  (np.savez_compressed if compressed else np.savez)(path, images)
  return path


def _folder(path, images, start=0):
  path.mkdir()
  for i, image in enumerate(images, start=start):
    Image.fromarray(image).save(path / f'{i:04d}.png')
  return path


@pytest.mark.parametrize('form', ['stored', 'deflated', 'folder'])
def test_images_come_whole_and_in_order(tmp_path, form):
  images = _images()
  if form == 'folder':
    path = _folder(tmp_path / 'images', images)
  else:
    path = _npz(tmp_path / 'a.npz', images, compressed=form == 'deflated')
  opened = image_sets.open_images(path, count=23)
  assert (opened.count, opened.shape) == (23, (5, 5, 3))
  batches = list(opened.batches(7))
  assert [len(batch) for batch in batches] == [7, 7, 7, 2]
  np.testing.assert_array_equal(np.concatenate(batches), images)
  assert len(opened.checksum()) == 64


def test_checksums_tell_sets_apart(tmp_path):
  images = _images()
  a = image_sets.open_images(_folder(tmp_path / 'a', images)).checksum()
  images[3, 0, 0, 0] ^= 1
  b = image_sets.open_images(_folder(tmp_path / 'b', images)).checksum()
  assert a != b


@pytest.mark.parametrize('compressed', [False, True])
def test_memory_does_not_grow_with_the_file(tmp_path, compressed):
  """150 MB of images are read in a process that may grow by 80 MB."""
  images = np.zeros((800, 256, 256, 3), np.uint8)
  path = _npz(tmp_path / 'big.npz', images, compressed)
  del images
  script = (
    'import resource, sys\n'
    'from pixeldit_jax.images.image_sets import open_images\n'
    'peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
    'before = peak()\n'
    'count = sum(len(b) for b in open_images(sys.argv[1]).batches(64))\n'
    'print(count, peak() - before)\n'
  )
  out = subprocess.run(
    [sys.executable, '-c', script, str(path)], capture_output=True, check=True
  )
  count, growth_kib = map(int, out.stdout.split())
  assert count == 800 and growth_kib < 80 * 1024


@pytest.mark.parametrize(
  'array, reason',
  [
    (np.zeros((4, 5, 5, 3), np.float32), 'holds float32'),
    (np.zeros((4, 3, 5, 5), np.uint8), r'shape \(4, 3, 5, 5\)'),
    (np.zeros((4, 5, 3), np.uint8), r'shape \(4, 5, 3\)'),
    (np.zeros((0, 5, 5, 3), np.uint8), r'shape \(0, 5, 5, 3\)'),
    (np.asfortranarray(_images()), 'Fortran order'),
  ],
)
def test_other_arrays_are_refused(tmp_path, array, reason):
  with pytest.raises(ValueError, match=reason):
    image_sets.open_images(_npz(tmp_path / 'a.npz', array))


def test_half_a_file_is_refused(tmp_path):
  whole = _npz(tmp_path / 'a.npz', _images()).read_bytes()
  (tmp_path / 'half.npz').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match='not a complete .npz'):
    image_sets.open_images(tmp_path / 'half.npz')
  short = io.BytesIO()
  np.save(short, _images())
  with zipfile.ZipFile(tmp_path / 'short.npz', 'w') as archive:
    archive.writestr('arr_0.npy', short.getvalue()[:-1])
  with pytest.raises(ValueError, match='damaged'):
    image_sets.open_images(tmp_path / 'short.npz')
  np.savez(tmp_path / 'other.npz', images=_images())
  with pytest.raises(ValueError, match='has no arr_0'):
    image_sets.open_images(tmp_path / 'other.npz')


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('count', [2, 200])
def test_a_changed_byte_is_noticed(tmp_path, compressed, count):
  path = _npz(tmp_path / 'a.npz', _images(count), compressed)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match='damaged'):
    list(image_sets.open_images(path).batches(7))


def test_half_a_folder_is_refused(tmp_path):
  path = _folder(tmp_path / 'a', _images(), start=100)
  with pytest.raises(ValueError, match='holds 23 images, expected 50'):
    image_sets.open_images(path, count=50)
  (path / '0107.png').unlink()
  with pytest.raises(ValueError, match='number 107 is missing'):
    image_sets.open_images(path)
  (path / '0107.png.tmp').write_bytes(b'')
  with pytest.raises(ValueError, match='still being written'):
    image_sets.open_images(path)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='no image files'):
    image_sets.open_images(tmp_path / 'empty')
  with pytest.raises(FileNotFoundError):
    image_sets.open_images(tmp_path / 'absent')


def test_bad_files_of_a_folder_are_named(tmp_path):
  path = _folder(tmp_path / 'a', _images())
  data = (path / '0009.png').read_bytes()
  (path / '0009.png').write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match='0009.png is no image'):
    list(image_sets.open_images(path).batches(4))
  Image.new('RGBA', (5, 5)).save(path / '0009.png')
  with pytest.raises(ValueError, match='transparent pixels'):
    list(image_sets.open_images(path).batches(4))


def test_opaque_images_of_other_modes_are_measured(tmp_path):
  image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
  folder = tmp_path / 'modes' / 'class'
  folder.mkdir(parents=True)
  image.convert('RGBA').save(folder / '139.png')
  image.quantize(16).save(folder / '285.png')
  image.save(folder / '431.webp', lossless=True)
  (folder / '._139.png').write_bytes(b'\0\5\26\7')
  images = image_sets.open_images(tmp_path / 'modes', 3)
  (batch,) = images.batches(3)
  np.testing.assert_array_equal(batch[0], np.asarray(image))
  np.testing.assert_array_equal(batch[2], np.asarray(image))


def test_transparent_images_are_refused(tmp_path):
  Image.new('RGBA', (4, 4), (0, 0, 0, 128)).save(tmp_path / 'a.png')
  with pytest.raises(ValueError, match='transparent'):
    image_sets.open_images(tmp_path)


def test_a_folder_may_have_a_few_sizes(tmp_path, monkeypatch):
  for folder, side in (('4x8', 4), ('8x4', 8)):
    (tmp_path / folder).mkdir()
    for i in range(3):
      pixels = np.full((side, 32 // side, 3), i, np.uint8)
      Image.fromarray(pixels).save(tmp_path / folder / f'{i:06d}.png')
  images = image_sets.open_images(tmp_path, 6)
  assert images.sizes() == {(4, 8), (8, 4)}
  shapes = [batch.shape for batch in images.batches(2)]
  assert shapes == [(2, 4, 8, 3), (1, 4, 8, 3), (1, 8, 4, 3), (2, 8, 4, 3)]
  monkeypatch.setattr(image_sets, 'MOST_SIZES', 1)
  with pytest.raises(ValueError, match='images of 2 sizes: expected one'):
    images.sizes()
