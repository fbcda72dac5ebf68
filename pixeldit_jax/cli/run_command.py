"""Starts a command: what is wrong with its flags is told in one line."""

import pathlib
import sys
from collections.abc import Callable

from absl import app


def run(main: Callable[[], None]) -> None:
  """Parses the flags and calls `main`."""
  app.run(lambda argv: main(), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
  name = pathlib.Path(argv[0]).name
  try:
    argv = app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as error:
    said = error  # by ml_collections: the key, and one that comes near it
    while isinstance(said, Exception):
      said = said.args[0]
    key, *near = said.replace('"', '').splitlines()
    more = ' '.join([*near, 'All keys: pixeldit_jax/config.py.'])
    sys.exit(f'{name}: --config has no key {key}. {more}')
  if argv[1:]:
    sys.exit(f'{name}: {argv[1:]} are not flags; write --name=value.')
  return argv
