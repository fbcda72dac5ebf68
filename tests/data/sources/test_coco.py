"""COCO's captions and pictures."""

import json

import pytest

from pixeldit_jax.data.sources import coco, open_source
from pixeldit_jax.errors import UserError


def write(root, encode, split='train2017', folder='train2017', first=0):
  """Writes a set as COCO's: four pictures, the last without a caption."""
  images = [
    {
      'id': 100 - i,
      'file_name': f'{first + i:012d}.jpg',
      'height': 9,
      'width': 8,
    }
    for i in range(4)
  ]
  annotations = [
    {'id': k, 'image_id': 100 - k % 3, 'caption': f'caption {k} '}
    for k in range(6)
  ]
  (root / folder).mkdir(parents=True)
  for i in range(4):
    (root / folder / f'{first + i:012d}.jpg').write_bytes(encode(first + i))
  (root / 'annotations').mkdir(exist_ok=True)
  path = root / 'annotations' / f'captions_{split}.json'
  path.write_text(json.dumps({'images': images, 'annotations': annotations}))
  return path


def test_the_layout_of_coco(tmp_path, encode, read, caplog):
  write(tmp_path, encode)
  write(tmp_path, encode, 'val2017', 'val2017', first=10)
  source = open_source.open_source(str(tmp_path))
  assert isinstance(source, coco.CocoSource) and source.captions
  assert '1 pictures have no caption' in caplog.text
  examples = read(source)
  assert [e['image'] for e in examples] == [encode(i) for i in range(4)]
  assert [[c.text for c in e['captions']] for e in examples] == [
    ['caption 0', 'caption 3'],
    ['caption 1', 'caption 4'],
    ['caption 2', 'caption 5'],
    [],
  ]
  assert {e['label'] for e in examples} == {-1}
  source = open_source.open_source(f'coco:{tmp_path}?split=val')
  assert source[0]['image'] == encode(10)


def test_a_file_and_a_folder_of_pictures(tmp_path, encode, read):
  path = write(tmp_path, encode, folder='elsewhere')
  spec = f'coco:{path}?images={tmp_path}/elsewhere'
  assert read(open_source.open_source(spec))[2]['image'] == encode(2)
  with pytest.raises(FileNotFoundError, match='are in none of .*images='):
    open_source.open_source(f'coco:{path}')


def test_what_cannot_serve_is_refused(tmp_path, encode):
  path = write(tmp_path, encode)
  (tmp_path / 'train2017' / f'{1:012d}.jpg').unlink()
  with pytest.raises(
    FileNotFoundError, match='1 of the 4 pictures .* 000000000001.jpg'
  ):
    coco.CocoSource(str(tmp_path))
  for about in (
    {'images': []},
    {'images': [], 'annotations': []},
    {'images': [{'id': 1}], 'annotations': []},
    {'images': [], 'annotations': [{'image_id': 1, 'caption': 'x'}]},
  ):
    path.write_text(json.dumps(about))
    with pytest.raises(
      UserError, match='no captions_.*of COCO|lists no picture'
    ):
      coco.CocoSource(str(tmp_path))
  path.write_text('[')
  with pytest.raises(UserError, match='is damaged'):
    coco.CocoSource(str(tmp_path))
  path.unlink()
  with pytest.raises(FileNotFoundError, match='no captions_'):
    coco.CocoSource(str(tmp_path))


def test_a_picture_that_goes_is_an_os_error(tmp_path, encode):
  write(tmp_path, encode)
  source = coco.CocoSource(str(tmp_path))
  (tmp_path / 'train2017' / f'{0:012d}.jpg').unlink()
  with pytest.raises(OSError, match='No such file'):
    source[0]
