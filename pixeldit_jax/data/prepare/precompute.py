"""Computes an array for every prepared image and stores it beside the shards.

Resumable by shard: a finished file has a report in `.<name>`, and the manifest
`<name>.json` is written last, as for the images (see `prepare`).
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
import tqdm

from pixeldit_jax import files as whole_files
from pixeldit_jax.data import precomputed_arrays
from pixeldit_jax.data.pipeline.loader_options import usable_cores
from pixeldit_jax.data.sources import shards
from pixeldit_jax.errors import UserError


def write(
  path: str,
  name: str,
  fn: Callable[[list[Any]], Sequence[Any]],
  *,
  meta: Mapping[str, Any],
  load: Callable[[dict[str, Any]], Any] = lambda example: example,
  batch_size: int = 64,
  dtype: str = 'bfloat16',
  constants: Mapping[str, np.ndarray] | None = None,
  num_threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  barrier: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Stores fn of every example; returns the manifest of the side array.

  Run again after an interruption, it goes on with the shards not yet done; run
  again when done, it checks what is there.

  Args:
    path: a folder of shards, as `launch/prepare_data.py` wrote it.
    name: of the side array, and so of its files and of its key in batches.
    fn: takes `batch_size` loaded examples, always so many (the last one is
      repeated to fill, so that one compilation serves), and returns an array
      for each: [B, ...], or a list of arrays of any shapes. It is called
      again before its last result is read, so a device is kept busy.
    meta: what the arrays are made by (name and checksum of the network, ...),
      of JSON values; other values are another side array.
    load: what fn takes of one example, a dict such as that of `ShardSource`
      ('image' still encoded); called in threads, ahead of fn.
    batch_size: examples of one call.
    dtype: of the stored elements.
    constants: arrays that belong to no example, by name.
    num_threads: that load; 0 means one per core.
    process_index: this process; it takes every process_count-th shard.
    process_count: processes that share the work, over one file system.
    barrier: returns once every process has called it.

  Raises:
    FileNotFoundError: if there are no prepared images.
    UserError: if they are damaged, the name holds something else, or fn gives
      what is not finite.
  """
  images = shards.check_shards(path)
  job = _describe(path, name, meta, dtype)
  if _is_done(path, job):
    stored = precomputed_arrays.PrecomputedArrays(path, name)
    stored.check(
      checksums=True, process_index=process_index, process_count=process_count
    )
    return stored.manifest
  if process_index == 0:
    os.makedirs(_work_folder(path, name), exist_ok=True)
    whole_files.write_bytes(_job_path(path, name), _json(job))
  barrier()
  spans = _spans(images, name)
  mine = [
    file
    for file in list(spans)[process_index::process_count]
    if _read_report(path, name, file) is None
  ]
  whole_files.remove_temporaries(path, mine)
  indices = [index for file in mine for index in spans[file]]
  source = shards.ShardSource(path)
  batches = _load_batches(source, indices, load, batch_size, num_threads)
  with tqdm.tqdm(total=len(indices), unit=' examples') as progress:
    arrays = _check(_compute(batches, fn, batch_size), np.dtype(dtype))
    for file in mine:
      part = itertools.islice(arrays, len(spans[file]))
      _write_file(path, name, file, part, progress.update)
  barrier()
  if process_index == 0:
    _finish(path, job, list(spans), constants or {})
  barrier()
  return precomputed_arrays.read_manifest(path, name)


def refuse_other(
  path: str, name: str, *, meta: Mapping[str, Any], dtype: str = 'bfloat16'
) -> None:
  """Raises UserError where `write` would, as the name holds something else.

  The arguments are those of `write`.
  """
  shards.check_shards(path)
  _is_done(path, _describe(path, name, meta, dtype))


def _describe(path: str, name: str, meta: Mapping, dtype: str) -> dict:
  """Returns what decides the bytes of a side array."""
  reserved = ('manifest', 'images', 'buckets')
  if not re.fullmatch('[a-z][a-z0-9_]*', name) or name in reserved:
    raise UserError(
      f'side array {name!r}: use lower-case letters, digits and _, and not '
      f'one of {reserved}'
    )
  return {
    'format': precomputed_arrays.FORMAT,
    'name': name,
    'meta': json.loads(json.dumps(dict(meta))),
    'dtype': np.dtype(dtype).name,
    'images': whole_files.sha256(os.path.join(path, shards.MANIFEST)),
  }


def _is_done(path: str, job: dict[str, Any]) -> bool:
  """Whether this very job is done; refuses a folder that has another."""
  done = os.path.exists(precomputed_arrays.manifest_path(path, job['name']))
  begun = os.path.exists(_job_path(path, job['name']))
  if done:
    before = precomputed_arrays.read_manifest(path, job['name'])
  elif begun:
    with open(_job_path(path, job['name']), encoding='utf-8') as file:
      before = json.load(file)
  else:
    return False
  differ = [
    f'{key} was {before.get(key)!r}, now {value!r}'
    for key, value in job.items()
    if before.get(key) != value
  ]
  if differ:
    raise UserError(
      f'{path} holds another {job["name"]!r} ({"; ".join(differ)}); delete '
      f'{job["name"] + ".json" if done else "." + job["name"]} there to store '
      'it anew'
    )
  return done


def _spans(images: dict[str, Any], name: str) -> dict[str, range]:
  """Returns the examples of each file, in the order of the shards."""
  spans, start = {}, 0
  count = len(images['shards'])
  for k, shard in enumerate(images['shards']):
    file = f'{name}-{k:05d}-of-{count:05d}.array_record'
    spans[file] = range(start, start + shard['examples'])
    start += shard['examples']
  return spans


def _load_batches(
  source: shards.ShardSource,
  indices: list[int],
  load: Callable[[dict[str, Any]], Any],
  batch_size: int,
  num_threads: int,
) -> Iterable[list[Any]]:
  """Returns the loaded examples in order, in batches, read ahead."""
  return (
    grain.MapDataset.source(indices)
    .map(lambda index: load(source[index]))
    .to_iter_dataset(
      grain.ReadOptions(num_threads or usable_cores(), 2 * batch_size)
    )
    .batch(batch_size, drop_remainder=False, batch_fn=list)
  )


def _compute(
  batches: Iterable[list[Any]], fn: Callable, batch_size: int
) -> Iterator[np.ndarray]:
  """Yields the array of each example, a batch late (see `write`)."""
  last: tuple[Sequence[Any], int] = (), 0
  for batch in itertools.chain(batches, [[]]):
    results: Sequence[Any] = ()
    if batch:
      fill = [batch[-1]] * (batch_size - len(batch))
      results = fn(batch + fill)
      if len(results) != batch_size:
        raise UserError(f'{len(results)} arrays for {batch_size} examples')
    before, count = last
    # One transfer where the batch is one array.
    whole = np.asarray(before) if hasattr(before, 'shape') else before
    yield from whole[:count]
    last = results, len(batch)


def _check(
  arrays: Iterator[np.ndarray], dtype: np.dtype
) -> Iterator[np.ndarray]:
  """Yields the arrays in their type, and refuses what is not finite."""
  for array in arrays:
    array = np.asarray(array).astype(dtype)
    if not np.isfinite(array).all():
      raise UserError(f'values that are not finite in {dtype} came')
    yield array


def _write_file(
  path: str,
  name: str,
  file: str,
  arrays: Iterator[np.ndarray],
  advance: Callable[[], Any],
):
  """Writes the arrays of one shard, then its report."""
  count, shapes = 0, set()
  with whole_files.write_records(os.path.join(path, file)) as writer:
    for array in arrays:
      writer.write(precomputed_arrays.pack(array))
      shapes.add(array.shape)
      count += 1
      advance()
  report = whole_files.entry_of(os.path.join(path, file))
  report |= {'examples': count, 'shapes': sorted(shapes)[:2]}
  whole_files.write_bytes(_report_path(path, name, file), _json(report))


def _finish(
  path: str,
  job: dict[str, Any],
  files: list[str],
  constants: Mapping[str, np.ndarray],
):
  """Writes the constants and the manifest, and tidies up."""
  reports = [_read_report(path, job['name'], file) for file in files]
  shapes = {tuple(s) for report in reports for s in report.pop('shapes')}
  entries = []
  for key, array in sorted(constants.items()):
    place = os.path.join(path, f'{job["name"]}.{key}')
    array = np.asarray(array).astype(np.dtype(job['dtype']))
    whole_files.write_bytes(place, precomputed_arrays.pack(array))
    entries.append({'name': key, **whole_files.entry_of(place)})
  manifest = job | {
    'examples': sum(report['examples'] for report in reports),
    'shape': shapes.pop() if len(shapes) == 1 else None,
    'files': reports,
    'constants': entries,
  }
  whole_files.write_bytes(
    precomputed_arrays.manifest_path(path, job['name']), _json(manifest)
  )
  shutil.rmtree(_work_folder(path, job['name']))


def _read_report(path: str, name: str, file: str) -> dict[str, Any] | None:
  """Returns the report of a file that is there in full, else None."""
  place = _report_path(path, name, file)
  if not os.path.exists(place):
    return None
  with open(place, encoding='utf-8') as opened:
    report = json.load(opened)
  return None if whole_files.faults(path, [report]) else report


def _work_folder(path: str, name: str) -> str:
  return os.path.join(path, f'.{name}')


def _job_path(path: str, name: str) -> str:
  return os.path.join(_work_folder(path, name), 'job.json')


def _report_path(path: str, name: str, file: str) -> str:
  return os.path.join(_work_folder(path, name), f'{file}.json')


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=1) + '\n').encode()
