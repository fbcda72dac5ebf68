"""What stood in the way of users: told before work begins, and how to go on."""

import io
import logging
import pathlib
import subprocess

import pytest
from PIL import Image

from pixeldit_jax.cli.log import start_log
from pixeldit_jax.compile_report.tpu_topology import topology_of
from pixeldit_jax.data import transforms
from pixeldit_jax.errors import UserError, escaped
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


def test_pixels_are_counted_before_they_are_decoded(monkeypatch):
  buffer = io.BytesIO()
  Image.new('RGB', (40, 30)).save(buffer, 'PNG')
  assert transforms.decode(buffer.getvalue()).size == (40, 30)
  monkeypatch.setenv(transforms.MAX_PIXELS, '1199')
  with pytest.raises(transforms.BadExample, match='40 x 30 pixels, more than'):
    transforms.decode(buffer.getvalue())
  # Larger than Pillow's own limit: no bomb for us.
  monkeypatch.delenv(transforms.MAX_PIXELS)
  buffer = io.BytesIO()
  Image.new('1', (20_000, 10_000)).save(buffer, 'PNG')
  image = Image.open(io.BytesIO(buffer.getvalue()))
  transforms._check_size(image)


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
