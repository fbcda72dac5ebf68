"""Measures images a second: of decoding only, and of the complete pipeline."""

import concurrent.futures
import contextlib
import itertools
import statistics
import time
from collections.abc import Callable

from pixeldit_jax.data.pipeline.aspect_ratio_buckets import bucket_order
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.load_example import ExampleLoader
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.pipeline.order import square_order
from pixeldit_jax.data.source import Source

_ROUNDS = 3  # of each, in turns: other work on the machine hits both


def measure(
  source: Source, options: LoaderOptions, *, seconds: float = 10.0
) -> dict[str, float]:
  """Measures both on this process.

  Args:
    source: what is read.
    options: of the batches.
    seconds: the time for each of the two.

  Returns:
    'decode': images/s of reading, decoding and cropping in the same number of
    threads and nothing else; 'pipeline': images/s of batches; 'ratio':
    the second over the first.
  """
  order = (bucket_order if options.buckets else square_order)(source, options)
  load = ExampleLoader(source, options)
  positions = itertools.count()

  def decode():
    position = next(positions)
    load(position, *order.slot_at(position))

  decoding, pipeline = [], []
  with (
    contextlib.closing(make_batches(source, options)) as batches,
    concurrent.futures.ThreadPoolExecutor(options.threads) as pool,
  ):
    for _ in range(_ROUNDS):
      running = [
        pool.submit(_rate, decode, 1, seconds / _ROUNDS)
        for _ in range(options.threads)
      ]
      decoding.append(sum(rate.result() for rate in running))
      # Batches that were made ahead of time do not count.
      idle = options.prefetch * max(1, options.num_workers) + 2
      rate = _rate(lambda: next(batches), idle, seconds / _ROUNDS)
      pipeline.append(options.batch_size * rate)
      batches.set_state(batches.get_state())  # stops reading ahead
  decode_rate = statistics.median(decoding)
  pipeline_rate = statistics.median(pipeline)
  return {
    'decode': decode_rate,
    'pipeline': pipeline_rate,
    'ratio': pipeline_rate / decode_rate,
  }


def _rate(call: Callable[[], object], idle: int, seconds: float) -> float:
  """Returns calls per second, after `idle` calls that do not count."""
  for _ in range(idle):
    call()
  count, begin = 0, time.perf_counter()
  while time.perf_counter() < begin + seconds:
    call()
    count += 1
  return count / (time.perf_counter() - begin)
