"""Whatever happened to a file of a checkpoint is found by its list."""

import pytest
from etils import epath

from pixeldit_jax.train.checkpoint import integrity


@pytest.fixture
def folder(tmp_path):
  """A checkpoint of three files."""
  path = epath.Path(tmp_path)
  for name in ('ema/a', 'ema/b', 'weights/a'):
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(name.encode() * 100)
  integrity.write_manifest(path)
  (path / '_CHECKPOINT_METADATA').write_text('of Orbax, later')
  return path


def found(folder, checksums=True, **rest):
  return integrity.verify(folder, checksums=checksums, **rest)


def test_a_whole_one_is_whole(folder):
  assert found(folder) == []
  assert integrity.size_of(folder) == 100 * (5 + 5 + 9)


def test_each_kind_of_damage_is_named(folder):
  (folder / 'ema/a').write_bytes(b'ema/a' * 99)
  (folder / 'ema/b').write_bytes(b'ema/c' * 100)
  (folder / 'weights/a').unlink()
  sizes = ['ema/a has 495 bytes of 500', 'weights/a is missing']
  assert found(folder, checksums=False) == sizes
  bytes_too = 'ema/b has other bytes than were written'
  assert found(folder) == [sizes[0], bytes_too, sizes[1]]
  assert found(folder, part='weights') == sizes[1:]
  assert found(folder, part='optimizer') == ['optimizer was not saved']


def test_processes_share_the_reading(folder):
  for path in ('ema/a', 'ema/b', 'weights/a'):
    (folder / path).unlink()
  parts = [found(folder, process_index=i, process_count=2) for i in (0, 1)]
  assert [len(part) for part in parts] == [2, 1]
  assert sorted(sum(parts, [])) == found(folder)


@pytest.mark.parametrize('text', ['', '{"ema/a": [500', None])
def test_a_list_that_cannot_be_read_is_damage(folder, text):
  path = folder / integrity.FILES
  path.unlink() if text is None else path.write_text(text)
  (told,) = found(folder)
  assert told.startswith('files.json cannot be read')
