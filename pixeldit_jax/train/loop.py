"""The training loop: mesh, data, state, restore, evaluators, steps."""

import contextlib
import dataclasses
import logging
from collections.abc import Collection, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from pixeldit_jax import hardware, sharding
from pixeldit_jax.data.pipeline.iterator import BatchIterator
from pixeldit_jax.data.source import Source
from pixeldit_jax.encoders.frozen import Frozen
from pixeldit_jax.errors import Stopped, UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.manager import Checkpoints
from pixeldit_jax.train.early_stop import step_of_lowest_loss
from pixeldit_jax.train.evaluator import (
  Evaluator,
  Image,
  Scalar,
  split_results,
)
from pixeldit_jax.train.inputs import (
  batch_shapes,
  flops_of_batch,
  image_sizes,
  make_data,
  open_data,
  text_meta,
)
from pixeldit_jax.train.metric_logger import MetricLogger
from pixeldit_jax.train.metrics import Clock, Writer
from pixeldit_jax.train.program import CompiledStep, TrainProgram
from pixeldit_jax.train.run import trained_on
from pixeldit_jax.train.run import workdir as run_folder
from pixeldit_jax.train.run.preemption import StopAsked, StopRequest
from pixeldit_jax.train.run.profiler import Tracer
from pixeldit_jax.train.run.record import Record
from pixeldit_jax.train.state import TrainState
from pixeldit_jax.typing import PyTree

log = logging.getLogger(__name__)


def train(
  context: RunContext,
  workdir: str,
  evaluators: Sequence[Evaluator] = (),
  teacher: Frozen | None = None,
  allow_change: Collection[str] = (),
  *,
  source: Source | None = None,
) -> TrainState:
  """Trains to `config.steps`, from the newest checkpoint if there is one.

  Args:
    context: configuration, network and mesh.
    workdir: the folder of the run; made if absent.
    evaluators: called on the EMA.
    teacher: what REPA aligns with, of `load_teacher`; in host memory, the same
      in all processes.
    allow_change: keys that may differ from those the run was started with
      though they change its meaning, as 'data.source'.
    source: the data of `open_data`, where they are open already.

  Returns:
    The last state.

  Raises:
    UserError: a configuration that cannot be, or of another run; a workdir in
      use, or whose checkpoints are all damaged.
    OutputError: a checkpoint could not be written.
    DivergenceError: too many steps in a row were not finite.
    Stopped: SIGTERM or Ctrl-C; all is saved.
  """
  # ---- Mesh and data: until all is checked, nothing is written
  _check_batch_size(context)
  if source is None:
    source = open_data(context.config)
  program = TrainProgram(context, source, teacher)
  _check_workdir(context.config, workdir, source, allow_change)
  record = Record(
    workdir, context.config, source.class_names, text_meta(source)
  )
  with record, StopRequest() as stop:
    stop.nothing_to_save = True
    return _run(program, workdir, source, evaluators, record, stop)


def _run(
  program: TrainProgram,
  workdir: str,
  source: Source,
  evaluators: Sequence[Evaluator],
  record: Record,
  stop: StopRequest,
) -> TrainState:
  """`train`, once nothing can be refused any more."""
  context, config = program.context, program.context.config
  with contextlib.ExitStack() as resources:
    rows = sharding.local_rows(context.batch_sharding, config.data.batch_size)
    data = make_data(config, source, [int(row) for row in rows])
    resources.callback(data.close)

    # ---- State: from a checkpoint, of another run, or random
    checkpoints = Checkpoints(workdir, config.checkpoint)
    resources.callback(checkpoints.close)
    state, run_counters = _start(program, workdir, checkpoints, data, record)
    record.begin(state.weights)
    if _has_ended(config, record, evaluators):
      return state

    # ---- Step, compiled
    before = record.goodput.seconds()['compile']  # of earlier starts
    with record.goodput.phase('compile'):
      step_fn = program.compile(batch_shapes(config, source))
    record.step_bytes = step_fn.bytes
    log.info(
      'Compiled in %.0f s; a step needs %.2f GB of each device.',
      record.goodput.seconds()['compile'] - before,
      step_fn.bytes / 1e9,
    )

    # ---- Metrics
    logger = _make_logger(context, workdir, source, record, step_fn)
    resources.callback(logger.close)
    if run_counters:
      logger.watch.restore(run_counters['watch'])
    tracer = Tracer(workdir, config)
    resources.callback(tracer.close)

    # ---- Loop
    loop = TrainLoop(
      config,
      state,
      step_fn,
      data,
      evaluators,
      checkpoints,
      record,
      logger,
      tracer,
      stop,
    )
    return loop.run()


def _check_batch_size(context: RunContext) -> None:
  """Raises UserError for a batch that devices and parts do not divide."""
  config = context.config
  shards = sharding.batch_shards(context.mesh, context.rules)
  if config.data.batch_size % (shards * config.optimizer.accumulate):
    raise UserError(
      f'data.batch_size={config.data.batch_size} does not divide over {shards} '
      f'devices x optimizer.accumulate={config.optimizer.accumulate}.'
    )
  # Decoded ahead, and the batch on its way to the devices.
  rows = config.data.batch_size // jax.process_count()
  batches = max(1, config.data.num_workers) * config.data.prefetch + 2
  needed = rows * batches * 3 * config.data.resolution**2
  if needed > (there := hardware.host_memory()):
    raise UserError(
      f'data.batch_size={config.data.batch_size} at data.resolution='
      f'{config.data.resolution}: {batches} batches are in memory at once '
      f'(data.prefetch={config.data.prefetch}), {needed / 1e9:,.1f} GB of '
      f'{there / 1e9:,.1f} GB that this machine has. Lower one of them.'
    )


def _check_workdir(
  config: ConfigDict,
  workdir: str,
  source: Source,
  allow_change: Collection[str],
) -> None:
  """Raises UserError unless the run of a workdir, if any, can be continued."""
  run_folder.check_same_run(workdir, config, allow_change)
  begun = run_folder.is_begun(workdir)
  if config.model.text_width:
    meta = text_meta(source)
    if config.init_from:
      trained_on.check_init_text_encoder(config.init_from, meta)
    if begun:
      trained_on.check_text_encoder(workdir, meta)
  elif begun:
    trained_on.check_classes(workdir, source.class_names, allow_change)


def _start(
  program: TrainProgram,
  workdir: str,
  checkpoints: Checkpoints,
  data: BatchIterator,
  record: Record,
) -> tuple[TrainState, dict[str, Any]]:
  """The state to go on from, and the run counters saved with it, if any."""
  if checkpoints.newest is None:
    record.start_anew()
    return program.new_state(), {}
  state, run_counters = checkpoints.restore(program.abstract_state, data)
  record.resume(checkpoints.newest, run_counters['seconds'])
  return state, run_counters


def _make_logger(
  context: RunContext,
  workdir: str,
  source: Source,
  record: Record,
  step_fn: CompiledStep,
) -> MetricLogger:
  """A logger that starts after the last step of `record`."""
  config = context.config
  flops = flops_of_batch(config, image_sizes(config, source))
  clock = Clock(
    record.step, config.steps, config.data.batch_size, flops, record.goodput
  )
  writer = Writer(workdir, record.step, config.steps)
  return MetricLogger(config, writer, clock, record.goodput, step_fn.report)


def _has_ended(
  config: ConfigDict, record: Record, evaluators: Sequence[Evaluator]
) -> bool:
  """Whether a run that is begun again has nothing left to do."""
  evaluated = record.step in record.eval_metrics or not evaluators
  if record.step >= config.steps and evaluated:
    log.info('Already trained to step %d.', record.step)
    return True
  return _ends_early(config, record)


def _ends_early(config: ConfigDict, record: Record) -> bool:
  """Whether the loss on other images no longer falls; the log says so."""
  lowest = step_of_lowest_loss(record.eval_metrics, config.eval.patience)
  if lowest is None:
    return False
  log.info(
    'Ended at step %d of %d: the loss on images that are not trained on was '
    'lowest at step %d (eval.patience=%d; 0 goes on).',
    *(record.step, config.steps, lowest, config.eval.patience),
  )
  return True


@dataclasses.dataclass
class TrainLoop:
  """The steps of a run, and what is done between them.

  Attributes:
    config: all values.
    state: after the last step.
    step_fn: the training step.
    data: the batches.
    evaluators: called on the EMA.
    checkpoints: those of the run.
    record: files of the run; knows the last step.
    logger: reads the metrics, and stops a run that diverges.
    tracer: traces steps on request.
    stop: knows of a signal to stop.
    batch: of the last step, on the devices; None before the first.
  """

  config: ConfigDict
  state: TrainState
  step_fn: CompiledStep
  data: BatchIterator
  evaluators: Sequence[Evaluator]
  checkpoints: Checkpoints
  record: Record
  logger: MetricLogger
  tracer: Tracer
  stop: StopRequest
  batch: PyTree = None

  def run(self) -> TrainState:
    """Trains from the step of `record` to the last one, or until a signal.

    Raises:
      Stopped: there was a signal; all is saved.
    """
    record, first = self.record, self.record.step
    self.stop.nothing_to_save = False
    stopped = False
    try:
      self._steps()
    except StopAsked:
      stopped = True
    if record.step > first:
      self._save(record.step)
      with record.goodput.phase('checkpoint'):
        self.checkpoints.wait()
      record.progress(self.checkpoints.newest)
    if stopped:
      end = 'saved' if record.step > first else 'nothing new to save'
      raise Stopped(
        f'stopped at step {record.step} of {self.config.steps}, {end}.'
      )
    return self.state

  def _steps(self) -> None:
    """All steps that are left, and an evaluation that was cut short before.

    Raises:
      StopAsked: there was a signal.
    """
    record, first = self.record, self.record.step
    cut_short = first not in record.eval_metrics
    if first and cut_short and self._evaluators_at(first):
      self._evaluate(first)
    record.goodput.start_phase('step')
    with jax.transfer_guard('disallow'):
      for step in range(first + 1, self.config.steps + 1):
        self.stop.check()
        self._train_step(step)
        with jax.transfer_guard('allow'):
          self._after_step(step)
          if step in record.eval_metrics and _ends_early(self.config, record):
            return

  def _train_step(self, step: int) -> None:
    """Dispatches a step; reads the metrics of those before."""
    self.tracer.before(step)
    with self.record.goodput.phase('data'):
      batch = next(self.data)
    self.batch = self.step_fn.put(batch)
    self.state, metrics = self.step_fn(self.state, self.batch)
    self.record.advance(step)
    self._read_metrics()
    self.logger.add(step, metrics, self._log_now(step))
    if self.config.debug_nans:
      self._read_metrics(everything=True)  # while the step can be run again
    self.tracer.after(step, metrics['loss'])

  def _after_step(self, step: int) -> None:
    """Saves, evaluates and logs where it is due."""
    checkpoint = self.config.checkpoint
    eval_now = bool(self._evaluators_at(step))
    # Before the evaluation: one that is cut short loses no step.
    if (
      step == self.config.steps
      or step % checkpoint.every == 0
      or (eval_now and checkpoint.best)
    ):
      self._save(step)
    if eval_now:
      self._read_metrics(everything=True)
      self._evaluate(step)
    if self._log_now(step):
      self.checkpoints.poll()
      self.record.progress(self.checkpoints.newest)

  def _log_now(self, step: int) -> bool:
    return step == self.config.steps or step % self.config.log.every == 0

  def _read_metrics(self, everything: bool = False) -> None:
    self.logger.flush(self.state, self.batch, everything)

  def _save(self, step: int) -> None:
    """Starts to write a checkpoint, unless the step has one."""
    self._read_metrics(everything=True)  # a run that diverged saves nothing
    if step <= self.checkpoints.last:
      return
    self.record.check_lock()
    self.record.claim()
    with self.record.goodput.phase('checkpoint'):
      run_counters = dict(
        seconds=self.record.goodput.seconds(), watch=self.logger.watch.state()
      )
      self.checkpoints.save(
        self.state, self.data, run_counters, self.record.eval_metrics
      )

  def _evaluators_at(self, step: int) -> list[Evaluator]:
    last = step == self.config.steps
    return [
      evaluator
      for evaluator in self.evaluators
      if evaluator.every and (last or step % evaluator.every == 0)
    ]

  def _evaluate(self, step: int) -> None:
    """Calls the evaluators of a step, and keeps what they find.

    Raises:
      StopAsked: there was a signal; a start finds that it was cut short.
    """
    found: list[tuple[str, Scalar | Image]] = []
    with self.record.goodput.phase('evaluation'):
      for evaluator in self._evaluators_at(step):
        found += evaluator(step, self.state.ema, self.stop.check)
    metrics, images = split_results(found)
    self.logger.evaluated(step, metrics, images)
    self.record.evaluated(step, metrics)
