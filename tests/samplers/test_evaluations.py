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
  assert num_function_evaluations(config.sampler) == count
