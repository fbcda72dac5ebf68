"""The benchmark's arithmetic, and that it runs what training runs."""

import pytest

from pixeldit_jax.benchmarks.step_time import (
  measure_features,
  measure_sampling,
  measure_training,
)
from pixeldit_jax.config import get_config, make_debug, model_config
from pixeldit_jax.model.cost import forward_flops
from pixeldit_jax.samplers.evaluations import num_function_evaluations


def debug_config():
  config = get_config()
  make_debug(config)
  return config


@pytest.mark.slow
def test_training_and_sampling_are_measured():
  config = debug_config()
  trained = measure_training(config, 2)
  assert trained['images_per_second'] == 8 / trained['seconds']
  assert trained['seconds_min'] <= trained['seconds'] <= trained['seconds_max']
  flops = forward_flops(model_config(config), 28, 28)
  assert trained['tflops'] * trained['seconds'] == pytest.approx(
    8 * 3 * flops / 1e12
  )
  assert 0 < trained['of_matmul']  # no known peak on CPU
  sampled = measure_sampling(config, 2)
  assert sampled['tflops'] * sampled['seconds'] == pytest.approx(
    8 * num_function_evaluations(config) * flops / 1e12
  )


@pytest.mark.slow
def test_networks_of_texts_are_measured():
  config = debug_config()
  config.model.update(num_classes=0, text_width=8, text_tokens=4)
  assert measure_training(config, 1)['seconds'] > 0
  assert measure_sampling(config, 1)['seconds'] > 0


@pytest.mark.slow
def test_features_are_measured():
  report = measure_features(32, 1)
  assert report['batch'] == 8
  assert report['minutes_for_50000'] == pytest.approx(
    50_000 / report['images_per_second'] / 60
  )


@pytest.mark.slow
def test_the_cost_of_the_teacher_is_told():
  config = debug_config()
  config.repa.update(weight=0.5, block=1, teacher='facebook/dinov2-base')
  report = measure_training(config, 1)
  assert report['teacher'] == 'ViT-B/14'
  without = report['images_per_second_without_repa']
  assert without > report['images_per_second']
  assert report['repa_share_of_step'] == pytest.approx(
    1 - report['images_per_second'] / without
  )
  config.repa.teacher = 'features'
  assert measure_training(config, 1)['teacher'] == 'stored'
