"""The evaluations of sampling loops are counted."""

import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.samplers.evaluations import num_function_evaluations


@pytest.mark.parametrize(
  'solver, guidance, interval, count',
  [
    ('euler', 1.0, (0.0, 1.0), 10),
    ('euler', 2.0, (0.45, 0.75), 13),  # 0.5, 0.6, 0.7
    ('flow_dpm', 2.0, (0.45, 0.75), 13),
    ('heun_reuse', 1.0, (0.0, 1.0), 10),
    ('heun', 1.0, (0.0, 1.0), 19),
    ('heun', 2.0, (0.45, 0.75), 25),
  ],
)
def test_evaluations_of_a_sampling_loop(solver, guidance, interval, count):
  config = get_config()
  config.sampler.update(
    steps=10, solver=solver, guidance=guidance, interval=interval
  )
  assert num_function_evaluations(config) == count


@pytest.mark.parametrize(
  'options, count',
  [
    # DeCo: 0.1 is not above 0.1.
    (dict(solver='euler', steps=100, interval_bounds='upper'), 100 + 89),
    # JiT: 44 of the starts of steps, and of their ends those before the last.
    (dict(solver='heun', steps=50, interval_bounds='zero'), 99 + 44 + 44),
    (dict(solver='heun', steps=10, interval_time='step'), 19 + 8 + 7),
    (dict(solver='heun_reuse', steps=10, interval_time='step'), 10 + 7),
    (
      dict(
        solver='euler', steps=10, interval=(0.0, 0.5), interval_bounds='zero'
      ),
      10 + 5,
    ),
  ],
)
def test_what_is_inside_an_interval_counts(options, count):
  config = get_config()
  config.sampler.update(guidance=2.0, interval=(0.1, 1.0))
  config.sampler.update(options)
  assert num_function_evaluations(config) == count
