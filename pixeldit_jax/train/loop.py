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
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.vision import VisionConfig
from pixeldit_jax.errors import DivergenceError, Stopped, UserError
from pixeldit_jax.train.checkpoint.manager import Checkpoints
from pixeldit_jax.train.checkpoint.restore import restore_init
from pixeldit_jax.train.inputs import (
  batch_shapes,
  flops_of_batch,
  image_sizes,
  make_data,
  open_data,
  text_meta,
)
from pixeldit_jax.train.metric_logger import LateLog
from pixeldit_jax.train.metrics import Clock, Writer
from pixeldit_jax.train.nan_report import describe
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.repa import Target, find_target, place_teacher
from pixeldit_jax.train.run.preemption import StopRequest
from pixeldit_jax.train.run.profiler import Tracer
from pixeldit_jax.train.run.record import Record
from pixeldit_jax.train.run.text_encoder_metadata import check_start, keep_text
from pixeldit_jax.train.run.workdir import check_same_run, write_overview
from pixeldit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  state_shardings,
)
from pixeldit_jax.train.step import make_train_step
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
    UserError: a configuration that cannot be, or of another run; a workdir
      in use, or whose checkpoints are all damaged.
    OSError: a checkpoint could not be written.
    FloatingPointError: loss or gradients were not finite for long.
    Stopped: SIGTERM or Ctrl-C; all is saved.
  """
  validate(config)
  batch_size = config.data.batch_size

  # ---- Mesh
  mesh = sharding.make_mesh(config.mesh)
  rules = sharding.make_rules(config.mesh)
  shards = sharding.batch_shards(mesh, rules)
  if batch_size % (shards * config.optimizer.accumulate):
    raise UserError(
      f'data.batch_size={batch_size} does not divide over {shards} devices '
      f'x optimizer.accumulate={config.optimizer.accumulate}.'
    )

  # ---- Source
  source = open_data(config)
  target = find_target(config, source, teacher)

  # ---- Workdir
  check_same_run(workdir, config, allow_change)
  if config.model.text_width:
    if config.init_from:
      check_start(config.init_from, text_meta(source))
    keep_text(workdir, text_meta(source))
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
  rules = sharding.make_rules(config.mesh)
  batch_sharding = sharding.batch_sharding(mesh, rules)

  # ---- Data
  rows = sharding.local_rows(batch_sharding, config.data.batch_size)
  data = make_data(config, source, rows)
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
      weights = restore_init(config.init_from, like.ema)
      ema = jax.tree.map(jnp.copy, weights)  # buffers of their own, to donate
      state = state.replace(weights=weights, ema=ema)
    write_overview(workdir, state.weights)
  else:
    state, account = checkpoints.restore(like, data)
    record.resume(first, account)

  if first >= config.steps and (first in record.numbers or not evaluators):
    log.info('Already trained to step %d.', first)
    return state

  # ---- Step, compiled ahead for each size of image
  frozen = None
  if isinstance(target, VisionConfig):
    split_by = rules if config.repa.sharded else None
    frozen = place_teacher(teacher, mesh, split_by)
  step_fn = jax.jit(
    make_train_step(config, target),
    in_shardings=(
      shardings,
      batch_sharding,
      jax.tree.map(lambda a: a.sharding, frozen),
    ),
    out_shardings=(shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  batches = batch_shapes(config, source)
  with goodput.spending('compile'), sharding.use(mesh, rules):
    train_steps = {
      size: step_fn.lower(like, batch, frozen).compile()
      for size, batch in batches.items()
    }
  log.info('Compiled in %.0f s.', goodput.seconds()['compile'])

  # ---- What looks on
  writer = Writer(workdir, first, config.steps)
  opened.callback(writer.close)
  flops = flops_of_batch(config, image_sizes(config, source))
  clock = Clock(first, config.steps, config.data.batch_size, flops, goodput)
  late = LateLog(writer, clock, record, config)
  tracer = Tracer(workdir, config)
  opened.callback(tracer.close)

  def flush(everything=False):
    late.flush(everything)
    if late.diverged:
      with sharding.use(mesh, rules), jax.transfer_guard('allow'):
        story = describe(config, target, state, batch, frozen)
      raise DivergenceError(
        f'loss or gradients were not finite in {late.diverged} steps in a '
        f'row, up to step {late.read}. The last step run again:\n{story}\n'
        'The weights are those before; lower optimizer.learning_rate, or try '
        'model.modulation=post.'
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
      size = example['image'].shape[1:3]
      batch = {name: example[name] for name in batches[size]}
      batch = sharding.put_batch(batch, batch_sharding)
      state, metrics = train_steps[size](state, batch, frozen)
      record.step = step

      flush()
      last = step == config.steps
      due = last or step % config.log.every == 0
      late.later(step, metrics, due)
      if config.debug_nans:
        flush(everything=True)  # now, while the step can be run again
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
