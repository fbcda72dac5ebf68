"""One run under many samplers: a table, a plot, and the best point."""

import dataclasses
import itertools
import logging
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from pixeldit_jax import outputs
from pixeldit_jax.config import validate
from pixeldit_jax.errors import UserError
from pixeldit_jax.eval.evaluate_run import (
  SAMPLES,
  EvaluationOptions,
  evaluate_run,
)
from pixeldit_jax.eval.report import table_row, write_result
from pixeldit_jax.images.contact_sheet import draw_classes
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.images.image_sets import NpzImages
from pixeldit_jax.images.plots import line_plot
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.samplers.evaluations import num_function_evaluations
from pixeldit_jax.train.checkpoint.restore import CheckpointRef
from pixeldit_jax.typing import UInt8

log = logging.getLogger(__name__)

JSON, TEXT, PLOT = 'sweep.json', 'sweep.txt', 'sweep.png'
ROWS = 'sweep_samples.png'
FACTORS = (
  *('guidance', 'interval', 'rule', 'steps', 'shift', 'solver'),
  *('reuse_patch_tokens', 'shift_patches', 'ema'),
)
_SHOWN = 10  # images of each point
_TRUTH = {'true': True, 'false': False}

Point = dict[str, str]  # factor to its value, as written


def parse_factors(texts: Sequence[str]) -> list[Point]:
  """['guidance=2.5,3.0', 'interval=0.1:1,0.1:0.9'] to all combinations.

  Nothing gives none.

  Raises:
    UserError: not of this form, a factor that is unknown or given twice.
  """
  values = {}
  for text in texts:
    name, _, listed = text.partition('=')
    if name not in FACTORS or not all(listed.split(',')) or name in values:
      raise UserError(
        f'sweep={text!r}: write one of {", ".join(FACTORS)} and its values, '
        'once each, as guidance=2.5,3.0 or interval=0.1:1.0,0.1:0.9.'
      )
    values[name] = listed.split(',')
  combinations = itertools.product(*values.values()) if values else []
  return [dict(zip(values, point)) for point in combinations]


def at_point(
  context: RunContext, ref: CheckpointRef, point: Point
) -> tuple[RunContext, CheckpointRef]:
  """The same with the sampler and the weights of a point.

  Raises:
    UserError: a value that the sampler does not take.
  """
  config = context.config.copy_and_resolve_references()
  for name, text in point.items():
    try:
      if name == 'ema':
        ref = dataclasses.replace(ref, ema=_TRUTH[text.lower()])
      elif name == 'interval':
        low, high = text.split(':')
        config.sampler.interval = (float(low), float(high))
      else:
        kind = type(config.sampler[name])
        value = _TRUTH[text.lower()] if kind is bool else kind(text)
        config.sampler[name] = value
    except (ValueError, KeyError) as error:
      raise UserError(
        f'sweep {name}={text}: {name} takes no such value.'
      ) from error
  validate(config)
  return dataclasses.replace(context, config=config), ref


def sweep(
  context: RunContext,
  ref: CheckpointRef,
  out: str | os.PathLike,
  points: Sequence[Point],
  count: int,
  options: EvaluationOptions,
) -> Point:
  """Measures every point; called by all processes.

  Each point has its own folder below `out`; one that was stopped is continued.
  sweep.json holds all results, sweep.txt a table, sweep.png a plot, and
  sweep_samples.png a row for each point, from the same noise.

  Args:
    context: of the run, with the values that no point changes.
    ref: the weights; points may choose `ema`.
    out: the folder to write to.
    points: from `parse_factors`.
    count: samples of each point.
    options: how they are measured.

  Returns:
    The point of the lowest Frechet distance.
  """
  home = outputs.path_of(out)
  if jax.process_index() == 0:
    outputs.check([home / name for name in (JSON, TEXT, PLOT, ROWS)])
  # All points are checked before any is sampled.
  changed = [at_point(context, ref, point) for point in points]
  results: list[dict] = []
  for number, (point, run) in enumerate(zip(points, changed), start=1):
    log.info('Point %d of %d: %s', number, len(points), name_of(point))
    folder = home / name_of(point)
    if result := evaluate_run(*run, folder, count, options):
      results.append(result)
  best = 0
  if results:  # in the first process
    best = int(np.argmin([_distance(result)[1] for result in results]))
    evaluations = [num_function_evaluations(run.config) for run, _ in changed]
    _write(home, points, results, evaluations, best)
  return points[int(multihost_utils.broadcast_one_to_all(np.int32(best)))]


def name_of(point: Point) -> str:
  """'guidance=2.5 ema=true', as a folder and in the table."""
  return ' '.join(f'{name}={value}' for name, value in point.items())


def _distance(result: dict) -> tuple[str, float]:
  metrics = result['metrics']
  name = 'fid' if 'fid' in metrics else 'frechet_distance'
  return name, metrics[name]


def _write(out, points, results, evaluations, best):
  rows = [
    dict(point=point, evaluations=count, metrics=result['metrics'])
    for point, count, result in zip(points, evaluations, results)
  ]
  with outputs.replacing(out / JSON) as made:
    write_result(made, dict(points=rows, best=points[best]))
  text = table_of(points, results, evaluations, best)
  with outputs.replacing(out / TEXT) as made:
    made.write_text(text + '\n')
  log.info('%s', text)
  x_name = next(iter(points[0]))
  ylabel = _distance(results[0])[0]
  with outputs.replacing(out / PLOT) as made:
    line_plot(made, lines_of(points, results), x_name, ylabel)
  with outputs.replacing(out / ROWS) as made:
    write_png(made, _draw_rows(out, points))


def table_of(points, results, evaluations, best: int) -> str:
  """One line for each point; a star marks the best.

  NFE are the evaluations of the network for an image.
  """
  width = max(len(name_of(point)) for point in points) + 2
  lines = [' ' * width + 'NFE'.rjust(5) + table_row(results[0], names=True)]
  for i, (point, result) in enumerate(zip(points, results)):
    star = ' *' if i == best else ''
    name = f'{name_of(point):<{width}}{evaluations[i]:>5}'
    lines.append(f'{name}{table_row(result)}{star}')
  count = results[0]['samples']['count']
  return '\n'.join(lines + [f'{count:,} samples each; * lowest distance'])


def _draw_rows(home, points) -> UInt8[np.ndarray, 'H W 3']:
  """The first images of each point in a row that has its name."""
  rows = [
    next(NpzImages(home / name_of(point) / SAMPLES).batches(_SHOWN))
    for point in points
  ]
  numbers = np.repeat(np.arange(len(rows)), list(map(len, rows)))
  names = [name_of(point) for point in points]
  return draw_classes(np.concatenate(rows), numbers, names, _SHOWN)


def lines_of(points, results) -> dict[str, list[tuple[float | str, float]]]:
  """Distances over the first factor, a line for the values of the others."""
  x_name = next(iter(points[0]))
  lines: dict[str, list] = {}
  for point, result in zip(points, results):
    rest = {name: value for name, value in point.items() if name != x_name}
    x = point[x_name]
    try:
      x = float(x)
    except ValueError:
      pass  # an interval or a name
    lines.setdefault(name_of(rest), []).append((x, _distance(result)[1]))
  return lines
