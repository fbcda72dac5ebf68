"""Parquet files of many writers: pictures in place, classes, captions."""

import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.sources import byte_index, open_source, parquet
from pixeldit_jax.data.transforms import BadExample
from pixeldit_jax.errors import UserError

FILES = pathlib.Path(__file__).parent / 'files'
IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
CLASSES = ['cat', 'dog', 'owl']


def features(**columns):
  """Metadata as `datasets` writes them."""
  return {'huggingface': json.dumps({'info': {'features': columns}})}


def table(images, **columns):
  metadata = features(
    image={'_type': 'Image'}, label={'names': CLASSES, '_type': 'ClassLabel'}
  )
  rows = [
    {'bytes': data, 'path': None} if data is not None else None
    for data in images
  ]
  made = pa.table({'image': pa.array(rows, IMAGE), **columns})
  return made.replace_schema_metadata(metadata)


def write(folder, made, name='train-00000-of-00001.parquet', **options):
  folder.mkdir(exist_ok=True)
  pq.write_table(made, folder / name, **options)
  return folder


# Name of the form, how pyarrow writes it, how its pictures are stored.
FORMS = {
  'dictionary of a group': (dict(row_group_size=10), byte_index.SNAPPY),
  'snappy': (dict(use_dictionary=False), byte_index.SNAPPY),
  'snappy, second pages': (
    dict(use_dictionary=False, data_page_version='2.0'),
    byte_index.SNAPPY,
  ),
  'plain': (
    dict(compression='none', use_dictionary=False, row_group_size=17),
    byte_index.PLAIN,
  ),
  'plain, second pages': (
    dict(
      compression='none',
      use_dictionary=False,
      data_page_version='2.0',
      data_page_size=2**18,
      write_batch_size=1,
    ),
    byte_index.PLAIN,
  ),
  'plain dictionary': (dict(compression='none'), byte_index.PLAIN),
  'checksums': (dict(write_page_checksum=True), byte_index.SNAPPY),
  'zstd': (dict(compression='zstd', row_group_size=9), byte_index.GROUP),
  'lengths apart': (
    dict(
      use_dictionary=False,
      column_encoding={'image.bytes': 'DELTA_LENGTH_BYTE_ARRAY'},
    ),
    byte_index.GROUP,
  ),
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', [9, 260])
def test_every_form_gives_the_same_bytes(tmp_path, encode, read, form, side):
  images = [encode(i, side + i) for i in range(23)]  # up to 220 kB each
  images[3] = images[5] = None
  images[7] = images[2]  # a dictionary has one entry for both
  images[11] = b''
  options, storage = FORMS[form]
  labels = pa.array([i % 3 for i in range(23)])
  write(tmp_path / 'data', table(images, label=labels), **options)
  source = open_source.open_source(f'parquet:{tmp_path}/data')
  assert source.class_names == tuple(CLASSES) and not source.captions
  held = set(np.asarray(source._index.rows['storage']).tolist())
  # Second pages are left as they are where Snappy makes them no smaller.
  assert held - {byte_index.PLAIN} <= {storage, byte_index.MISSING}
  assert byte_index.MISSING in held and len(held) == 2
  for i in (3, 5):
    with pytest.raises(BadExample, match=f'0000000{i} has no picture'):
      source[i]
  whole = [i for i in range(23) if i not in (3, 5)]
  assert [source[i]['image'] for i in whole] == [images[i] for i in whole]
  assert [source[i]['label'] for i in whole] == [i % 3 for i in whole]
  # Every element of Snappy at least once, whatever the pictures are.
  source.check(resolution=8, checksums=True)


def test_pages_that_compress_well(tmp_path):
  rng = np.random.default_rng(0)
  words = [rng.bytes(n) for n in (3, 9, 70, 300, 70_000)]
  images = [
    b''.join(words[k] for k in rng.integers(0, 5, rng.integers(1, 9)))
    for _ in range(60)
  ]
  for dictionary in (False, True):
    folder = tmp_path / str(dictionary)
    write(folder, table(images), use_dictionary=dictionary)
    source = parquet.ParquetSource(str(folder))
    assert set(source._index.rows['storage'].tolist()) == {byte_index.SNAPPY}
    assert [source[i]['image'] for i in range(60)] == images


def test_the_form_of_datasets_5(tmp_path, encode, read):
  datasets = pytest.importorskip('datasets')
  images = [encode(i, 90) for i in range(30)]
  made = datasets.Dataset.from_dict(
    {
      'image': [{'bytes': data, 'path': None} for data in images],
      'label': [i % 3 for i in range(30)],
      'captions': [[f'a {i}', f'b {i}'][: i % 3] for i in range(30)],
    },
    features=datasets.Features(
      {
        'image': datasets.Image(),
        'label': datasets.ClassLabel(names=CLASSES),
        'captions': datasets.List(datasets.Value('string')),
      }
    ),
  )
  (tmp_path / 'data').mkdir()
  for k in range(3):
    part = made.shard(3, k, contiguous=True)
    part.to_parquet(tmp_path / 'data' / f'train-0000{k}-of-00003.parquet')
  source = open_source.open_source(f'{tmp_path}/data')
  examples = read(source)
  assert [example['image'] for example in examples] == images
  assert [example['label'] for example in examples] == made['label'][:]
  given = [[c.text for c in example['captions']] for example in examples]
  assert given == made['captions'][:]
  assert examples[13]['name'] == 'train-00001-of-00003.parquet/00000003'


def test_the_form_of_datasets_2(read, pixels, golden_picture):
  source = open_source.open_source(f'parquet:{FILES}/datasets2')
  assert source.class_names == tuple(CLASSES)
  for i, example in enumerate(read(source)):
    np.testing.assert_array_equal(pixels(example), golden_picture(i))
    assert example['label'] == i % 3


def test_columns_are_found_by_their_names_and_chosen_by_hand(tmp_path, encode):
  images = [encode(i) for i in range(4)]
  made = pa.table(
    {
      'id': [10**12 + i for i in range(4)],
      'thumb': [b'x'] * 4,
      'img': images,
      'class': ['owl', 'cat', None, 'cat'],
      'text': ['one', '', None, ' two '],
      'short_caption': ['s'] * 4,
    }
  )
  write(tmp_path / 'data', made)
  source = parquet.ParquetSource(f'{tmp_path}/data')
  assert source.class_names == ('cat', 'owl')
  examples = [source[i] for i in range(4)]
  assert [e['label'] for e in examples] == [1, 0, -1, 0]
  assert [e['image'] for e in examples] == images
  assert [[c.text for c in e['captions']] for e in examples] == [
    *(['one'], [], [], ['two']),
  ]
  chosen = '?image=thumb&label=&caption=short_caption,text'
  source = parquet.ParquetSource(f'{tmp_path}/data{chosen}')
  assert source[0]['image'] == b'x' and source[0]['label'] == -1
  assert not source.class_names
  given = [(c.kind, c.text) for c in source[0]['captions']]
  assert given == [('short_caption', 's'), ('text', 'one')]
  with pytest.raises(UserError, match="no column 'y' .*img .bytes"):
    parquet.ParquetSource(f'{tmp_path}/data?label=y')
  with pytest.raises(UserError, match='unknown option colour; expected split='):
    parquet.ParquetSource(f'{tmp_path}/data?colour=y')
  with pytest.raises(UserError, match='000000000003.*label=id|1000000000003'):
    parquet.ParquetSource(f'{tmp_path}/data?label=id')


def test_what_is_odd_is_said_at_every_opening(tmp_path, encode, caplog):
  labels = pa.array([0, 0, -1])
  made = table([encode(0), None, encode(2)], label=labels)
  write(tmp_path / 'data', made, compression='zstd')
  for _ in range(2):
    caplog.clear()
    source = parquet.ParquetSource(f'{tmp_path}/data')
    assert '2 classes have no picture: dog, owl' in caplog.text
    assert '1 pictures have no label' in caplog.text
    assert '1 rows have no picture: train-' in caplog.text
    assert '3 pictures (ZSTD) can only be read with their row' in caplog.text
  with pytest.raises(BadExample, match='00000002 has no label'):
    source[2]


def test_one_split_is_taken(tmp_path, encode, caplog):
  folder = tmp_path / 'data'
  for k, split in enumerate(('train', 'validation', 'test')):
    write(folder, table([encode(k)]), f'{split}-00000-of-00001.parquet')
  with caplog.at_level('INFO'):
    assert parquet.ParquetSource(str(folder))[0]['image'] == encode(0)
  assert 'those of test, validation are not' in caplog.text
  source = parquet.ParquetSource(f'{folder}?split=val')
  assert len(source) == 1 and source[0]['image'] == encode(1)
  assert len(parquet.ParquetSource(f'{folder}/*.parquet')) == 3
  with pytest.raises(UserError, match="no split 'other'.*test, train"):
    parquet.ParquetSource(f'{folder}?split=other')
  (folder / 'train-00000-of-00001.parquet').unlink()
  with pytest.raises(
    UserError, match=r'test, validation: choose one by .split'
  ):
    parquet.ParquetSource(str(folder))


def test_tables_that_cannot_serve_are_refused(tmp_path, encode):
  def refused(made, match, **options):
    write(tmp_path / 'data', made, **options)
    with pytest.raises(UserError, match=match) as caught:
      parquet.ParquetSource(f'{tmp_path}/data')
    assert '\n' not in str(caught.value)

  refused(pa.table({'x': [1], 'y': ['a']}), 'images.*; it has x .integer., y')
  two = pa.table({'left': [b'a'], 'right': [b'b']})
  refused(two, 'which column is the image, left or right')
  paths = [{'bytes': None, 'path': '/home/x/a.png'}] * 2
  made = pa.table({'image': pa.array(paths, IMAGE)})
  refused(made, "no pictures, only their paths .*'/home/x/a.png'")
  made = table([encode(0)], label=pa.array([7]))
  refused(made, 'has the label 7, but at most 3 classes')
  with pytest.raises(FileNotFoundError, match='nowhere'):
    parquet.ParquetSource(f'{tmp_path}/nowhere')
  with pytest.raises(FileNotFoundError, match='no file in .*ends in .parquet'):
    (tmp_path / 'empty').mkdir()
    parquet.ParquetSource(f'{tmp_path}/empty')


def test_files_of_different_data_sets_are_refused(tmp_path, encode):
  folder = tmp_path / 'data'
  labels = pa.array([0])
  write(folder, table([encode(0)], label=labels), 'a.parquet')
  other = table([encode(1)], label=labels)
  other = other.replace_schema_metadata(
    features(label={'names': ['x', 'y', 'z'], '_type': 'ClassLabel'})
  )
  write(folder, other, 'b.parquet')
  with pytest.raises(UserError, match='have other classes'):
    parquet.ParquetSource(str(folder))
  write(folder, table([encode(1)]), 'b.parquet')
  with pytest.raises(UserError, match='b.parquet has no column label'):
    parquet.ParquetSource(str(folder))


@pytest.mark.parametrize('cut', [3, 100, -4, -20_000])
def test_a_file_cut_short_is_refused(tmp_path, encode, cut):
  folder = write(tmp_path / 'data', table([encode(i, 50) for i in range(9)]))
  path = folder / 'train-00000-of-00001.parquet'
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(UserError, match='cut short'):
    parquet.ParquetSource(str(folder))


@pytest.mark.parametrize('form', ['plain', 'snappy', 'zstd', 'checksums'])
def test_damage_anywhere_gives_an_error_of_one_line(tmp_path, encode, form):
  """Whatever byte differs: it is refused, or that picture is bad or other."""
  images = [encode(i, 30) for i in range(6)]
  options, _ = FORMS[form]
  folder = write(tmp_path / 'data', table(images), **options)
  path = folder / 'train-00000-of-00001.parquet'
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  for position in rng.integers(0, len(whole), 60):
    data = bytearray(whole)
    data[position] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    os.utime(path, ns=(0, int(rng.integers(1, 2**60))))
    try:
      source = parquet.ParquetSource(str(folder))
    except UserError:
      continue
    for i in range(len(source)):
      try:
        source[i]
      except (BadExample, OSError):
        continue


def test_a_resume_with_other_hosts_and_workers_gives_the_same_order(
  tmp_path, encode, check_resume
):
  folder = tmp_path / 'data'
  for k in range(3):
    images = [encode(20 * k + i) for i in range(20)]
    labels = pa.array([i % 3 for i in range(20)])
    write(folder, table(images, label=labels), f'{k}.parquet')

  def start(host, hosts):
    options = LoaderOptions(
      resolution=8,
      batch_size=12,
      seed=3,
      num_workers=hosts == 3 and host == 1,
      num_threads=1,
      prefetch=1,
    )
    rows = range(host * 12 // hosts, (host + 1) * 12 // hosts)
    source = parquet.ParquetSource(str(folder))
    return make_batches(source, options, rows=rows)

  check_resume(start, 3)
