"""What commands read beside data, and a page of a run, in a bucket."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from pixeldit_jax import outputs
from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.editing.edit_set import Edit, read_table
from pixeldit_jax.editing.masks import read_mask
from pixeldit_jax.editing.pictures import find_pictures, read_pictures
from pixeldit_jax.errors import MissingFileError
from pixeldit_jax.report.run_page import run_page
from pixeldit_jax.sampling.benchmark_exports import open_export
from pixeldit_jax.sampling.text_sampler import read_prompts
from pixeldit_jax.storage import buckets
from pixeldit_jax.train.run import workdir
from pixeldit_jax.train.run.tensorboard import EventFiles

pytestmark = pytest.mark.usefixtures('cache')


@pytest.fixture(params=['gs', 's3'], scope='module')
def bucket(request, cloud):
  made = cloud(request.param, 'inputs')
  buckets.check(made)
  return made


@pytest.fixture
def both(bucket, tmp_path):
  """f(name, data) writes to both; the two folders are its attribute."""
  (tmp_path / 'in').mkdir()
  folders = bucket, str(tmp_path / 'in')

  def write(name, data):
    (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'in' / name).write_bytes(data)
    buckets.put(f'{bucket}/{name}', data)

  write.folders = folders
  return write


def png(path, size, colour):
  Image.new('RGB', size, colour).save(path)
  return path.read_bytes()


def test_prompts_are_read(both):
  both('prompts.txt', b'\xef\xbb\xbfa red seven\n\na blue two\n')
  for folder in both.folders:
    assert read_prompts(None, f'{folder}/prompts.txt') == [
      'a red seven',
      'a blue two',
    ]
  with pytest.raises(MissingFileError, match='no .*absent.txt'):
    read_prompts(None, f'{both.folders[0]}/absent.txt')


def test_prompts_of_benchmarks_are_read(both, tmp_path):
  both('geneval.jsonl', json.dumps(dict(prompt='a bench')).encode())
  both('dpg/1.txt', b'one')
  both('dpg/2.txt', b'two')
  for folder in both.folders:
    geneval = open_export(f'geneval:{folder}/geneval.jsonl', tmp_path / 'out')
    assert geneval.prompts == ['a bench']
    assert open_export(f'dpg:{folder}/dpg', tmp_path).prompts == ['one', 'two']


def test_a_table_of_edits_its_pictures_and_masks_are_read(both, tmp_path):
  both('set/a.png', png(tmp_path / 'a.png', (20, 30), (200, 9, 9)))
  both('set/mask.png', png(tmp_path / 'm.png', (8, 8), (255, 255, 255)))
  found = []
  for folder in both.folders:
    lines = f'image,mask\na.png,{folder}/set/mask.png\n'
    both('set/edits.csv', lines.encode())
    (edit,) = read_table(f'{folder}/set/edits.csv', Edit('', 'x', '', '', ''))
    assert edit.image == f'{folder}/set/a.png'
    (picture,) = read_pictures([edit.image], (8, 8))
    found.append((picture, read_mask(edit.mask, picture)))
    assert find_pictures(f'{folder}/set') == [
      f'{folder}/set/{name}' for name in ('a.png', 'mask.png')
    ]
  for there, here in zip(*found):
    np.testing.assert_array_equal(there, here)
  assert found[0][1].all()
  with pytest.raises(MissingFileError, match='no .*absent.png'):
    read_mask(f'{both.folders[0]}/absent.png', found[0][0])


def test_a_run_has_its_page(bucket, tmp_path):
  config = get_config()
  make_debug(config)
  pages = []
  for folder in (f'{bucket}/runs/one', str(tmp_path / 'one')):
    workdir.write_config(folder, config)
    workdir.write_progress(folder, dict(step=2, saved=2, seconds=dict(step=9)))
    workdir.add_evaluation(folder, 2, dict(fid=12.5))
    board = EventFiles(epath.Path(folder) / 'events', 0)
    for step in (1, 2):
      picture = np.full((8, 8, 3), step, np.uint8)
      board.add(step, dict(loss=1.0 / step), dict(samples=picture))
    board.close()
    with outputs.replacing(f'{folder}/report.html') as made:
      made.write_text(run_page(folder), encoding='utf-8')
    pages.append((epath.Path(folder) / 'report.html').read_text())
  assert pages[0] == pages[1]
  assert pages[0].count('<img') == 2 and '12.5' in pages[0]
