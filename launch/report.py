"""Puts a run on one page: curves, samples over steps, what went wrong.

  pixeldit report runs/xl256
  pixeldit report --workdir=runs/xl256 --out=xl256.html

The page is one HTML file without any link to outside: it can be mailed. By
default it is report.html in the folder of the run, which may train meanwhile.
"""

import os

from pixeldit_jax.cli import path_flag, run_command

_WORKDIR = path_flag.define_workdir()
_OUT = path_flag.define_out('File; report.html of the run.', required=False)


def main():
  from pixeldit_jax import outputs
  from pixeldit_jax.report.run_page import run_page

  out = _OUT.value or os.path.join(_WORKDIR.value, 'report.html')
  outputs.check([out])
  page = run_page(_WORKDIR.value)
  with outputs.replacing(out) as made:
    made.write_text(page, encoding='utf-8')
  print(f'Wrote {out}, {len(page) / 1e6:.1f} MB')


if __name__ == '__main__':
  run_command.run(main)
