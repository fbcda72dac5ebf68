"""The training loop, top to bottom."""

import logging
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.data.pipeline import make_pipeline
from pixeldit_jax.data.sources import open_source
from pixeldit_jax.encoders.vision import VisionConfig
from pixeldit_jax.model.cost import train_flops
from pixeldit_jax.train.alignment import (
  find_target,
  place_teacher,
  stored_arrays,
  stored_shapes,
)
from pixeldit_jax.train.checkpoint import Checkpoints
from pixeldit_jax.train.config import model_config, validate
from pixeldit_jax.train.metrics import Clock, Writer
from pixeldit_jax.train.optimizer import make_optimizer
from pixeldit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  state_shardings,
)
from pixeldit_jax.train.step import Metrics, make_train_step
from pixeldit_jax.train.workdir import open_workdir, write_overview
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)

# f(step, ema weights) -> pictures [H, W, 3] and numbers by name.
Evaluator = Callable[[int, PyTree], dict[str, np.ndarray | float]]


def train(
  config: ConfigDict,
  workdir: str,
  evaluators: Sequence[tuple[int, Evaluator]] = (),
  teacher: tuple[VisionConfig, PyTree] | None = None,
) -> TrainState:
  """Trains to `config.steps`, from the newest checkpoint if there is one.

  Args:
    config: see `train.config`.
    workdir: the folder of the run; made if absent.
    evaluators: what to call on the EMA, each with its number of steps.
    teacher: what REPA aligns with, of `convert.vision.load_dinov2`; in host
      memory, the same in all processes.

  Returns:
    The last state.

  Raises:
    ValueError: a configuration that cannot be, or of another run.
    FloatingPointError: loss or gradients were not finite for long.
  """
  validate(config)
  model = model_config(config)
  batch_size, resolution = config.data.batch_size, config.data.resolution

  # ---- Mesh
  mesh = sharding.make_mesh(config.mesh)
  rules = sharding.make_rules(config.mesh)
  batch_sharding = sharding.batch_sharding(mesh, rules)
  shards = sharding.batch_shards(mesh, rules)
  if batch_size % (shards * config.optimizer.accumulate):
    raise ValueError(
      f'data.batch_size={batch_size} does not divide over {shards} devices '
      f'x optimizer.accumulate={config.optimizer.accumulate}.'
    )

  # ---- Data
  source = open_source(config.data.source, stored_arrays(config))
  if source.num_classes != model.num_classes:
    raise ValueError(
      f'data.source={config.data.source!r} has {source.num_classes} classes, '
      f'but model.num_classes={model.num_classes}.'
    )
  source.check(
    resolution=resolution,
    checksums=config.data.checksums,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  target = find_target(config, source, teacher)
  open_workdir(workdir, config)
  data = make_pipeline(
    source,
    resolution=resolution,
    batch_size=batch_size,
    seed=config.seed,
    rows=sharding.local_rows(batch_sharding, batch_size),
    num_threads=config.data.num_threads,
    num_workers=config.data.num_workers,
    prefetch=config.data.prefetch,
  )

  # ---- State: from a checkpoint, or fresh
  tx = make_optimizer(config)
  teacher_width = target.width if target else None
  shardings = state_shardings(model, tx, mesh, rules, teacher_width)
  like = abstract_state(model, tx, shardings, teacher_width)
  checkpoints = Checkpoints(workdir, config)
  first = checkpoints.latest()
  if first is None:
    first = 0
    init = jax.jit(
      lambda: init_state(model, tx, config.seed, teacher_width),
      out_shardings=shardings,
    )
    state = init()
    write_overview(workdir, state.weights)
  else:
    state = checkpoints.restore(first, like, data)
    log.info('Resuming from step %d in %s.', first, workdir)
  if first >= config.steps:
    log.info('Already trained to step %d.', first)
    checkpoints.close()
    return state

  # ---- Step, compiled ahead
  started = time.perf_counter()
  image = (batch_size, resolution, resolution, model.in_channels)
  batch = dict(
    image=jax.ShapeDtypeStruct(image, np.uint8),
    label=jax.ShapeDtypeStruct((batch_size,), np.int32),
  )
  batch |= stored_shapes(source, batch_size)
  batch_names = tuple(batch)
  frozen = None
  if isinstance(target, VisionConfig):
    split_by = rules if config.repa.sharded else None
    frozen = place_teacher(teacher, mesh, split_by)
  with sharding.use(mesh, rules):
    train_step = (
      jax.jit(
        make_train_step(config, target),
        in_shardings=(
          shardings,
          batch_sharding,
          jax.tree.map(lambda a: a.sharding, frozen),
        ),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
      )
      .lower(like, batch, frozen)
      .compile()
    )
  log.info('Compiled in %.0f s.', time.perf_counter() - started)

  # ---- Loop
  writer = Writer(workdir, first, config.steps)
  flops = batch_size * train_flops(model, resolution, resolution)
  clock = Clock(first, config.steps, batch_size, flops)
  late = LateLog(writer, clock, config.optimizer.max_bad_steps)
  with jax.transfer_guard('disallow'):
    for step in range(first + 1, config.steps + 1):
      with clock.waiting():
        example = next(data)
      batch = {name: example[name] for name in batch_names}
      batch = sharding.put_batch(batch, batch_sharding)
      state, metrics = train_step(state, batch, frozen)

      late.flush()
      last = step == config.steps
      if last or step % config.log.every == 0:
        late.later(step, metrics)
      with jax.transfer_guard('allow'):
        if last or step % config.checkpoint.every == 0:
          late.flush()  # no checkpoint of a run that has to stop
          checkpoints.save(state, data)
        for every, evaluate in evaluators:
          if every and (last or step % every == 0):
            late.flush()
            writer.evaluation(step, evaluate(step, state.ema))
            clock.restart(step)

  # ---- End
  data.close()
  checkpoints.close()
  writer.close()
  return state


class LateLog:
  """Writes the metrics of a step once the next one is under way.

  Reading a result waits for it; one step late, the devices have work in hand.
  """

  def __init__(self, writer: Writer, clock: Clock, max_bad_steps: int):
    self._writer, self._clock = writer, clock
    self._max_bad_steps = max_bad_steps
    self._waiting: tuple[int, Metrics] | None = None

  def later(self, step: int, metrics: Metrics) -> None:
    """Keeps what `flush` is to write."""
    self._waiting = (step, metrics)

  def flush(self) -> None:
    """Writes what waits.

    Raises:
      FloatingPointError: too many steps in a row were not finite.
    """
    if self._waiting is None:
      return
    step, metrics = self._waiting
    self._waiting = None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    self._writer.scalars(step, values | self._clock.read(step))
    if values['bad_steps'] >= self._max_bad_steps:
      raise FloatingPointError(
        f'loss or gradients were not finite in {values["bad_steps"]:.0f} '
        f'steps in a row, up to step {step}. The weights are those before; '
        'lower optimizer.learning_rate, or try model.modulation=post.'
      )
