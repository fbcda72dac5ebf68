"""The scan of tars: every form that tarfile writes, and damage."""

import gzip
import io
import tarfile

import pytest

from pixeldit_jax.data.sources import tar_members
from pixeldit_jax.errors import UserError

LONG = 'folder/' * 40 + 'x' * 120 + '.jpg'


def write(path, names, form=tarfile.PAX_FORMAT, **info):
  with tarfile.open(path, 'w', format=form) as file:
    for k, name in enumerate(names):
      member = tarfile.TarInfo(name)
      member.size = 100 * k
      for key, value in info.items():
        setattr(member, key, value)
      file.addfile(member, io.BytesIO(bytes([k]) * 100 * k))
  return str(path)


@pytest.mark.parametrize(
  'form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
)
@pytest.mark.parametrize('mtime', [7, 7.25])
def test_all_forms_give_what_tarfile_gives(tmp_path, form, mtime):
  names = ['a.jpg', './b.jpg', 'ä/ö.jpg', 'f/' * 60 + 'y' * 90]
  if form != tarfile.USTAR_FORMAT:
    names.append(LONG)
  path = write(tmp_path / 'a.tar', names, form, mtime=mtime)
  found = list(tar_members.scan(path))
  with tarfile.open(path) as file:
    want = [(m.name, m.offset_data, m.size) for m in file]
  assert [tuple(member) for member in found] == want
  with open(path, 'rb') as file:
    for k, member in enumerate(found):
      file.seek(member.offset)
      assert file.read(member.size) == bytes([k]) * 100 * k


def test_other_members_are_left_out(tmp_path):
  with tarfile.open(tmp_path / 'a.tar', 'w') as file:
    for name, kind in (('d', tarfile.DIRTYPE), ('l', tarfile.SYMTYPE)):
      member = tarfile.TarInfo(name)
      member.type, member.linkname = kind, 'x'
      file.addfile(member)
    file.addfile(tarfile.TarInfo('x'))
  assert [m.name for m in tar_members.scan(str(tmp_path / 'a.tar'))] == ['x']


def test_a_size_beyond_octal_digits(tmp_path):
  member = tarfile.TarInfo('big')
  member.size = 9 * 2**30
  header = member.tobuf(tarfile.GNU_FORMAT)
  path = tmp_path / 'a.tar'
  with open(path, 'wb') as file:
    file.write(header)
    file.truncate(512 + member.size)  # a hole
  (found,) = tar_members.scan(str(path))
  assert found == ('big', 512, 9 * 2**30)


def test_a_tar_in_a_tar(tmp_path):
  inner = open(write(tmp_path / 'in.tar', ['x', 'y']), 'rb').read()
  with tarfile.open(tmp_path / 'out.tar', 'w') as file:
    member = tarfile.TarInfo('in.tar')
    member.size = len(inner)
    file.addfile(member, io.BytesIO(inner))
  path = str(tmp_path / 'out.tar')
  (outer,) = tar_members.scan(path)
  found = list(tar_members.scan(path, outer.offset, outer.offset + outer.size))
  assert [m.name for m in found] == ['x', 'y']
  with open(path, 'rb') as file:
    file.seek(found[1].offset)
    assert file.read(found[1].size) == bytes([1]) * 100


@pytest.mark.parametrize('cut', [100, 512 + 20, 1024 + 512 + 30])
def test_a_cut_inside_a_member_is_refused(tmp_path, cut):
  path = write(tmp_path / 'a.tar', ['a', 'b', 'c'])
  data = open(path, 'rb').read()
  open(path, 'wb').write(data[:cut])
  with pytest.raises(UserError, match='cut short'):
    list(tar_members.scan(path))


def test_a_cut_between_members_is_said(tmp_path, caplog):
  path = write(tmp_path / 'a.tar', ['a', 'b', 'c'])
  data = open(path, 'rb').read()
  open(path, 'wb').write(data[:1536])
  assert len(list(tar_members.scan(path))) == 2
  assert 'has no end mark' in caplog.text


def test_a_size_that_is_not_true_is_refused(tmp_path):
  path = write(tmp_path / 'a.tar', ['a', 'b', 'c'])
  data = bytearray(open(path, 'rb').read())
  member = tarfile.TarInfo('b')
  member.size = 700  # of 100
  data[512:1024] = member.tobuf()
  open(path, 'wb').write(data)
  with pytest.raises(UserError, match='damaged: the header at 2048'):
    list(tar_members.scan(path))
  member.size = 10**6
  data[512:1024] = member.tobuf()
  open(path, 'wb').write(data)
  with pytest.raises(UserError, match='says 1000000 bytes, 9216 are left'):
    list(tar_members.scan(path))


@pytest.mark.parametrize('position', [0, 30, 124, 150, 512 + 5])
def test_a_damaged_header_is_refused(tmp_path, position):
  path = write(tmp_path / 'a.tar', ['a', 'b'])
  data = bytearray(open(path, 'rb').read())
  data[position] ^= 1
  open(path, 'wb').write(data)
  with pytest.raises(UserError, match='checksum|no tar'):
    list(tar_members.scan(path))


def test_damaged_extended_headers_are_refused(tmp_path):
  path = write(tmp_path / 'a.tar', ['a'], mtime=1.5)
  data = bytearray(open(path, 'rb').read())
  for text in (b'0 mtime=1.5\n', b'99 mtime=1.5\n', b'x', b'13 mtime=1.5 '):
    data[512:1024] = text.ljust(512, b'\0')
    open(path, 'wb').write(data)
    with pytest.raises(UserError, match='damaged PAX header'):
      list(tar_members.scan(path))


def test_compressed_and_other_files_are_refused(tmp_path):
  path = write(tmp_path / 'a.tar', ['a'])
  packed = tmp_path / 'b.tar'
  packed.write_bytes(gzip.compress(open(path, 'rb').read()) + bytes(600))
  with pytest.raises(UserError, match='compressed by gzip.*: gunzip it first'):
    list(tar_members.scan(str(packed)))
  packed.write_bytes(b'text' * 300)
  with pytest.raises(UserError, match='is no tar'):
    list(tar_members.scan(str(packed)))
