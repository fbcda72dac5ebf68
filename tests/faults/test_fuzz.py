"""Damaged files of the formats that are read: right, told, or refused.

Seeded, a few seconds for each format. What may happen: the same values as
before, a `UserError` of one line or a `BadExample`, which the log counts; never
another exception, and never other values where the format has a checksum.
"""

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

ROUNDS = 60


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
  data, rng = path.read_bytes(), np.random.default_rng(seed)
  right = read(path)
  for _ in range(ROUNDS):
    broken = damaged(data, rng)
    path.write_bytes(broken)
    try:
      found = read(path)
    except (UserError, transforms.BadExample) as error:
      assert str(error)
      continue
    if checked and broken != data:
      assert found == right
  path.write_bytes(data)


def picture(form: str) -> bytes:
  pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, form)
  return buffer.getvalue()


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_pictures(tmp_path, form):
  path = tmp_path / 'a'
  path.write_bytes(picture(form))
  fuzz(path, lambda p: transforms.decode(p.read_bytes()).tobytes(), 1)


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
  fuzz(path, lambda p: [m.name for m in scan(str(p))], 5)


@pytest.mark.parametrize(
  'name, text',
  [
    ('a.json', json.dumps({'caption': 'a cat'})),
    ('a.txt', 'a cat\n'),
    ('captions.jsonl', json.dumps({'file': 'a.png', 'caption': 'x'}) + '\n'),
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
  fuzz(manifest, lambda p: integrity.verify(folder, checksums=True), 9)
  fuzz(
    tmp_path / 'data',
    lambda p: integrity.verify(folder, checksums=True) or 'whole',
    10,
  )
