"""Image bytes to pixels, the ADM center crop, and the [-1, 1] scaling.

The crop is that of ADM (Dhariwal and Nichol, arXiv 2105.05233), which every
ImageNet result since is measured against: halve with a box filter while the
short side is at least twice the target, one bicubic resize of the short side
to the target, then the middle square.
"""

import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError

from pixeldit_jax import files
from pixeldit_jax.errors import UserError
from pixeldit_jax.images.image_files import open_image
from pixeldit_jax.typing import Array, Float, UInt8

_RESIZED = 8  # times as many pixels may be decoded as resized to


class BadExample(ValueError):
  """An example that cannot be read, is cut short or has no 8-bit RGB form."""


def decode(
  image: bytes | UInt8[np.ndarray, 'H W C'] | Image.Image,
) -> Image.Image:
  """Decodes to an upright 8-bit RGB image.

  EXIF rotation is applied, transparent pixels lie on white, 16-bit grey keeps
  its high byte, CMYK, palette and grey become RGB; of an animation the first
  frame is kept.

  Args:
    image: an encoded file, pixels with one or three channels, or an image of
      any mode.

  Raises:
    BadExample: if the bytes cannot be decoded to the last row.
  """
  if isinstance(image, np.ndarray):
    if (
      image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3)
    ):
      raise BadExample(
        'pixels must be uint8 [H W C] with 1 or 3 channels, got '
        f'{image.dtype} {list(image.shape)}'
      )
    if image.shape[-1] == 1:
      image = np.repeat(image, 3, axis=-1)
    return Image.fromarray(image)
  if not image:
    raise BadExample('the file is empty')
  try:
    opened = image if isinstance(image, Image.Image) else open_image(image)
    return _to_rgb(_upright(opened))
  except BadExample:
    raise
  except UserError as error:
    raise BadExample(str(error)) from error
  except UnidentifiedImageError as error:
    raise BadExample('no image format that Pillow knows') from error
  # Decoders raise whatever a broken file led them to (OSError, SyntaxError,
  # struct.error, KeyError, ...).
  except Exception as error:
    raise BadExample(f'{type(error).__name__}: {error}') from error


def size_of(image: bytes | UInt8[np.ndarray, 'H W C']) -> tuple[int, int]:
  """Height and width that `decode` gives, without decoding.

  Raises:
    BadExample: no image.
  """
  if isinstance(image, np.ndarray):
    return image.shape[0], image.shape[1]
  try:
    opened = open_image(image)
    orientation = opened.getexif().get(_ORIENTATION)
  # Decoders raise whatever a broken file led them to.
  except Exception as error:
    raise BadExample(f'{type(error).__name__}: {error}') from error
  width, height = opened.size
  return (width, height) if orientation in _ON_ITS_SIDE else (height, width)


# EXIF orientation to what makes the image upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)


def _upright(image: Image.Image) -> Image.Image:
  """Applies the EXIF orientation where it can be read.

  Metadata that cannot be parsed never costs the pixels: Pillow's own
  `exif_transpose` writes all of it again, and fails on what it cannot write.
  """
  try:
    orientation = image.getexif().get(_ORIENTATION)
  except Exception:  # whatever the parser met in damaged metadata
    return image
  if orientation not in _UPRIGHT:
    return image
  image.load()  # a file cut short is found here
  transparency = image.info.get('transparency')
  image = image.transpose(_UPRIGHT[orientation])
  if transparency is not None:
    image.info['transparency'] = transparency
  return image


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts any PIL mode that has a meaning in 8-bit RGB."""
  if image.mode == 'F':
    raise BadExample('floating-point pixels have no defined range')
  if image.mode.startswith('I'):  # 16-bit grey; `convert` would clip it
    wide = np.asarray(image)
    if wide.min() < 0 or wide.max() > 65535:
      raise BadExample('32-bit pixels beyond the 16-bit range')
    image = Image.fromarray((wide // 256).astype(np.uint8))
  if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or (
    'transparency' in image.info
  ):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image)
  image.load()  # a file cut short is found here
  return image if image.mode == 'RGB' else image.convert('RGB')


def center_crop(image: Image.Image, size: int) -> UInt8[np.ndarray, 'S S 3']:
  """Crops the middle square at `size` pixels, to the pixel as ADM does."""
  return crop(image, size, size)


def crop(
  image: Image.Image, height: int, width: int
) -> UInt8[np.ndarray, 'H W 3']:
  """Resizes to cover `height` x `width` and cuts the middle out.

  The ADM crop for any shape: a square gives exactly `center_crop`.

  Raises:
    BadExample: if the image is so narrow that the resized one would be huge.
  """
  if image.size == (width, height):
    return np.array(image)
  while image.height >= 2 * height and image.width >= 2 * width:
    image = image.resize(
      (image.width // 2, image.height // 2), Image.Resampling.BOX
    )
  scale = max(height / image.height, width / image.width)
  covering = round(image.width * scale), round(image.height * scale)
  needed = _RESIZED * covering[0] * covering[1]
  if needed > files.limit_of(files.MAX_PIXELS):
    raise BadExample(
      f'{image.width} x {image.height} pixels are too narrow: they would be '
      f'resized to {covering[0]} x {covering[1]}; --max_pixels={needed} allows '
      'it'
    )
  image = image.resize(covering, Image.Resampling.BICUBIC)
  left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
  return np.array(image.crop((left, top, left + width, top + height)))


def random_cut(
  image: Image.Image,
  height: int,
  width: int,
  least: float,
  random: np.random.Generator,
) -> Image.Image:
  """Cuts a rectangle of the form `height` x `width` out, anywhere.

  Args:
    image: of any size.
    height: of what it becomes, in pixels; with `width`, the form of the cut.
    width: see `height`.
    least: the smallest side, as a share of that of the largest cut that fits;
      sides are as likely all between, and so are positions.
    random: decides both.
  """
  scale = min(image.height / height, image.width / width)
  scale *= random.uniform(least, 1.0)
  rows, columns = (max(1, round(scale * side)) for side in (height, width))
  top = int(random.integers(image.height - rows + 1))
  left = int(random.integers(image.width - columns + 1))
  return image.crop((left, top, left + columns, top + rows))


def normalize(
  image: UInt8[Array | np.ndarray, '*shape'],
) -> Float[Array, '*shape']:
  """Maps 0..255 to [-1, 1] in fp32; called on the device, inside the step."""
  return jnp.asarray(image, jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[Array, '*shape']) -> UInt8[Array, '*shape']:
  """Maps [-1, 1] to 0..255, the nearest level, clipped."""
  # 254 and 255 are one number in bf16: 8 bits of mantissa.
  scaled = (image.astype(jnp.float32) + 1.0) * 127.5 + 0.5
  return jnp.clip(scaled, 0, 255).astype(jnp.uint8)
