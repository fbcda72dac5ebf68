"""Files are complete or absent, and manifests find what changed."""

import json

import pytest

from pixeldit_jax import files
from pixeldit_jax.errors import MissingFileError, UserError


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  files.write_text(path, 'old')
  with pytest.raises(RuntimeError):
    with files.replacing(path) as temporary:
      temporary.write_text('half')
      raise RuntimeError
  assert path.read_text() == 'old'
  assert [p.name for p in path.parent.iterdir()] == ['a.txt']


def test_a_folder_appears_when_it_is_complete(tmp_path):
  with files.replacing(tmp_path / 'out') as temporary:
    temporary.mkdir()
    (temporary / 'a').write_text('1')
    assert not (tmp_path / 'out').exists()
  assert (tmp_path / 'out' / 'a').read_text() == '1'


def test_json_is_written_in_utf8_and_read_back(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'name': 'ä'}, ensure_ascii=False)
  assert path.read_bytes() == '{\n  "name": "ä"\n}\n'.encode()
  assert files.read_json(path) == {'name': 'ä'}
  with pytest.raises(UserError, match='holds dict, not list'):
    files.read_json(path, list)
  path.write_text('{"a":')
  with pytest.raises(UserError, match='is damaged'):
    files.read_json(path)


def test_a_manifest_has_its_format(tmp_path):
  path = tmp_path / 'manifest.json'
  with pytest.raises(MissingFileError, match='run it'):
    files.read_manifest(path, 'shards 1', 'run it')
  files.write_json(path, {'format': 'shards 1'})
  assert files.read_manifest(path, 'shards 1', '') == {'format': 'shards 1'}
  with pytest.raises(UserError, match="'shards 2', but of 'shards 1'"):
    files.read_manifest(path, 'shards 2', '')


@pytest.fixture
def folder(tmp_path):
  for name in ('a.bin', 'sub/b.bin', 'sub/c.bin', 'skipped.json'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(name.encode() * 100)
  return tmp_path


@pytest.mark.parametrize('checksum', ['sha256', 'crc32'])
def test_what_changed_is_named(folder, checksum):
  entries = files.entries_of(folder, checksum, exclude=['skipped.json'])
  entries = json.loads(json.dumps(entries))
  names = [entry['file'] for entry in entries]
  assert names == ['a.bin', 'sub/b.bin', 'sub/c.bin']

  def wrong(**options):
    return files.verify_files(folder, entries, **options)

  assert not wrong() and not wrong(checksums=True)
  data = (folder / 'a.bin').read_bytes()
  (folder / 'a.bin').write_bytes(b'x' + data[1:])
  assert not wrong()
  assert wrong(checksums=True) == ['a.bin is damaged: its checksum differs']
  # Each process reads its part.
  assert wrong(checksums=True, process_index=0, process_count=2)
  assert not wrong(checksums=True, process_index=1, process_count=2)
  (folder / 'sub' / 'b.bin').write_bytes(b'short')
  (folder / 'sub' / 'c.bin').unlink()
  assert wrong(checksums=True) == [
    'sub/b.bin has 5 bytes of 900',
    'sub/c.bin is missing',
  ]


def test_temporaries_of_the_named_files_are_removed(tmp_path):
  for name in ('.tmp-7_ab-a.txt', '.tmp-7_ab-b-c.txt', 'b-c.txt'):
    (tmp_path / name).write_text('')
  files.remove_temporaries(tmp_path, ['b-c.txt'])
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    '.tmp-7_ab-a.txt',
    'b-c.txt',
  ]
  files.remove_temporaries(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['b-c.txt']
  files.remove_temporaries(tmp_path / 'absent')
