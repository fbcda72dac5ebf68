"""The page of a run: what it shows, and that it needs nothing from outside."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from etils import epath

from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.report.line_chart import line_chart
from pixeldit_jax.report.run_page import run_page
from pixeldit_jax.train.run import workdir
from pixeldit_jax.train.run.tensorboard import EventFiles, read_events


def write_events(folder, step, steps, loss):
  board = EventFiles(epath.Path(folder) / 'events', step)
  for k in steps:
    norm = 50.0 if k == 30 else 1.0
    board.add(
      k,
      dict(
        loss=loss,
        gradient_norm=norm,
        skipped_steps=float(k >= 20),
        images_per_second=10.0 * k,
      ),
    )
    picture = np.full((8, 8, 3), k, np.uint8)
    board.add(k, {}, {'samples': picture})
  board.close()


@pytest.fixture
def run(tmp_path):
  """Killed at step 40 and continued from step 20."""
  folder = tmp_path / 'my <run>'
  config = get_config()
  make_debug(config)
  config.steps = 60
  workdir.write_config(str(folder), config)
  workdir.add_history(str(folder), 'start', changed={})
  workdir.add_history(str(folder), 'stop', step=40, reason='SIGTERM <came>')
  workdir.add_history(str(folder), 'start', changed={})
  workdir.write_progress(
    str(folder), dict(step=60, saved=60, seconds=dict(step=9.0, compile=1.0))
  )
  workdir.add_evaluation(str(folder), 30, dict(fid=12.5))
  workdir.add_evaluation(str(folder), 60, dict(fid=7.25))
  write_events(folder, 0, (10, 20, 30, 40), loss=2.0)
  (first,) = (folder / 'events').iterdir()  # of an earlier second
  first.rename(first.with_name('events.out.tfevents.1000000000.host.0'))
  write_events(folder, 20, (30, 40, 50, 60), loss=1.0)
  return folder


def test_events_are_those_of_the_steps_that_count(run):
  events = read_events(run / 'events')
  assert events.scalars['loss'] == [
    (10, 2.0),
    (20, 2.0),
    (30, 1.0),
    (40, 1.0),
    (50, 1.0),
    (60, 1.0),
  ]
  assert [step for step, _ in events.images['samples']] == [
    10,
    20,
    30,
    40,
    50,
    60,
  ]
  assert events.images['samples'][0][1].startswith(b'\x89PNG')


def test_a_file_that_was_cut_is_read_as_far_as_it_goes(run):
  (path, *_) = sorted((run / 'events').glob('*tfevents*'))
  data = path.read_bytes()
  path.write_bytes(data[:-5])
  assert read_events(run / 'events').scalars['loss'][0] == (10, 2.0)
  assert read_events(run / 'nowhere').scalars == {}


class Page(HTMLParser):
  """The tags of a page with what they point at."""

  VOID = {'meta', 'img', 'input', 'line', 'polyline'}

  def __init__(self, text):
    super().__init__()
    self.links, self.tags, self.open = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [v for k, v in attrs if k in ('src', 'href', 'srcset')]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if not self.open or tag in self.VOID:
      return
    assert self.open.pop() == tag


def test_the_page_shows_the_run_and_links_to_nothing(run):
  text = run_page(str(run))
  page = Page(text)
  assert page.open == []
  assert all(link.startswith('data:image/png;base64,') for link in page.links)
  assert not re.search(r'https?://|@import|url\(', text)
  assert page.tags.count('img') == 6 and page.tags.count('svg') >= 4
  assert 'type="range" min="0" max="5"' in text
  for shown in (
    'my &lt;run&gt;',
    '60 of 60',
    'step 40: SIGTERM &lt;came&gt;',
    'the gradient norm 50 was 50 times',
    'up to step 20: 1 steps were not finite',
    '7.25',
    '90.0%',
    '<b>60</b>',
  ):
    assert shown in text, shown


def test_a_run_without_events_has_a_page(tmp_path):
  workdir.write_config(str(tmp_path), get_config())
  text = run_page(str(tmp_path))
  assert 'Nothing that the run wrote down' in text and '<svg' not in text


def test_no_run_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no run'):
    run_page(str(tmp_path))


def test_a_chart_leaves_out_what_cannot_be_drawn():
  assert line_chart({'a': [(1, float('nan'))]}) == ''
  assert line_chart({'a': [(1, -1.0)]}, logarithmic=True) == ''
  chart = line_chart({'a & b': [(k, 5.0) for k in range(5000)]})
  assert 'a &amp; b' in chart and 'nan' not in chart
  (points,) = re.findall(r'points="([^"]*)"', chart)
  assert len(points.split()) <= 600
