"""Which kind of data a bare path holds, where that is beyond doubt."""

import collections
import fnmatch
import glob
import os

from pixeldit_jax import files
from pixeldit_jax.data import captions
from pixeldit_jax.data.sources import (
  arrow,
  coco,
  data_files,
  imagenet_tar,
  mds,
  shards,
  webdataset,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.images import image_files

_DEPTH, _FOLDERS = 3, 200  # folders deep, and folders in all, that are listed
_PYTHON = 'python -c "'
# Forms that are not read: the command that makes one of those that are.
_CONVERT = {
  '.tfrecord': (
    'TFRecord files of TensorFlow Datasets: tfds convert_format '
    '--dataset_version_dir={path} --out_file_format=array_record (needs '
    'TensorFlow), then tfds:name:split?data_dir'
  ),
  '.mdb': (
    'an LMDB of encoded images: ' + _PYTHON + 'import lmdb, webdataset as w; '
    't = lmdb.open({path!r}, readonly=True, lock=False).begin(); '
    "s = w.ShardWriter('OUT/%06d.tar'); "
    "[s.write(dict(__key__=k.decode().replace('.', '_'), jpg=bytes(v))) "
    'for k, v in t.cursor()]; s.close()", then wds:OUT'
  ),
  '.npz': (
    'arrays of pixels: ' + _PYTHON + 'import numpy as n, PIL.Image as i; '
    "[i.fromarray(x).save('OUT/%08d.png' % k) for k, x in "
    "enumerate(n.load({first!r})['arr_0'])]\", then images:OUT"
  ),
  '.zip': 'a zip: unzip -q {first} -d OUT, then folder:OUT or images:OUT',
  '.rar': 'a rar: unrar x {first} OUT/, then folder:OUT or images:OUT',
  '.beton': (
    "FFCV's form, which is for its own loader: give the images or the tars "
    'that it was written from'
  ),
}


def exists(spec: str) -> bool:
  """Whether a text names files, or a data set on the hub."""
  if spec.startswith(data_files.HUB):
    return True
  first = os.path.expanduser(data_files.expand_braces(spec)[0])
  path = first.partition('?')[0]
  return bool(path) and (
    os.path.exists(path) or (glob.has_magic(first) and bool(glob.glob(first)))
  )


def detect(path: str) -> str:
  """Returns the specification of what is at a path, as 'parquet:/data'.

  Args:
    path: a file, a folder or hf://datasets/..., perhaps with options behind it.

  Raises:
    UserError: if there is nothing, several kinds, or only kinds that are not
      read; it names the candidates, or the command that converts them.
  """
  bare = path if glob.glob(path) else path.partition('?')[0]
  options = path[len(bare) + 1 :]
  if bare.startswith(data_files.HUB):
    kind = 'wds' if bare.endswith('.tar') else 'parquet'
    return f'{kind}:{path}'
  bare = os.path.expanduser(bare)
  found = _by_marks(bare) if os.path.isdir(bare) else []
  if not found:
    found = _by_names(bare)
  if len(found) > 1:
    raise UserError(
      f'data source {path!r} may be {" or ".join(found)}: give one of these'
    )
  return f'{found[0]}?{options}' if options else found[0]


def _by_marks(path: str) -> list[str]:
  """Returns the specifications that files of a fixed name speak for."""
  inside = set(os.listdir(path))
  found = []
  if shards.MANIFEST in inside:
    about = files.read_json(os.path.join(path, shards.MANIFEST))
    if about.get('format') == shards.FORMAT:
      found.append(f'shards:{path}')
  if inside & {arrow.STATE, arrow.SPLITS}:
    found.append(f'arrow:{path}')
  if mds.INDEX in inside:
    about = files.read_json(os.path.join(path, mds.INDEX))
    if about.get('__kind__') == webdataset.WIDS:
      found.append(f'wds:{os.path.join(path, mds.INDEX)}')
    elif 'shards' in about:
      found.append(f'mds:{path}')
    elif 'chunks' in about:
      raise UserError(
        f'{path} is of LitData, which is not read: write the samples as tars '
        'with webdataset.ShardWriter'
      )
  elif any(os.path.exists(os.path.join(path, n, mds.INDEX)) for n in inside):
    found.append(f'mds:{path}')
  if imagenet_tar.NAME in inside:
    found.append(f'imagenet_tar:{path}')
  if inside & {'dataset.json', 'images.h5', 'images.zip'}:
    found.append(f'edm2:{path}')
  annotations = os.path.join(path, 'annotations')
  names = inside | set(
    os.listdir(annotations) if os.path.isdir(annotations) else ()
  )
  if any(fnmatch.fnmatch(name, coco.FILES) for name in names):
    found.append(f'coco:{path}')
  if {'dataset_info.json', 'features.json'} <= inside:
    found += _tfds(path, inside)
  return found


def _tfds(path: str, inside: set[str]) -> list[str]:
  """Returns the specification of a version folder of TensorFlow Datasets."""
  names = [name for name in inside if '.array_record' in name]
  if not names:
    return []
  above, version = os.path.split(os.path.abspath(path))
  folder, name = os.path.split(above)
  split = data_files.split_of(names[0].partition('-')[2]) or 'train'
  return [f'tfds:{name}:{version}:{split}?{folder}']


def _by_names(path: str) -> list[str]:
  """Returns the specifications that the names of the files speak for."""
  if os.path.isdir(path):
    names = _list(path)
  else:
    names = [path]
  suffixes = collections.Counter(_suffix_of(name) for name in names)
  tars = {name.removesuffix('.tar') for name in names if name.endswith('.tar')}
  tables = {n.removesuffix('.parquet') for n in names if n.endswith('.parquet')}
  if tars and tables <= tars:  # img2dataset's lists of what is in the tars
    del suffixes['.parquet']
  found = []
  kinds = {
    '.parquet': 'parquet',
    '.arrow': 'arrow',
    '.tar': 'wds',
    '.tar.gz': 'wds',
    '.h5': 'edm2',
  }
  for suffix, kind in kinds.items():
    if suffixes[suffix]:
      found.append(f'{kind}:{path}')
  pictures = list(filter(image_files.is_image, names))
  if pictures and os.path.isdir(path):
    found += _folders(path, pictures, names)
  if found:
    return found
  for suffix, command in _CONVERT.items():
    if suffixes[suffix]:
      first = next(name for name in names if _suffix_of(name) == suffix)
      first = os.path.join(path, first) if os.path.isdir(path) else path
      raise UserError(
        f'{path} is not read as it is; it is '
        + command.format(path=path, first=first)
      )
  listed = ', '.join(
    f'{n or "no suffix"} ({k})' for n, k in sorted(suffixes.items())
  )
  raise UserError(
    f'data source {path!r}: no kind of data is found there'
    + (f', but files of {listed}' if listed else '')
  )


def _folders(path: str, pictures: list[str], names: list[str]) -> list[str]:
  """Returns what pictures in folders may be: with classes, or without."""
  deep = {name.count('/') for name in pictures}
  texts = any(
    name.endswith(captions.SUFFIXES)
    or os.path.basename(name) in captions.TABLES
    for name in names
  )
  if deep == {0}:
    return [f'images:{path}']
  tops = {name.split('/')[0] for name in pictures}
  if deep == {2} and all(map(data_files.split_of, tops)):
    (chosen, *more) = [
      top for top in sorted(tops) if data_files.split_of(top) == 'train'
    ] or sorted(tops)
    if not more:
      return [f'folder:{os.path.join(path, chosen)}']
  if 0 in deep or texts:
    return [f'folder:{path}', f'images:{path}']
  return [f'folder:{path}']


def _list(root: str) -> list[str]:
  """Returns the files below a folder, of some folders that are not deep."""
  found: list[str] = []
  for number, (inside, names) in enumerate(image_files.walk(root)):
    if number >= _FOLDERS:
      break
    if inside.count('/') < _DEPTH:
      found += [f'{inside}/{name}' if inside else name for name in names]
  return found


def _suffix_of(name: str) -> str:
  base = os.path.basename(name).lower()
  for suffix in ('.tfrecord', '.tar.gz', '.tgz', '.tar.zst', '.tar.bz2'):
    if suffix in base:
      return suffix if suffix == '.tfrecord' else '.tar.gz'
  return os.path.splitext(base)[1]
