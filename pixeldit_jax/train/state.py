"""All that a training run carries from step to step, and where it lives."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from pixeldit_jax import sharding
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import (
  PixelDiT,
  abstract_model,
  axes_of,
  weights_of,
)
from pixeldit_jax.typing import Array, Int, PyTree


@flax.struct.dataclass
class TrainState:
  """A pytree of arrays.

  Attributes:
    step: updates done.
    key: data of the PRNG key that every step's randomness is folded from.
    bad_steps: steps in a row whose loss or gradient was not finite.
    weights: of the network, a nested dict.
    ema: their moving average, what is sampled from.
    opt_state: the optimizer's moments and counts.
  """

  step: Int[Array, '']
  key: jax.Array
  bad_steps: Int[Array, '']
  weights: PyTree
  ema: PyTree
  opt_state: PyTree


def init_state(
  config: ModelConfig, tx: optax.GradientTransformation, seed: int
) -> TrainState:
  """A fresh run; call it inside `jit` with `out_shardings`."""
  weights_key, key = jax.random.split(jax.random.key(seed))
  weights = weights_of(PixelDiT(config, rngs=nnx.Rngs(params=weights_key)))
  return TrainState(
    step=jnp.int32(0),
    key=jax.random.key_data(key),
    bad_steps=jnp.int32(0),
    weights=weights,
    ema=jax.tree.map(jnp.copy, weights),  # buffers of their own, to donate
    opt_state=tx.init(weights),
  )


def state_shardings(
  config: ModelConfig,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  rules: sharding.Rules = sharding.RULES,
) -> TrainState:
  """A `TrainState` of shardings: moments and EMA lie as their weights do.

  What an optimizer keeps in another shape than its weight is everywhere.
  """
  model = abstract_model(config)
  shapes = weights_of(model)
  weights = sharding.weight_shardings(axes_of(model), mesh, rules)
  everywhere = sharding.replicated(mesh)
  opt_state = optax.tree_utils.tree_map_params(
    tx,
    lambda a, w, place: place if a.shape == w.shape else everywhere,
    jax.eval_shape(tx.init, shapes),
    shapes,
    weights,
    transform_non_params=lambda _: everywhere,
  )
  return TrainState(
    step=everywhere,
    key=everywhere,
    bad_steps=everywhere,
    weights=weights,
    ema=weights,
    opt_state=opt_state,
  )


def abstract_state(
  config: ModelConfig,
  tx: optax.GradientTransformation,
  shardings: TrainState,
) -> TrainState:
  """Shapes and shardings of a state, with nothing allocated.

  Raises:
    ValueError: an axis of a weight that the mesh does not divide.
  """
  shapes = jax.eval_shape(lambda: init_state(config, tx, 0))
  return sharding.placed(shapes, shardings)
