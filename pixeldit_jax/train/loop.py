"""The training loop, top to bottom."""

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.data.pipeline import make_pipeline
from pixeldit_jax.data.sources import Source, open_source
from pixeldit_jax.encoders.vision import VisionConfig
from pixeldit_jax.model.cost import train_flops
from pixeldit_jax.train.alignment import (
  Target,
  find_target,
  place_teacher,
  stored_arrays,
  stored_shapes,
)
from pixeldit_jax.train.checkpoint import Checkpoints
from pixeldit_jax.train.config import model_config, validate
from pixeldit_jax.train.init_from import ema_of
from pixeldit_jax.train.late_log import LateLog
from pixeldit_jax.train.metrics import Clock, Writer
from pixeldit_jax.train.optimizer import make_optimizer
from pixeldit_jax.train.record import Record
from pixeldit_jax.train.signals import Stopped, StopRequest
from pixeldit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  state_shardings,
)
from pixeldit_jax.train.step import make_train_step
from pixeldit_jax.train.trace import Tracer
from pixeldit_jax.train.workdir import check_same_run, write_overview
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)

# f(step, ema weights) -> pictures [H, W, 3] and numbers by name.
Evaluator = Callable[[int, PyTree], dict[str, np.ndarray | float]]


def train(
  config: ConfigDict,
  workdir: str,
  evaluators: Sequence[tuple[int, Evaluator]] = (),
  teacher: tuple[VisionConfig, PyTree] | None = None,
  allow_change: Collection[str] = (),
) -> TrainState:
  """Trains to `config.steps`, from the newest checkpoint if there is one.

  Args:
    config: see `train.config`.
    workdir: the folder of the run; made if absent.
    evaluators: what to call on the EMA, each with its number of steps.
    teacher: what REPA aligns with, of `convert.vision.load_dinov2`; in host
      memory, the same in all processes.
    allow_change: keys that may differ from those the run was started with
      though they change its meaning, as 'data.source'.

  Returns:
    The last state.

  Raises:
    ValueError: a configuration that cannot be, or of another run; a workdir
      in use, or whose checkpoints are all damaged.
    OSError: a checkpoint could not be written.
    FloatingPointError: loss or gradients were not finite for long.
    Stopped: SIGTERM or Ctrl-C; all is saved.
  """
  validate(config)
  model = model_config(config)
  batch_size = config.data.batch_size

  # ---- Mesh
  mesh = sharding.make_mesh(config.mesh)
  rules = sharding.make_rules(config.mesh)
  shards = sharding.batch_shards(mesh, rules)
  if batch_size % (shards * config.optimizer.accumulate):
    raise ValueError(
      f'data.batch_size={batch_size} does not divide over {shards} devices '
      f'x optimizer.accumulate={config.optimizer.accumulate}.'
    )

  # ---- Source
  source = open_source(config.data.source, stored_arrays(config))
  if source.num_classes != model.num_classes:
    raise ValueError(
      f'data.source={config.data.source!r} has {source.num_classes} classes, '
      f'but model.num_classes={model.num_classes}.'
    )
  source.check(
    resolution=config.data.resolution,
    checksums=config.data.checksums,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  target = find_target(config, source, teacher)

  # ---- Workdir
  check_same_run(workdir, config, allow_change)
  with (
    Record(workdir, config) as record,
    StopRequest() as stop,
    contextlib.ExitStack() as opened,
  ):
    return _run(
      config,
      workdir,
      mesh,
      source,
      evaluators,
      target,
      teacher,
      record,
      stop,
      opened,
    )


def _run(
  config: ConfigDict,
  workdir: str,
  mesh: Mesh,
  source: Source,
  evaluators: Sequence[tuple[int, Evaluator]],
  target: Target | None,
  teacher: tuple[VisionConfig, PyTree] | None,
  record: Record,
  stop: StopRequest,
  opened: contextlib.ExitStack,
) -> TrainState:
  """`train`, once nothing is left to be refused."""
  model, goodput = model_config(config), record.goodput
  batch_size, resolution = config.data.batch_size, config.data.resolution
  rules = sharding.make_rules(config.mesh)
  batch_sharding = sharding.batch_sharding(mesh, rules)

  # ---- Data
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
  opened.callback(data.close)

  # ---- State: from a checkpoint, from another run, or random
  tx = make_optimizer(config)
  teacher_width = target.width if target else None
  shardings = state_shardings(model, tx, mesh, rules, teacher_width)
  like = abstract_state(model, tx, shardings, teacher_width)
  checkpoints = Checkpoints(workdir, config, record.numbers)
  opened.callback(checkpoints.close)
  first = checkpoints.newest
  if first is None:
    first = 0
    record.start_anew()
    init = jax.jit(
      lambda: init_state(model, tx, config.seed, teacher_width),
      out_shardings=shardings,
    )
    state = init()
    if config.init_from:
      weights = ema_of(config.init_from, like.ema)
      ema = jax.tree.map(jnp.copy, weights)  # buffers of their own, to donate
      state = state.replace(weights=weights, ema=ema)
    write_overview(workdir, state.weights)
  else:
    state, account = checkpoints.restore(like, data)
    record.resume(first, account)

  if first >= config.steps and (first in record.numbers or not evaluators):
    log.info('Already trained to step %d.', first)
    return state

  # ---- Step, compiled ahead
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
  with goodput.spending('compile'), sharding.use(mesh, rules):
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
  log.info('Compiled in %.0f s.', goodput.seconds()['compile'])

  # ---- What looks on
  writer = Writer(workdir, first, config.steps)
  opened.callback(writer.close)
  flops = batch_size * train_flops(model, resolution, resolution)
  clock = Clock(first, config.steps, batch_size, flops, goodput)
  late = LateLog(writer, clock, record, config)
  tracer = Tracer(workdir, config)
  opened.callback(tracer.close)

  def flush(everything=False):
    late.flush(everything)
    if late.diverged:
      raise FloatingPointError(
        f'loss or gradients were not finite in {late.diverged} steps in a '
        'row. The weights are those before; lower optimizer.learning_rate, or '
        'try model.modulation=post.'
      )

  def evaluators_at(step):
    return [
      evaluator
      for every, evaluator in evaluators
      if every and (step % every == 0 or step == config.steps)
    ]

  def evaluate(step):
    found = {}
    with goodput.spending('evaluation'):
      for evaluator in evaluators_at(step):
        found |= evaluator(step, state.ema)
    writer.evaluation(step, found)
    record.evaluated(step, found)
    clock.restart(step)

  def save(step):
    flush(everything=True)  # no checkpoint of a run that has to stop
    if step > checkpoints.last:
      with goodput.spending('checkpoint'):
        checkpoints.save(state, data, record.account())

  if first and evaluators_at(first) and first not in record.numbers:
    evaluate(first)  # it was cut short

  # ---- Loop
  goodput.enter('step')
  with jax.transfer_guard('disallow'):
    for step in range(first + 1, config.steps + 1):
      if stop.now():
        break
      tracer.before(step)
      with goodput.spending('data'):
        example = next(data)
      batch = {name: example[name] for name in batch_names}
      batch = sharding.put_batch(batch, batch_sharding)
      state, metrics = train_step(state, batch, frozen)
      record.step = step

      flush(everything=config.debug_nans)
      last = step == config.steps
      due = last or step % config.log.every == 0
      late.later(step, metrics, due)
      tracer.after(step, metrics['loss'])
      with jax.transfer_guard('allow'):
        judged = bool(evaluators_at(step))
        # Before it is judged: an evaluation that is cut short loses no step.
        if (
          last
          or step % config.checkpoint.every == 0
          or (judged and config.checkpoint.best)
        ):
          save(step)
        if judged:
          flush(everything=True)
          evaluate(step)
        if due:
          checkpoints.poll()
          record.progress(checkpoints.newest)

  # ---- End, at the last step or before
  if record.step > first:
    save(record.step)
    with goodput.spending('checkpoint'):
      checkpoints.wait()
    record.progress(checkpoints.newest)
  if record.step < config.steps:
    raise Stopped(f'stopped at step {record.step} of {config.steps}, saved.')
  return state
