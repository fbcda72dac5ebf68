"""What stood in the way of users: told before work begins, and how to go on."""

import io
import logging
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pixeldit_jax import files
from pixeldit_jax.cli.log import start_log
from pixeldit_jax.compile_report.tpu_topology import topology_of
from pixeldit_jax.data import transforms
from pixeldit_jax.editing.masks import read_mask
from pixeldit_jax.errors import UserError, escaped
from pixeldit_jax.images import image_files
from pixeldit_jax.images.image_sets import FolderImages
from pixeldit_jax.sampling.text_sampler import read_prompts

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  'name, shown',
  [
    ('plain ünïcode 猫', 'plain ünïcode 猫'),
    ('\x1b[31mred\x1b[0m', r'\x1b[31mred\x1b[0m'),
    ('over\rwritten', r'over\x0dwritten'),
    ('\u202egpj.exe', r'\u202egpj.exe'),
    ('no \udcff utf-8', r'no \udcff utf-8'),
    ('two\nlines', 'two\nlines'),
  ],
)
def test_names_of_strangers_do_nothing_to_a_terminal(name, shown):
  assert escaped(name) == shown


def test_the_log_is_escaped(capsys):
  package = logging.getLogger('pixeldit_jax')
  before, package.handlers[:] = package.handlers[:], []
  propagate, level = package.propagate, package.level
  try:
    start_log()
    logging.getLogger('pixeldit_jax.x').info('read %s', 'a\x1b[2Jb')
    assert 'read a\\x1b[2Jb' in capsys.readouterr().out
  finally:
    package.handlers[:], package.propagate = before, propagate
    package.setLevel(level)


@pytest.mark.parametrize('name', ['prompts.txt', 'a/b.jsonl', ' x.csv '])
def test_the_name_of_a_file_is_no_prompt(name):
  with pytest.raises(UserError, match='--prompts_file='):
    read_prompts(name, None)
  assert read_prompts('a cat; a dog.', None) == ['a cat', 'a dog.']


def png(size, mode='RGB', **options):
  buffer = io.BytesIO()
  Image.new(mode, size).save(buffer, 'PNG', **options)
  return buffer.getvalue()


def test_pixels_are_counted_before_they_are_decoded(tmp_path, monkeypatch):
  assert transforms.decode(png((40, 30))).size == (40, 30)
  (tmp_path / 'a.png').write_bytes(png((40, 30)))
  monkeypatch.setenv(files.MAX_PIXELS, '1199')
  with pytest.raises(transforms.BadExample, match='40 x 30 pixels, more than'):
    transforms.decode(png((40, 30)))
  with pytest.raises(UserError, match='40 x 30 pixels, more than'):
    FolderImages(tmp_path)
  with pytest.raises(UserError, match='40 x 30 pixels, more than'):
    read_mask(str(tmp_path / 'a.png'), np.zeros((30, 40, 3), np.uint8))
  # Larger than Pillow's own limit: no bomb for us.
  monkeypatch.delenv(files.MAX_PIXELS)
  image_files.open_image(png((20_000, 10_000), '1'))


def test_broken_metadata_of_a_png_costs_no_pixels():
  info = PngInfo()
  info.add_text('Comment', 'a cat')
  whole = png((4, 4), pnginfo=info)
  text = bytearray(whole)
  text[whole.index(b'tEXt') + 6] ^= 1
  assert transforms.decode(bytes(text)).size == (4, 4)
  head = bytearray(whole)
  head[whole.index(b'IHDR') + 7] ^= 1
  with pytest.raises(transforms.BadExample):
    transforms.decode(bytes(head))


@pytest.mark.parametrize(
  'asked, name',
  [
    ('v5litepod-16', 'v5e:4x4'),
    ('v5litepod-256', 'v5e:16x16'),
    ('v6e-8', 'v6e:2x4'),
    ('v5p-128', 'v5p:4x4x4'),
    ('v4-8', 'v4:2x2x1'),
    ('v5e:4x4', 'v5e:4x4'),
    ('nonsense', 'nonsense'),
  ],
)
def test_types_of_slices_are_topologies(asked, name):
  assert topology_of(asked) == name


def test_a_slice_that_cannot_be_had_lists_those_that_can():
  with pytest.raises(UserError, match='v5litepod-16'):
    topology_of('v5litepod-17')


@pytest.mark.parametrize(
  'config, sent',
  [
    ('mnist', True),
    ('mnist:debug', True),
    ('configs/mnist.py:debug', True),
    ('/mnt/runs/xl', True),
    ('runs/xl', True),
    ('mnits', False),
    ('configs/none.py', False),
    ('/tmp/mine.py', False),
    ('../mine.py', False),
  ],
)
def test_a_configuration_that_is_not_sent_is_refused(config, sent):
  done = subprocess.run(
    [
      *('bash', ROOT / 'launch/tpu_pod.sh', '--name=n', '--zone=z'),
      *('--dry_run', 'launch/train.py', f'--config={config}', '--workdir=w'),
    ],
    capture_output=True,
    text=True,
  )
  assert (done.returncode == 0) == sent, done.stderr
  if not sent:
    assert 'is no configuration of' in done.stderr
    assert 'mnist.py' in done.stderr
