"""How well an edit leaves the rest of a picture alone, outside of a region.

What is inside is taken from the source first, so that only pixels outside
count. Images are uint8; nothing here is learnt.
"""

import numpy as np

from pixeldit_jax.typing import Bool, Float, UInt8

_SIGMA, _RADIUS = 1.5, 5  # the window of SSIM: Gaussian, 11 x 11
_CELLS = 16  # patches along the longer side, of the structure distance
_NOISE = 2.0  # grey levels: flatter patches have no direction of their own


def preservation(
  source: UInt8[np.ndarray, 'H W C'],
  edited: UInt8[np.ndarray, 'H W C'],
  region: Bool[np.ndarray, 'H W'],
) -> dict[str, float]:
  """What stayed outside of the region, and what changed inside.

  Args:
    source: the picture.
    edited: what became of it.
    region: True where it was to change; not everywhere.

  Returns:
    'psnr' in dB (infinite for equal pixels), 'ssim' (Wang et al. 2004),
    'structure' (see `structure_distance`) and 'difference' in grey levels,
    outside; 'changed', the mean absolute difference inside.
  """
  outside = ~region
  difference = np.abs(source.astype(np.float64) - edited)
  rest = np.where(outside[..., None], edited, source)
  squared = np.mean(difference[outside] ** 2)
  with np.errstate(divide='ignore'):
    psnr = 10 * np.log10(255**2 / squared)
  return dict(
    psnr=float(psnr),
    ssim=float(ssim_map(source, rest)[outside].mean()),
    structure=structure_distance(source, rest),
    difference=float(difference[outside].mean()),
    changed=float(difference[region].mean()) if region.any() else 0.0,
  )


def ssim_map(
  a: UInt8[np.ndarray, 'H W C'], b: UInt8[np.ndarray, 'H W C']
) -> Float[np.ndarray, 'H W']:
  """Structural similarity around each pixel, the mean of the channels.

  Wang et al., IEEE TIP 2004, equation 13, with their window and constants; the
  edges are mirrored.
  """
  x, y = a.astype(np.float64), b.astype(np.float64)
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  mx, my = _blur(x), _blur(y)
  vx, vy = _blur(x * x) - mx**2, _blur(y * y) - my**2
  both = _blur(x * y) - mx * my
  luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
  structure = (2 * both + c2) / (vx + vy + c2)
  return (luminance * structure).mean(axis=-1)


def structure_distance(
  a: UInt8[np.ndarray, 'H W C'], b: UInt8[np.ndarray, 'H W C']
) -> float:
  """Mean difference of how patches resemble each other, 0 to 2.

  The self-similarity of Tumanyan et al. (arXiv 2202.00512), of the pixels of
  patches in place of the features of a network: a change of colour everywhere
  costs nothing, a change of shape does.
  """
  return float(np.abs(_similarity(a) - _similarity(b)).mean())


def _similarity(
  image: UInt8[np.ndarray, 'H W C'],
) -> Float[np.ndarray, 'L L']:
  """Cosines between the patches of an image, each without its mean."""
  H, W, C = image.shape
  p = max(2, -(-max(H, W) // _CELLS))
  rows, columns = H // p, W // p
  cut = image[: rows * p, : columns * p].astype(np.float64)
  cells = cut.reshape(rows, p, columns, p, C).transpose(0, 2, 1, 3, 4)
  flat = cells.reshape(rows * columns, -1)
  flat = flat - flat.mean(axis=0)
  square = (flat**2).sum(axis=1) + flat.shape[1] * _NOISE**2
  return flat @ flat.T / np.sqrt(square[:, None] * square)


def _blur(x: Float[np.ndarray, 'H W C']) -> Float[np.ndarray, 'H W C']:
  at = np.arange(-_RADIUS, _RADIUS + 1)
  window = np.exp(-(at**2) / (2 * _SIGMA**2))
  window /= window.sum()
  for axis in (0, 1):
    pad = [(0, 0)] * 3
    pad[axis] = (_RADIUS, _RADIUS)
    wide = np.pad(x, pad, mode='symmetric')
    size = x.shape[axis]
    x = sum(
      w * wide.take(range(k, k + size), axis) for k, w in enumerate(window)
    )
  return x
