"""Draws the figures of CONTRIBUTING.md: python .ci/figures.py.

The dual-level network, and the way of an image from its source to a sample.
Needs matplotlib. Change the tables below when the code that they name changes.
"""

import pathlib

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATCH, PIXEL, INPUT, OTHER = '#d7e6f7', '#fbe3cf', '#e9e9e9', '#dcefdc'

# name: (x, y, width, height, colour, text); units of the drawing.
NETWORK = {
  'image': (0.2, 3.1, 2.0, 1.0, INPUT, 'noisy image $x_t$\n[B, H, W, 3]'),
  'time': (6.5, 7.4, 3.2, 0.9, INPUT, 'time $t$, class or text'),
  'patch_embed': (3.2, 5.1, 2.3, 1.0, PATCH, 'PatchEmbed\n[B, L, D]'),
  'blocks': (6.5, 4.9, 3.2, 1.4, PATCH, 'patch blocks x 26\nAdaLN, L tokens'),
  's': (10.6, 5.1, 2.6, 1.0, PATCH, '$s$ + time, SiLU\n[B, L, D]'),
  'pixel_embed': (3.2, 3.1, 2.3, 1.0, PIXEL, 'PixelEmbed\n[B, L, P, E]'),
  'adaln': (10.9, 2.9, 2.0, 1.4, PIXEL, 'pixel-wise\nAdaLN'),
  'compact': (13.3, 2.9, 2.0, 1.4, PIXEL, 'compact\nP tokens to 1'),
  'attention': (15.7, 2.9, 2.0, 1.4, PIXEL, 'attention\n[B, L, A]'),
  'expand': (18.1, 2.9, 2.0, 1.4, PIXEL, 'expand\n1 to P, MLP'),
  'output': (20.6, 3.1, 2.2, 1.0, INPUT, 'velocity\n[B, H, W, 3]'),
}
NETWORK_ARROWS = [
  ('image', 'patch_embed'),
  ('image', 'pixel_embed'),
  ('patch_embed', 'blocks'),
  ('time', 'blocks'),
  ('blocks', 's'),
  ('s', 'adaln'),
  ('pixel_embed', 'adaln'),
  ('adaln', 'compact'),
  ('compact', 'attention'),
  ('attention', 'expand'),
  ('expand', 'output'),
]
FLOW = {
  'source': (0.2, 4.6, 2.7, 1.3, OTHER, 'source\ndata/sources'),
  'pipeline': (
    3.6,
    4.6,
    2.7,
    1.3,
    OTHER,
    'order, decode,\nbatch\ndata/pipeline',
  ),
  'step': (
    7.0,
    4.6,
    2.7,
    1.3,
    PATCH,
    'step: noise, time,\nnetwork, loss, Adam\ntrain/step',
  ),
  'state': (10.4, 4.6, 2.7, 1.3, PATCH, 'weights, EMA,\nmoments\ntrain/state'),
  'checkpoint': (
    13.8,
    4.6,
    2.7,
    1.3,
    PIXEL,
    'checkpoint with\nposition in data\ntrain/checkpoint',
  ),
  'shards': (0.2, 2.2, 2.7, 1.3, OTHER, 'shards, once\ndata/prepare'),
  'evaluation': (3.6, 2.2, 2.7, 1.3, PIXEL, 'FID and others\neval, metrics'),
  'set': (7.0, 2.2, 2.7, 1.3, PIXEL, 'sample set\nsampling/sample_set'),
  'sampler': (10.4, 2.2, 2.7, 1.3, PIXEL, 'solver, guidance\nsampling/sampler'),
  'ema': (13.8, 2.2, 2.7, 1.3, PIXEL, 'EMA only\nCheckpointRef'),
}
FLOW_ARROWS = [
  ('source', 'pipeline'),
  ('pipeline', 'step'),
  ('step', 'state'),
  ('state', 'checkpoint'),
  ('checkpoint', 'ema'),
  ('ema', 'sampler'),
  ('sampler', 'set'),
  ('set', 'evaluation'),
  ('shards', 'source'),
]


def draw_box(axes: Axes, box: tuple) -> None:
  x, y, width, height, colour, text = box
  axes.add_patch(
    FancyBboxPatch(
      (x, y),
      width,
      height,
      boxstyle='round,pad=0.02,rounding_size=0.12',
      facecolor=colour,
      edgecolor='#444444',
      linewidth=0.8,
    )
  )
  axes.text(
    x + width / 2, y + height / 2, text, ha='center', va='center', fontsize=8
  )


def draw_arrow(axes: Axes, start: tuple, end: tuple) -> None:
  """From the edge of one box to the nearest edge of the other."""
  (x0, y0, w0, h0), (x1, y1, w1, h1) = start[:4], end[:4]
  if x0 + w0 <= x1 or x1 + w1 <= x0:  # side by side
    forward = x0 < x1
    a = (x0 + w0 if forward else x0, y0 + h0 / 2)
    b = (x1 if forward else x1 + w1, y1 + h1 / 2)
  else:
    up = y0 < y1
    a = (x0 + w0 / 2, y0 + h0 if up else y0)
    b = (x0 + w0 / 2, y1 if up else y1 + h1)
  axes.annotate('', b, a, arrowprops=dict(arrowstyle='-|>', color='#444444'))


def draw(
  path: pathlib.Path, title: str, boxes: dict, arrows: list, notes: list
) -> None:
  width = max(x + w for x, _, w, *_ in boxes.values()) + 0.2
  top = max(y + h for _, y, _, h, *_ in boxes.values()) + 0.9
  low = min(y for _, y, *_ in boxes.values()) - 0.9
  figure, axes = pyplot.subplots(figsize=(width * 0.62, (top - low) * 0.62))
  axes.set_xlim(0, width)
  axes.set_ylim(low, top)
  axes.axis('off')
  for start, end in arrows:
    draw_arrow(axes, boxes[start], boxes[end])
  for box in boxes.values():
    draw_box(axes, box)
  for x, y, text in notes:
    axes.text(x, y, text, fontsize=8, color='#444444', style='italic')
  axes.set_title(title, fontsize=10, loc='left')
  figure.savefig(path, dpi=110, bbox_inches='tight')
  pyplot.close(figure)
  print('Wrote', path.relative_to(ROOT))


def main() -> None:
  draw(
    ROOT / 'launch' / 'network.png',
    'PixelDiT: patches carry the meaning, pixels carry the detail',
    NETWORK,
    NETWORK_ARROWS,
    [
      (13.5, 5.5, 'patch path: L = (H / p)(W / p) tokens of width D'),
      (10.9, 2.2, 'PiT blocks x 4: P = p * p pixel tokens in each patch'),
    ],
  )
  draw(
    ROOT / 'launch' / 'data_flow.png',
    'An image from its source to a step, a checkpoint and a sample',
    FLOW,
    FLOW_ARROWS,
    [(7.0, 1.6, 'sample i depends on the seed and on i only')],
  )


if __name__ == '__main__':
  main()
