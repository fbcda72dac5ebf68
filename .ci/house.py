"""Figures of the house: size, importers, long functions, repeated code.

  python .ci/house.py           # prints them
  python .ci/house.py --check   # and fails where an aim is missed

Aims: fewer than 15 fragments (below), no function above 60 lines (but those of
EQUATIONS), and no six lines of code that two files of the package share.

Every module that at most one other imports is printed, under the first that is
true of it:

- a table chooses it: it is one of several, as a kind of data or a kernel, and
  the table is its only user by design;
- a command, a file of launch/, is its only user, or it is an entry point: one
  of the package, or a program for `python -m`;
- it has a user, but both in one file would exceed 250 lines;
- a fragment: it might be part of its importer.
"""

import ast
import collections
import pathlib
import sys
from collections.abc import Iterator

PROGRAM = "if __name__ == '__main__':"
ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'pixeldit_jax'
FOLDERS = {
  'pixeldit_jax': PACKAGE,
  'pixeldit_jax.configs': ROOT / 'configs',
  'pixeldit_jax.launch': ROOT / 'launch',
}
MOST_FRAGMENTS = 14
MOST_LINES = 60
MOST_IN_FILE = 250
BLOCK = 6
# Longer, for they are one derivation that reads best in one piece, or one
# table: name and why.
EQUATIONS = {
  'pixeldit_jax.config.get_config': 'all keys and their defaults',
}


def main() -> None:
  sources = dict(_modules())
  missed = [
    *_print_sizes(),
    *_print_few_importers(sources),
    *_print_long(sources),
    *_print_repeated(sources),
  ]
  if '--check' in sys.argv and missed:
    sys.exit(f'house.py: {"; ".join(missed)}.')


def _modules() -> Iterator[tuple[str, pathlib.Path]]:
  """The modules of the package by name, with their files."""
  for prefix, folder in FOLDERS.items():
    for path in sorted(folder.rglob('*.py')):
      parts = path.relative_to(folder).with_suffix('').parts
      name = '.'.join([prefix, *parts])
      yield name.removesuffix('.__init__'), path


def _print_sizes() -> list[str]:
  """Prints files and lines of each folder."""
  print('folder                          files  lines')
  total = collections.Counter()
  for top in (*FOLDERS.values(), ROOT / 'tests'):
    lines = collections.defaultdict(list)
    for path in sorted(top.rglob('*.py')):
      text = path.read_text()
      lines[path.parent.relative_to(ROOT)].append(text.count('\n'))
    for folder, counts in sorted(lines.items()):
      if top.name != 'tests':
        print(f'{str(folder):30} {len(counts):6} {sum(counts):6}')
    kind = 'tests' if top.name == 'tests' else 'code'
    total[kind, 'files'] += sum(map(len, lines.values()))
    total[kind, 'lines'] += sum(map(sum, lines.values()))
  for kind in ('code', 'tests'):
    files, count = total[kind, 'files'], total[kind, 'lines']
    print(f'{"all " + kind:30} {files:6} {count:6}')
  return []


def _print_few_importers(sources: dict[str, pathlib.Path]) -> list[str]:
  """Prints the modules of the package that at most one other imports."""
  importers = collections.defaultdict(set)
  tables = {}
  for name, path in sources.items():
    for module in _imported(path, sources) - {name}:
      importers[module].add(name)
    for table, chosen in _tables(name, path, sources).items():
      tables |= dict.fromkeys(chosen, table)
  few = [
    name
    for name, path in sources.items()
    if PACKAGE in path.parents
    and path.name != '__init__.py'
    and len(importers[name]) <= 1
  ]
  groups = collections.defaultdict(list)
  for name in few:
    user = next(iter(importers[name]), None)
    group, why = _group(name, user, tables, sources)
    groups[group].append(f'  {name:50} {why}')
  print(f'\n{len(few)} modules with at most one importer, of these')
  for group in ('in a table', 'of a command', 'long', 'fragments'):
    print(f'{len(groups[group])} {group}:', *sorted(groups[group]), sep='\n')
  count = len(groups['fragments'])
  return [f'{count} fragments'] if count > MOST_FRAGMENTS else []


def _group(
  name: str,
  user: str | None,
  tables: dict[str, str],
  sources: dict[str, pathlib.Path],
) -> tuple[str, str]:
  """The group of a module, and what shows that it is of it."""
  if name in tables:
    return 'in a table', tables[name]
  if user is None:
    project = (ROOT / 'pyproject.toml').read_text()
    if f'"{name}:' in project or PROGRAM in sources[name].read_text():
      return 'of a command', 'an entry point'
    return 'fragments', 'no importer'
  if user.startswith('pixeldit_jax.launch.'):
    return 'of a command', user
  lines = sum(sources[n].read_text().count('\n') for n in (name, user))
  if lines > MOST_IN_FILE:
    return 'long', f'with {user} {lines} lines'
  return 'fragments', user


def _tables(
  name: str, path: pathlib.Path, sources: dict[str, pathlib.Path]
) -> dict[str, set[str]]:
  """The modules that each table of a module chooses from.

  A table is a constant in capitals, a dict or a tuple, whose entries refer to
  two modules or more: by functions, classes or modules that are imported, or by
  a module's name as the first argument of a call, for what is imported only
  once it is chosen.
  """
  tree = ast.parse(path.read_text())
  module_of = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        inner = f'{node.module}.{alias.name}'
        module_of[alias.asname or alias.name] = (
          inner if inner in sources else node.module
        )
  found = {}
  for node in tree.body:
    if not isinstance(node, ast.Assign | ast.AnnAssign):
      continue
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if not isinstance(target, ast.Name) or not target.id.isupper():
      continue
    if not isinstance(node.value, ast.Dict | ast.Tuple):
      continue
    chosen = set()
    for part in ast.walk(node.value):
      if isinstance(part, ast.Name) and not part.id.isupper():
        chosen.add(module_of.get(part.id))
      elif isinstance(part, ast.Call) and part.args:
        first = part.args[0]
        if isinstance(first, ast.Constant):
          chosen.add(f'{name.rpartition(".")[0]}.{first.value}')
    chosen &= sources.keys()
    if len(chosen) > 1:
      found[f'{name}.{target.id}'] = chosen
  return found


def _imported(path: pathlib.Path, sources: dict[str, pathlib.Path]) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      # Of a folder its modules, of a module its names.
      names = [f'{node.module}.{alias.name}' for alias in node.names]
      found |= {n if n in sources else node.module for n in names}
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  return found & sources.keys()


def _print_long(sources: dict[str, pathlib.Path]) -> list[str]:
  """Prints the ten longest functions, and says which are too long."""
  found = []
  for name, path in sources.items():
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        found.append((lines, f'{name}.{node.name}'))
  found.sort(reverse=True)
  print(f'\n{len(found)} functions; the longest, with their docstrings:')
  for lines, function in found[:10]:
    print(f'  {lines:4} {function}')
  return [
    f'{function} has {lines} lines'
    for lines, function in found
    if lines > MOST_LINES and function not in EQUATIONS
  ]


def _print_repeated(sources: dict[str, pathlib.Path]) -> list[str]:
  """Prints code of at least `BLOCK` lines that two files share."""
  windows = collections.defaultdict(list)
  code = {name: _code(path) for name, path in sources.items()}
  for name, lines in code.items():
    for i in range(len(lines) - BLOCK + 1):
      key = tuple(text for _, text in lines[i : i + BLOCK])
      windows[key].append((name, i))
  repeated, reported = [], set()
  for starts in windows.values():
    names = {name for name, _ in starts}
    if len(names) < 2:
      continue
    # Of a longer block, the windows after the first say nothing new.
    before = tuple(sorted((name, i - 1) for name, i in starts))
    reported.add(tuple(sorted(starts)))
    if before not in reported:
      repeated.append([f'{name}:{code[name][i][0]}' for name, i in starts])
  print(f'\n{len(repeated)} blocks of {BLOCK} lines or more in two files:')
  for lines in repeated:
    print('  ' + '  '.join(lines))
  return [f'{len(repeated)} repeated blocks'] if repeated else []


def _code(path: pathlib.Path) -> list[tuple[int, str]]:
  """Numbered lines without blanks, comments, imports, docstrings, brackets."""
  text = path.read_text()
  left_out = set()
  for node in ast.walk(ast.parse(text)):
    is_text = (
      isinstance(node, ast.Expr)
      and isinstance(node.value, ast.Constant)
      and isinstance(node.value.value, str)
    )
    if is_text or isinstance(node, ast.Import | ast.ImportFrom):
      left_out |= set(range(node.lineno, node.end_lineno + 1))
  return [
    (number, line.strip())
    for number, line in enumerate(text.splitlines(), 1)
    if number not in left_out
    and line.strip(' ()[]{},')
    and '#' != line.strip()[0]
  ]


if __name__ == '__main__':
  main()
