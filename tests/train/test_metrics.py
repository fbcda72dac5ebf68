"""Speed, time left, TensorBoard, and the line that people watch."""

import os
import pathlib
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from pixeldit_jax.train import metrics

VALUES = dict(
  loss=0.5,
  gradient_norm=1.25,
  images_per_second=1234.0,
  seconds_left=3700.0,
  data_wait=0.0,
  bad_steps=0.0,
)


def test_the_clock_tells_speed_and_what_is_left(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(metrics, 'peak_flops', lambda device: 1e9)
  monkeypatch.setattr(metrics.jax, 'device_count', lambda: 2)
  goodput = metrics.Goodput()
  clock = metrics.Clock(step=10, steps=50, images=8, flops=1e9, goodput=goodput)
  with goodput.phase('data'):
    now[0] += 1
  now[0] += 9
  speed = clock.read(20)
  assert speed == pytest.approx(
    dict(
      images_per_second=8,
      seconds_per_step=1,
      seconds_left=30,
      data_wait=0.1,
      mfu=0.5,
    )
  )
  now[0] += 100  # an evaluation
  clock.restart(20)
  now[0] += 5
  assert clock.read(30)['seconds_per_step'] == 0.5


def test_peaks_are_found_by_the_start_of_the_kind():
  class Device:
    device_kind = 'NVIDIA H100 80GB HBM3'

  assert metrics.peak_flops(Device) == 989e12
  Device.device_kind = 'TPU v5p'
  assert metrics.peak_flops(Device) == 459e12
  Device.device_kind = 'cpu'
  assert metrics.peak_flops(Device) is None


def test_the_line_names_trouble_only_where_there_is():
  line = metrics.progress_line(1000, 20000, VALUES)
  assert line == (
    'step 1,000/20,000  loss 0.5000  gradient 1.250  1,234 images/s  '
    'left 1:01:40'
  )
  line = metrics.progress_line(
    1000, 20000, VALUES | dict(data_wait=0.3, bad_steps=2.0, mfu=0.456)
  )
  assert '30% waiting for data' in line and '2 bad steps' in line
  assert 'MFU 45.6%' in line


def read_events(file):
  """The events of a file: each has its length before it and two checksums."""
  data, events = file.read_bytes(), []
  while data:
    (size,) = struct.unpack('Q', data[:8])
    assert len(data) >= size + 16
    events.append(Event.FromString(data[12 : 12 + size]))
    data = data[size + 16 :]
  return events


def test_tensorboard_hides_what_came_after_the_checkpoint(tmp_path):
  writer = metrics.Writer(str(tmp_path), step=8, steps=12)
  writer.progress(9, VALUES)
  writer.evaluation(
    10, dict(fid=2.0), dict(samples=np.zeros((4, 4, 3), np.uint8))
  )
  writer.close()
  (file,) = (tmp_path / 'events').iterdir()
  version, start, *events = read_events(file)
  assert version.file_version == 'brain.Event:2'
  assert start.step == 9 and start.session_log.status == 1
  told = {e.summary.value[0].tag: (e.step, e.summary.value[0]) for e in events}
  assert told['loss'][0] == 9 and told['loss'][1].simple_value == 0.5
  assert told['samples'][0] == 10 and told['samples'][1].image.width == 4
  assert told['fid'][1].simple_value == 2.0


def test_events_take_no_torch_and_hide_none(tmp_path):
  """It would be imported at every start of a run."""
  (tmp_path / 'torch.py').write_text('print("imported")')
  module = 'pixeldit_jax.train.run.tensorboard'
  program = f'import {module}\nprint("next")\nimport torch'
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=os.environ | dict(PYTHONPATH=f'{tmp_path}{os.pathsep}{root}'),
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == ['next', 'imported'], done.stderr


def test_the_last_pictures_are_files_and_those_of_others_stay(tmp_path, caplog):
  writer = metrics.Writer(str(tmp_path), step=0, steps=12)
  (tmp_path / 'mine.png').write_bytes(b'of somebody else')
  for step, value in ((1, 10), (2, 200)):
    picture = np.full((4, 6, 3), value, np.uint8)
    writer.evaluation(step, {}, dict(samples=picture, mine=picture))
  writer.close()
  shown = np.asarray(Image.open(tmp_path / 'samples.png'))
  np.testing.assert_array_equal(shown, picture)
  assert (tmp_path / 'mine.png').read_bytes() == b'of somebody else'
  assert 'mine.png could not be written' in caplog.text


def test_a_full_disk_neither_stops_nor_holds_the_run(tmp_path, caplog):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  writer = metrics.Writer(str(tmp_path), step=0, steps=12)
  resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))
  try:
    for step in range(400):  # 40 bytes each
      writer.evaluation(step, dict(fid=1.0), {})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert 'TensorBoard lacks' in caplog.text
  writer.evaluation(400, dict(fid=2.0), {})
  writer.close()
  newest = max((tmp_path / 'events').iterdir(), key=lambda f: f.suffix)
  assert read_events(newest)[-1].step == 400
