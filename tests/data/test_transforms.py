"""The crop agrees with ADM to the pixel; every kind of file is decoded."""

import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pixeldit_jax.data import transforms


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encode(image, kind='PNG', **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def resize_reference(pixels, width, height, kernel, support):
  """Separable resampling, in the fixed point that PIL's 8 bits mean."""

  def weights(size_in, size_out):
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    center = (np.arange(size_out)[:, None] + 0.5) * scale
    at = np.arange(size_in)[None] + 0.5
    low = np.floor(np.maximum(center - support * stretch + 0.5, 0))
    high = np.floor(np.minimum(center + support * stretch + 0.5, size_in))
    inside = (at > low) & (at < high)
    w = np.where(inside, kernel((at - center) / stretch), 0.0)
    w = w / w.sum(axis=1, keepdims=True)
    return np.trunc(w * 2**22 + np.copysign(0.5, w)).astype(np.int64)

  def one_pass(x, axis, size):
    w = weights(x.shape[axis], size)
    y = np.moveaxis(np.tensordot(w, x, ([1], [axis])), 0, axis)
    return np.clip((y + 2**21) >> 22, 0, 255)

  x = one_pass(pixels.astype(np.int64), 1, width)
  return one_pass(x, 0, height)


def box(x):
  return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def cubic(x, a=-0.5):
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = (((x - 5) * x + 8) * x - 4) * a
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@pytest.mark.parametrize(
  'height, width, size',
  [(37, 53, 16), (129, 65, 32), (31, 200, 16), (64, 64, 32), (63, 97, 31),
   (20, 23, 32), (17, 17, 17)],
)  # fmt: skip
def test_center_crop_is_the_adm_definition_in_plain_numpy(height, width, size):
  pixels = noise(height, width, 3)
  got = transforms.center_crop(Image.fromarray(pixels), size)

  want = pixels
  while min(want.shape[:2]) >= 2 * size:
    h, w = want.shape[0] // 2, want.shape[1] // 2
    want = resize_reference(want, w, h, box, 0.5)
  scale = size / min(want.shape[:2])
  h, w = round(want.shape[0] * scale), round(want.shape[1] * scale)
  if (h, w) != want.shape[:2]:
    want = resize_reference(want, w, h, cubic, 2.0)
  top, left = (h - size) // 2, (w - size) // 2
  want = want[top : top + size, left : left + size]

  assert got.shape == (size, size, 3) and got.dtype == np.uint8
  np.testing.assert_array_equal(got, want)


def test_an_image_of_the_right_size_is_left_alone():
  pixels = noise(24, 24, 3)
  crop = transforms.center_crop(Image.fromarray(pixels), 24)
  np.testing.assert_array_equal(crop, pixels)


def test_lossless_colours_survive():
  pixels = noise(9, 7, 3)
  decoded = transforms.decode(encode(Image.fromarray(pixels)))
  np.testing.assert_array_equal(decoded, pixels)
  np.testing.assert_array_equal(transforms.decode(pixels), pixels)


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'CMYK', 'LA', 'RGBA', 'YCbCr'])
def test_other_modes_show_the_same_picture(mode):
  grey = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[None], 16, 0)
  grey = np.where(grey < 128, 0, 255).astype(np.uint8)
  picture = Image.fromarray(np.stack([grey] * 3, -1))
  kind = 'JPEG' if mode in ('CMYK', 'YCbCr') else 'PNG'
  options = {'quality': 100} if kind == 'JPEG' else {}
  data = encode(picture.convert(mode), kind, **options)
  decoded = transforms.decode(data)
  assert decoded.mode == 'RGB'
  np.testing.assert_allclose(
    np.asarray(decoded, int), np.asarray(picture, int), atol=3
  )


def test_sixteen_bit_grey_is_scaled_not_clipped():
  wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
  decoded = np.asarray(transforms.decode(encode(Image.fromarray(wide))))
  np.testing.assert_array_equal(decoded[..., 0], wide >> 8)


def sixteen_bit_png(wide):
  """A PNG of 16-bit colours, which Pillow cannot write."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

  height, width = wide.shape[:2]
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in wide)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, 2, 0, 0, 0))
    + chunk(b'IDAT', zlib.compress(rows))
    + chunk(b'IEND', b'')
  )


def test_sixteen_bit_colours_keep_their_high_byte():
  rng = np.random.default_rng(0)
  wide = rng.integers(0, 65536, (5, 6, 3)).astype(np.uint16)
  decoded = np.asarray(transforms.decode(sixteen_bit_png(wide)))
  np.testing.assert_array_equal(decoded, wide >> 8)


@pytest.mark.parametrize('palette', [False, True])
def test_transparent_pixels_lie_on_white(palette):
  pixels = np.zeros((4, 4, 4), np.uint8)
  pixels[:2] = (200, 0, 0, 255)  # the lower half is transparent black
  image = Image.fromarray(pixels)
  if palette:
    image = image.quantize(4)
  decoded = np.asarray(transforms.decode(encode(image)))
  assert (decoded[:2] == (200, 0, 0)).all()
  assert (decoded[2:] == 255).all()


def test_exif_rotation_is_applied():
  pixels = np.zeros((8, 16, 3), np.uint8)
  pixels[:, :8] = 255
  image = Image.fromarray(pixels)
  exif = Image.Exif()
  exif[0x0112] = 6  # turn clockwise by 90 degrees to view
  decoded = np.asarray(
    transforms.decode(encode(image, 'JPEG', quality=95, exif=exif))
  )
  assert decoded.shape == (16, 8, 3)
  assert decoded[:7].min() > 200 and decoded[9:].max() < 50


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_a_file_cut_short_is_bad(kind):
  data = encode(Image.fromarray(noise(64, 64, 3)), kind)
  transforms.decode(data)
  with pytest.raises(transforms.BadExample):
    transforms.decode(data[: len(data) * 2 // 3])


@pytest.mark.usefixtures('unchecked_signatures')
@pytest.mark.parametrize(
  'data',
  [b'', b'not an image', np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8)],
)
def test_what_is_no_image_is_bad(data):
  with pytest.raises(transforms.BadExample):
    transforms.decode(data)


def test_every_level_survives_the_scaling():
  levels = jnp.arange(256, dtype=jnp.uint8)
  scaled = transforms.normalize(levels)
  assert scaled.dtype == jnp.float32
  assert float(scaled[0]) == -1.0 and float(scaled[-1]) == 1.0
  np.testing.assert_array_equal(transforms.to_uint8(scaled), levels)


def test_to_uint8_clips_and_rounds():
  x = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0], jnp.float32)
  np.testing.assert_array_equal(transforms.to_uint8(x), [0, 0, 128, 255, 255])


def _jpeg_with_exif(image, payload):
  data = encode(image, 'JPEG', quality=95)
  length = (len(payload) + 2).to_bytes(2, 'big')
  return data[:2] + b'\xff\xe1' + length + payload + data[2:]


def test_exif_that_cannot_be_parsed_costs_no_pixels():
  image = Image.fromarray(
    np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)
  )
  # Orientation 6, and a resolution that is text where a fraction is due.
  entries = (
    struct.pack('<HHIHH', 0x112, 3, 1, 6, 0),
    struct.pack('<HHI4s', 0x11A, 2, 2, b'72\0\0'),
  )
  header = b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', len(entries))
  odd = _jpeg_with_exif(image, header + b''.join(entries) + bytes(4))
  assert transforms.decode(odd).size == (8, 16)  # turned all the same
  broken = _jpeg_with_exif(image, b'Exif\0\0' + b'\0\x08\0\2\1\x12\0\3')
  plain = transforms.decode(encode(image, 'JPEG', quality=95))
  np.testing.assert_array_equal(
    np.asarray(transforms.decode(broken)), np.asarray(plain)
  )


def test_random_cuts_keep_the_form_and_reach_every_corner():
  """Of an image whose pixels say where they are."""
  rows, columns = np.mgrid[:60, :90]
  pixels = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
  image = Image.fromarray(pixels)
  random = np.random.default_rng(0)
  sizes, corners = [], []
  for _ in range(300):
    cut = np.asarray(transforms.random_cut(image, 16, 32, 0.5, random))
    top, left = cut[0, 0, :2]
    height, width = cut.shape[:2]
    np.testing.assert_array_equal(
      cut, pixels[top : top + height, left : left + width]
    )
    sizes.append((height, width))
    corners.append((top, left))
  heights, widths = np.transpose(sizes)
  assert np.abs(widths - 2 * heights).max() <= 1
  assert heights.min() < 25 and heights.max() > 42 and widths.max() <= 90
  assert np.min(corners, 0).tolist() == [0, 0]
  assert (np.max(corners, 0) > [25, 25]).all()


def test_checksums_of_a_png_are_compared_where_pixels_are():
  """Pillow alone takes many changed files without a word."""
  image = Image.fromarray(noise(32, 32, 3))
  info = PngInfo()
  info.add_text('Comment', 'a cat')
  data = bytearray(encode(image, pnginfo=info))
  at = data.index(b'IDAT') + 500
  data[at] ^= 1
  with pytest.raises(transforms.BadExample, match='checksum of IDAT'):
    transforms.decode(bytes(data))
  data[at] ^= 1
  data[data.index(b'tEXt') + 6] ^= 1  # costs no pixels
  found = transforms.decode(bytes(data) + b'what follows is not the image')
  assert found.tobytes() == image.tobytes()
