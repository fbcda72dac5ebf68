"""The options of a configuration file: `--config=FILE:size=B,debug`."""

from ml_collections import ConfigDict

from pixeldit_jax.errors import UserError


def parse_options(arg: str | None, **defaults) -> ConfigDict:
  """Reads the options after the colon.

  Args:
    arg: 'size=B,debug'; a name without a value means True.
    defaults: every option with its default; values take its type.

  Raises:
    UserError: an option that is not among the defaults, or another type.
  """
  options = ConfigDict(defaults)
  for part in filter(None, (arg or '').split(',')):
    name, _, value = part.partition('=')
    if name not in options:
      raise UserError(
        f'config option {name!r} is not known; there are {sorted(defaults)}.'
      )
    options[name] = _parse(part, value, type(defaults[name]))
  return options


def _parse(part: str, value: str, kind: type):
  """One value of an option."""
  if kind is bool:
    if value not in ('', 'True', 'False'):
      raise UserError(f'config option {part!r}: True or False.')
    return value != 'False'
  try:
    return kind(value)
  except ValueError as error:
    raise UserError(f'config option {part!r}: {error}.') from error
