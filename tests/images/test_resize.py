import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.images.resize import bicubic_matrix, resize_bicubic


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize(
  'grid,new_grid',
  [((37, 37), (16, 16)), ((16, 12), (14, 21)), ((5, 4), (10, 1))],
)
def test_resizes_as_torch_does(grid, new_grid, antialias):
  torch = pytest.importorskip('torch')
  x = np.random.default_rng(0).normal(size=(2, *grid, 3)).astype(np.float32)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(x).permute(0, 3, 1, 2),
    size=new_grid,
    mode='bicubic',
    antialias=antialias,
  )
  found = resize_bicubic(jnp.asarray(x), new_grid, antialias=antialias)
  expected = expected.permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize('new_size', [16, 32, 40])
def test_offset_is_a_scale_factor_of_torch(new_size):
  torch = pytest.importorskip('torch')
  x = np.random.default_rng(0).normal(size=(1, 37, 37, 2)).astype(np.float32)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(x).permute(0, 3, 1, 2),
    scale_factor=(new_size + 0.1) / 37,
    mode='bicubic',
  )
  found = resize_bicubic(jnp.asarray(x), (new_size, new_size), offset=0.1)
  expected = expected.permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(found, expected, atol=5e-5)


def test_same_size_is_the_identity():
  for antialias in (False, True):
    matrix = bicubic_matrix(7, 7, antialias=antialias)
    np.testing.assert_allclose(matrix, np.eye(7), atol=1e-7)
