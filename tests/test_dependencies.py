"""What is imported is declared in pyproject.toml, and the other way round."""

import ast
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
# Packages whose name is not that of what is imported.
PACKAGE_OF = {
  'absl': 'absl-py',
  'google': 'google-cloud-storage',
  'orbax': 'orbax-checkpoint',
  'PIL': 'pillow',
  'sklearn': 'scikit-learn',
}
# Extras that are used without being imported, and how.
TOOLS = {
  'browser': 'drives Chromium in the tests of the studio',
  'cuda': 'a form of jax',
  'notebook': 'runs the notebooks, and keeps them as text',
  'tensorboard': 'a command that shows the events of a run',
  'test': 'commands and plugins of pytest',
  'tpu': 'a form of jax',
}
# Imported by other packages for us: torchvision is hidden from transformers.
NOT_OURS = {'torchvision'}


def normal(name: str) -> str:
  return re.sub(r'[-_.]+', '-', name).lower()


def names(requirements: list[str]) -> set[str]:
  """The packages of requirements such as 'etils[epath]>=1.9'."""
  return {normal(re.match(r'[\w.-]+', r)[0]) for r in requirements}


REQUIRED = names(PROJECT['dependencies'])
EXTRAS = {
  extra: names(requirements)
  for extra, requirements in PROJECT['optional-dependencies'].items()
}


def files() -> list[pathlib.Path]:
  folders = ('pixeldit_jax', 'configs', 'launch')
  return [p for folder in folders for p in (ROOT / folder).rglob('*.py')]


def packages(nodes) -> set[str]:
  """The packages that import statements name."""
  found = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      found |= {alias.name.partition('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found.add(node.module.partition('.')[0])
  found -= {*sys.stdlib_module_names, 'pixeldit_jax', *NOT_OURS}
  return {normal(PACKAGE_OF.get(name, name)) for name in found}


TREES = {path: ast.parse(path.read_text()) for path in files()}
IMPORTED = set().union(*(packages(ast.walk(t)) for t in TREES.values()))


def test_what_is_imported_is_declared():
  assert IMPORTED <= REQUIRED.union(*EXTRAS.values())


def test_what_is_declared_is_imported():
  used_by_import = {e: p for e, p in EXTRAS.items() if e not in TOOLS}
  assert REQUIRED.union(*used_by_import.values()) <= IMPORTED


@pytest.mark.parametrize('path', TREES, ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_are_imported_inside_functions(path):
  """So that a module loads without them."""
  assert packages(TREES[path].body) <= REQUIRED


def test_every_declared_package_is_pinned():
  lines = (ROOT / 'launch' / 'constraints.txt').read_text().splitlines()
  pinned = names([line for line in lines if not line.startswith('#')])
  assert REQUIRED.union(*EXTRAS.values()) <= pinned
