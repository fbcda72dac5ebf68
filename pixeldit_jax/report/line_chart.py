"""Line charts as SVG text, which stands in a page without any library."""

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 12, 30
_COLOURS = ('#2b6cb0', '#c05621', '#2f855a', '#805ad5', '#b7791f')
_POINTS = 600  # of a line; more are thinned out


def line_chart(
  series: Mapping[str, Sequence[tuple[float, float]]], logarithmic: bool = False
) -> str:
  """An SVG of lines over steps; '' where no value is finite.

  Args:
    series: points (step, value) by name; those that are not finite are left
      out, and so are those of 0 and below on a logarithmic scale.
    logarithmic: powers of ten on the vertical axis.
  """
  lines = {
    name: _thin([p for p in points if _drawn(p[1], logarithmic)])
    for name, points in series.items()
  }
  lines = {name: points for name, points in lines.items() if points}
  if not lines:
    return ''
  values = [y for points in lines.values() for _, y in points]
  steps = [x for points in lines.values() for x, _ in points]
  scale = math.log10 if logarithmic else float
  low, high = scale(min(values)), scale(max(values))
  if high - low < 1e-12:
    low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
  first, last = min(steps), max(steps)
  span = (last - first) or 1

  def place(x, y):
    across = _LEFT + (x - first) / span * (_WIDTH - _LEFT - _RIGHT)
    up = (scale(y) - low) / (high - low)
    return across, _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

  parts = []
  for k in range(5):
    level = low + (high - low) * k / 4
    value = 10**level if logarithmic else level
    _, y = place(first, value)
    parts.append(
      f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
      f'class="rule"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" '
      f'text-anchor="end">{value:.4g}</text>'
    )
  for x, anchor in ((first, 'start'), (last, 'end')):
    parts.append(
      f'<text x="{place(x, values[0])[0]:.1f}" y="{_HEIGHT - 10}" '
      f'text-anchor="{anchor}">{x:,.0f}</text>'
    )
  for k, (name, points) in enumerate(lines.items()):
    colour = _COLOURS[k % len(_COLOURS)]
    path = ' '.join('{:.1f},{:.1f}'.format(*place(x, y)) for x, y in points)
    parts.append(
      f'<polyline points="{path}" fill="none" stroke="{colour}" '
      f'stroke-width="1.6"/><text x="{_WIDTH - _RIGHT}" '
      f'y="{_TOP + 14 * k + 4}" text-anchor="end" fill="{colour}">'
      f'{html.escape(name)}</text>'
    )
  return (
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="'
    f'{html.escape(", ".join(lines))}">{"".join(parts)}</svg>'
  )


def _drawn(value: float, logarithmic: bool) -> bool:
  return math.isfinite(value) and (value > 0 or not logarithmic)


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
  """At most `_POINTS`, the last always among them."""
  every = -(-len(points) // _POINTS)
  return points[::-1][::every][::-1] if every > 1 else points
