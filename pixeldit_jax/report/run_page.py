"""The page of a run: one HTML file that shows all without a network.

Configuration, curves, throughput, samples over steps with a slider,
evaluations, and what went wrong.
"""

import base64
import html
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pixeldit_jax import settings
from pixeldit_jax.config import get_config
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

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem;
  max-width: 70rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
td, th { padding: .15rem .7rem; text-align: left; border-bottom: 1px solid
  #8884; vertical-align: top; }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; }
svg { width: 100%; } svg text { font-size: 11px; fill: currentColor; }
.rule { stroke: #8884; } img { max-width: 100%; image-rendering: pixelated; }
input[type=range] { width: 100%; } .wrong { color: #c53030; }
"""
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
  name = html.escape(epath.Path(workdir).name)
  sections = [
    _facts(config, history, progress, workdir),
    _section('What went wrong', _problems(history, events, workdir)),
    _section('Curves', _charts(events)),
    _section('Where the time went', _time(progress)),
    _section('Samples', _pictures(events)),
    _section('Evaluations', _evaluations(evaluations)),
    _section('Starts and stops', _history(history)),
    _section('Configuration', _config(config)),
  ]
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta '
    'name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{name}</title><style>{_STYLE}</style></head><body><h1>{name}</h1>'
    f'{"".join(sections)}<script>{_SCRIPT}</script></body></html>\n'
  )


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
  return _table(rows.items())


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
  return _table(rows)


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
  return f'{_table(rows, ("step", *names))}<div class="charts">{charts}</div>'


def _history(history: Sequence[Mapping[str, Any]]) -> str:
  rows = []
  for line in history:
    facts = {k: v for k, v in line.items() if k not in ('event', 'time')}
    rows.append((line['time'], line['event'], json.dumps(facts)[:500]))
  return _table(rows)


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


def _section(title: str, body: str) -> str:
  return f'<h2>{title}</h2>{body}' if body else ''


def _table(rows: Iterable[Sequence[Any]], heads: Sequence[str] = ()) -> str:
  lines = [
    ''.join(f'<{cell}>{html.escape(str(x))}</{cell}>' for x in row)
    for cell, some in (('th', [heads] if heads else []), ('td', rows))
    for row in some
  ]
  if not lines:
    return ''
  body = ''.join(f'<tr>{line}</tr>' for line in lines)
  return f'<div class="wide"><table>{body}</table></div>'
