"""Writes the files here, by the libraries whose forms they are.

They were written once, with mosaicml-streaming 0.13.0 (which needs an older
NumPy), datasets 2.21.0 with pyarrow 17.0.0, and img2dataset 1.47.0. Each in an
environment of its own:

  python make_files.py mds|datasets2|img2dataset

`picture(i)` gives the pixels that tests expect.
"""

import functools
import http.server
import io
import pathlib
import sys
import tempfile
import threading

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
COUNT = 6
CLASSES = ('cat', 'dog', 'owl')


def picture(i: int) -> np.ndarray:
  """Pixels of picture i, all of different sizes."""
  shape = (6 + i, 8, 3)
  return (np.arange(np.prod(shape)) * (7 + i) % 256).astype(np.uint8).reshape(
    shape
  )  # fmt: skip


def png(i: int) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(picture(i)).save(buffer, 'PNG')
  return buffer.getvalue()


def make_mds():
  from streaming import MDSWriter

  forms = {
    'png': lambda i: Image.fromarray(picture(i)),
    'pil': lambda i: Image.fromarray(picture(i)),
    'ndarray': picture,
    'ndarray:uint8': picture,
    'bytes': png,
  }
  for form, make in forms.items():
    columns = {'image': form, 'label': 'int', 'caption': 'str'}
    # About three samples a shard.
    limit = {'pil': 850, 'ndarray': 850, 'ndarray:uint8': 850}.get(form, 900)
    options = {'out': str(HERE / 'mds' / form.replace(':', '_'))}
    options |= {'hashes': ['sha1', 'xxh64'], 'size_limit': limit}
    if form == 'bytes':
      options |= {'compression': 'zstd:3'}
      columns['caption'] = 'json'
    with MDSWriter(columns=columns, **options) as writer:
      for i in range(COUNT):
        text = f'picture {i}'
        caption = [text, f'again {i}'] if form == 'bytes' else text
        writer.write({'image': make(i), 'label': i % 3, 'caption': caption})


def make_datasets2():
  import datasets

  features = datasets.Features(
    {
      'image': datasets.Image(),
      'label': datasets.ClassLabel(names=list(CLASSES)),
    }
  )
  rows = {
    'image': [{'bytes': png(i), 'path': f'{i}.png'} for i in range(COUNT)],
    'label': [i % 3 for i in range(COUNT)],
  }
  made = datasets.Dataset.from_dict(rows, features=features)
  made.to_parquet(HERE / 'datasets2' / 'train-00000-of-00001.parquet')


def make_img2dataset():
  import img2dataset

  with tempfile.TemporaryDirectory() as folder:
    for i in range(COUNT // 2):
      pathlib.Path(folder, f'{i}.png').write_bytes(png(i))
    handler = functools.partial(
      http.server.SimpleHTTPRequestHandler, directory=folder
    )
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    table = pathlib.Path(folder, 'list.csv')
    lines = [f'{address}/{i}.png,picture {i}' for i in range(COUNT // 2)]
    table.write_text('\n'.join(['url,caption', *lines]))
    img2dataset.download(
      url_list=str(table),
      input_format='csv',
      url_col='url',
      caption_col='caption',
      output_folder=str(HERE / 'img2dataset'),
      output_format='webdataset',
      resize_mode='no',
      disable_all_reencoding=True,
      processes_count=1,
      thread_count=1,
      enable_wandb=False,
    )


if __name__ == '__main__':
  globals()[f'make_{sys.argv[1]}']()
