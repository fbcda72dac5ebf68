"""What a network is trained towards: the losses of a step but alignment.

All compare velocities, whatever the network predicts, and give one number for
each example: any of them goes with any network.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from pixeldit_jax.flow.frequency import frequency_loss, frequency_weights
from pixeldit_jax.flow.loss import flow_matching_loss
from pixeldit_jax.flow.prediction import as_velocity, target_velocity
from pixeldit_jax.typing import Array, Float

Losses = dict[str, Float[Array, 'B']]


def make_losses(
  config: ConfigDict,
) -> Callable[..., tuple[Float[Array, 'B'], Losses]]:
  """f(output, x, t, data, noise) -> weighted sum, and each before its weight.

  'loss' is that of flow matching, 'frequency' DeCo's, where it is asked for.
  The arguments of f are the network's output at x, which is between data and
  noise at the time t.
  """
  prediction, flow = config.model.prediction, config.flow
  table = frequency_weights(
    flow.frequency_quality, flow.frequency_mode, flow.frequency_gamma
  )

  def losses(output, x, t, data, noise):
    velocity = as_velocity(prediction, output, x, t)
    target = target_velocity(prediction, data, noise, x, t)
    total = flow_matching_loss(velocity, target)
    found = dict(loss=total)
    if flow.frequency_weight:
      found['frequency'] = frequency_loss(velocity, target, table)
      total += flow.frequency_weight * found['frequency']
    return total, found

  return losses
