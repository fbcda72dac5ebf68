""".ci/scale.py: it draws what is stored, and its page shows every picture."""

import json
import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tool():
  return runpy.run_path(str(ROOT / '.ci' / 'scale.py'))


def stored(panels):
  """Two points of every panel, with all that any of them draws."""
  roofline = dict(compute=2e-3, hbm=3e-3, interconnect=1e-3, seconds=4e-3)
  names = ('flops', 'seconds_min', 'cpu_seconds_min', 'open_seconds')
  names += ('draw_seconds', 'read_seconds', 'mapped_bytes', 'own_bytes')
  return {
    name: [
      dict(work=n, roofline=roofline) | dict.fromkeys(names, float(n))
      for n in panel.works[:2]
    ]
    for name, panel in panels.items()
  }


def test_what_is_stored_is_drawn_and_not_measured(tool, tmp_path):
  points = stored(tool['PANELS'])
  (tmp_path / 'scale.json').write_text(json.dumps(points))
  tool['update'](tmp_path, [])
  assert json.loads((tmp_path / 'scale.json').read_text()) == points
  for name in tool['PANELS']:
    assert np.std(Image.open(tmp_path / f'scale_{name}.png')) > 0


def test_an_unknown_panel_is_refused(tool, tmp_path):
  with pytest.raises(SystemExit, match='nothing'):
    tool['update'](tmp_path, ['nothing'])
  assert not list(tmp_path.iterdir())


def test_attention_overtakes_where_both_parts_are_equal(tool):
  from pixeldit_jax.config import model_config
  from pixeldit_jax.model.cost import forward_flops

  config = tool['small_network']()
  model, tokens = model_config(config), round(tool['crossing'](config))
  p = model.patch_size
  one, twice, thrice = (
    forward_flops(model, p, n * p) for n in (tokens, 2 * tokens, 3 * tokens)
  )
  # Where b L = c L^2, the second difference is 2 c L^2 and the first 4 c L^2.
  assert (thrice - 2 * twice + one) * 2 == pytest.approx(twice - one, rel=1e-2)


def test_the_page_shows_every_picture_of_what_is_stored(tool):
  page = (ROOT / 'launch' / 'scale.md').read_text()
  points = json.loads((ROOT / 'launch' / 'scale.json').read_text())
  assert set(points) == set(tool['PANELS'])
  for name in tool['PANELS']:
    assert f'](scale_{name}.png)' in page
    assert (ROOT / 'launch' / f'scale_{name}.png').is_file()
