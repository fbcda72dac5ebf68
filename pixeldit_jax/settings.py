"""Stored settings compared with those asked for: one way to find and say it."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from pixeldit_jax.errors import UserError

_SHOWN = 200  # characters of a value in a message
ABSENT = 'absent'


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
  """The settings as they are read back from JSON: tuples become lists."""
  return json.loads(json.dumps(settings))


def flatten(settings: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested settings by dotted keys: {'a': {'b': 1}} to {'a.b': 1}."""
  flat: dict[str, Any] = {}
  for key, value in settings.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat


def differences(
  stored: Mapping[str, Any],
  asked: Mapping[str, Any],
  keys: Collection[str] | None = None,
) -> dict[str, tuple[Any, Any]]:
  """Keys whose values differ, each with (stored, asked) value, sorted.

  Args:
    stored: settings of what is there.
    asked: settings of what is wanted now.
    keys: those compared; all of both by default.
  """
  if keys is None:
    keys = stored.keys() | asked.keys()
  pairs = {
    k: (stored.get(k, ABSENT), asked.get(k, ABSENT)) for k in sorted(keys)
  }
  return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def describe(different: Mapping[str, tuple[Any, Any]]) -> str:
  """One indented line for each key: '  key: 3 stored, 4 asked for'."""
  return '\n'.join(
    f'  {key}: {_short(stored)} stored, {_short(asked)} asked for'
    for key, (stored, asked) in different.items()
  )


def check_same(
  what: str,
  stored: Mapping[str, Any],
  asked: Mapping[str, Any],
  fix: str,
  keys: Collection[str] | None = None,
) -> None:
  """Refuses other settings than those that are stored.

  Args:
    what: the subject of the message, as 'samples/samples.npz was made with'.
    stored: settings of what is there.
    asked: settings of what is wanted now.
    fix: what to do, as 'Choose another folder, or --overwrite.'
    keys: those compared; all of both by default.

  Raises:
    UserError: names every key that differs, with both values, and the fix.
  """
  if different := differences(stored, asked, keys):
    raise UserError(f'{what} other settings:\n{describe(different)}\n{fix}')


def _short(value: Any) -> str:
  text = str(value)
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
