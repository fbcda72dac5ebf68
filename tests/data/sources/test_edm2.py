"""The EDM2 / REPA layouts, each made from the same files."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.sources import open_source

LABELS = {'00000/img1.png': 3, '00000/img0.png': 0, '00001/img2.png': 1}


def png(value):
  buffer = io.BytesIO()
  Image.new('RGB', (6, 5), (value,) * 3).save(buffer, 'PNG')
  return buffer.getvalue()


def files():
  out = {name: png(int(name[-5])) for name in LABELS}
  out['dataset.json'] = json.dumps({'labels': list(LABELS.items())}).encode()
  return out


def write(tmp_path, layout, content):
  """Writes the files in a layout; returns what to open."""
  if layout in ('folder', 'repa'):
    root = tmp_path / 'images' if layout == 'repa' else tmp_path
    for name, data in content.items():
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      (root / name).write_bytes(data)
    return tmp_path
  if layout in ('zip', 'deflated'):
    method = zipfile.ZIP_STORED if layout == 'zip' else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / 'images.zip', 'w', method) as file:
      for name, data in content.items():
        file.writestr(name, data)
    return tmp_path / 'images.zip'
  h5py = pytest.importorskip('h5py')
  with h5py.File(tmp_path / 'images.h5', 'w') as file:
    for name, data in content.items():
      if name.endswith('.json'):
        file.create_dataset(name, data=np.array(data, 'S'))
      else:
        file.create_dataset(name, data=np.frombuffer(data, np.uint8))
  if layout == 'h5':
    index = tmp_path / 'images_h5.json'
    index.write_text(json.dumps([*content, '00000/']))
  return tmp_path


LAYOUTS = ['folder', 'repa', 'zip', 'deflated', 'h5', 'h5 without index']


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_same_examples(tmp_path, layout):
  source = open_source.open_source(f'edm2:{write(tmp_path, layout, files())}')
  assert source.class_names == ('0', '1', '2', '3')
  for copy in (source, pickle.loads(pickle.dumps(source))):
    assert [copy[i]['name'] for i in range(len(copy))] == sorted(LABELS)
    for i in range(3):
      example = copy[i]
      assert example['label'] == LABELS[example['name']]
      assert example['image'] == files()[example['name']]
      transforms.decode(example['image'])


@pytest.mark.parametrize('layout', ['folder', 'zip', 'h5'])
def test_an_image_without_a_label_is_left_out_and_named(
  tmp_path, layout, caplog
):
  path = write(tmp_path, layout, files() | {'00000/extra.png': png(9)})
  with caplog.at_level('WARNING'):
    assert len(open_source.open_source(f'edm2:{path}')) == 3
  assert '00000/extra.png' in caplog.text


@pytest.mark.parametrize('layout', ['folder', 'zip', 'h5'])
def test_a_labelled_file_that_is_not_there_is_refused(tmp_path, layout):
  content = files()
  del content['00000/img1.png']
  path = write(tmp_path, layout, content)
  with pytest.raises(ValueError, match='incomplete: 00000/img1.png'):
    open_source.open_source(f'edm2:{path}')


def test_latents_are_told_from_files_that_are_not_there(tmp_path):
  labels = {'labels': [['img-mean-std-00000000.npy', 0]]}
  content = {'dataset.json': json.dumps(labels).encode()}
  content['img-mean-std-00000000.npy'] = b'numbers'
  write(tmp_path, 'folder', content)
  with pytest.raises(ValueError, match='1 files .*00000.npy.* not of latents'):
    open_source.open_source(f'edm2:{tmp_path}')


@pytest.mark.parametrize(
  'labels, message',
  [
    ([], 'labels no file'),
    ([['a.png', 0], ['a.png', 1]], "'a.png' has two labels"),
    ([['a.png', [0.5, 0.5]]], 'must be a class number'),
    ([['a.png', [1, 1]]], 'must be a class number'),
    ([['a.png', -1]], 'must be a class number'),
  ],
)
def test_labels_that_say_nothing_are_refused(tmp_path, labels, message):
  content = {'a.png': png(0)}
  content['dataset.json'] = json.dumps({'labels': labels}).encode()
  write(tmp_path, 'folder', content)
  with pytest.raises(ValueError, match=message):
    open_source.open_source(f'edm2:{tmp_path}')


@pytest.mark.parametrize(
  'labels, classes',
  [
    ([['b\\a.png', [0.0, 0.0, 1.0]], ['c.png', [1.0, 0.0, 0.0]]], [2, 0]),
    ({'b/a.png': 1, 'c.png': 0}, [1, 0]),
    (None, [-1, -1]),
  ],
)
def test_labels_of_other_forms(tmp_path, labels, classes):
  content = {'b/a.png': png(0), 'c.png': png(1)}
  content['dataset.json'] = json.dumps({'labels': labels}).encode()
  write(tmp_path, 'folder', content)
  source = open_source.open_source(f'edm2:{tmp_path}')
  assert [source[i]['label'] for i in range(2)] == classes
  assert len(source.class_names) == max(classes) + 1


def test_a_zip_whose_files_are_in_one_folder(tmp_path):
  content = {f'images/{name}': data for name, data in files().items()}
  source = open_source.open_source(f'edm2:{write(tmp_path, "zip", content)}')
  assert [source[i]['name'] for i in range(3)] == sorted(LABELS)


def test_a_broken_index_is_refused(tmp_path):
  write(tmp_path, 'folder', {'dataset.json': b'{"labels": [['})
  with pytest.raises(ValueError, match="has no 'labels'"):
    open_source.open_source(f'edm2:{tmp_path}')


@pytest.mark.parametrize('layout', ['zip', 'h5'])
def test_an_archive_cut_short_is_refused(tmp_path, layout):
  path = write(tmp_path, layout, files())
  archive = path / 'images.h5' if layout == 'h5' else path
  data = archive.read_bytes()
  archive.write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match='cut short'):
    open_source.open_source(f'edm2:{archive}')


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_zip_with_a_name_twice_is_refused(tmp_path):
  path = write(tmp_path, 'zip', files())
  with zipfile.ZipFile(path, 'a') as file:
    file.writestr('00000/img1.png', png(7))
  with pytest.raises(ValueError, match='occur twice: 00000/img1.png'):
    open_source.open_source(f'edm2:{path}')


@pytest.mark.parametrize('layout', ['zip', 'deflated'])
def test_a_damaged_member_is_a_bad_example(tmp_path, layout):
  path = write(tmp_path, layout, files())
  with zipfile.ZipFile(path) as file:
    offset = file.getinfo('00000/img0.png').header_offset
  data = bytearray(path.read_bytes())
  data[offset + 30 + len('00000/img0.png') + 20] ^= 0xFF
  path.write_bytes(data)
  source = open_source.open_source(f'edm2:{path}')
  with pytest.raises(transforms.BadExample, match='img0.png'):
    source[0]
  assert source[1]['image'] == files()['00000/img1.png']


def test_other_places_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    open_source.open_source(f'edm2:{tmp_path}/nowhere')
  with pytest.raises(ValueError, match='found no dataset.json'):
    open_source.open_source(f'edm2:{tmp_path}')


def test_hdf5_data_in_other_files_are_refused(tmp_path):
  h5py = pytest.importorskip('h5py')
  other = tmp_path / 'other.bin'
  other.write_bytes(b'words of another file')
  labels = json.dumps({'labels': [['0.png', 0]]}).encode()
  for link in (False, True):
    path = tmp_path / f'{link}.h5'
    with h5py.File(path, 'w') as file:
      file['dataset.json'] = np.frombuffer(labels, np.uint8)
      if link:
        with h5py.File(tmp_path / 'linked.h5', 'w') as target:
          target['0.png'] = np.zeros(3, np.uint8)
        file['0.png'] = h5py.ExternalLink('linked.h5', '/0.png')
      else:
        external = [(str(other), 0, 21)]
        file.create_dataset('0.png', (21,), np.uint8, external=external)
    index = tmp_path / f'{link}_h5.json'
    index.write_text(json.dumps(['dataset.json', '0.png']))
    with pytest.raises(ValueError, match='another file'):
      open_source.open_source(f'edm2:{path}')


def test_linked_shard_folders_are_read(tmp_path):
  (tmp_path / 'disk').mkdir()
  Image.new('RGB', (4, 4)).save(tmp_path / 'disk' / 'img0.png')
  (tmp_path / 'set').mkdir()
  labels = {'labels': [['00000/img0.png', 0]]}
  (tmp_path / 'set' / 'dataset.json').write_text(json.dumps(labels))
  (tmp_path / 'set' / '00000').symlink_to('../disk')
  assert len(open_source.open_source(f'edm2:{tmp_path / "set"}')) == 1
