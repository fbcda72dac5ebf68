"""The table of keys: every default is allowed, every meaning is written."""

import math
import pathlib

import pytest

from pixeldit_jax.config import KEYS, Key
from pixeldit_jax.config.keys import describe_keys
from pixeldit_jax.errors import UserError


def test_every_key_has_a_meaning_and_its_default_is_allowed():
  names = [key.name for key in KEYS]
  assert len(set(names)) == len(names)
  for key in KEYS:
    assert key.meaning, key.name
    key.check(key.default)


@pytest.mark.parametrize(
  'key, good, bad',
  [
    (
      Key('a', 0.5, '[0, 1)'),
      [0, 0.999, 0.0],
      [1, -1e-9, float('nan'), True, '0.5', None, [0.5]],
    ),
    (
      Key('a', 0.5, '(0, inf]'),
      [1e-9, float('inf')],
      [0, float('nan'), -float('inf')],
    ),
    (Key('a', 1.0, '(-inf, inf)'), [-1e300], [float('inf'), float('nan')]),
    (Key('a', 3, '[1, 1e9]'), [1, 10**9], [0, 10**9 + 1, 1.0, True, '1']),
    (Key('a', None, '(-inf, inf)'), [None, 2, 0.5], [float('nan'), 'x']),
    (Key('a', True), [False], [0, 'True', None]),
    (Key('a', 'x', ('x', 'y')), ['y'], ['z', '', 1]),
    (Key('a', ''), ['anything'], [None, 3]),
    (
      Key('a', (0.1, 1.0), '[0, 1]'),
      [(0, 1), [0.2, 0.3]],
      [(0.1,), (0.1, 2), 0.1, 'ab', (0.1, None)],
    ),
  ],
  ids=lambda value: value.allowed if isinstance(value, Key) else '',
)
def test_types_and_intervals(key, good, bad):
  for value in good:
    key.check(value)
  for value in bad:
    with pytest.raises(UserError, match='a='):
      key.check(value)


def test_the_page_of_the_documentation_is_made_of_the_table():
  page = pathlib.Path(__file__).parents[2] / 'configs' / 'KEYS.md'
  assert page.read_text() == describe_keys()


NUMERIC = [
  key for key in KEYS if not isinstance(key.default, bool | str | tuple)
]
BAD = [math.nan, math.inf, -math.inf, -1, 0, 10**20, 10**400, 'x', True]


@pytest.mark.parametrize('key', NUMERIC, ids=lambda key: key.name)
def test_no_numeric_key_takes_what_it_cannot_be(key):
  """What is taken is finite, of the type, and in the range."""
  for value in [*BAD, None]:
    try:
      key.check(value)
    except UserError as error:
      assert str(error).startswith(f'{key.name}=')
      assert len(str(error).splitlines()) == 1
      continue
    if value is None:
      assert key.default is None
      continue
    assert type(value) in (int, float)
    assert math.isfinite(value) or key.name == 'optimizer.clip_norm'
    assert value in (-1, 0, 10**20) or value == math.inf
    low, high = map(float, str(key.allowed)[1:-1].split(','))
    assert low <= value <= high
    if isinstance(key.default, int):
      assert isinstance(value, int) and abs(value) < 2**63


def test_a_refusal_names_key_value_and_range():
  key = Key('ema.decay', 0.9, '[0, 1)', 'of the average')
  with pytest.raises(UserError) as error:
    key.check(1.5)
  assert str(error.value) == (
    'ema.decay=1.5: must be a number in [0, 1) (of the average).'
  )
