"""How fast images come: decoding alone, and the whole pipeline."""

import concurrent.futures
import itertools
import statistics
import time

import grain

from pixeldit_jax.data import transforms
from pixeldit_jax.data.pipeline import make_pipeline, usable_cores
from pixeldit_jax.data.sources import Source

_ROUNDS = 3  # of each, in turns: other work on the machine hits both


def measure(
  source: Source,
  *,
  resolution: int,
  batch_size: int,
  seed: int = 0,
  num_threads: int = 0,
  num_workers: int = 0,
  prefetch: int = 2,
  seconds: float = 10.0,
) -> dict[str, float]:
  """Returns images per second of this process, and what they compare to.

  The arguments are those of `make_pipeline`; `seconds` is the time given to
  each of the two.

  Returns:
    'decode': images/s of reading, decoding and cropping in `num_threads`
    threads and nothing else; 'pipeline': images/s of whole batches; 'ratio':
    the second over the first.
  """
  threads = num_threads or usable_cores()
  batches = make_pipeline(
    source,
    resolution=resolution,
    batch_size=batch_size,
    seed=seed,
    num_threads=num_threads,
    num_workers=num_workers,
    prefetch=prefetch,
  )
  order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
  positions = itertools.count()

  def decode():
    example = source[order[next(positions)]]
    image = transforms.decode(example['image'])
    transforms.crop(image, resolution, resolution)

  decoding, whole = [], []
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
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
  batches.close()
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
