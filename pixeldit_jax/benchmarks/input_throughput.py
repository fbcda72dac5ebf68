"""How fast images come: decoding alone, and the whole pipeline."""

import concurrent.futures
import contextlib
import itertools
import statistics
import time

import grain

from pixeldit_jax.data.pipeline.aspect_ratio_buckets import make_bucket_pipeline
from pixeldit_jax.data.pipeline.batches import make_pipeline, usable_cores
from pixeldit_jax.data.pipeline.load_example import ExampleLoader
from pixeldit_jax.data.source import Source

_ROUNDS = 3  # of each, in turns: other work on the machine hits both


def measure(
  source: Source,
  *,
  resolution: int,
  batch_size: int,
  bucketed: bool = False,
  seed: int = 0,
  num_threads: int = 0,
  num_workers: int = 0,
  prefetch: int = 2,
  seconds: float = 10.0,
) -> dict[str, float]:
  """Returns images per second of this process, and what they compare to.

  The arguments are those of `make_pipeline`, or with `bucketed` of
  `make_bucket_pipeline`; `seconds` is the time given to each of the two.

  Returns:
    'decode': images/s of reading, decoding and cropping in `num_threads`
    threads and nothing else; 'pipeline': images/s of whole batches; 'ratio':
    the second over the first.
  """
  threads = num_threads or usable_cores()
  options = dict(
    batch_size=batch_size,
    seed=seed,
    num_threads=num_threads,
    num_workers=num_workers,
    prefetch=prefetch,
  )
  if bucketed:
    batches = make_bucket_pipeline(source, **options)
    bucket_of = source.bucket_of_examples()
  else:
    batches = make_pipeline(source, resolution=resolution, **options)
  order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
  positions = itertools.count()
  load = ExampleLoader(source, seed)

  def decode():
    position = next(positions)
    index = order[position]
    square = resolution, resolution
    shape = source.buckets[bucket_of[index]] if bucketed else square
    load(position, index, shape)

  decoding, whole = [], []
  with (
    contextlib.closing(batches),
    concurrent.futures.ThreadPoolExecutor(threads) as pool,
  ):
    for _ in range(_ROUNDS):
      running = [
        pool.submit(_rate, decode, 1, seconds / _ROUNDS) for _ in range(threads)
      ]
      decoding.append(sum(rate.result() for rate in running))
      # Until what was made ahead of its time is used up.
      idle = prefetch * max(1, num_workers) + 2
      rate = _rate(lambda: next(batches), idle, seconds / _ROUNDS)
      whole.append(batch_size * rate)
      batches.set_state(batches.get_state())  # stops reading ahead
  decode_rate = statistics.median(decoding)
  pipeline_rate = statistics.median(whole)
  return {
    'decode': decode_rate,
    'pipeline': pipeline_rate,
    'ratio': pipeline_rate / decode_rate,
  }


def _rate(call, idle: int, seconds: float) -> float:
  """Returns calls per second, after `idle` calls that do not count."""
  for _ in range(idle):
    call()
  count, begin = 0, time.perf_counter()
  while time.perf_counter() < begin + seconds:
    call()
    count += 1
  return count / (time.perf_counter() - begin)
