"""What files say of themselves: names do nothing, sizes are checked first."""

import io
import json
import logging
import re
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.cli.log import start_log
from pixeldit_jax.convert.lightning import read_lightning
from pixeldit_jax.data import transforms
from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources.edm2 import Edm2Source
from pixeldit_jax.data.sources.folder import FolderSource
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import TooLargeError, UserError, escaped
from pixeldit_jax.images.image_sets import FolderImages, NpzImages

pytestmark = pytest.mark.usefixtures('cache')

RED = 'a\x1b[31m'  # colours what follows on a terminal


def png(seed=0, side=16):
  pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
  buffer = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(buffer, 'PNG')
  return buffer.getvalue()


def folder(root):
  for name in (RED, 'b'):
    (root / name).mkdir()
    (root / name / f'{RED}.png').write_bytes(png())
    (root / name / f'{RED}1.png').write_bytes(b'no image')
  (root / f'{RED}.heic').write_bytes(b'')
  return f'folder:{root}'


def zipped(root):
  labels = [[f'{RED}{i}.png', i] for i in range(2)]
  with zipfile.ZipFile(root / 'a.zip', 'w') as archive:
    archive.writestr(f'{RED}0.png', png())
    archive.writestr(f'{RED}1.png', b'no image')
    archive.writestr(f'{RED}2.png', png())  # without a label
    archive.writestr('dataset.json', json.dumps({'labels': labels}))
  return f'edm2:{root}/a.zip'


def wds(root):
  with tarfile.open(root / f'{RED}.tar', 'w') as archive:
    for i, data in enumerate((png(), b'no image')):
      for suffix, content in (('png', data), ('txt', RED.encode())):
        member = tarfile.TarInfo(f'{RED}{i}.{suffix}')
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
  return f'wds:{root}'


def parquet(root):
  rows = [{'bytes': data, 'path': RED} for data in (png(), b'no image')]
  table = pa.table({'image': rows, 'label': [RED, 'b']})
  pq.write_table(table, root / f'{RED}.parquet')
  return f'parquet:{root}'


def coco(root):
  (root / 'train2017').mkdir()
  (root / 'annotations').mkdir()
  for i, data in enumerate((png(), b'no image')):
    (root / 'train2017' / f'{RED}{i}.png').write_bytes(data)
  about = {
    'images': [{'id': i, 'file_name': f'{RED}{i}.png'} for i in range(2)],
    'annotations': [{'image_id': i, 'caption': RED} for i in range(2)],
  }
  (root / 'annotations/captions_train2017.json').write_text(json.dumps(about))
  return f'coco:{root}'


@pytest.mark.slow
@pytest.mark.parametrize('write', [folder, zipped, wds, parquet, coco])
def test_no_name_of_a_source_reaches_the_terminal(tmp_path, capsys, write):
  (tmp_path / 'in').mkdir()
  spec = write(tmp_path / 'in')
  package = logging.getLogger('pixeldit_jax')
  before, package.handlers[:] = package.handlers[:], []
  propagate, level = package.propagate, package.level
  try:
    start_log()
    settings = PrepareSettings(source=spec, resolution=8)
    made = prepare.prepare(settings, str(tmp_path / 'out'), num_processes=1)
    print(escaped(prepare.summary(made)))  # as `run_command` prints
  finally:
    package.handlers[:], package.propagate = before, propagate
    package.setLevel(level)
  said = capsys.readouterr()
  assert '\x1b' not in said.out + said.err
  assert r'a\x1b[31m' in said.out


@pytest.fixture
def small_limit(monkeypatch):
  monkeypatch.setenv(files.MAX_BYTES, '1000')


def test_files_and_members_are_measured_before_they_are_read(
  tmp_path, small_limit, monkeypatch
):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / '0.png').write_bytes(png(side=64))
  with pytest.raises(TooLargeError, match=r'--max_bytes=\d+ allows it'):
    FolderSource(str(tmp_path / 'in'), labelled=False)[0]
  with pytest.raises(UserError, match=r'--max_bytes=\d+ allows it'):
    FolderImages(tmp_path / 'in')
  path = tmp_path / 'bomb.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('dataset.json', json.dumps({'labels': [['a.png', 0]]}))
    archive.writestr('a.png', bytes(10**6))
  with pytest.raises(TooLargeError, match=r"'a.png' would take 1,000,000"):
    Edm2Source(str(path))
  np.savez_compressed(tmp_path / 'a.npz', np.zeros((1, 99, 99, 3), np.uint8))
  with pytest.raises(TooLargeError, match='an image of .*a.npz'):
    NpzImages(tmp_path / 'a.npz')
  monkeypatch.setenv(files.MAX_BYTES, '30_000')
  assert NpzImages(tmp_path / 'a.npz').count == 1


@pytest.mark.slow
def test_limits_are_flags_of_every_command(tmp_path):
  (tmp_path / 'in').mkdir()
  for name in 'ab':
    (tmp_path / 'in' / name).mkdir()
    (tmp_path / 'in' / name / '0.png').write_bytes(png(side=24))
  command = [sys.executable, 'launch/prepare_data.py', '--resolution=8']
  command += [f'--source=folder:{tmp_path}/in', f'--out={tmp_path}/out']

  def run(*flags):  # two workers read
    done = subprocess.run(
      [*command, '--processes=2', '--shard_size=1', *flags],
      capture_output=True,
      text=True,
    )
    return done.returncode, done.stdout + done.stderr

  code, said = run('--max_pixels=575', '--max_bad_files=0')
  assert code == 1 and '--max_pixels=576 allows it' in said, said
  code, said = run('--max_bytes=100', '--max_bad_files=0')
  assert code == 1 and re.search(r'--max_bytes=\d{4} allows it', said), said
  code, said = run('--max_pixels=576', '--max_bytes=1_000_000')
  assert code == 0, said
  code, said = run('--max_pixels=0')
  assert code == 1 and 'max_pixels=0' in said, said


def test_limits_in_the_environment_are_integers(monkeypatch):
  monkeypatch.setenv(files.MAX_PIXELS, '1e9')
  with pytest.raises(UserError, match="MAX_PIXELS='1e9': expected a positive"):
    files.limit_of(files.MAX_PIXELS)


def test_narrow_images_are_resized_within_the_limit(monkeypatch):
  image = Image.new('RGB', (400, 1))
  with pytest.raises(transforms.BadExample, match='--max_pixels=838860800'):
    transforms.crop(image, 512, 512)
  monkeypatch.setenv(files.MAX_PIXELS, '838860800')
  assert transforms.crop(image, 512, 512).shape == (512, 512, 3)


def test_a_member_that_is_longer_than_it_says_is_cut(tmp_path):
  path = tmp_path / 'bomb.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('dataset.json', json.dumps({'labels': [['a.png', 0]]}))
    archive.writestr('a.png', bytes(10**6))
  data = path.read_bytes()
  sizes = struct.pack('<I', 10**6)
  path.write_bytes(data.replace(sizes, struct.pack('<I', 10)))
  with pytest.raises(ValueError, match='checksum in the zip'):
    Edm2Source(str(path))[0]


def test_tables_are_measured_before_they_are_read(tmp_path, small_limit):
  spec = parquet(tmp_path)
  with pytest.raises(TooLargeError, match='a row group of'):
    open_source(spec)


def test_pytorch_files_are_never_compressed(tmp_path):
  torch = pytest.importorskip('torch')
  torch.save({'a': torch.zeros(3)}, tmp_path / 'a.pth')
  with (
    zipfile.ZipFile(tmp_path / 'a.pth') as whole,
    zipfile.ZipFile(tmp_path / 'b.pth', 'w', zipfile.ZIP_DEFLATED) as packed,
  ):
    for name in whole.namelist():
      packed.writestr(name, whole.read(name))
  with pytest.raises(UserError, match='compressed, as PyTorch never'):
    read_lightning(tmp_path / 'b.pth', ema=True)


def test_indices_name_nothing_outside_of_their_folder(tmp_path):
  spec = coco(tmp_path)
  path = tmp_path / 'annotations/captions_train2017.json'
  path.write_text(path.read_text().replace(json.dumps(RED + '0.png'), '"/x"'))
  with pytest.raises(UserError, match="'/x' is no file next to it"):
    open_source(spec)
  (tmp_path / 'state.json').write_text(
    '{"_data_files": [{"filename": "../x"}]}'
  )
  with pytest.raises(UserError, match="'../x' is no file next to it"):
    open_source(f'arrow:{tmp_path}')
