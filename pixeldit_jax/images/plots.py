"""Plots of numbers, written as PNG by matplotlib."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixeldit_jax.errors import UserError
from pixeldit_jax.files import replacing

_DPI = 120
_INCHES = 6.4, 4.0  # of one plot

# Points (x, y); an x that is a text is a category.
Line = Sequence[tuple[float | str, float]]


def line_plot(
  path: str | os.PathLike,
  series: Mapping[str, Line],
  xlabel: str,
  ylabel: str,
) -> None:
  """Draws one line with marks for each series, with a legend.

  Args:
    path: of the PNG.
    series: points by name. If any x is a text, all x are categories at equal
      distances, in the order in which they come.
    xlabel: what x is.
    ylabel: what y is.

  Raises:
    UserError: no points, or values that are not finite.
  """
  line_panels(path, {xlabel: series}, ylabel)


def line_panels(
  path: str | os.PathLike,
  panels: Mapping[str, Mapping[str, Line]],
  ylabel: str,
) -> None:
  """Draws plots of the same values side by side, each over another x.

  Args:
    path: of the PNG.
    panels: by what x is, the series of `line_plot`.
    ylabel: what y is.

  Raises:
    UserError: no points, or values that are not finite.
  """
  every = [s for series in panels.values() for s in series.values()]
  _require_finite(path, [y for line in every for _, y in line])
  figure = _figure(len(panels))
  row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axes, (xlabel, series) in zip(row, panels.items()):
    _draw_lines(axes, series)
    axes.set_xlabel(xlabel)
    axes.grid(alpha=0.3)
  row[0].set_ylabel(ylabel)
  if any(next(iter(panels.values()), ())):  # names that say something
    row[0].legend()
  _save(figure, path)


def _draw_lines(axes: Any, series: Mapping[str, Line]) -> None:
  names = list(dict.fromkeys(x for line in series.values() for x, _ in line))
  categories = any(isinstance(x, str) for x in names)
  for name, line in series.items():
    xs = [names.index(x) if categories else x for x, _ in line]
    axes.plot(xs, [y for _, y in line], marker='o', label=name)
  if categories:
    axes.set_xticks(range(len(names)), [str(name) for name in names])


def bar_plot(
  path: str | os.PathLike,
  panels: Mapping[str, Mapping[str, float]],
  formats: Mapping[str, str] | None = None,
) -> None:
  """Draws horizontal bars, one panel for each quantity.

  Args:
    path: of the PNG.
    panels: quantity to its values by name; all have the same names.
    formats: quantity to the format of its values, as '{:.1%}'; '{:.4g}' for
      the others.

  Raises:
    UserError: no values, or some that are not finite.
  """
  values = [v for panel in panels.values() for v in panel.values()]
  _require_finite(path, values)
  figure = _figure(len(panels))
  for axes, (quantity, panel) in zip(
    figure.subplots(1, len(panels), sharey=True, squeeze=False)[0],
    panels.items(),
  ):
    bars = axes.barh(list(panel), list(panel.values()))
    axes.bar_label(bars, fmt=(formats or {}).get(quantity, '{:.4g}'), padding=3)
    axes.margins(x=0.2)  # for the values
    axes.set_title(quantity)
  axes.invert_yaxis()  # shared: the first name is on top
  _save(figure, path)


def _require_finite(path: str | os.PathLike, values: Sequence[float]) -> None:
  if not values or not np.isfinite(values).all():
    raise UserError(f'{path}: a plot needs finite values, got {values}.')


def _figure(panels: int) -> Any:
  """A figure of no window and no global state, unlike those of pyplot."""
  from matplotlib.figure import Figure

  width, height = _INCHES
  return Figure(
    figsize=(width * panels, height), dpi=_DPI, layout='constrained'
  )


def _save(figure: Any, path: str | os.PathLike) -> None:
  with replacing(path) as temporary:
    figure.savefig(temporary, format='png')
