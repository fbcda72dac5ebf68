"""The page of a comparison: tables, curves and a row of samples of each.

It is written twice, as Markdown beside its figures and as one HTML file.
"""

import base64
import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixeldit_jax import outputs
from pixeldit_jax.compare.plan import Protocol
from pixeldit_jax.compare.run_network import Result
from pixeldit_jax.images.contact_sheet import draw_classes
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.images.plots import line_panels
from pixeldit_jax.metrics import table as metrics_table
from pixeldit_jax.report.html_page import html_page, section, table
from pixeldit_jax.typing import UInt8

MARKDOWN, HTML, SAMPLES = 'comparison.md', 'comparison.html', 'samples.png'
TITLE = 'Networks at one budget'
TITLES = metrics_table.TITLES | {metrics_table.HELD_OUT_LOSS: 'held-out loss'}
Rows = list[tuple[str, ...]]
_UNITS = {
  'steps': '{:,.0f} steps',
  'flops': '{:.4g} operations of training',
  'seconds': '{:,.0f} seconds of training',
}
_NETWORKS = (
  *('network', 'parameters', 'GFLOPs', 'steps', 'training images/s'),
  *('GB a step', 's an image', 'evaluations', 's an image at equal ones'),
)


def write_page(
  out: pathlib.Path,
  protocol: Protocol,
  results: Mapping[str, Result],
  samples: Sequence[UInt8[np.ndarray, 'B H W C']],
) -> None:
  """Writes the page and its figures; what is not ours is never replaced.

  Args:
    out: the folder.
    protocol: what all networks had.
    results: by the name of the network.
    samples: images of each, from the same noise, in that order.
  """
  images = np.concatenate(samples)
  rows = np.repeat(np.arange(len(samples)), [len(part) for part in samples])
  with outputs.replacing(out / SAMPLES) as made:
    write_png(made, draw_classes(images, rows, list(results)))
  figures = {'Samples from the same noise': SAMPLES}
  for title, series in curves(results).items():
    name = f'{title.replace(" ", "_")}.png'
    with outputs.replacing(out / name) as made:
      line_panels(made, series, title)
    figures[f'{title}, in training'] = name
  said = _said(protocol, results)
  tables = (
    ('Networks', _NETWORKS, network_rows(results)),
    ('At the end', *metric_rows(results)),
    ('What each run was', ('network', 'run'), run_rows(results)),
  )
  with outputs.replacing(out / MARKDOWN) as made:
    made.write_text(_markdown(said, tables, figures))
  with outputs.replacing(out / HTML) as made:
    made.write_text(_html(said, tables, figures, out))


def files_of(results: Mapping[str, Result]) -> list[str]:
  """The names of the files that `write_page` writes."""
  drawn = [f'{title.replace(" ", "_")}.png' for title in curves(results)]
  return [MARKDOWN, HTML, SAMPLES, *drawn]


def network_rows(results: Mapping[str, Result]) -> Rows:
  """What each network costs."""
  return [
    (
      name,
      f'{r["parameters"]:,}',
      f'{r["image_flops"] / 1e9:.4g}',
      f'{r["steps"]:,}',
      f'{r["batch_size"] / r["seconds_per_step"]:,.1f}',
      f'{r["step_bytes"] / 1e9:.2f}' if r['step_bytes'] else '-',
      f'{r["seconds_an_image"]:.3g}',
      f'{r["evaluations"]:,}',
      f'{r["seconds_at_equal_evaluations"]:.3g}',
    )
    for name, r in results.items()
  ]


def metric_rows(
  results: Mapping[str, Result],
) -> tuple[tuple[str, ...], Rows]:
  """The loss and the metrics of the last evaluation, and their heads."""
  last = {name: _last(r) for name, r in results.items()}
  found = dict.fromkeys(key for row in last.values() for key in row)
  names = [key for key in found if not key.endswith('_std') and _shown(key)]
  heads = ('network', 'loss', *(TITLES.get(key, key) for key in names))
  rows: Rows = [
    (
      name,
      f'{results[name]["loss"][-1][1]:.4f}',
      *(f'{row[key]:.4g}' if key in row else '-' for key in names),
    )
    for name, row in last.items()
  ]
  return heads, rows


def _shown(key: str) -> bool:
  """False for parts of the loss on held-out images."""
  return not key.startswith(f'{metrics_table.HELD_OUT_LOSS}_')


def run_rows(results: Mapping[str, Result]) -> Rows:
  """The configuration of each where it is not the default, and its machine."""
  return [
    (
      name,
      f'{r["argument"]} ({r["family"]}), on {r["environment"]["devices"]}; '
      + _decoding(r)
      + ', '.join(f'{k}={json.dumps(v)}' for k, v in r['changed'].items()),
    )
    for name, r in results.items()
  ]


def _decoding(result: Result) -> str:
  """What the autoencoder of a network of latents costs; '' of another."""
  if not (flops := result.get('decode_flops')):
    return ''
  return f'decoding {flops / 1e9:.4g} GFLOPs an image; '


def curves(
  results: Mapping[str, Result],
) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
  """Points by title of the figure, by what x is, and by network."""
  found: dict[str, dict[str, list[tuple[float, float]]]] = {}
  for name, result in results.items():
    points = {'loss': [(float(x), float(y)) for x, y in result['loss']]}
    for step, metrics in result['metrics'].items():
      for key, value in metrics.items():
        if not key.endswith(('_std', '_data')) and _shown(key):
          title = TITLES.get(key, key)
          points.setdefault(title, []).append((float(step), value))
    for title, line in points.items():
      found.setdefault(title, {})[name] = [p for p in line if np.isfinite(p[1])]
  of_step = {
    'steps': lambda r: 1.0,
    'operations of training': lambda r: r['step_flops'],
    'seconds of training': lambda r: r['seconds_per_step'],
  }
  return {
    title: {
      xlabel: {
        name: [(x * scale(results[name]), y) for x, y in line]
        for name, line in lines.items()
      }
      for xlabel, scale in of_step.items()
    }
    for title, lines in found.items()
  }


def _last(result: Result) -> dict[str, Any]:
  """The metrics of the last evaluation."""
  return list(result['metrics'].values())[-1] if result['metrics'] else {}


def _said(protocol: Protocol, results: Mapping[str, Result]) -> str:
  """What is the same for all, in words."""
  sources = {r['changed'].get('data.source', '') for r in results.values()}
  return (
    f'{len(results)} networks on {", ".join(sorted(sources))}, each trained '
    f'for {_UNITS[protocol.unit].format(protocol.amount)}; '
    f'{protocol.samples:,} samples an evaluation. GFLOPs are of '
    'one forward pass of one image, 2 for a multiply-add, that of an encoder '
    'with it; memory is what the compiled '
    'step needs of a device. Each draws by its own sampler; equal evaluations '
    f'are {protocol.evaluations_an_image} of the network for an image. The '
    'loss is what each is trained by: compare it within a network only. Patch '
    'borders of 1 cannot be seen; those of the data are in the next column.'
    + _prompts(results)
  )


def _prompts(results: Mapping[str, Result]) -> str:
  """The captions of the samples, from left to right; '' of classes."""
  for result in results.values():
    if prompts := result.get('prompts'):
      return f' The samples are of: {" / ".join(prompts)}.'
  return ''


def _markdown(said: str, tables, figures: Mapping[str, str]) -> str:
  parts = [f'# {TITLE}', said]
  for title, heads, rows in tables:
    ruled = [heads, ['---', *['--:'] * (len(heads) - 1)], *rows]
    lines = [' | '.join(c.replace('|', '\\|') for c in row) for row in ruled]
    parts += [f'## {title}', '\n'.join(f'| {line} |' for line in lines)]
  parts += [f'## {title}\n\n![{title}]({n})' for title, n in figures.items()]
  return '\n\n'.join(parts) + '\n'


def _html(
  said: str, tables, figures: Mapping[str, str], out: pathlib.Path
) -> str:
  parts = [f'<p>{html.escape(said)}</p>']
  parts += [section(title, table(rows, heads)) for title, heads, rows in tables]
  for title, name in figures.items():
    data = base64.b64encode((out / name).read_bytes()).decode()
    image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    parts.append(section(title, image))
  return html_page(TITLE, ''.join(parts))
