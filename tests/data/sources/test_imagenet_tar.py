"""ILSVRC2012_img_train.tar, a tar of class tars."""

import io
import tarfile

import pytest

from pixeldit_jax.data.sources import imagenet_tar, open_source
from pixeldit_jax.errors import UserError


def add(file, name, data):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  file.addfile(member, io.BytesIO(data))


def inner(names, encode):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as file:
    for name, number in names:
      add(file, name, encode(number) if number >= 0 else b'x')
  return buffer.getvalue()


def write(path, encode):
  with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as file:
    for wnid, names in {
      'n02': [('n02_1.JPEG', 0), ('n02_7.JPEG', 1)],
      'n01': [('n01_4.JPEG', 2), ('notes.txt', -1)],
      'n03': [],
    }.items():
      add(file, f'{wnid}.tar', inner(names, encode))
    add(file, 'README', b'x')
  return path


def test_classes_are_the_inner_tars(tmp_path, encode, read, caplog):
  write(tmp_path / imagenet_tar.NAME, encode)
  for spec in (str(tmp_path), f'imagenet_tar:{tmp_path}/{imagenet_tar.NAME}'):
    source = open_source.open_source(spec)
    assert source.class_names == ('n01', 'n02', 'n03')
    examples = read(source)
    assert [e['image'] for e in examples] == [encode(i) for i in range(3)]
    assert [e['label'] for e in examples] == [1, 1, 0]
    assert examples[1]['name'] == f'{imagenet_tar.NAME}/n02/n02_7.JPEG'
  assert '1 classes have no picture: n03' in caplog.text
  assert '2 members are no pictures by their names' in caplog.text


def test_other_tars_are_refused(tmp_path, encode):
  path = tmp_path / 'ILSVRC2012_img_val.tar'
  path.write_bytes(inner([('ILSVRC2012_val_00000001.JPEG', 0)], encode))
  with pytest.raises(UserError, match='no tars of classes.*folder:'):
    imagenet_tar.ImageNetTarSource(str(path))
  whole = write(tmp_path / imagenet_tar.NAME, encode).read_bytes()
  for cut in (len(whole) // 2, 2000):
    (tmp_path / imagenet_tar.NAME).write_bytes(whole[:cut])
    with pytest.raises(UserError, match='cut short'):
      imagenet_tar.ImageNetTarSource(str(tmp_path))
