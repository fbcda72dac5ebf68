"""From any source to ArrayRecord shards, on all cores, in any interruption.

The unit of work is a shard: one process reads its range of the source, writes
the shard beside its place and renames it, then leaves a report of it in
`.prepare`. What has a report is not done again, so a run that was killed goes
on where it was, to the same bytes as an unbroken one. The manifest is written
last: without it, the data are not ready.
"""

import concurrent.futures
import dataclasses
import io
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from pixeldit_jax import files
from pixeldit_jax.data import transforms
from pixeldit_jax.data.pipeline.loader_options import usable_cores
from pixeldit_jax.data.prepare import write_shard
from pixeldit_jax.data.prepare.write_shard import Settings
from pixeldit_jax.data.source import Source
from pixeldit_jax.data.sources import shards
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.images import contact_sheet

log = logging.getLogger(__name__)

_SHEET = 'contact_sheet.png'
_SHEET_IMAGES = 64


class TooManyBadFiles(ValueError):
  """More files could not be read than the budget allows."""


def prepare(
  settings: Settings,
  out: str,
  *,
  max_bad_files: int = 100,
  num_processes: int = 0,
) -> dict[str, Any]:
  """Writes the shards, a contact sheet and the manifest; returns the latter.

  Run again after an interruption, it goes on; run again when done, it checks
  what is there.

  Args:
    settings: what to write.
    out: the folder; new, or that of the same preparation before.
    max_bad_files: files that may be left out; one more stops the preparation.
    num_processes: at work at once; 0 means one per core. The result does not
      depend on it.

  Raises:
    UserError: if `out` holds another preparation, or the source is unusable.
    TooManyBadFiles: with the names of the files.
    RuntimeError: if a process was killed from outside; run again to go on.
  """
  if not out:
    raise UserError('out is empty; give --out a new folder')
  if min(max_bad_files, num_processes) < 0:
    raise UserError(
      'max_bad_files and num_processes must be 0 or more, got '
      f'{max_bad_files} and {num_processes}'
    )
  settings.shapes()  # refuses a family that does not exist
  source = open_source(settings.source)
  job = dataclasses.asdict(settings) | {'source_examples': len(source)}
  _start(job, out)
  if os.path.exists(os.path.join(out, shards.MANIFEST)):
    log.info('%s is prepared already: checking it', out)
    shutil.rmtree(os.path.join(out, write_shard.REPORTS), ignore_errors=True)
    return shards.check_shards(out, checksums=True)
  size = settings.shard_size or min(2048, -(-len(source) // 64))
  bounds = [*range(0, len(source), size), len(source)]
  reports: dict[int, dict[str, Any]] = {}
  bad_files = 0
  with tqdm.tqdm(total=len(source), unit=' images') as progress:
    for index, report in _reports(settings, source, out, bounds, num_processes):
      reports[index] = report
      bad_files += len(report['skipped'])
      progress.set_postfix(bad=bad_files, refresh=False)
      progress.update(bounds[index + 1] - bounds[index])
      if bad_files > max_bad_files:
        _give_up(out, reports, max_bad_files)
  return _finish(
    job, source, out, settings, [reports[i] for i in sorted(reports)]
  )


def _start(job: dict[str, Any], out: str):
  """Makes `out`, or checks that it holds this very preparation."""
  reports = os.path.join(out, write_shard.REPORTS)
  begun_path = os.path.join(reports, 'job.json')
  if os.path.exists(os.path.join(out, shards.MANIFEST)):
    begun = shards.read_manifest(out)['job']
  elif os.path.exists(begun_path):
    with open(begun_path, encoding='utf-8') as file:
      begun = json.load(file)
  elif os.path.isdir(out) and set(os.listdir(out)) - {write_shard.REPORTS}:
    raise UserError(f'{out} holds other files; give --out a new folder')
  else:
    os.makedirs(reports, exist_ok=True)
    files.write_bytes(begun_path, _json(job))
    return
  differ = [
    f'{key} was {begun.get(key)!r}, now {value!r}'
    for key, value in job.items()
    if begun.get(key) != value
  ]
  if differ:
    raise UserError(
      f'{out} holds another preparation ({"; ".join(differ)}); give --out a '
      'new folder, or delete this one'
    )
  for folder in (out, reports):
    files.remove_temporaries(folder)


def _reports(
  settings: Settings,
  source: Source,
  out: str,
  bounds: list[int],
  num_processes: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (shard, its report): those on disk first, then as they are made."""
  count = len(bounds) - 1
  todo = []
  for index in range(count):
    report = _read_report(out, index)
    if report:
      yield index, report
    else:
      todo.append(index)
  if not todo:
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    min(num_processes or usable_cores(), len(todo)),
    multiprocessing.get_context('spawn'),  # a fork would copy JAX's threads
    initializer=write_shard.begin_process,
    initargs=(settings, source, out),
  )
  try:
    running = {}
    for index in todo:
      name = f'images-{index:05d}-of-{count:05d}.array_record'
      span = bounds[index], bounds[index + 1]
      running[pool.submit(write_shard.write_shard, name, index, *span)] = index
    for future in concurrent.futures.as_completed(running):
      yield running[future], future.result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise RuntimeError(
      'a process of the preparation was killed (out of memory?); run the same '
      'command again to go on'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _read_report(out: str, index: int) -> dict[str, Any] | None:
  """Returns the report of a shard that is there in full, else None."""
  path = write_shard.report_path(out, index)
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    report = json.load(file)
  shard = os.path.join(out, report['file'])
  whole = os.path.exists(shard) and os.path.getsize(shard) == report['bytes']
  return report if whole else None


def _give_up(out: str, reports: dict[int, dict[str, Any]], max_bad_files: int):
  """Raises TooManyBadFiles; the shards with bad files are to be done again."""
  bad = []
  for index in sorted(reports):
    if reports[index]['skipped']:
      os.remove(write_shard.report_path(out, index))
      bad += reports[index]['skipped']
  raise TooManyBadFiles(
    f'{len(bad)} files cannot be used, more than the {max_bad_files} allowed; '
    'mend them, or raise --max_bad_files, and run again to go on:\n'
    + _lines(bad)
  )


def _finish(
  job: dict[str, Any],
  source: Source,
  out: str,
  settings: Settings,
  reports: list[dict[str, Any]],
) -> dict[str, Any]:
  """Writes what describes the shards, the manifest last; returns it."""
  counts = [0] * source.num_classes
  for report in reports:
    for label, count in report['classes'].items():
      if int(label) >= 0:
        counts[int(label)] += count
  manifest = {
    'format': shards.FORMAT,
    'job': job,
    'resolution': settings.resolution,
    'buckets': settings.shapes() if settings.bucketed else [],
    'examples': sum(report['examples'] for report in reports),
    'captions': sum(report['captions'] for report in reports),
    'enlarged': sum(report['enlarged'] for report in reports),
    'class_names': source.class_names,
    'class_counts': counts,
    'skipped': [file for report in reports for file in report['skipped']],
    'shards': [
      {key: report[key] for key in ('file', 'examples', 'bytes', 'sha256')}
      for report in reports
    ],
    'indices': [],
  }
  if not manifest['examples']:
    raise UserError(
      f'{job["source"]}: no image could be used:\n{_lines(manifest["skipped"])}'
    )
  if settings.bucketed:
    manifest['indices'].append(_write_bucket_index(out, reports))
  _draw_sheet(out, manifest)
  files.write_bytes(os.path.join(out, shards.MANIFEST), _json(manifest))
  shutil.rmtree(os.path.join(out, write_shard.REPORTS))
  return shards.read_manifest(out)  # as a later run will read it


def _write_bucket_index(out: str, reports: list) -> dict[str, Any]:
  """Writes the bucket of each example; returns its entry for the manifest."""
  index = np.concatenate([np.array(r['buckets'], np.int16) for r in reports])
  buffer = io.BytesIO()
  np.save(buffer, index)
  path = os.path.join(out, shards.BUCKET_INDEX)
  files.write_bytes(path, buffer.getvalue())
  return files.entry_of(path)


def _draw_sheet(out: str, manifest: dict[str, Any]):
  """Draws a contact sheet of examples spread evenly over the shards."""
  records = files.open_records(out, manifest['shards'])
  count = min(_SHEET_IMAGES, len(records))
  images, titles = [], []
  for k in range(count):
    header, image = shards.unpack(records[k * len(records) // count])
    images.append(np.asarray(transforms.decode(image)))
    names = manifest['class_names']
    kind = names[header['label']] if header['label'] >= 0 else header['name']
    given = header.get('captions')
    titles.append(given[0][0] if given else kind)
  buffer = io.BytesIO()
  lines = 3 if manifest['captions'] else 1
  contact_sheet.draw(images, titles, lines=lines).save(buffer, 'PNG')
  files.write_bytes(os.path.join(out, _SHEET), buffer.getvalue())


def summary(manifest: dict[str, Any]) -> str:
  """Returns for people what went in, what was left out and what is odd."""
  lines = [
    f'{manifest["examples"]} images of {len(manifest["class_names"])} classes '
    f'in {len(manifest["shards"])} shards; {manifest["captions"]} have captions'
  ]
  if manifest['enlarged']:
    lines.append(
      f'{manifest["enlarged"]} images were smaller than '
      f'{manifest["resolution"]} pixels and were enlarged'
    )
  pairs = zip(manifest['class_names'], manifest['class_counts'])
  empty = [name for name, count in pairs if not count]
  if empty:
    lines.append(f'{len(empty)} classes have no image: {", ".join(empty)}')
  if manifest['skipped']:
    lines.append(f'{len(manifest["skipped"])} files were left out:')
    lines.append(_lines(manifest['skipped']))
  return '\n'.join(lines)


def _lines(bad: list[dict[str, str]]) -> str:
  """Returns a line for each file that was left out, with the reason."""
  return '\n'.join(f'  {file["name"]}: {file["reason"]}' for file in bad)


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=1, ensure_ascii=False) + '\n').encode()
