"""Puts a run on one page: curves, samples over steps, what went wrong.

  pixeldit report runs/xl256
  pixeldit report --workdir=runs/xl256 --out=xl256.html

The page is one HTML file without any link to outside: it can be mailed. By
default it is report.html in the folder of the run, which may train meanwhile.
"""

import os

from absl import flags

from pixeldit_jax.cli import run_command

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run.', required=True
)
_OUT = flags.DEFINE_string('out', None, 'File; report.html of the run.')


def main():
  from pixeldit_jax import files
  from pixeldit_jax.report.run_page import run_page

  page = run_page(_WORKDIR.value)
  out = _OUT.value or os.path.join(_WORKDIR.value, 'report.html')
  files.write_text(out, page)
  print(f'Wrote {out}, {len(page) / 1e6:.1f} MB')


if __name__ == '__main__':
  run_command.run(main)
