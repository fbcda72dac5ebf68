"""Speed, time left, and the line that people watch."""

import pytest

from pixeldit_jax.train import metrics


def test_the_clock_tells_speed_and_what_is_left(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(metrics, 'peak_flops', lambda device: 1e9)
  monkeypatch.setattr(metrics.jax, 'device_count', lambda: 2)
  goodput = metrics.Goodput()
  clock = metrics.Clock(step=10, steps=50, images=8, flops=1e9, goodput=goodput)
  with goodput.spending('data'):
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
  values = dict(
    loss=0.5,
    gradient_norm=1.25,
    images_per_second=1234.0,
    seconds_left=3700.0,
    data_wait=0.0,
    bad_steps=0.0,
  )
  line = metrics.progress_line(1000, 20000, values)
  assert line == (
    'step 1,000/20,000  loss 0.5000  gradient 1.250  1,234 images/s  '
    'left 1:01:40'
  )
  line = metrics.progress_line(
    1000, 20000, values | dict(data_wait=0.3, bad_steps=2.0, mfu=0.456)
  )
  assert '30% waiting for data' in line and '2 bad steps' in line
  assert 'MFU 45.6%' in line
