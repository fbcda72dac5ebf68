"""The page of a run: one HTML file that shows all without a network.

Configuration, curves, throughput, samples over steps with a slider,
evaluations, and what went wrong.
"""

import base64
import html
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pixeldit_jax import settings
from pixeldit_jax.config import get_config
from pixeldit_jax.report.html_page import html_page, section, table
from pixeldit_jax.report.line_chart import line_chart
from pixeldit_jax.train.checkpoint.folders import folder_of, steps_in
from pixeldit_jax.train.run import workdir as run_folder
from pixeldit_jax.train.run.tensorboard import Events, read_events

_PICTURES = 40  # of each name; more are left out at even distances
_RISE = 10.0  # times the median of those before, of a gradient norm
_BEFORE = 200  # norms that the median is of

# Title, names of the curves, and whether the scale is logarithmic.
_CHARTS = (
  ('Loss', ('loss', 'repa'), False),
  ('Gradient norm', ('gradient_norm',), True),
  ('Learning rate', ('learning_rate',), False),
  ('Images a second', ('images_per_second',), False),
  ('MFU', ('mfu',), False),
  ('Share of time waiting for data', ('data_wait',), False),
)

# A slider shows one of the pictures in its box.
_SCRIPT = """
for (const box of document.querySelectorAll('.slider')) {
  const all = box.querySelectorAll('img'), out = box.querySelector('output');
  const show = k => { all.forEach((x, i) => x.hidden = i != k);
    out.textContent = 'step ' + all[k].dataset.step; };
  const range = box.querySelector('input');
  range.addEventListener('input', () => show(+range.value));
  show(+range.value);
}
"""


def run_page(workdir: str) -> str:
  """The page, as HTML without any link to outside.

  Raises:
    MissingFileError: the folder holds no run.
  """
  config = run_folder.read_config(workdir).to_dict()
  history = run_folder.read_history(workdir)
  progress = run_folder.read_progress(workdir)
  evaluations = run_folder.read_evaluations(workdir)
  events = read_events(epath.Path(workdir) / 'events')
  name = epath.Path(workdir).name
  sections = [
    _facts(config, history, progress, workdir),
    section('What went wrong', _problems(history, events, workdir)),
    section('Curves', _charts(events)),
    section('Where the time went', _time(progress)),
    section('Samples', _pictures(events)),
    section('Evaluations', _evaluations(evaluations)),
    section('Starts and stops', _history(history)),
    section('Configuration', _config(config)),
  ]
  return html_page(name, ''.join(sections) + f'<script>{_SCRIPT}</script>')


def _facts(config, history, progress, workdir: str) -> str:
  steps = steps_in(folder_of(workdir))
  rows = {
    'step': f'{progress.get("step", 0):,} of {config["steps"]:,}',
    'started': history[0]['time'] if history else 'never',
    'last': history[-1]['time'] if history else '',
    'checkpoints': ', '.join(f'{step:,}' for step in steps) or 'none',
    'data': config['data']['source'],
    'resolution': config['data']['resolution'],
  }
  return table(rows.items())


def _problems(history, events: Events, workdir: str) -> str:
  """Stops for a reason, steps that were not finite, gradients that jumped."""
  found = [
    f'step {line.get("step", "?")}: {line["reason"]}'
    for line in history
    if line['event'] == 'stop' and line.get('reason') != 'done'
  ]
  skipped = 0.0
  for step, value in events.scalars.get('skipped_steps', ()):
    if value > skipped:
      more = value - skipped
      found.append(f'up to step {step}: {more:.0f} steps were not finite')
    skipped = value
  norms: list[float] = []
  for step, norm in events.scalars.get('gradient_norm', ()):
    before = statistics.median(norms[-_BEFORE:]) if norms else norm
    if not math.isfinite(norm):
      found.append(f'step {step}: the gradient was not finite')
    elif before and norm > _RISE * before:
      found.append(
        f'step {step}: the gradient norm {norm:.3g} was {norm / before:.0f} '
        'times the median of those before'
      )
    norms += [norm] if math.isfinite(norm) else []
  damaged = epath.Path(workdir) / 'damaged'
  if damaged.is_dir():
    found += [f'damaged checkpoint {p.name}' for p in damaged.iterdir()]
  if not found:
    return '<p>Nothing that the run wrote down.</p>'
  lines = ''.join(f'<li>{html.escape(line)}</li>' for line in found)
  return f'<ul class="wrong">{lines}</ul>'


def _charts(events: Events) -> str:
  drawn = []
  for title, names, logarithmic in _CHARTS:
    series = {n: events.scalars[n] for n in names if n in events.scalars}
    if chart := line_chart(series, logarithmic):
      drawn.append(f'<figure><figcaption>{title}</figcaption>{chart}</figure>')
  return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ''


def _time(progress: Mapping[str, Any]) -> str:
  seconds = progress.get('seconds', {})
  total = sum(seconds.values())
  rows = [
    (phase, f'{value:,.1f} s', f'{value / total:.1%}')
    for phase, value in seconds.items()
    if total
  ]
  return table(rows)


def _pictures(events: Events) -> str:
  parts = []
  for name, all_of_them in events.images.items():
    chosen = np.linspace(0, len(all_of_them) - 1, _PICTURES).round()
    pictures = [all_of_them[k] for k in sorted(set(chosen.astype(int)))]
    images = ''.join(
      f'<img data-step="{step:,}" alt="{html.escape(name)} of step {step:,}" '
      f'src="data:image/png;base64,{base64.b64encode(png).decode()}" hidden>'
      for step, png in pictures
    )
    last = len(pictures) - 1
    parts.append(
      f'<div class="slider"><p>{html.escape(name)}, <output></output></p>'
      f'<input type="range" min="0" max="{last}" value="{last}" '
      f'aria-label="step">{images}</div>'
    )
  return ''.join(parts)


def _evaluations(by_step: Mapping[int, Mapping[str, float]]) -> str:
  names = list(dict.fromkeys(n for found in by_step.values() for n in found))
  if not names:
    return ''
  rows = [
    (f'{step:,}', *(_number(found.get(n)) for n in names))
    for step, found in by_step.items()
  ]
  charts = ''.join(
    f'<figure><figcaption>{html.escape(n)}</figcaption>{chart}</figure>'
    for n in names
    if (
      chart := line_chart(
        {n: [(s, found[n]) for s, found in by_step.items() if n in found]}
      )
    )
  )
  return f'{table(rows, ("step", *names))}<div class="charts">{charts}</div>'


def _history(history: Sequence[Mapping[str, Any]]) -> str:
  rows = []
  for line in history:
    facts = {k: v for k, v in line.items() if k not in ('event', 'time')}
    rows.append((line['time'], line['event'], json.dumps(facts)[:500]))
  return table(rows)


def _config(config: Mapping[str, Any]) -> str:
  """Every value; those that differ from the defaults are bold."""
  defaults = settings.flatten(json.loads(get_config().to_json()))
  rows = []
  for key, value in settings.flatten(settings.as_json(config)).items():
    same = defaults.get(key) == value
    shown = html.escape(json.dumps(value))
    rows.append(
      f'<tr><td>{html.escape(key)}</td><td>'
      f'{shown if same else f"<b>{shown}</b>"}</td></tr>'
    )
  return (
    '<details><summary>All keys; bold are not the defaults</summary><div '
    f'class="wide"><table>{"".join(rows)}</table></div></details>'
  )


def _number(value: float | None) -> str:
  return '' if value is None else f'{value:.4g}'
