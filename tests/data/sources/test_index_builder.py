"""The index: made once, kept, made again for changed files, and mapped."""

import os
import threading

import numpy as np
import pytest

from pixeldit_jax.data.sources import byte_index, index_builder
from pixeldit_jax.data.sources.byte_index import ByteIndex, Part
from pixeldit_jax.errors import OutputError, UserError


class Scan:
  """Scans files of numbers; counts how often."""

  def __init__(self):
    self.scanned = []

  def __call__(self, path):
    self.scanned.append(os.path.basename(path))
    text = open(path).read().split()
    if 'bad' in text:
      raise UserError(f'{path} is bad')
    rows = np.arange(len(text))
    names, name_end = byte_index.pack_texts([f'n{word}' for word in text])
    return Part(
      rows={
        'storage': np.ones(len(text)),
        'offset': rows,
        'size': rows + 1,
        'name_end': name_end,
      },
      blobs={'names': names},
    )


@pytest.fixture
def data(tmp_path):
  """Three files."""
  for k, text in enumerate(('a b', '', 'c d e')):
    (tmp_path / f'{k}.txt').write_text(text)
  return [str(tmp_path / f'{k}.txt') for k in range(3)]


def test_parts_are_joined_in_the_order_of_the_files(data):
  index = index_builder.open_index('numbers', data, Scan(), {})
  assert [index.name_of(i) for i in range(5)] == ['na', 'nb', 'nc', 'nd', 'ne']
  assert index.rows['offset'].tolist() == [0, 1, 0, 1, 2]
  assert index.file_of(1) == (data[0], '0.txt', 1)
  assert index.file_of(2) == (data[2], '2.txt', 0)
  with pytest.raises(IndexError):
    index.file_of(5)


def test_only_files_that_changed_are_scanned_again(data):
  scan = Scan()
  index_builder.open_index('numbers', data, scan, {})
  index_builder.open_index('numbers', data, scan, {})
  assert sorted(scan.scanned) == ['0.txt', '1.txt', '2.txt']
  open(data[1], 'w').write('x')
  index = index_builder.open_index('numbers', data, scan, {})
  assert scan.scanned[3:] == ['1.txt'] and len(index) == 6
  os.utime(data[0], ns=(0, 0))
  index_builder.open_index('numbers', data, scan, {})
  assert scan.scanned[4:] == ['0.txt']
  index_builder.open_index('numbers', data, scan, {'other': 'settings'})
  assert len(scan.scanned) == 8


def test_a_file_that_cannot_be_scanned_leaves_nothing_half(data, cache):
  scan = Scan()
  open(data[1], 'w').write('bad')
  with pytest.raises(UserError, match='1.txt is bad'):
    index_builder.open_index('numbers', data, scan, {})
  assert not list(cache.glob('*/meta.json'))
  assert not [name for name in os.listdir(cache) if '.tmp-' in name]
  open(data[1], 'w').write('good')
  assert len(index_builder.open_index('numbers', data, scan, {})) == 6
  assert scan.scanned.count('1.txt') == 2


def test_what_a_killed_run_left_is_removed(data, cache):
  index_builder.open_index('numbers', data, Scan(), {})
  (folder,) = (p for p in cache.iterdir() if (p / 'meta.json').exists())
  left = cache / f'.tmp-1_2-{folder.name}'
  folder.rename(left)
  index_builder.open_index('numbers', data, Scan(), {})
  assert folder.exists() and not left.exists()


def test_many_at_once_make_it_once(data):
  scan, made = Scan(), []

  def make():
    made.append(index_builder.open_index('numbers', data, scan, {}))

  threads = [threading.Thread(target=make) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(scan.scanned) == ['0.txt', '1.txt', '2.txt']
  assert [len(index) for index in made] == [5] * 6


def test_a_cache_without_room_says_what_to_do(data, tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(index_builder, '_join', refuse)
  with pytest.raises(OutputError, match='No space left.*Set XDG_CACHE_HOME'):
    index_builder.open_index('numbers', data, Scan(), {})


def test_a_damaged_index_is_refused(data, cache):
  index_builder.open_index('numbers', data, Scan(), {})
  (folder,) = (p for p in cache.iterdir() if (p / 'meta.json').exists())
  (folder / 'offset').write_bytes(b'1234')
  with pytest.raises(UserError, match='offset is damaged.*made again'):
    ByteIndex(folder)


def test_labels_of_texts_are_numbered_over_all_files(data):
  labels = {data[0]: ['dog', 'ant'], data[1]: [], data[2]: ['cat', 'dog', None]}

  def scan(path):
    part = Scan()(path)
    given = labels[path]
    part.label_names = sorted({name for name in given if name}, reverse=True)
    part.rows['label'] = np.array(
      [part.label_names.index(n) if n else -1 for n in given], np.int64
    )
    return part

  index = index_builder.open_index('labelled', data, scan, {})
  assert index.meta['class_names'] == ['ant', 'cat', 'dog']
  assert index.rows['label'].tolist() == [2, 0, 1, 2, -1]
  assert index.meta['notes'] == ['1 pictures have no label']
