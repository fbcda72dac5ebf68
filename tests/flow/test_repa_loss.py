import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.flow.repa import REPAProjector, match_grid, repa_loss

GRIDS = [
  ((3, 4), (3, 4)),
  ((4, 6), (2, 3)),  # whole windows
  ((5, 7), (3, 4)),  # windows that cut through cells
  ((2, 3), (4, 5)),  # up
  ((6, 2), (3, 5)),  # down and up
]


def resample_line(x, size):
  """float64, first axis; from finer equal parts down, between centres up."""
  old = x.shape[0]
  if old >= size:
    fine = np.repeat(x, size, axis=0)
    return fine.reshape(size, old, *x.shape[1:]).mean(1)
  rows = []
  for i in range(size):
    center = min(max((i + 0.5) * old / size - 0.5, 0), old - 1)
    left = int(center)
    right = min(left + 1, old - 1)
    rows.append(x[left] + (center - left) * (x[right] - x[left]))
  return np.stack(rows)


def reference_loss(student, teacher, student_grid, teacher_grid):
  losses = []
  for s, t in zip(student, teacher):
    s = s.reshape(*student_grid, -1)
    if student_grid != teacher_grid:
      s = resample_line(s, teacher_grid[0]).swapaxes(0, 1)
      s = resample_line(s, teacher_grid[1]).swapaxes(0, 1)
    s = s.reshape(t.shape)
    norms = np.linalg.norm(s, axis=-1) * np.linalg.norm(t, axis=-1)
    losses.append(1 - ((s * t).sum(-1) / norms).mean())
  return np.array(losses)


def features(grid, seed, width=5):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, grid[0] * grid[1], width))


@pytest.mark.parametrize('student_grid,teacher_grid', GRIDS)
def test_value_and_gradient_are_those_of_float64(student_grid, teacher_grid):
  student, teacher = features(student_grid, 0), features(teacher_grid, 1)
  weight = np.array([0.3, 1.7])  # of the two examples, to tell them apart

  def reference(student):
    loss = reference_loss(student, teacher, student_grid, teacher_grid)
    return (weight * loss).sum()

  def ours(student):
    t = jnp.asarray(teacher, jnp.float32)
    loss = repa_loss(student, t, student_grid, teacher_grid)
    return jnp.sum(jnp.asarray(weight, jnp.float32) * loss), loss

  value_and_grad = jax.jit(jax.value_and_grad(ours, has_aux=True))
  (_, loss), grad = value_and_grad(jnp.asarray(student, jnp.float32))
  numeric = np.zeros_like(student)
  for index in np.ndindex(student.shape):
    step = np.zeros_like(student)
    step[index] = 1e-5
    difference = reference(student + step) - reference(student - step)
    numeric[index] = difference / 2e-5
  expected = reference_loss(student, teacher, student_grid, teacher_grid)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(grad, numeric, rtol=1e-4, atol=1e-6)


def test_projector_and_its_gradient_are_those_of_float64():
  grid, width, teacher_width = (2, 3), 6, 5
  projector = REPAProjector(
    width, teacher_width, dtype='float32', rngs=nnx.Rngs(0)
  )
  student, teacher = features(grid, 0, width), features(grid, 1, teacher_width)
  names = ('first', 'second', 'third')
  weights = {
    name: np.asarray(getattr(projector, name).kernel[...], np.float64)
    for name in names
  }
  biases = {
    name: np.asarray(getattr(projector, name).bias[...], np.float64)
    for name in names
  }

  def reference(weights):
    x = student
    for name in names:
      x = x @ weights[name] + biases[name]
      x = x / (1 + np.exp(-x)) if name != 'third' else x
    return reference_loss(x, teacher, grid, grid).mean()

  @nnx.jit
  @nnx.value_and_grad
  def ours(projector):
    x = projector(jnp.asarray(student, jnp.float32))
    return repa_loss(x, jnp.asarray(teacher, jnp.float32), grid, grid).mean()

  loss, grads = ours(projector)
  np.testing.assert_allclose(loss, reference(weights), rtol=1e-5)
  for name in names:
    numeric = np.zeros_like(weights[name])
    for index in np.ndindex(numeric.shape):
      step = np.zeros_like(numeric)
      step[index] = 1e-5
      up = reference(weights | {name: weights[name] + step})
      down = reference(weights | {name: weights[name] - step})
      numeric[index] = (up - down) / 2e-5
    grad = grads[name]['kernel'][...]
    np.testing.assert_allclose(grad, numeric, rtol=1e-3, atol=1e-6)


def test_whole_ratios_are_average_pooling_and_up_is_bilinear():
  torch = pytest.importorskip('torch')
  for grid, new_grid in (((4, 6), (2, 3)), ((2, 3), (4, 5))):
    x = features(grid, 0).astype(np.float32)
    maps = torch.from_numpy(x.reshape(2, *grid, 5)).permute(0, 3, 1, 2)
    if grid > new_grid:
      expected = torch.nn.functional.avg_pool2d(maps, 2)
    else:
      expected = torch.nn.functional.interpolate(
        maps, size=new_grid, mode='bilinear'
      )
    expected = expected.permute(0, 2, 3, 1).reshape(2, -1, 5).numpy()
    found = match_grid(jnp.asarray(x), grid, new_grid)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('grid,new_grid', GRIDS)
def test_matching_grids_keeps_constants(grid, new_grid):
  x = jnp.full((1, grid[0] * grid[1], 2), 3.0)
  found = match_grid(x, grid, new_grid)
  assert found.shape == (1, new_grid[0] * new_grid[1], 2)
  np.testing.assert_allclose(found, 3.0, rtol=1e-6)


def test_aligned_features_have_no_loss_and_opposed_ones_two():
  x = jnp.asarray(features((3, 4), 0), jnp.float32)
  np.testing.assert_allclose(
    repa_loss(4 * x, x, (3, 4), (3, 4)), 0.0, atol=1e-6
  )
  np.testing.assert_allclose(repa_loss(-x, x, (3, 4), (3, 4)), 2.0, rtol=1e-6)


def test_no_gradient_reaches_the_teacher_and_zeros_give_finite_ones():
  x = jnp.asarray(features((3, 4), 0), jnp.float32)

  def loss(student, teacher):
    return repa_loss(student, teacher, (3, 4), (3, 4)).sum()

  to_student, to_teacher = jax.grad(loss, (0, 1))(jnp.zeros_like(x), x)
  assert not to_teacher.any()
  assert jnp.isfinite(to_student).all()


def test_bfloat16_features_are_compared_in_float32():
  x = jnp.asarray(features((16, 16), 0), jnp.bfloat16)
  loss = repa_loss(x, x, (16, 16), (16, 16))
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, 0.0, atol=1e-6)


@pytest.mark.usefixtures('unchecked_signatures')
def test_features_that_do_not_fit_are_refused():
  x = jnp.zeros((1, 12, 5))
  with pytest.raises(ValueError, match='13 teacher features .* 3 x 4'):
    repa_loss(x, jnp.zeros((1, 13, 5)), (3, 4), (3, 4))
  with pytest.raises(ValueError, match='width 5 .*\n?.*width 6'):
    repa_loss(x, jnp.zeros((1, 12, 6)), (3, 4), (3, 4))
