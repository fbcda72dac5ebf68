"""What the tests of weight files share."""

import pytest


@pytest.fixture
def same_bits():
  """f(found, expected): the same names, dtypes, shapes and bytes."""

  def check(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
      assert found[name].dtype == array.dtype, name
      assert found[name].shape == array.shape, name
      assert found[name].tobytes() == array.tobytes(), name

  return check
