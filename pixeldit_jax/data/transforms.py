"""Image bytes to pixels, the ADM center crop, and the [-1, 1] scaling.

The crop is that of ADM (Dhariwal and Nichol, arXiv 2105.05233), which every
ImageNet result since is measured against: halve with a box filter while the
short side is at least twice the target, one bicubic resize of the short side
to the target, then the middle square.
"""

import io
import warnings

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixeldit_jax.typing import Array, Float, UInt8


class BadImage(ValueError):
  """The bytes are no image, are cut short, or have no 8-bit RGB form."""


def decode(image: bytes | UInt8[np.ndarray, 'H W C']) -> Image.Image:
  """Decodes to an upright 8-bit RGB image.

  EXIF rotation is applied, transparent pixels lie on white, 16-bit grey keeps
  its high byte, CMYK, palette and grey become RGB; of an animation the first
  frame is kept.

  Args:
    image: an encoded file, or pixels with one or three channels.

  Raises:
    BadImage: if the bytes cannot be decoded to the last row.
  """
  if isinstance(image, np.ndarray):
    if image.dtype != np.uint8 or image.ndim != 3:
      raise BadImage(
        f'pixels must be uint8 [H W C], got {image.dtype} {list(image.shape)}'
      )
    grey = image.shape[-1] == 1
    return Image.fromarray(image[..., 0] if grey else image).convert('RGB')
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # odd EXIF and palette remarks
      return _to_rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(image))))
  except BadImage:
    raise
  except UnidentifiedImageError as error:
    raise BadImage('no image format that Pillow knows') from error
  # Decoders raise whatever a broken file led them to (OSError, SyntaxError,
  # struct.error, KeyError, ...).
  except Exception as error:
    raise BadImage(f'{type(error).__name__}: {error}') from error


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts any PIL mode that has a meaning in 8-bit RGB."""
  if image.mode == 'F':
    raise BadImage('floating-point pixels have no defined range')
  if image.mode.startswith('I'):  # 16-bit grey; `convert` would clip it
    wide = np.asarray(image)
    if wide.min() < 0 or wide.max() > 65535:
      raise BadImage('32-bit pixels beyond the 16-bit range')
    image = Image.fromarray((wide // 256).astype(np.uint8))
  if image.mode in ('RGBA', 'LA', 'PA', 'La', 'RGBa') or (
    'transparency' in image.info
  ):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image)
  image.load()  # a file cut short is found here
  return image.convert('RGB')


def center_crop(image: Image.Image, size: int) -> UInt8[np.ndarray, 'S S 3']:
  """Crops the middle square at `size` pixels, to the pixel as ADM does."""
  while min(image.size) >= 2 * size:
    image = image.resize(
      tuple(side // 2 for side in image.size), Image.Resampling.BOX
    )
  scale = size / min(image.size)
  image = image.resize(
    tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC
  )
  left, top = ((side - size) // 2 for side in image.size)
  return np.array(image.crop((left, top, left + size, top + size)))


def normalize(image: UInt8[Array, '*shape']) -> Float[Array, '*shape']:
  """Maps 0..255 to [-1, 1] in fp32; called on the device, inside the step."""
  return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[Array, '*shape']) -> UInt8[Array, '*shape']:
  """Maps [-1, 1] to 0..255, the nearest level, clipped."""
  # bf16 cannot tell 254 from 255 apart: 8 bits of mantissa.
  scaled = (image.astype(jnp.float32) + 1.0) * 127.5 + 0.5
  return jnp.clip(scaled, 0, 255).astype(jnp.uint8)
