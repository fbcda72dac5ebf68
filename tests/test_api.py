"""The Python interface: load, draw, look, and mistakes."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import pixeldit_jax as pd
from pixeldit_jax.sampling.sample_set import make_sample_set
from pixeldit_jax.train.checkpoint import released

ROOT = pathlib.Path(__file__).parents[1]
_GREY = np.full((28, 28, 3), 128, np.uint8)
_NOISE = np.zeros((1, 28, 28, 3), np.float32)
NAMES = ['zero', 'one', 'two', *map(str, range(3, 10))]


@pytest.fixture(scope='module')
def run(tiny_run, tmp_path_factory):
  """A run with named classes."""
  folder = tmp_path_factory.mktemp('named') / 'run'
  shutil.copytree(tiny_run[1].workdir, folder)
  (folder / 'classes.json').write_text(json.dumps(dict(names=NAMES)))
  return str(folder)


@pytest.fixture(scope='module')
def model(run):
  return pd.load(run)


def test_images_are_those_of_the_command(model, run, tmp_path, tiny_run):
  path = tmp_path / 'samples.npz'
  make_sample_set(tiny_run[0], model.ref, path, 5, labels='two,7')
  images = model.sample(labels=['two', 7], num=5)
  with np.load(path) as file:
    np.testing.assert_array_equal(images, file['arr_0'])
  assert images.dtype == np.uint8 and images.shape == (5, 28, 28, 3)
  assert len(images.images) == 5
  np.testing.assert_array_equal(images.images[2], images[2])


@pytest.mark.slow
def test_programs_are_kept(model):
  def count():
    return sum(
      p.jitted._cache_size()
      for p in model._programs.values()
      if hasattr(p, 'jitted')
    )

  first = model.sample(labels=[1], num=2, steps=3)
  before = count()
  other = model.sample(labels=[2, 'one'], num=2, steps=3, seed=4, guidance=2.5)
  assert count() == before
  assert (first != other).any()
  again = model.sample(labels=[1], num=2, steps=3)
  np.testing.assert_array_equal(first, again)


@pytest.mark.slow
@pytest.mark.parametrize('solver', ['euler', 'heun_reuse', 'dpm_solver'])
def test_each_step_is_shown(model, solver):
  seen = []
  images = model.sample(
    labels='two', num=2, steps=4, solver=solver, on_step=seen.append
  )
  assert [step.number for step in seen] == [1, 2, 3, 4]
  assert seen[0].steps == 4 and seen[-1].time == 1
  assert seen[0].images.shape == images.shape
  whole = model.sample(labels='two', num=2, steps=4, solver=solver)
  assert np.abs(images.astype(int) - whole).max() <= 1


def test_a_callback_can_stop(model):
  def stop(step):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    model.sample(labels=1, steps=4, on_step=stop)


def test_velocity_leads_from_noise_to_data(model):
  x = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)
  v = model.velocity(x, 0.5, ['two', 3])
  assert v.shape == x.shape and np.isfinite(v).all()
  null = model.velocity(x, [0.5, 0.5], None)
  guided = model.velocity(x, 0.5, ['two', 3], guidance=3.0)
  np.testing.assert_allclose(guided, null + 3 * (v - null), atol=1e-4)


def test_attention_is_seen_of_every_block(model):
  x = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)
  maps = model.attention(x, 0.5, ['two', 3])
  config = model.config.model
  patches = (28 // config.patch_size) ** 2
  assert len(maps) == config.patch_depth + config.pixel_depth
  for weights in maps:
    assert weights.shape[::2] == (2, patches) and weights.shape[3] == patches
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  # They are of this image, this time and this class.
  for other in (
    model.attention(x, 0.1, ['two', 3]),
    model.attention(x, 0.5, 4),
  ):
    assert np.abs(other[-1] - maps[-1]).max() > 0
  again = model.attention(x[1:], [0.5], 3)
  np.testing.assert_allclose(again[0][0], maps[0][1], atol=1e-5)


def test_gradients_flow_through_the_velocity(model):
  x = jax.random.normal(jax.random.key(0), (1, 28, 28, 3))
  gradient = jax.grad(lambda x: model.velocity(x, 0.5, 3).sum())(x)
  assert jax.numpy.abs(gradient).max() > 0


@pytest.mark.slow
def test_a_released_file_is_loaded(model, run, tmp_path):
  path = tmp_path / 'weights.safetensors'
  released.from_workdir(run, path)
  other = pd.load(path, config=model.config)
  same = jax.tree.map(
    lambda a, b: bool((a == b).all()), model.weights, other.weights
  )
  assert all(jax.tree.leaves(same))
  np.testing.assert_array_equal(
    other.sample(labels=3, steps=2), model.sample(labels=3, steps=2)
  )


@pytest.mark.parametrize(
  'call, named',
  [
    (lambda m: m.sample(labels=['tow']), "'tow' is not a class.*two"),
    (lambda m: m.sample(labels=[10]), '10 is not a class'),
    (lambda m: m.sample(labels=[]), 'no label'),
    (lambda m: m.sample(prompts=['a cat']), 'network of classes'),
    (lambda m: m.sample(labels=1, num=0), 'num=0'),
    (lambda m: m.sample(labels=1, solver='rk4'), 'rk4'),
    (lambda m: m.sample(labels=1, step=3), 'step: no option here'),
    (lambda m: m.sample(labels=1, height=27), '27 x 28'),
    (lambda m: m.sample(labels=[3.5]), '3.5 is not a class'),
    (lambda m: m.sample(labels=[None]), 'None is not a class'),
    (lambda m: m.sample(labels=3.5), '3.5 is no label'),
    (lambda m: m.sample(labels=1, num=1.5), 'num=1.5: an integer'),
    (lambda m: m.sample(labels=1, num='2'), "num='2': an integer"),
    (lambda m: m.sample(labels=1, seed=-1), 'seed=-1: an integer, at least 0'),
    (lambda m: m.sample(labels=1, seed=2**70), 'seed=.* at most 4294967295'),
    (lambda m: m.sample(labels=1, seed=1.5), 'seed=1.5: an integer'),
    (lambda m: m.sample(labels=1, guidance='3'), "guidance='3': .*finite"),
    (lambda m: m.sample(labels=1, guidance=float('nan')), 'guidance=nan'),
    (lambda m: m.sample(labels=1, height=28.0), 'height=28.0: an integer'),
    (lambda m: m.sample(labels=1, steps=2.5), 'steps=2.5: expected .* as'),
    (lambda m: m.sample(labels=1, interval=0.5), 'interval=0.5: expected'),
    (lambda m: m.edit(_GREY, 1, height=0), 'height=0: an integer'),
    (lambda m: m.edit(_GREY, 1, seed='x'), "seed='x': an integer"),
    (lambda m: m.edit(_GREY, 1, strength='x'), "strength='x': .*finite"),
    (lambda m: m.edit(_GREY, 1, average=1.5), 'average=1.5: an integer'),
    (lambda m: m.edit(_GREY, 1, guidance='x'), "guidance='x': .*finite"),
    (lambda m: m._check_noisy(_GREY, 0.5), 'noisy images .B, H, W, 3'),
    (lambda m: m._check_noisy(_GREY[None], [0.1, 0.2]), 'one time'),
    (lambda m: m.velocity(_NOISE[..., :1], 0.5, 1), 'noisy images'),
    (lambda m: m._check_noisy(_GREY[None], 'soon'), "t='soon'"),
    (lambda m: m.attention(_NOISE[..., :1], 0.5, 1), 'noisy images'),
    (lambda m: pd.load('nowhere'), 'holds no run'),
    (lambda m: pd.load(None), 'load of None'),
    (lambda m: pd.load(m.ref.workdir, step='7'), "step='7': an integer"),
    (lambda m: pd.load(m.ref.workdir, step=7), 'no checkpoint of step 7'),
  ],
)
def test_mistakes_are_told(model, call, named):
  with pytest.raises(ValueError, match=named):
    call(model)


def test_the_package_is_imported_without_jax_and_quickly():
  code = (
    'import sys, pixeldit_jax\n'
    'assert not {"jax", "numpy", "absl"} & set(sys.modules)\n'
    'import pixeldit_jax as pd\n'
    'assert callable(pd.load)\n'
    'assert "pixeldit_jax.cli" not in sys.modules\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_page_of_the_interface_runs(run, tmp_path, monkeypatch):
  """Every block of its code, in order."""
  page = (ROOT / 'pixeldit_jax' / 'README.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', page, re.S)
  assert len(blocks) >= 4
  (tmp_path / 'runs').mkdir()
  shutil.copytree(run, tmp_path / 'runs' / 'mnist')
  monkeypatch.chdir(tmp_path)
  scope = {}
  for block in blocks:
    exec(block, scope)
  assert (tmp_path / 'two.png').is_file()
