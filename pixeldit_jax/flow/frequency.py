"""DeCo's frequency loss: errors that the eye sees weigh more (2511.19365).

  mean of w * DCT(YCbCr(predicted - target))^2

over blocks of 8 x 8 pixels, where w is large where JPEG quantises finely: in
low frequencies, and in brightness.
"""

import functools

import jax.numpy as jnp
import numpy as np

from pixeldit_jax.typing import Array, Float

BLOCK = 8
MODES = ('inv_gamma', 'inv')
# From RGB, without offsets (ITU-R BT.601).
YCBCR = np.array(
  [
    [0.299, 0.587, 0.114],
    [-0.168736, -0.331264, 0.5],
    [0.5, -0.418688, -0.081312],
  ],
  np.float32,
)
# The quantisation of JPEG at quality 50 (ITU-T T.81, annex K.1).
LUMINANCE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ]
)
CHROMINANCE = np.full((BLOCK, BLOCK), 99)
CHROMINANCE[:4, :4] = [
  [17, 18, 24, 47],
  [18, 21, 26, 66],
  [24, 26, 56, 99],
  [47, 66, 99, 99],
]


def dct_matrix() -> Float[np.ndarray, '8 8']:
  """Orthonormal DCT-II: frequency k of the samples n."""
  k, n = np.mgrid[:BLOCK, :BLOCK]
  scale = np.where(k == 0, np.sqrt(1 / BLOCK), np.sqrt(2 / BLOCK))
  return (scale * np.cos(np.pi * (2 * n + 1) * k / (2 * BLOCK))).astype(
    np.float32
  )


def jpeg_table(base: np.ndarray, quality: int) -> np.ndarray:
  """Quantisation at a quality of 1 to 100, as the JPEG library scales it."""
  scale = 200 - 2 * quality if quality >= 50 else 5000 / quality
  return np.clip(np.floor((base * scale + 50) / 100), 1, 255)


@functools.cache
def frequency_weights(
  quality: int = 85, mode: str = 'inv_gamma', gamma: float = 1.0
) -> Float[np.ndarray, '3 8 8']:
  """The weight of each frequency of Y, Cb and Cr; each has a mean of 1.

  Args:
    quality: of JPEG; the tables become even towards 100.
    mode: 'inv_gamma', (mean quantisation / quantisation)^gamma, or 'inv',
      1 / quantisation.
    gamma: above 1 is steeper.
  """

  def weights(base):
    table = jpeg_table(base, quality)
    w = (table.mean() / table) ** gamma if mode == 'inv_gamma' else 1 / table
    return w / w.mean()

  y, c = weights(LUMINANCE), weights(CHROMINANCE)
  return np.stack([y, c, c]).astype(np.float32)


def block_dct(x: Float[Array, 'B H W 3']) -> Float[Array, 'B R 8 S 8 3']:
  """The DCT of each block of 8 x 8, the channels as Y, Cb and Cr.

  Sides that are no multiples of 8 are continued by reflection at the bottom
  and on the right.
  """
  B, H, W, C = x.shape
  x = jnp.pad(x, ((0, 0), (0, -H % BLOCK), (0, -W % BLOCK), (0, 0)), 'reflect')
  rows, columns = (side // BLOCK for side in x.shape[1:3])
  blocks = x.reshape(B, rows, BLOCK, columns, BLOCK, C)
  dct = dct_matrix()
  ycbcr = jnp.einsum('BrhswC,cC->Brhswc', blocks, YCBCR, precision='highest')
  return jnp.einsum(
    'uh,BrhswC,vw->BrusvC', dct, ycbcr, dct, precision='highest'
  )


def frequency_loss(
  predicted: Float[Array, 'B H W 3'],
  target: Float[Array, 'B H W 3'],
  weights: Float[np.ndarray, '3 8 8'],
) -> Float[Array, 'B']:
  """Weighted squared error of the DCT, mean over frequencies and blocks.

  Args:
    predicted, target: velocities.
    weights: from `frequency_weights`.
  """
  # All before the square is linear: one transform, of the difference.
  error = block_dct(predicted.astype(jnp.float32) - target)
  w_uvC = jnp.asarray(weights).transpose(1, 2, 0)
  return jnp.mean(w_uvC[:, None] * error**2, axis=(1, 2, 3, 4, 5))
