"""The files that a spec names: paths, folders, globs, braces, the hub.

/data/imagenet?split=validation
/data/shard-{00000..00009}.tar
hf://datasets/owner/name@revision/data/train-*.parquet?label=fine_label
"""

import glob
import logging
import os
import re
from collections.abc import Sequence

from pixeldit_jax.errors import (
  MissingFileError,
  MissingPackageError,
  UserError,
  is_of_hub,
  one_line,
)
from pixeldit_jax.images import image_files

log = logging.getLogger(__name__)

HUB = 'hf://datasets/'
_OPTIONS = re.compile(r'(.*?)\?(\w+=[^&]*(?:&\w+=[^&]*)*)')
_BRACES = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')
# Words in the names of files and folders, as the hub understands them.
_SPLITS = {
  **dict.fromkeys(('train', 'training'), 'train'),
  **dict.fromkeys(('validation', 'valid', 'val', 'dev'), 'validation'),
  **dict.fromkeys(('test', 'testing', 'eval', 'evaluation'), 'test'),
}


def parse(spec: str, allowed: Sequence[str]) -> tuple[str, dict[str, str]]:
  """Splits 'path?key=value&key=value' into the path and the options.

  Raises:
    UserError: for an option that is not among the allowed ones.
  """
  match = _OPTIONS.fullmatch(spec)
  if not match:  # '?' is also a letter of globs
    return os.path.expanduser(spec), {}
  path, text = match.groups()
  options = dict(pair.split('=', 1) for pair in text.split('&'))
  unknown = sorted(options.keys() - set(allowed))
  if unknown:
    raise UserError(
      f'data source {spec!r}: unknown option {", ".join(unknown)}; expected '
      + ', '.join(f'{name}=...' for name in allowed)
    )
  return os.path.expanduser(path), options


def find(
  path: str, suffixes: tuple[str, ...], split: str | None = None
) -> list[str]:
  """Returns the files that a path names, sorted.

  A folder stands for all files below it with one of the suffixes; of those
  that are of several splits by their names (as 'train-00000-of-00010'), only
  one split is taken: the one that is asked for, else 'train'.

  Args:
    path: a file, a folder, a glob, a pattern with braces, or one of these
      behind hf://datasets/owner/name, which is downloaded and kept.
    suffixes: how the names of the files end.
    split: the split to take.

  Raises:
    UserError: if there is no such file, or no telling which split is meant.
  """
  if path.startswith(HUB):
    return _find_on_hub(path, suffixes, split)
  found: list[str] = []
  for item in expand_braces(path):
    if os.path.isdir(item):
      found += take_split(_files_below(item, suffixes), item, split)
    elif os.path.isfile(item):
      found.append(item)
    elif glob.has_magic(item):
      found += filter(os.path.isfile, glob.glob(item, recursive=True))
    else:
      raise MissingFileError(f'data source: no file or folder {item!r}')
  if not found:
    raise MissingFileError(f'data source: no file matches {path!r}')
  return sorted(os.path.abspath(name) for name in set(found))


def _files_below(root: str, suffixes: tuple[str, ...]) -> list[str]:
  found = [
    os.path.join(root, inside, name)
    for inside, names in image_files.walk(root)
    for name in names
    if name.endswith(suffixes)
  ]
  if not found:
    raise MissingFileError(
      f'data source: no file in {root!r} ends in {" or ".join(suffixes)}'
    )
  return found


def expand_braces(path: str) -> list[str]:
  """Expands '{0000..0009}' and '{a,b}' as a shell does, with its zeros."""
  match = _BRACES.search(path)
  if not match:
    return [path]
  before, inner, after = path[: match.start()], match[1], path[match.end() :]
  bounds = _RANGE.fullmatch(inner)
  if bounds:
    first, last = bounds.groups()
    step = 1 if int(first) <= int(last) else -1
    padded = any(len(text) > 1 and text[0] == '0' for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(int(first), int(last) + step, step)
    items = [str(number).zfill(width) for number in numbers]
  elif ',' in inner:
    items = inner.split(',')
  else:
    raise UserError(
      f'data source {path!r}: expected {{00000..00009}} or {{a,b}}, got '
      f'{match[0]}'
    )
  return [
    path for item in items for path in expand_braces(before + item + after)
  ]


def split_of(name: str) -> str:
  """Returns the split that a relative path is of by its words, '' if none."""
  for part in reversed(name.lower().replace(os.sep, '/').split('/')):
    for word in re.split(r'[^a-z]+', part):
      if word in _SPLITS:
        return _SPLITS[word]
  return ''


def take_split(names: list[str], root: str, split: str | None) -> list[str]:
  """Returns the files of one split; of all, if they are of one or none.

  Raises:
    UserError: if the split is absent, or several are there and none is
      'train'.
  """
  held: dict[str, list[str]] = {}
  for name in names:
    inside = os.path.relpath(name, root) if root else name
    held.setdefault(split_of(inside), []).append(name)
  if split is not None:
    wanted = _SPLITS.get(split.lower(), split)
    if wanted not in held:
      raise UserError(
        f'data source: {root!r} has no split {split!r}; by the names of its '
        f'files it has {", ".join(sorted(held)) or "none"}'
      )
    return held[wanted]
  if len(held) == 1:
    return names
  if 'train' not in held:
    raise UserError(
      f'data source: {root!r} has the splits '
      f'{", ".join(name or "(none)" for name in sorted(held))}: choose one by '
      '?split=..., or name the files'
    )
  log.info(
    '%s: the %d files of the split train are used, those of %s are not',
    root,
    len(held['train']),
    ', '.join(name or '(no split)' for name in sorted(held.keys() - {'train'})),
  )
  return held['train']


def _find_on_hub(
  path: str, suffixes: tuple[str, ...], split: str | None
) -> list[str]:
  """Downloads what a hf:// path names, unless it is kept; see `find`."""
  match = re.fullmatch(
    HUB + r'([\w.-]+/[\w.-]+)(?:@([\w.-]+|refs/[\w./-]+?))?(?:/(.*))?', path
  )
  if not match:
    raise UserError(
      f'data source {path!r}: expected hf://datasets/owner/name, with '
      '@revision and /path behind it if wanted'
    )
  name, revision, inside = match.groups()
  try:
    import huggingface_hub as hub
  except ImportError as error:
    raise MissingPackageError(
      f"{path} needs huggingface_hub: pip install 'pixeldit_jax[hub]', or "
      'download the files and give their path'
    ) from error
  try:
    # No file matches: this only says which commit is meant.
    snapshot = hub.snapshot_download(
      name, repo_type='dataset', revision=revision, allow_patterns=['/none']
    )
    commit = os.path.basename(snapshot)
    listed = _list_on_hub(hub, name, commit, snapshot)
    folder = (inside or '').rstrip('/')
    chosen = _choose_on_hub(path, listed, folder, suffixes, split)
    return [
      hub.hf_hub_download(name, file, repo_type='dataset', revision=commit)
      for file in chosen
    ]
  except UserError:
    raise
  except Exception as error:
    if not is_of_hub(error):
      raise
    raise MissingFileError(
      f'{path} could not be fetched ({one_line(error)}). Download '
      'it where there is a network and give its path'
    ) from error


def _choose_on_hub(
  path: str,
  listed: list[str],
  inside: str,
  suffixes: tuple[str, ...],
  split: str | None,
) -> list[str]:
  """Returns which files of a data set are meant, sorted."""
  chosen: list[str] = []
  for pattern in expand_braces(inside):
    below = pattern + '/' if pattern else ''
    held = [
      file
      for file in listed
      if file.startswith(below) and file.endswith(suffixes)
    ]
    if pattern in listed:
      chosen.append(pattern)
    elif glob.has_magic(pattern):
      rule = re.compile(_glob_rule(pattern))
      chosen += filter(rule.fullmatch, listed)
    elif held:
      chosen += take_split(held, pattern, split)
  if not chosen:
    raise MissingFileError(
      f'data source: no file of {path!r} ends in {" or ".join(suffixes)}; the '
      f'data set holds {", ".join(listed[:10])}'
    )
  return sorted(set(chosen))


def _list_on_hub(hub, name: str, commit: str, snapshot: str) -> list[str]:
  """Lists the files of a data set, without a network those that are kept."""
  try:
    return hub.list_repo_files(name, repo_type='dataset', revision=commit)
  except Exception:  # of its HTTP client, which differs between its versions
    kept = [
      os.path.relpath(os.path.join(base, file), snapshot)
      for base, _, files in os.walk(snapshot)
      for file in files
    ]
    if not kept:
      raise MissingFileError(
        f'{name}: the hub is out of reach, and no file of it is kept'
      ) from None
    log.warning('%s: the hub is out of reach, using what is kept', name)
    return kept


def _glob_rule(pattern: str) -> str:
  """Returns the regular expression of a glob: '*' stops at '/', '**' not."""
  rule = ''
  for piece in re.split(r'(\*\*/|\*\*|\*|\?|\[[^\]]+\])', pattern):
    rule += {'**/': '(?:.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]'}.get(
      piece, piece if piece.startswith('[') else re.escape(piece)
    )
  return rule
