"""All that a training run carries from step to step, and where it lives."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from pixeldit_jax import sharding
from pixeldit_jax.flow.repa import (
  PROJECTOR,
  REPAProjector,
  abstract_projector,
)
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.lora import adapters_of
from pixeldit_jax.model.pixeldit import (
  abstract_model,
  axes_of,
  make_model,
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
    projector: weights that only the REPA loss uses; {} without it. They are
      trained as those of the network, and have no average.
  """

  step: Int[Array, '']
  key: jax.Array
  bad_steps: Int[Array, '']
  weights: PyTree
  ema: PyTree
  opt_state: PyTree
  projector: PyTree = flax.struct.field(default_factory=dict)

  @property
  def trained(self) -> PyTree:
    """Weights and projector as one tree, as the optimizer sees them."""
    return join(self.weights, self.projector)


def join(weights: PyTree, projector: PyTree) -> PyTree:
  """One tree of both; without a projector, that of the network itself."""
  return {**weights, PROJECTOR: projector} if projector else weights


def first_nonfinite(tree: PyTree) -> str:
  """The name of the first array that holds NaN or infinity; '' if none does.

  Args:
    tree: of arrays on the devices; every process asks at once.
  """
  named = [
    (jax.tree_util.keystr(path, simple=True, separator='.'), array)
    for path, array in jax.tree.leaves_with_path(tree)
    if jnp.issubdtype(array.dtype, jnp.inexact)
  ]
  finite = jax.device_get(_all_finite([array for _, array in named]))
  return next((name for (name, _), ok in zip(named, finite) if not ok), '')


@jax.jit
def _all_finite(arrays: list[jax.Array]) -> list[jax.Array]:
  """Whether each array is finite, by its largest value.

  XLA would keep what is compared element by element, a byte for each, in memory
  besides the state.
  """
  return [jnp.isfinite(jnp.max(jnp.abs(a), initial=0)) for a in arrays]


def split(trained: PyTree) -> tuple[PyTree, PyTree]:
  """The inverse of `join`."""
  weights = {k: v for k, v in trained.items() if k != PROJECTOR}
  return weights, trained.get(PROJECTOR, {})


def init_state(
  config: ModelConfig,
  tx: optax.GradientTransformation,
  seed: int,
  teacher_width: int | None = None,
) -> TrainState:
  """A fresh run; call it inside `jit` with `out_shardings`.

  Args:
    config: the network.
    tx: the optimizer.
    seed: of the run.
    teacher_width: of the features that REPA aligns with; None is without it,
      and the network's weights are the same either way.
  """
  weights_key, key, projector_key = jax.random.split(jax.random.key(seed), 3)
  weights = weights_of(make_model(config, nnx.Rngs(params=weights_key)))
  projector = {}
  if teacher_width:
    # No fold_in(weights_key, i): that is the i-th draw of the network's Rngs,
    # findings/jax_split_and_fold_in_give_the_same_keys.sh
    rngs = nnx.Rngs(params=projector_key)
    projector = weights_of(
      REPAProjector(config.width, teacher_width, dtype=config.dtype, rngs=rngs)
    )
  return TrainState(
    step=jnp.int32(0),
    key=jax.random.key_data(key),
    bad_steps=jnp.int32(0),
    weights=weights,
    ema=jax.tree.map(jnp.copy, weights),  # buffers of their own, to donate
    opt_state=tx.init(join(weights, projector)),
    projector=projector,
  )


def _trained(
  config: ModelConfig, teacher_width: int | None
) -> tuple[PyTree, PyTree]:
  """Shapes and logical axes of all that is trained."""
  model = abstract_model(config)
  shapes, axes = weights_of(model), axes_of(model)
  if teacher_width:
    projector = abstract_projector(config, teacher_width)
    shapes = join(shapes, weights_of(projector))
    axes = join(axes, axes_of(projector))
  return shapes, axes


def state_shardings(
  config: ModelConfig,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  rules: sharding.Rules = sharding.RULES,
  teacher_width: int | None = None,
) -> TrainState:
  """A `TrainState` of shardings: moments and EMA lie as their weights do.

  What an optimizer keeps in another shape than its weight is everywhere.
  """
  shapes, axes = _trained(config, teacher_width)
  trained = sharding.weight_shardings(axes, mesh, rules)
  weights, projector = split(trained)
  if config.lora_rank:
    shapes, trained = (
      adapters_of(tree, (PROJECTOR,)) for tree in (shapes, trained)
    )
  everywhere = sharding.replicated(mesh)

  def masked(a):  # a weight that another rule moves, of several
    return isinstance(a, optax.MaskedNode)

  def place(a, w, split):
    if masked(a):
      return a
    return split if a.shape == w.shape else everywhere

  opt_state = optax.tree_utils.tree_map_params(
    tx,
    place,
    jax.eval_shape(tx.init, shapes),
    shapes,
    trained,
    transform_non_params=lambda _: everywhere,
    is_leaf=masked,
  )
  # Shardings in place of arrays.
  tree: Any = TrainState
  return tree(
    step=everywhere,
    key=everywhere,
    bad_steps=everywhere,
    weights=weights,
    ema=weights,
    opt_state=opt_state,
    projector=projector,
  )


def abstract_state(
  config: ModelConfig,
  tx: optax.GradientTransformation,
  shardings: TrainState,
  teacher_width: int | None = None,
) -> TrainState:
  """Shapes and shardings of a state, with nothing allocated.

  Raises:
    UserError: an axis of a weight that the mesh does not divide.
  """
  shapes = jax.eval_shape(lambda: init_state(config, tx, 0, teacher_width))
  return sharding.with_shardings(shapes, shardings)
