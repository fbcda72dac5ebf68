"""The notebooks run from top to bottom, and their text form is the same."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ['anatomy', 'editing', 'first_images', 'own_pictures']


def test_there_are_no_others():
  found = {path.stem for path in (ROOT / 'notebooks').iterdir()}
  assert found == {*NAMES, 'README'}


@pytest.mark.parametrize('name', NAMES)
def test_both_forms_have_the_same_cells(name):
  jupytext = pytest.importorskip('jupytext')
  forms = [
    jupytext.read(ROOT / 'notebooks' / f'{name}{suffix}').cells
    for suffix in ('.md', '.ipynb')
  ]
  text, notebook = (
    [(cell.cell_type, cell.source) for cell in cells] for cells in forms
  )
  assert text == notebook and len(text) >= 6


@pytest.mark.slow
def test_they_run(tmp_path):
  """One after another, as the run of the first is used by the next."""
  pytest.importorskip('nbmake')
  pytest.importorskip('mlxtend')
  shutil.copytree(ROOT / 'notebooks', tmp_path / 'notebooks')
  scripts = pathlib.Path(sys.executable).parent  # has `pixeldit`
  environment = os.environ | dict(
    PATH=f'{scripts}{os.pathsep}{os.environ["PATH"]}',
    JUPYTER_PLATFORM_DIRS='1',
    XLA_FLAGS='',  # one device, as people have
  )
  done = subprocess.run(
    [sys.executable, '-m', 'pytest', '--nbmake', '-q', '-p', 'no:cacheprovider']
    + [f'notebooks/{name}.ipynb' for name in sorted(NAMES, reverse=True)],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
