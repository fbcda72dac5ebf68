"""A sweep measures every combination once, and names the best."""

import json

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config
from pixeldit_jax.eval import evaluate_run, sweep
from pixeldit_jax.eval.evaluate_run import EvaluationOptions
from pixeldit_jax.eval.reference import read_reference
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.restore import CheckpointRef


def test_all_combinations_are_points():
  points = sweep.parse_factors(['guidance=2,3', 'interval=0.1:1,0:0.5'])
  assert [sweep.name_of(point) for point in points] == [
    'guidance=2 interval=0.1:1',
    'guidance=2 interval=0:0.5',
    'guidance=3 interval=0.1:1',
    'guidance=3 interval=0:0.5',
  ]
  context, ref = RunContext.build(get_config()), CheckpointRef('run')
  context, same = sweep.at_point(context, ref, points[3])
  assert context.config.sampler.guidance == 3.0 and same == ref
  assert tuple(context.config.sampler.interval) == (0.0, 0.5)
  point = dict(ema='false', steps='7')
  context, raw = sweep.at_point(context, ref, point)
  assert context.config.sampler.steps == 7 and not raw.ema
  point = dict(rule='projected', reuse_patch_tokens='2', shift_patches='false')
  context, _ = sweep.at_point(context, ref, point)
  assert context.config.sampler.rule == 'projected'
  assert context.config.sampler.reuse_patch_tokens == 2
  assert context.config.sampler.shift_patches is False
  assert sweep.parse_factors([]) == []


@pytest.mark.parametrize(
  'text',
  ['guidance', 'guidance=', 'guidance=1,', 'seed=1', 'guidance=x', 'ema=maybe']
  + ['interval=0.1', 'interval=0.9:0.1', 'steps=0', 'steps=2.5', 'solver=rk4'],
)
def test_values_that_cannot_be_are_refused(text):
  with pytest.raises(ValueError, match='|'.join(['sweep', 'sampler'])):
    for point in sweep.parse_factors([text]):
      context = RunContext.build(get_config())
      sweep.at_point(context, CheckpointRef('run'), point)


def test_a_factor_twice_is_refused():
  with pytest.raises(ValueError, match='once each'):
    sweep.parse_factors(['guidance=1', 'guidance=2'])


def test_a_sweep_over_two_sets_of_weights(
  tiny_run, tiny_network, tmp_path, monkeypatch
):
  rng = np.random.default_rng(0)
  real = tmp_path / 'real.npz'
  np.savez(real, rng.integers(0, 256, (40, 28, 28, 3), np.uint8))
  reference = read_reference(real, tiny_network)
  options = EvaluationOptions(tiny_network, reference)
  points = sweep.parse_factors(['ema=true,false'])
  out = tmp_path / 'sweep'
  best = sweep.sweep(*tiny_run, out, points, 12, options)
  told = json.loads((out / 'sweep.json').read_text())
  distances = {}
  for row in told['points']:
    folder = out / sweep.name_of(row['point'])
    result = json.loads((folder / 'result.json').read_text())
    assert result['metrics'] == row['metrics']
    ema = row['point']['ema']
    assert result['settings']['ema'] == (ema == 'true')
    distances[ema] = row['metrics']['fid']
  assert len(set(distances.values())) == 2
  assert best == told['best'] == {'ema': min(distances, key=distances.get)}
  table = (out / 'sweep.txt').read_text()
  star = next(line for line in table.splitlines() if line.endswith(' *'))
  assert star.startswith(f'ema={best["ema"]}')
  assert f'{min(distances.values()):.4f}' in star
  assert Image.open(out / 'sweep.png').size[0] > 400
  assert all(row['evaluations'] > 0 for row in told['points'])
  rows = np.asarray(Image.open(out / 'sweep_samples.png'))
  assert rows.shape[0] >= 2 * 28 and rows.shape[1] > 10 * 28

  def again(*args, **kwargs):
    raise AssertionError('measured a second time')

  monkeypatch.setattr(evaluate_run, 'measure_images', again)
  assert sweep.sweep(*tiny_run, out, points, 12, options) == best
  # Other reference images make another result.
  np.savez(real, rng.integers(0, 99, (40, 28, 28, 3), np.uint8))
  reference = read_reference(real, tiny_network)
  options = EvaluationOptions(tiny_network, reference)
  with pytest.raises(AssertionError, match='a second time'):
    sweep.sweep(*tiny_run, out, points, 12, options)
