"""Which files of a user's folder are images, and which are passed over."""

import os

from pixeldit_jax.images import image_files


def put(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b'')


def found(root):
  return {
    f'{inside}/{name}' if inside else name
    for inside, files in image_files.walk(root)
    for name in files
    if image_files.is_image(name)
  }


def test_what_systems_leave_behind_is_passed_over(tmp_path):
  put(tmp_path / 'a' / '0.JPEG')
  for name in (
    '__MACOSX/a/0.jpg',
    'a/._0.JPEG',
    'a/@eaDir/0.JPEG/SYNOPHOTO_THUMB_M.jpg',
    '$RECYCLE.BIN/1.png',
    'System Volume Information/1.png',
    'lost+found/1.png',
    '.cache/1.png',
    'a/Thumbs.db',
  ):
    put(tmp_path / name)
  assert found(tmp_path) == {'a/0.JPEG'}


def test_a_link_upwards_ends_and_adds_nothing(tmp_path):
  put(tmp_path / 'a' / '0.png')
  put(tmp_path / 'b' / '1.png')
  os.symlink('..', tmp_path / 'a' / 'up')
  os.symlink('.', tmp_path / 'b' / 'here')
  os.symlink('nowhere', tmp_path / 'b' / 'gone')
  assert found(tmp_path) == {'a/0.png', 'b/1.png'}


def test_a_real_folder_keeps_its_path_where_a_link_leads_to_it(tmp_path):
  put(tmp_path / 'z' / '0.png')
  os.symlink('z', tmp_path / 'a')
  assert found(tmp_path) == {'z/0.png'}


def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path):
  put(tmp_path / 'disk' / 'cats' / '0.png')
  put(tmp_path / 'disk' / '1.avif')
  (tmp_path / 'set').mkdir()
  os.symlink('../disk/cats', tmp_path / 'set' / 'cats')
  os.symlink('../disk/1.avif', tmp_path / 'set' / '1.avif')
  assert found(tmp_path / 'set') == {'cats/0.png', '1.avif'}
