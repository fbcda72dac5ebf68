"""The console script `pixeldit`: each module of launch/ is a command."""

import ast
import difflib
import importlib
import pathlib
import sys

import pixeldit_jax.launch
from pixeldit_jax.cli import run_command

_USAGE = 'usage: pixeldit COMMAND [--flag=value ...]'


def main() -> None:
  """Runs the command that the first argument names."""
  arguments = sys.argv[1:]
  if not arguments or arguments[0] in ('help', '--help', '-h'):
    print(describe_commands())
    return
  if arguments[0] == '--version':
    print(importlib.import_module('importlib.metadata').version('pixeldit_jax'))
    return
  name, *rest = arguments
  name = name.replace('_', '-')
  if name not in (files := command_files()):
    sys.exit(_unknown_command(arguments[0], list(files)))
  sys.argv = [f'pixeldit-{name}', *rest]
  module = f'pixeldit_jax.launch.{files[name].stem}'
  run_command.run(importlib.import_module(module).main)


def command_files() -> dict[str, pathlib.Path]:
  """The files of the commands, by name."""
  folder = pathlib.Path(next(iter(pixeldit_jax.launch.__path__)))
  return {
    path.stem.replace('_', '-'): path
    for path in sorted(folder.glob('*.py'))
    if not path.stem.startswith('_')
  }


def describe_commands() -> str:
  """Usage, and a line for each command: the first of its docstring."""
  lines = [_USAGE, '']
  for name, path in command_files().items():
    # Read and not imported: some modules take seconds.
    text = ast.get_docstring(ast.parse(path.read_text())) or ''
    lines.append(f'  {name:13} {text.partition(chr(10))[0]}')
  return '\n'.join([*lines, '', 'pixeldit COMMAND --help lists its flags.'])


def _unknown_command(name: str, known: list[str]) -> str:
  if near := difflib.get_close_matches(name, known, n=1):
    return f'pixeldit: no command {name!r}; did you mean {near[0]!r}?'
  return f'pixeldit: no command {name!r}; there are {", ".join(known)}.'
