"""Imports go one way, and nothing heavy is loaded that is not asked for."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'pixeldit_jax'
ORDER = (
  'typing',
  'sharding',
  'model',
  'flow',
  'samplers',
  'encoders',
  'data',
  'train',
  'eval',
  'editing',
  'convert',
)
FILES = sorted(PACKAGE.rglob('*.py'))


def imported(path: pathlib.Path) -> set[str]:
  """The parts of the package that a file imports, anywhere in it."""
  parts = set()
  for node in ast.walk(ast.parse(path.read_text())):
    names = []
    if isinstance(node, ast.ImportFrom) and node.module:
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    for name in names:
      package, _, rest = name.partition('.')
      if package == 'pixeldit_jax' and rest:
        parts.add(rest.split('.')[0])
  return parts


@pytest.mark.parametrize(
  'path', FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
  part = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  if part == '__init__':
    assert not imported(path)
    return
  later = ORDER[ORDER.index(part) + 1 :]
  assert not imported(path) & set(later)


@pytest.mark.parametrize(
  'path', FILES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_every_file_says_what_it_is(path):
  assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_network_and_the_loop_load_nothing_heavy():
  code = (
    'import sys, pixeldit_jax.train.loop, pixeldit_jax.eval.sample_set\n'
    'heavy = {"torch", "tensorflow", "transformers", "sklearn", "mlxtend"}\n'
    'sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
