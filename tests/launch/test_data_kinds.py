"""Every kind of data as users meet it: drawn, trained on, or a clear line."""

import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

FILES = pathlib.Path(__file__).parents[1] / 'data' / 'sources' / 'files'
CONFIG = """
from ml_collections import ConfigDict
def get_config():
  data = dict(source='', resolution=8, batch_size=2, num_threads=1,
              num_workers=0, prefetch=2, buckets=False, flip=False)
  return ConfigDict(dict(seed=0, data=data))
"""


def launch(name, *flags, cache):
  return subprocess.run(
    [sys.executable, f'launch/{name}.py', *flags],
    env=os.environ | {'PYTHONPATH': os.getcwd(), 'XDG_CACHE_HOME': str(cache)},
    capture_output=True,
    text=True,
  )


def jpeg(i):
  buffer = io.BytesIO()
  pixels = np.random.default_rng(i).integers(0, 256, (24, 20, 3), np.uint8)
  Image.fromarray(pixels).save(buffer, 'JPEG')
  return buffer.getvalue()


def add(file, name, data):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  file.addfile(member, io.BytesIO(data))


def imagenet_tar(path):
  with tarfile.open(path, 'w') as outer:
    for wnid in ('n01', 'n02'):
      buffer = io.BytesIO()
      with tarfile.open(fileobj=buffer, mode='w') as inner:
        add(inner, f'{wnid}_1.JPEG', jpeg(1))
      add(outer, f'{wnid}.tar', buffer.getvalue())


def coco(root):
  (root / 'annotations').mkdir(parents=True)
  (root / 'train2017').mkdir()
  (root / 'train2017' / '1.jpg').write_bytes(jpeg(1))
  (root / 'train2017' / '2.jpg').write_bytes(jpeg(2))
  about = {
    'images': [{'id': i, 'file_name': f'{i}.jpg'} for i in (1, 2)],
    'annotations': [{'image_id': i, 'caption': 'a'} for i in (1, 2)],
  }
  path = root / 'annotations' / 'captions_train2017.json'
  path.write_text(json.dumps(about))


def arrow(path):
  table = pa.table({'image': [jpeg(1), jpeg(2)], 'label': [0, 1]})
  with pa.ipc.new_stream(path, table.schema) as writer:
    writer.write_table(table)


@pytest.mark.slow
def test_show_data_draws_every_kind(tmp_path):
  imagenet_tar(tmp_path / 'ILSVRC2012_img_train.tar')
  coco(tmp_path / 'coco')
  arrow(tmp_path / 'a.arrow')
  (tmp_path / 'config.py').write_text(CONFIG)
  for k, spec in enumerate(
    (
      f'parquet:{FILES}/datasets2',
      f'arrow:{tmp_path}/a.arrow',
      f'wds:{FILES}/img2dataset/00000.tar',
      f'mds:{FILES}/mds/pil',
      f'coco:{tmp_path}/coco',
      f'imagenet_tar:{tmp_path}/ILSVRC2012_img_train.tar',
    )
  ):
    picture = tmp_path / f'{k}.png'
    done = launch(
      'show_data',
      *(f'--config={tmp_path}/config.py', f'--config.data.source={spec}'),
      *(f'--out={picture}', '--count=4'),
      cache=tmp_path / 'cache',
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(picture).size > (16, 16)


@pytest.mark.slow
def test_bad_data_are_one_line(tmp_path):
  pq.write_table(pa.table({'x': [1]}), tmp_path / 'x.parquet')
  (tmp_path / 'config.py').write_text(CONFIG)
  for source, words in (
    (tmp_path / 'x.parquet', 'no column of images'),
    (f'wds:{FILES}/img2dataset/00000.parquet', 'is no tar'),
    (FILES, 'may be'),
  ):
    done = launch(
      'show_data',
      *(f'--config={tmp_path}/config.py', f'--config.data.source={source}'),
      f'--out={tmp_path}/out.png',
      cache=tmp_path / 'cache',
    )
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert words in done.stderr.strip().splitlines()[-1]
  assert not (tmp_path / 'out.png').exists()


@pytest.mark.slow
def test_imagenets_parquet_is_trained_on_by_one_command(tmp_path):
  """The files of the hub as they come: 1,000 classes, three splits."""
  kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
  names = [f'n{i:08d}' for i in range(1000)]
  about = {'image': {'_type': 'Image'}}
  about['label'] = {'_type': 'ClassLabel', 'names': names}
  metadata = {'huggingface': json.dumps({'info': {'features': about}})}
  folder = tmp_path / 'imagenet-1k' / 'data'
  folder.mkdir(parents=True)
  for split in ('train', 'validation', 'test'):
    for k in range(2):
      rows = [
        {'bytes': jpeg(i), 'path': f'{i}.JPEG'} for i in range(k, 1000, 2)
      ]
      label = [-1 if split == 'test' else i for i in range(k, 1000, 2)]
      table = pa.table({'image': pa.array(rows, kind), 'label': label})
      pq.write_table(
        table.replace_schema_metadata(metadata),
        folder / f'{split}-0000{k}-of-00002.parquet',
        row_group_size=100,
      )
  done = launch(
    'train',
    '--config=configs/imagenet256.py:debug',
    f'--config.data.source={tmp_path}/imagenet-1k',
    *('--config.model.num_classes=1000', '--config.steps=1'),
    f'--workdir={tmp_path}/run',
    cache=tmp_path / 'cache',
  )
  assert done.returncode == 0, done.stderr
  said = done.stdout + done.stderr
  assert 'step 1/1' in said
  assert 'those of test, validation are not' in said
