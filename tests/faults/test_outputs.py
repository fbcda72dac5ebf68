"""No command replaces a file that it did not write, or fills a disk unasked."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from pixeldit_jax import files, outputs
from pixeldit_jax.cli import path_flag
from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling import set_pictures
from pixeldit_jax.sampling.npz_writer import SampleStore

ROOT = pathlib.Path(__file__).parents[2]


def write(path, text):
  with outputs.replacing(path) as made:
    made.write_text(text)


def test_what_we_wrote_is_replaced_and_nothing_else(tmp_path):
  path = tmp_path / 'grid.png'
  write(path, 'first')
  write(path, 'second')
  assert path.read_text() == 'second'
  path.write_text('of the user')
  for _ in range(2):
    with pytest.raises(UserError, match=r'grid.png.*not written by this'):
      write(path, 'third')
  assert path.read_text() == 'of the user'
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    outputs.MANIFEST,
    'grid.png',
  ]


def test_a_file_that_appears_meanwhile_stays(tmp_path):
  path = tmp_path / 'grid.png'
  with pytest.raises(UserError, match='not written by this'):
    with outputs.replacing(path) as made:
      made.write_text('ours')
      path.write_text('of the user')
  assert path.read_text() == 'of the user'


def test_a_folder_is_ours_if_all_in_it_is(tmp_path):
  folder = tmp_path / 'images'
  for _ in range(2):
    with outputs.replacing(folder) as made:
      (made / 'a').mkdir(parents=True)
      (made / 'a' / '0.png').write_text('x' * 3_000_000)
  (folder / 'a' / 'mine.txt').write_text('of the user')
  with pytest.raises(UserError, match='mine.txt'):
    outputs.check([folder])
  (folder / 'a' / 'mine.txt').unlink()
  data = (folder / 'a' / '0.png').read_text()
  (folder / 'a' / '0.png').write_text(data[:-1] + 'y')
  with pytest.raises(UserError, match='0.png'):
    outputs.check([folder])


def test_links_are_never_ours(tmp_path):
  (tmp_path / 'elsewhere').write_text('of the user')
  (tmp_path / 'grid.png').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(UserError, match='grid.png'):
    write(tmp_path / 'grid.png', 'ours')
  assert (tmp_path / 'elsewhere').read_text() == 'of the user'


@pytest.mark.parametrize('path', ['ftp://h/x', 's3:/b/x'])
def test_places_that_are_no_disk_are_refused_by_name(
  tmp_path, monkeypatch, path
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='cannot be written here|not supported'):
    write(path, 'x')
  assert list(tmp_path.iterdir()) == []


def test_pngs_of_a_set_never_replace_a_folder_of_the_user(tmp_path):
  npz = tmp_path / 'samples.npz'
  np.savez(npz, np.zeros((3, 4, 4, 3), np.uint8))
  set_pictures.write_pngs(tmp_path / 'images', npz)
  set_pictures.write_pngs(tmp_path / 'images', npz)
  assert len(list((tmp_path / 'images').glob('*.png'))) == 3
  (tmp_path / 'images' / 'holiday.jpg').write_text('of the user')
  with pytest.raises(UserError, match='holiday.jpg'):
    set_pictures.write_pngs(tmp_path / 'images', npz)
  assert (tmp_path / 'images' / 'holiday.jpg').exists()


def test_overwrite_replaces_sets_of_ours_alone(tmp_path):
  path = tmp_path / 'samples.npz'

  def store(seed):
    return SampleStore(
      path, 2, (4, 4, 3), dict(seed=seed), shard=2, overwrite=True
    )

  path.write_bytes(b'of the user')
  with pytest.raises(UserError, match='samples.npz exists'):
    store(1)
  assert path.read_bytes() == b'of the user'
  path.unlink()
  images = np.zeros((2, 4, 4, 3), np.uint8)
  for seed in (1, 2):
    made = store(seed)
    made.write(range(2), images)
    made.finish()
  path.write_bytes(b'of the user')
  with pytest.raises(UserError, match='not written by this'):
    store(3)
  assert path.read_bytes() == b'of the user'


def test_a_foreign_file_among_the_shards_stays(tmp_path):
  path = tmp_path / 'samples.npz'
  store = SampleStore(path, 1, (4, 4, 3), {}, shard=1)
  (tmp_path / 'samples.npz.shards' / 'notes.txt').write_text('of the user')
  store.write(range(1), np.zeros((1, 4, 4, 3), np.uint8))
  store.finish()
  left = [p.name for p in (tmp_path / 'samples.npz.shards').iterdir()]
  assert left == ['notes.txt']


def parsed(value, **options):
  known = flags.FlagValues()
  parser = path_flag._PathParser('out', options.get('schemes', ()), False)
  flags.DEFINE(parser, 'out', None, 'x', flag_values=known)
  known(['command', f'--out={value}'])
  return known.out


def test_flags_expand_the_home_folder_and_name_schemes(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  assert parsed('~/x') == '/home/me/x'
  assert parsed('a~b') == 'a~b'
  assert parsed('gs://b/x', schemes=path_flag.BUCKETS) == 'gs://b/x'
  for value in ('gs://b/x', 'gs:/b/x', 'abfs://b/x'):
    with pytest.raises(Exception) as error:
      parsed(value)
    said = f'{error.value} {error.value.__context__}'
    assert 'is not supported here' in said
  assert files.expand_user('words:folder:~/x') == 'words:folder:/home/me/x'
  assert files.expand_user('images:/a/~/x') == 'images:/a/~/x'


@pytest.mark.parametrize(
  'command, flag',
  [
    ('sample', '--workdir=nfs://h/x --out=o'),
    ('sample', '--workdir=w --out=gs:/b/x'),
    ('evaluate', '--images=i --reference=r --out=abfs://b/x'),
    ('evaluate', '--reference=r --make_reference=ftp://b/x.npz'),
    ('convert', '--workdir=w --out=s3:/b/x.safetensors'),
    ('prepare_data', '--source=digits --out=hf://b/x'),
    ('edit', '--workdir=w --images=i --out=ftp://b/x'),
    ('report', '--workdir=w --out=ftp://b/x.html'),
    ('compare', '--preset=rivals --steps=1 --out=gs://b/x'),
    ('ablate', '--config=mnist --workdir=s3://b/x'),
    ('convert', '--workdir=w --source=ftp://h/x.pth'),
    ('encode_text', '--data=d --encoder=ftp://b/bert'),
  ],
)
def test_commands_write_no_folder_named_after_a_scheme(tmp_path, command, flag):
  done = subprocess.run(
    [sys.executable, ROOT / 'launch' / f'{command}.py', *flag.split()],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert '://' in done.stderr and 'not supported here' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='file is a file; choose a folder'):
    outputs.check([tmp_path / 'file' / 'inside' / 'page.html'])
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may all
  with pytest.raises(UserError, match='may not be written to'):
    outputs.check([tmp_path / 'new' / 'page.html'])
