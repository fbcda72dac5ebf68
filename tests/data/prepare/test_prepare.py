"""Preparation: every kind of file, the budget, and exact resumption."""

import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.captions import Caption
from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.sources import open_source, shards

SIZE = 16


def pixels(height=20, width=24, seed=0):
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
  image = Image.fromarray(coarse).resize((width, height), Image.BILINEAR)
  return image


def save(path, image, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path, **options)


@pytest.fixture
def odd_files(tmp_path):
  """Class folders with every kind of file that users have."""
  root = tmp_path / 'in'
  a, b = root / 'a', root / 'b'
  save(a / '00.png', pixels())
  save(a / '01.jpg', pixels(seed=1).convert('CMYK'))
  save(a / '02.png', pixels(seed=2).convert('L'))
  save(a / '03.png', pixels(seed=3).quantize(16))
  save(a / '04.png', pixels(seed=4).convert('RGBA'))
  wide = np.asarray(pixels(seed=5).convert('L')).astype(np.uint16) * 257
  save(a / '05.png', Image.fromarray(wide))
  exif = Image.Exif()
  exif[0x0112] = 6
  save(b / '06.jpg', pixels(20, 40, seed=6), exif=exif)
  save(b / '07.png', pixels(8, 9, seed=7))  # smaller than SIZE
  save(b / '08.webp', pixels(33, 100, seed=8), lossless=True)
  save(b / '00.png', pixels(seed=9))  # the same stem as in the other class
  (b / '10.jpg').write_bytes(b'this is no image')
  save(b / '11.png', pixels(50, 50, seed=11))
  (b / '11.png').write_bytes((b / '11.png').read_bytes()[:150])
  (b / '12.gif').write_bytes(b'')
  save(root / 'unlabelled.png', pixels())
  (root / 'empty').mkdir()
  return root


def checksums(out):
  """Returns the checksum of every file under a folder, by its path."""
  out = pathlib.Path(out)
  return {
    str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(out.rglob('*'))
    if path.is_file()
  }


def test_every_kind_of_file_is_converted_or_named(odd_files, tmp_path, caplog):
  out = tmp_path / 'out'
  settings = PrepareSettings(f'folder:{odd_files}', SIZE, shard_size=5)
  with caplog.at_level('WARNING'):
    manifest = prepare.prepare(settings, str(out), num_processes=2)
  assert 'unlabelled.png' in caplog.text
  assert 'no image for 1 classes: empty' in caplog.text

  assert manifest['examples'] == 10 and manifest['enlarged'] == 1
  assert manifest['class_names'] == ['a', 'b', 'empty']
  assert manifest['class_counts'] == [6, 4, 0]
  bad = {file['name']: file['reason'] for file in manifest['skipped']}
  assert sorted(bad) == ['b/10.jpg', 'b/11.png', 'b/12.gif']
  assert 'no image format' in bad['b/10.jpg'] and 'empty' in bad['b/12.gif']
  assert 'truncated' in bad['b/11.png']
  text = prepare.summary(manifest)
  assert all(name in text for name in bad) and 'no image: empty' in text

  raw = open_source.open_source(f'folder:{odd_files}')
  by_name = {raw[i]['name']: raw[i] for i in range(len(raw))}
  source = open_source.open_source(f'shards:{out}')
  assert len(source) == 10 and source.class_names == ('a', 'b', 'empty')
  for i in range(len(source)):
    example = source[i]
    original = by_name[example['name']]
    image = transforms.decode(original['image'])
    np.testing.assert_array_equal(
      transforms.decode(example['image']), transforms.center_crop(image, SIZE)
    )
    assert example['label'] == original['label']
    assert example['size'] == (image.height, image.width)
  assert source[6]['name'] == 'b/00.png'
  assert source[7]['size'] == (40, 20)  # upright

  assert (out / 'contact_sheet.png').exists() and not (
    out / '.prepare'
  ).exists()
  with Image.open(out / 'contact_sheet.png') as sheet:
    assert sheet.width > 500 and np.asarray(sheet).std() > 10


def test_the_budget_of_bad_files_stops_and_a_mended_file_goes_in(
  odd_files, tmp_path
):
  out = str(tmp_path / 'out')
  settings = PrepareSettings(f'folder:{odd_files}', SIZE, shard_size=4)
  with pytest.raises(prepare.TooManyBadFiles, match='b/10.jpg'):
    prepare.prepare(settings, out, max_bad_files=2, num_processes=1)
  with pytest.raises(FileNotFoundError, match='prepare-data'):
    open_source.open_source(f'shards:{out}')
  save(odd_files / 'b' / '10.jpg', pixels(seed=10))
  # A shard that was lost after its report is made again.
  os.remove(os.path.join(out, 'images-00000-of-00004.array_record'))
  manifest = prepare.prepare(settings, out, max_bad_files=2, num_processes=1)
  assert manifest['examples'] == 11 and len(manifest['skipped']) == 2


def test_another_preparation_into_the_same_folder_is_refused(tmp_path):
  save(tmp_path / 'in' / 'a' / '0.png', pixels())
  out = str(tmp_path / 'out')
  spec = f'folder:{tmp_path}/in'
  done = prepare.prepare(PrepareSettings(spec, SIZE), out)
  before = checksums(out)
  assert (
    prepare.prepare(PrepareSettings(spec, SIZE), out)['shards']
    == done['shards']
  )
  with pytest.raises(ValueError, match='resolution: 16 stored, 32 asked'):
    prepare.prepare(PrepareSettings(spec, 32), out)
  save(tmp_path / 'in' / 'a' / '1.png', pixels())
  with pytest.raises(ValueError, match='source_examples: 1 stored, 2 asked'):
    prepare.prepare(PrepareSettings(spec, SIZE), out)
  assert checksums(out) == before
  with pytest.raises(ValueError, match='holds other files'):
    prepare.prepare(PrepareSettings(spec, SIZE), str(tmp_path / 'in'))


def test_data_that_are_all_bad_are_named(tmp_path):
  (tmp_path / 'in' / 'a').mkdir(parents=True)
  (tmp_path / 'in' / 'a' / '0.png').write_bytes(b'nothing')
  out = str(tmp_path / 'out')
  with pytest.raises(ValueError, match='(?s)no image could be used.*a/0.png'):
    settings = PrepareSettings(f'folder:{tmp_path}/in', SIZE)
    prepare.prepare(settings, out, num_processes=1)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'resolution': 0}, 'resolution'),
    ({'encoding': 'webp'}, 'encoding'),
    ({'quality': 0}, 'quality'),
    ({'shard_size': -1}, 'shard_size'),
    ({'bucketed': True}, '2 patches or more'),
    ({'source': 'folder:/nowhere'}, '/nowhere'),
  ],
)
def test_settings_that_cannot_be_are_refused_before_any_write(
  tmp_path, options, message
):
  out = tmp_path / 'out'
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    options = {'source': 'digits', 'resolution': SIZE} | options
    prepare.prepare(PrepareSettings(**options), str(out))
  assert not out.exists()


@pytest.mark.parametrize(
  'options',
  [{'out': ''}, {'max_bad_files': -1}, {'num_processes': -1}],
)
def test_arguments_that_cannot_be_are_refused_before_any_write(
  tmp_path, monkeypatch, options
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=f'{next(iter(options))}'):
    prepare.prepare(
      PrepareSettings('digits', SIZE), **({'out': 'out'} | options)
    )
  assert not list(tmp_path.iterdir())


def test_captions_true_sizes_and_buckets_are_carried_along(tmp_path):
  root = tmp_path / 'in'
  sizes = [(30, 40), (64, 16), (40, 40), (20, 80), (41, 40)]
  for i, (height, width) in enumerate(sizes):
    save(root / f'{i}.png', pixels(height, width, i))
    (root / f'{i}.txt').write_text(f'picture {i}')
  out = tmp_path / 'out'
  settings = PrepareSettings(
    f'images:{root}', 512, bucketed=True, encoding='jpeg'
  )
  manifest = prepare.prepare(settings, str(out), num_processes=1)
  assert manifest['captions'] == 5 and manifest['class_names'] == []
  source = open_source.open_source(f'shards:{out}')
  assert source.captions and source.num_classes == 0
  index = source.bucket_of_examples()
  for i, (height, width) in enumerate(sizes):
    example = source[i]
    assert (
      example['captions'] == [Caption(f'picture {i}')]
      and example['label'] == -1
    )
    assert example['size'] == (height, width)
    shape = source.buckets[index[i]]
    decoded = transforms.decode(example['image'])
    assert (decoded.height, decoded.width) == shape
  assert [source.buckets[k] for k in index[:4]] == [
    (448, 576), (1024, 256), (512, 512), (256, 1024),
  ]  # fmt: skip


def corrupt(path, change):
  path.write_bytes(change(bytearray(path.read_bytes())))


def test_shards_that_changed_are_refused_at_the_start(tmp_path):
  for i in range(4):
    save(tmp_path / 'in' / 'a' / f'{i}.png', pixels(seed=i))
  out = tmp_path / 'out'
  settings = PrepareSettings(f'folder:{tmp_path}/in', SIZE, shard_size=2)
  prepare.prepare(settings, str(out), num_processes=1)
  source = open_source.open_source(f'shards:{out}')
  source.check(resolution=SIZE, checksums=True)
  with pytest.raises(ValueError, match='resolution is 16, the run expects 32'):
    source.check(resolution=32)

  manifest = json.loads((out / shards.MANIFEST).read_text())
  first, second = manifest['shards']
  for wrong, message in (
    (dict(examples=3), 'shards have 4 examples, but .* says 3'),
    (dict(shards=[first, first]), 'images-00000-of-00002.* is listed twice'),
    (
      dict(examples=3, shards=[first, second | dict(examples=1)]),
      'images-00001-of-00002.array_record has 2 records, not 1',
    ),
  ):
    (out / shards.MANIFEST).write_text(json.dumps(manifest | wrong))
    with pytest.raises(ValueError, match=message):
      open_source.open_source(f'shards:{out}').check(resolution=SIZE)
  (out / shards.MANIFEST).write_text(json.dumps(manifest))

  shard = out / 'images-00001-of-00002.array_record'
  whole = shard.read_bytes()
  shard.write_bytes(whole[:-1])
  with pytest.raises(ValueError, match='images-00001-of-00002.* has .* bytes'):
    open_source.open_source(f'shards:{out}')

  flipped = bytearray(whole)
  at = whole.find(b'IHDR')
  flipped[at] ^= 0xFF
  shard.write_bytes(flipped)
  source.check(resolution=SIZE)  # the size is right
  with pytest.raises(ValueError, match='images-00001.* checksum differs'):
    source.check(resolution=SIZE, checksums=True)
  # Of two processes, the second vouches for the second shard.
  source.check(resolution=SIZE, checksums=True, process_count=2)
  with pytest.raises(ValueError, match='checksum differs'):
    source.check(
      resolution=SIZE, checksums=True, process_index=1, process_count=2
    )
  reopened = open_source.open_source(f'shards:{out}')
  assert reopened[0]['name'] == 'a/0.png'
  with pytest.raises(transforms.BadExample, match='record 2'):
    reopened[2]

  shard.unlink()
  with pytest.raises(ValueError, match='images-00001.* is missing'):
    open_source.open_source(f'shards:{out}')


@pytest.mark.parametrize(
  'text, message',
  [('{"form', 'is damaged'), ('[]', 'is damaged'), ('{}', 'no manifest')],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, text, message):
  (tmp_path / shards.MANIFEST).write_text(text)
  with pytest.raises(ValueError, match=message):
    open_source.open_source(f'shards:{tmp_path}')


PREPARE = """
import sys
from pixeldit_jax.data.prepare import prepare
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
if __name__ == '__main__':
  settings = PrepareSettings(sys.argv[1], 64, shard_size=3)
  prepare.prepare(settings, sys.argv[2], num_processes=2)
"""


@pytest.mark.slow
def test_killed_at_three_moments_it_ends_byte_identical(tmp_path):
  root = tmp_path / 'in'
  for i in range(60):
    save(root / f'c{i % 3}' / f'{i:03d}.png', pixels(900, 1000, i))
  (root / 'c1' / '004.png').write_bytes(b'bad')
  script = tmp_path / 'go.py'
  script.write_text(PREPARE)

  def start(out):
    return subprocess.Popen(
      [sys.executable, str(script), f'folder:{root}', str(out)],
      start_new_session=True,
      env=os.environ | {'PYTHONPATH': os.getcwd()},
      stderr=subprocess.DEVNULL,
    )

  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  assert start(whole).wait() == 0
  for done in (1, 6, 11):  # shards of 20
    process = start(broken)
    while len(list(broken.glob('.prepare/0*.json'))) < done:
      assert process.poll() is None, 'it ended before it could be killed'
      time.sleep(0.002)
    # The parent alone: its processes have to end by themselves.
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / shards.MANIFEST).exists()
  assert start(broken).wait() == 0
  want = checksums(whole)
  assert len(want) == 20 + 2 and checksums(broken) == want
  manifest = json.loads((broken / shards.MANIFEST).read_text())
  assert [f['name'] for f in manifest['skipped']] == ['c1/004.png']


def test_a_hundred_thousand_images_open_at_once(tmp_path):
  # An index alone, of files that are never read.
  manifest = {
    'format': shards.FORMAT,
    'resolution': 8,
    'class_names': [str(k) for k in range(1000)],
    'captions': 0,
    'buckets': [],
    'examples': 100_000,
    'indices': [],
    'shards': [
      {'file': f'{k}.array_record', 'examples': 500, 'bytes': 0, 'sha256': ''}
      for k in range(200)
    ],
  }
  for shard in manifest['shards']:
    (tmp_path / shard['file']).touch()
  (tmp_path / shards.MANIFEST).write_text(json.dumps(manifest))
  source = open_source.open_source(f'shards:{tmp_path}')
  assert len(source) == 100_000 and source.num_classes == 1000


def test_a_record_keeps_its_header_and_bytes():
  header = {'name': 'ä/"x".png', 'label': 3}
  image = io.BytesIO(b'\x00\xff' * 9).getvalue()
  assert shards.unpack(shards.pack(header, image)) == (header, image)
