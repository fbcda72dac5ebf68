"""Pages of HTML that show all without a network and can be mailed."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

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


def html_page(title: str, body: str) -> str:
  """A page without any link to outside; `body` is HTML."""
  name = html.escape(title)
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta '
    'name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{name}</title><style>{_STYLE}</style></head><body><h1>{name}</h1>'
    f'{body}</body></html>\n'
  )


def section(title: str, body: str) -> str:
  """A heading above HTML; '' where there is none."""
  return f'<h2>{title}</h2>{body}' if body else ''


def table(rows: Iterable[Sequence[Any]], heads: Sequence[str] = ()) -> str:
  """Rows of texts below their heads, if any; '' without rows."""
  lines = [
    ''.join(f'<{cell}>{html.escape(str(x))}</{cell}>' for x in row)
    for cell, some in (('th', [heads] if heads else []), ('td', rows))
    for row in some
  ]
  if not lines:
    return ''
  body = ''.join(f'<tr>{line}</tr>' for line in lines)
  return f'<div class="wide"><table>{body}</table></div>'
