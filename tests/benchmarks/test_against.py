"""Ours beside public code: a stand-in checkout, and what is refused."""

import pathlib
import textwrap

import pytest

from pixeldit_jax.benchmarks.against import measure_against
from pixeldit_jax.benchmarks.pytorch_networks import NETWORKS
from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.errors import UserError
from pixeldit_jax.model import families

STAND_IN = """
import torch

class DiT(torch.nn.Module):
  def __init__(self, in_channels, patch_size, hidden_size, num_classes,
               input_size, depth, num_heads):
    super().__init__()
    assert (in_channels, patch_size, hidden_size) == (4, 2, 16)
    assert (num_classes, input_size, depth, num_heads) == (10, 8, 1, 2)
    self.layer = torch.nn.Linear(1, 8)
    self.classes = torch.nn.Embedding(num_classes + 1, 8)

  def forward(self, x, t, y):
    assert x.shape[1:] == (4, 8, 8) and len(t) == len(y) == len(x)
    added = self.layer(t[:, None]) + self.classes(y)
    return torch.cat([x, x], 1) * added[:, :, None, None]
"""


def dit_config():
  config = get_config()
  make_debug(config)
  config.model.update(families.preset('dit'))
  config.model.update(width=16, heads=2, patch_depth=1, num_classes=10)
  config.objective = 'flow_matching'
  config.data.update(resolution=8, batch_size=8)
  config.sampler.update(solver='ddim', steps=2, batch_size=8)
  return config


def checkout(folder: pathlib.Path, text: str) -> str:
  (folder / 'models.py').write_text(textwrap.dedent(text))
  return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize('what', ['train', 'sample'])
def test_both_are_timed_in_turn(tmp_path, monkeypatch, what):
  pytest.importorskip('torch')
  monkeypatch.setenv('TORCHDYNAMO_DISABLE', '1')  # its compiler takes a minute
  report = measure_against(dit_config(), checkout(tmp_path, STAND_IN), what, 3)
  assert report['network'] == 'dit' and report['rounds'] == 3
  for kind in ('min', 'median'):
    ours, theirs = report[f'seconds_{kind}'], report[f'theirs_{kind}']
    ratio = report['ratio_of_minima' if kind == 'min' else 'ratio_of_medians']
    assert ratio == pytest.approx(ours / theirs)
  assert 0 < report['theirs_min'] <= report['theirs_median']


@pytest.mark.slow
def test_a_network_that_cannot_run_is_one_line(tmp_path):
  pytest.importorskip('torch')
  folder = checkout(tmp_path, 'import a_package_that_is_absent')
  with pytest.raises(UserError, match=r'dit of .* cannot run here: ModuleNot'):
    measure_against(dit_config(), folder, 'train', 1)


def test_what_cannot_be_compared_is_refused(tmp_path):
  pytest.importorskip('torch')
  folder = checkout(tmp_path, STAND_IN)
  with pytest.raises(UserError, match='there is no models.py'):
    measure_against(dit_config(), str(tmp_path / 'none'), 'train', 1)
  with pytest.raises(UserError, match='--what=data'):
    measure_against(dit_config(), folder, 'data', 1)
  config = dit_config()
  config.sampler.solver = 'heun'
  with pytest.raises(UserError, match='config.sampler.solver=euler'):
    measure_against(config, folder, 'sample', 1)
  config.model.qk_norm = 'head'
  with pytest.raises(UserError, match='qk_norm'):
    measure_against(config, folder, 'train', 1)


def test_the_names_are_those_of_families():
  assert set(NETWORKS) < set(families.FAMILIES)
