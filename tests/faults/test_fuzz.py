"""Damaged files of the formats that are read: right, told, or refused.

Seeded, and a second or two for each format; the slow pass has 200 damages of
each. What may happen: the same values as before, a `UserError` of one line or a
`BadExample` or `OSError` of a picture, which the log counts; never another
exception, and never other values where the format has a checksum.
"""

import collections
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from pixeldit_jax.convert.safetensors import (
  read_safetensors,
  write_safetensors,
)
from pixeldit_jax.data import transforms
from pixeldit_jax.data.sources.edm2 import Edm2Source
from pixeldit_jax.data.sources.folder import FolderSource
from pixeldit_jax.data.sources.tar_members import scan
from pixeldit_jax.errors import UserError
from pixeldit_jax.images.image_sets import NpzImages
from pixeldit_jax.sampling.text_sampler import read_prompts
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.run import workdir


@pytest.fixture(
  autouse=True, params=[60, pytest.param(200, marks=pytest.mark.slow)]
)
def rounds(request, monkeypatch, tmp_path_factory):
  """How many damages; the slow pass has others than the fast one."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
  monkeypatch.setitem(PASS, 'rounds', request.param)


PASS = {'rounds': 60}
BROKEN = 'broken'  # of an example that is left out and named


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
  """The bytes cut, changed, repeated or filled in one of several ways."""
  found = bytearray(data)
  where = int(rng.integers(len(found)))
  kind = int(rng.integers(5))
  if kind == 0:
    return bytes(found[:where])
  if kind == 1:
    found[where] ^= 1 << int(rng.integers(8))
  elif kind == 2:
    length = int(rng.integers(1, 64))
    found[where : where + length] = rng.bytes(length)
  elif kind == 3:
    found[where:where] = rng.bytes(int(rng.integers(1, 16)))
  else:
    found[where : where + 64] = bytes(len(found[where : where + 64]))
  return bytes(found)


def fuzz(path: pathlib.Path, read, seed: int, checked: bool = False) -> None:
  """Reads damaged copies of a file; see above.

  Args:
    path: an intact file, which is damaged in its place.
    read: f(path) -> values that can be compared.
    seed: of the damages.
    checked: the format has a checksum over all that `read` gives.
  """
  data = path.read_bytes()
  rng = np.random.default_rng([seed, PASS['rounds']])
  right = read(path)
  counts = collections.Counter()
  for _ in range(PASS['rounds']):
    broken = damaged(data, rng)
    path.write_bytes(broken)
    try:
      found = read(path)
    except (UserError, transforms.BadExample) as error:
      assert str(error) and len(str(error).splitlines()) == 1
      counts['refused'] += 1
      continue
    if found == right:
      counts['right'] += 1
    elif _says_so(found, right):
      counts['told'] += 1
    else:
      counts['other values'] += 1
      assert not checked
  path.write_bytes(data)
  print(f'{path.name}: {dict(sorted(counts.items()))}')


def _says_so(found, right) -> bool:
  """Whether examples differ only where they are said to be broken."""
  return (
    isinstance(found, list)
    and len(found) == len(right)
    and all(a in (b, BROKEN) for a, b in zip(found, right))
  )


def picture(form: str) -> bytes:
  pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, form)
  return buffer.getvalue()


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_pictures(tmp_path, form):
  path = tmp_path / 'a'
  path.write_bytes(picture(form))
  read = lambda p: transforms.decode(p.read_bytes()).tobytes()  # noqa: E731
  fuzz(path, read, 1, checked=form == 'PNG')


def examples_of(source) -> list:
  """What a run makes of a source: a picture that cannot be read is left out."""
  found = []
  for i in range(len(source)):
    try:
      example = source[i]
      picture = transforms.decode(example['image']).tobytes()
      found.append((example['name'], example['label'], picture))
    except (transforms.BadExample, OSError) as error:
      assert str(error)
      found.append(BROKEN)
  return found


def table(count=6):
  import pyarrow as pa

  rows = [{'bytes': picture('PNG'), 'path': None} for _ in range(count)]
  return pa.table({'image': rows, 'label': [i % 2 for i in range(count)]})


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    {},
    dict(compression='none', use_dictionary=False),
    dict(compression='zstd'),
    dict(data_page_version='2.0', use_dictionary=False),
  ],
)
def test_parquet(tmp_path, options):
  import pyarrow.parquet as pq

  from pixeldit_jax.data.sources.parquet import ParquetSource

  path = tmp_path / 'a.parquet'
  pq.write_table(table(), path, row_group_size=4, **options)
  fuzz(path, lambda p: examples_of(ParquetSource(str(p))), 11)


def test_pages_of_parquet_with_checksums(tmp_path):
  import pyarrow.parquet as pq

  from pixeldit_jax.data.sources.parquet import ParquetSource

  path = tmp_path / 'a.parquet'
  pq.write_table(table(), path, write_page_checksum=True)

  def read(path):
    source = ParquetSource(str(path))
    source.check(checksums=True)
    return [example[2:] for example in examples_of(source)]

  fuzz(path, read, 12, checked=True)


@pytest.mark.parametrize('form', ['new_stream', 'new_file'])
def test_arrow(tmp_path, form):
  import pyarrow as pa

  from pixeldit_jax.data.sources.arrow import ArrowSource

  path, made = tmp_path / 'a.arrow', table()
  with getattr(pa.ipc, form)(path, made.schema) as writer:
    writer.write_table(made, max_chunksize=4)
  fuzz(path, lambda p: examples_of(ArrowSource(str(p))), 13)


def test_hdf5(tmp_path):
  h5py = pytest.importorskip('h5py')

  path = tmp_path / 'images.h5'
  with h5py.File(path, 'w') as file:
    for i in range(3):
      data = np.frombuffer(picture('PNG'), np.uint8)
      file[f'{i}.png'] = data
    labels = json.dumps({'labels': [[f'{i}.png', i] for i in range(3)]})
    file['dataset.json'] = np.frombuffer(labels.encode(), np.uint8)
  fuzz(path, lambda p: examples_of(Edm2Source(str(p))), 14)


def test_pytorch_files(tmp_path):
  torch = pytest.importorskip('torch')

  from pixeldit_jax.convert.lightning import read_lightning

  path = tmp_path / 'a.pth'
  torch.save({'a': torch.arange(64.0).reshape(8, 8), 'b': torch.ones(3)}, path)

  def read(path):
    tensors = read_lightning(path, ema=True)
    return {name: tensors[name].tobytes() for name in tensors}

  fuzz(path, read, 15, checked=True)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  from pixeldit_jax.data.prepare import prepare
  from pixeldit_jax.data.prepare.write_shard import PrepareSettings

  folder = tmp_path_factory.mktemp('prepared')
  for label in 'ab':
    (folder / 'in' / label).mkdir(parents=True)
    for i in range(3):
      (folder / 'in' / label / f'{i}.png').write_bytes(picture('PNG'))
  settings = PrepareSettings(
    source=f'folder:{folder}/in', resolution=8, shard_size=3
  )
  prepare.prepare(settings, str(folder / 'out'), num_processes=1)
  return folder / 'out'


def test_prepared_shards(prepared):
  from pixeldit_jax.data.sources.shards import ShardSource

  (path, *_) = sorted(prepared.glob('*.array_record*'))
  right = examples_of(ShardSource(str(prepared)))

  def read(path):
    source = ShardSource(str(path.parent))
    source.check()
    found = examples_of(source)
    # ArrayRecord compares the checksum of a record when it is read.
    for found_one, right_one in zip(found, right, strict=True):
      assert found_one in (right_one, BROKEN)

  fuzz(path, read, 16)

  def read_manifest(path):
    source = ShardSource(str(path.parent))
    source.check(checksums=True)
    return examples_of(source)

  fuzz(prepared / 'manifest.json', read_manifest, 17)


def test_weights(tmp_path):
  path = tmp_path / 'a.safetensors'
  values = np.arange(64, dtype=np.float32).reshape(8, 8)
  write_safetensors(path, {'a': values, 'b': values[0]})

  def read(path):
    return {name: a.tobytes() for name, a in read_safetensors(path).items()}

  fuzz(path, read, 2)


def test_sample_sets(tmp_path):
  path = tmp_path / 'a.npz'
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
  np.savez(path, images)

  def read(path):
    return b''.join(batch.tobytes() for batch in NpzImages(path).batches(2))

  fuzz(path, read, 3, checked=True)


def test_zips_of_edm2(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    labels = [[f'00000/img{i:08d}.png', i % 2] for i in range(4)]
    for name, _ in labels:
      archive.writestr(name, picture('PNG'))
    archive.writestr('dataset.json', json.dumps({'labels': labels}))

  def read(path):
    source = Edm2Source(str(path))
    examples = [source[i] for i in range(len(source))]
    return [(e['name'], e['label'], e['image']) for e in examples]

  fuzz(path, read, 4)


def test_tars(tmp_path):
  import tarfile

  path = tmp_path / 'a.tar'
  with tarfile.open(path, 'w') as archive:
    for i in range(3):
      data = picture('PNG')
      info = tarfile.TarInfo(f'{i}.png')
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))

  def read(path):
    data = path.read_bytes()
    return [
      (m.name, data[m.offset : m.offset + m.size]) for m in scan(str(path))
    ]

  fuzz(path, read, 5)


@pytest.mark.parametrize(
  'name, text',
  [
    ('a.json', json.dumps({'caption': 'a cat'})),
    ('a.txt', 'a cat\n'),
    ('metadata.jsonl', json.dumps({'file_name': 'a.png', 'text': 'x'}) + '\n'),
    ('metadata.csv', 'file_name,text\na.png,a cat\n'),
  ],
)
def test_captions(tmp_path, name, text):
  (tmp_path / 'a.png').write_bytes(picture('PNG'))
  path = tmp_path / name
  path.write_text(text)

  def read(path):
    source = FolderSource(str(tmp_path), labelled=False)
    return str(source[0].get('captions'))

  fuzz(path, read, 6)


def test_prompts(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('a cat\na dög\n')
  fuzz(path, lambda p: read_prompts(None, str(p)), 7)


@pytest.mark.parametrize(
  'name, text',
  [
    ('config.json', '{"model": {"width": 32}, "steps": 4}'),
    ('progress.json', '{"step": 4, "saved": 2, "seconds": {"step": 0.5}}'),
    ('history.jsonl', '{"event": "start", "time": "x"}\n'),
    ('evaluations.jsonl', '{"step": 4, "fid": 2.5}\n'),
  ],
)
def test_files_of_a_run(tmp_path, name, text):
  path = tmp_path / name
  path.write_text(text)
  read = {
    'config.json': workdir.read_config,
    'progress.json': workdir.read_progress,
    'history.jsonl': workdir.read_history,
    'evaluations.jsonl': workdir.read_evaluations,
  }[name]
  fuzz(path, lambda p: str(read(str(p.parent))), 8)


def test_lists_of_checkpoints(tmp_path):
  folder = epath.Path(tmp_path)
  (tmp_path / 'data').write_bytes(b'x' * 100)
  manifest = tmp_path / integrity.FILES
  manifest.write_text(
    json.dumps({'data': [100, integrity.files.crc32(tmp_path / 'data')]})
  )

  def read(path):
    if found := integrity.verify(folder, checksums=True):
      raise UserError(' '.join(found))
    return 'whole'

  fuzz(manifest, read, 9, checked=True)
  fuzz(tmp_path / 'data', read, 10, checked=True)
