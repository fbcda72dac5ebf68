"""The program of a run: how its state starts, how its step is compiled."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from pixeldit_jax import sharding
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.frozen import Frozen, Judge, put_frozen
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train import nan_report
from pixeldit_jax.train.checkpoint.init_fit import InitFit
from pixeldit_jax.train.checkpoint.restore import restore_init
from pixeldit_jax.train.inputs import Size
from pixeldit_jax.train.objective import load_judges
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.repa import (
  StoredFeatures,
  find_target,
)
from pixeldit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  state_shardings,
)
from pixeldit_jax.train.step import Metrics, make_train_step
from pixeldit_jax.typing import PyTree


class TrainProgram:
  """The computations of a run; nothing is allocated or compiled yet.

  Attributes:
    context: configuration, network and mesh.
    target: what REPA aligns with; None if it does not.
    abstract_state: shapes and shardings of the state.
  """

  def __init__(
    self, context: RunContext, source: Source, teacher: Frozen | None = None
  ):
    """Decides what is trained, on which shards.

    Args:
      context: configuration, network and mesh.
      source: the data, which may have the features of a teacher.
      teacher: what REPA aligns with otherwise.

    Raises:
      UserError: there is nothing to align with or to ground in, or an axis of
        a weight that the mesh does not divide.
    """
    self.context = context
    self.target = find_target(context.config, source, teacher)
    self._tx = make_optimizer(context)
    self._encoder = context.encoder
    self._judges = load_judges(context.config)
    self._networks = nan_report.Networks(
      self.target,
      self._encoder and self._encoder[0],
      {name: judge[0] for name, judge in self._judges.items()},
    )
    self._train_step = make_train_step(context, self._tx, *self._networks)
    self._teacher = teacher
    self._class_names = source.class_names
    self._teacher_width = self.target.width if self.target else None
    model, width = context.model, self._teacher_width
    shardings = state_shardings(
      model, self._tx, context.mesh, context.rules, width
    )
    self.abstract_state = abstract_state(model, self._tx, shardings, width)

  def new_state(self) -> TrainState:
    """A state at step 0: random, or with the EMA of another run.

    Raises:
      UserError: the other run has no checkpoint, or other tensors.
    """
    config, abstract = self.context.config, self.abstract_state
    init = jax.jit(
      lambda: init_state(
        self.context.model, self._tx, config.seed, self._teacher_width
      ),
      out_shardings=jax.tree.map(lambda a: a.sharding, abstract),
    )
    state = init()
    if not config.init_from:
      return state
    fit = InitFit(self.context, self._class_names, state.weights)
    weights = restore_init(config.init_from, abstract.ema, fit)
    # A copy, as the buffers of weights and EMA are donated separately.
    return state.replace(weights=weights, ema=jax.tree.map(jnp.copy, weights))

  def compile(
    self, batches: Mapping[Size, Mapping[str, jax.ShapeDtypeStruct]]
  ) -> 'CompiledStep':
    """Compiles the step; this takes minutes for a large network.

    Args:
      batches: shapes of the entries of a batch for each size of image.
    """
    teacher = encoder = None
    seen = self.target and not isinstance(self.target, StoredFeatures)
    if seen and self._teacher:
      teacher = self._put(self._teacher, self.context.config.repa.sharded)
    if self._encoder:
      encoder = self._put(self._encoder, self.context.config.grounding.sharded)
    return CompiledStep(
      self.context,
      self._train_step,
      self._networks,
      self.abstract_state,
      batches,
      (
        teacher,
        encoder,
        {name: self._put(judge) for name, judge in self._judges.items()},
      ),
    )

  def _put(self, frozen: Frozen | Judge, sharded: bool = False) -> PyTree:
    """The weights of a frozen network on the mesh."""
    rules = self.context.rules if sharded else None
    return put_frozen(frozen, self.context.mesh, rules)


class CompiledStep:
  """The training step, compiled ahead for each size of image in the data."""

  def __init__(
    self,
    context: RunContext,
    train_step: Callable[..., tuple[TrainState, Metrics]],
    networks: nan_report.Networks,
    state: TrainState,
    batches: Mapping[Size, Mapping[str, jax.ShapeDtypeStruct]],
    frozen: tuple[PyTree, ...],
  ):
    """Compiles; see `TrainProgram.compile`, whose `state` is abstract.

    `frozen` are the weights of `networks`, if they have any.
    """
    shardings = jax.tree.map(lambda a: a.sharding, state)
    step = jax.jit(
      train_step,
      in_shardings=(
        shardings,
        context.batch_sharding,
        *jax.tree.map(lambda a: a.sharding, frozen),
      ),
      out_shardings=(shardings, sharding.replicated(context.mesh)),
      donate_argnums=0,
    )
    with context.use():
      self._programs = {
        size: step.lower(state, batch, *frozen).compile()
        for size, batch in batches.items()
      }
    self._names = {size: tuple(batch) for size, batch in batches.items()}
    self._context, self._networks, self._frozen = context, networks, frozen

  @property
  def bytes(self) -> int:
    """Memory of a device for the step of the largest images, with its state."""
    found = [program.memory_analysis() for program in self._programs.values()]
    sizes = [
      m.argument_size_in_bytes
      + m.output_size_in_bytes
      + m.temp_size_in_bytes
      - m.alias_size_in_bytes
      for m in found
      if m  # not every compiler gives it
    ]
    return max(sizes, default=0)

  def put(self, batch: PyTree) -> PyTree:
    """Puts the entries of a batch that the step takes on the devices.

    Args:
      batch: the rows of this process, on the host.
    """
    used = {name: batch[name] for name in self._names[_size_of(batch)]}
    return sharding.put_batch(used, self._context.batch_sharding)

  def __call__(
    self, state: TrainState, batch: PyTree
  ) -> tuple[TrainState, Metrics]:
    """Runs one step on a batch of `put`; the buffers of `state` are donated.

    Returns:
      The next state, and what to log.
    """
    program = self._programs[_size_of(batch)]
    return program(state, batch, *self._frozen)

  def report(self, state: TrainState, batch: PyTree) -> str:
    """Names what was not finite in a step; see `nan_report.report`."""
    return nan_report.report(
      self._context, self._networks, self._frozen, state, batch
    )


def _size_of(batch: PyTree) -> Size:
  height, width = batch['image'].shape[1:3]
  return height, width
