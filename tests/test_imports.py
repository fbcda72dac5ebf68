"""Imports go one way, file by file, and nothing heavy is loaded unasked."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'pixeldit_jax'
# From the ground up: a file imports from its own floor and from those below.
# The longest matching name decides, so a module may have a floor of its own.
FLOORS = (
  ('typing', 'errors'),
  (
    'compile_cache',
    'files',
    'hardware',
    'outputs',
    'progress',
    'settings',
    'storage',
  ),
  ('sharding', 'images'),
  ('model',),
  ('flow', 'samplers'),
  ('encoders',),
  ('convert', 'metrics'),
  # Pretrained: read under the names of other code.
  ('encoders.tokenizer', 'encoders.transformers_models'),
  ('encoders.language_models',),
  ('encoders.text',),
  ('data.source', 'data.captions', 'data.transforms', 'data.array_records'),
  ('data.caption_sampler', 'data.precomputed_arrays'),
  ('data.sources',),
  ('data.pipeline',),
  ('data.prepare',),
  ('demo.digit_classifier',),
  ('config',),
  ('run_context',),
  ('train.optim', 'train.run'),
  ('train',),
  ('sampling',),
  ('editing',),
  ('eval',),
  ('compile_report', 'benchmarks', 'demo'),
  ('api', 'compare', 'report', 'studio'),
  ('configs',),
  ('cli',),
  ('launch',),
  ('cli.commands',),
)
FLOOR_OF = {name: i for i, names in enumerate(FLOORS) for name in names}
# Words that say nothing of what a module does.
EMPTY_WORDS = {
  'base',
  'common',
  'core',
  'functions',
  'helpers',
  'lib',
  'main',
  'misc',
  'stuff',
  'things',
  'tools',
  'util',
  'utils',
}


def module_files() -> dict[str, pathlib.Path]:
  """The modules of the package by name, without the package's own."""
  folders = {
    '': PACKAGE,
    'configs.': ROOT / 'configs',
    'launch.': ROOT / 'launch',
  }
  found = {}
  for prefix, folder in folders.items():
    for path in sorted(folder.rglob('*.py')):
      name = prefix + '.'.join(path.relative_to(folder).with_suffix('').parts)
      found[name.removesuffix('__init__').removesuffix('.')] = path
  return found


MODULES = module_files()


def imported(path: pathlib.Path) -> set[str]:
  """The modules of the package that a file imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    names = []
    if isinstance(node, ast.ImportFrom) and node.module:
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    for name in names:
      package, _, rest = name.partition('.')
      if package != 'pixeldit_jax':
        continue
      found.add(rest if rest in MODULES else rest.rpartition('.')[0])
  return found - {''}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def floor_of(module: str) -> int:
  """The floor of a module: that of the longest name in FLOORS above it."""
  while module not in FLOOR_OF:
    module = module.rpartition('.')[0]
    assert module, 'a new folder: give it a floor in FLOORS'
  return FLOOR_OF[module]


@pytest.mark.parametrize('module', sorted(set(MODULES) - {''}))
def test_no_import_climbs(module):
  above = {m for m in IMPORTS[module] if floor_of(m) > floor_of(module)}
  assert not above, f'{module} imports from above its floor: {sorted(above)}'


def test_no_circles():
  done, path = set(), []

  def visit(module):
    assert module not in path, path[path.index(module) :] + [module]
    if module in done:
      return
    path.append(module)
    for other in sorted(IMPORTS[module] - {module}):
      visit(other)
    done.add(path.pop())

  for module in MODULES:
    visit(module)


@pytest.mark.parametrize('module', sorted(set(MODULES) - {''}))
def test_every_file_says_what_it_is(module):
  assert ast.get_docstring(ast.parse(MODULES[module].read_text()))
  assert module.rpartition('.')[2] not in EMPTY_WORDS


def test_tests_mirror_the_package():
  folders = {
    path.parent.relative_to(ROOT / 'tests').parts
    for path in (ROOT / 'tests').rglob('test_*.py')
  }
  apart = {('configs',), ('launch',), ('faults',), ('findings',)}
  for parts in folders - apart - {()}:
    assert PACKAGE.joinpath(*parts).is_dir(), '/'.join(parts)


def test_the_network_and_the_loop_load_nothing_heavy():
  code = (
    'import sys, pixeldit_jax.train.loop, pixeldit_jax.sampling.sample_set\n'
    'heavy = {"torch", "tensorflow", "transformers", "sklearn", "mlxtend",\n'
    '         "matplotlib"} & set(sys.modules)\n'
    'sys.exit(str(heavy) if heavy else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
