"""Prepares any source as ArrayRecord shards, on all cores, resumably."""

import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from pixeldit_jax import files
from pixeldit_jax.data import transforms
from pixeldit_jax.data.array_records import open_records
from pixeldit_jax.data.pipeline.loader_options import usable_cores
from pixeldit_jax.data.prepare.process_runner import run_in_processes
from pixeldit_jax.data.prepare.shard_job import Report, Runner, ShardJob
from pixeldit_jax.data.prepare.write_shard import PrepareSettings, WriteImages
from pixeldit_jax.data.source import Source
from pixeldit_jax.data.sources import shards
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.progress import Progress
from pixeldit_jax.storage import buckets, downloads

log = logging.getLogger(__name__)

_WORK = '.prepare'  # folder of the reports, inside the output folder
_SHEET = 'contact_sheet.png'
_SHEET_IMAGES = 64


class TooManyBadFiles(UserError):
  """More files could not be read than the budget allows."""


def prepare(
  settings: PrepareSettings,
  out: str,
  *,
  max_bad_files: int = 100,
  num_processes: int = 0,
  runner: Runner | None = None,
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
    runner: of the shards, such as that of `dask_runner`; these processes by
      default.

  Raises:
    UserError: `out` holds another preparation, the source is unusable, or a
      process was killed from outside.
    TooManyBadFiles: with the names of the files.
  """
  if not out:
    raise UserError('out is empty; give --out a new folder')
  if min(max_bad_files, num_processes) < 0:
    raise UserError(
      'max_bad_files and num_processes must be 0 or more, got '
      f'{max_bad_files} and {num_processes}'
    )
  buckets.check(out)
  settings.shapes()  # refuses a family that does not exist
  source = open_source(settings.source)
  spans = settings.spans(len(source))
  job = _make_job(settings, out, len(source), len(spans))
  if job.is_done():
    log.info('%s is prepared already: checking it', out)
    return shards.check_shards(out, checksums=True)
  _refuse_other_files(out)
  reports = job.finished()
  _check_budget(job, reports, max_bad_files)
  done = sum(len(spans[index]) for index in reports)
  progress = Progress('Prepared', len(source))
  progress(done)
  task = WriteImages(settings, source, out, job.shards, spans)
  runner = runner or run_in_processes(num_processes or usable_cores())
  for index, report in job.run(task, runner):
    reports[index] = report
    done += len(spans[index])
    bad = len(_skipped(reports))
    progress(done, f'{bad} left out' if bad else '')
    _check_budget(job, reports, max_bad_files)
  job.finish(lambda found: _make_manifest(job, source, settings, found))
  return shards.read_manifest(out)  # as a later run will read it


def _make_job(
  settings: PrepareSettings, out: str, examples: int, count: int
) -> ShardJob:
  return ShardJob(
    folder=out,
    work=_WORK,
    manifest=shards.MANIFEST,
    settings=settings.stored() | {'source_examples': examples},
    stored_settings=lambda: shards.read_manifest(out)['job'],
    shards=[
      f'images-{index:05d}-of-{count:05d}.array_record'
      for index in range(count)
    ],
    reports=[f'{index:05d}.json' for index in range(count)],
    fix='Give --out a new folder, or delete this one.',
  )


def _refuse_other_files(out: str) -> None:
  """Refuses a folder in which no preparation was begun."""
  folder = epath.Path(out)
  if (folder / _WORK / 'job.json').exists() or not folder.is_dir():
    return
  if any(path.name != _WORK for path in folder.iterdir()):
    raise UserError(f'{out} holds other files; give --out a new folder')


def _skipped(reports: Mapping[int, Report]) -> list[dict[str, str]]:
  """Returns 'name' and 'reason' of each file that was left out."""
  return [bad for index in sorted(reports) for bad in reports[index]['skipped']]


def _check_budget(
  job: ShardJob, reports: Mapping[int, Report], max_bad_files: int
) -> None:
  """Stops at too many bad files; their shards are to be written again."""
  skipped = _skipped(reports)
  if len(skipped) <= max_bad_files:
    return
  for index, report in reports.items():
    if report['skipped']:
      job.discard(index)
  raise TooManyBadFiles(
    f'{len(skipped)} files cannot be used, more than the {max_bad_files} '
    'allowed; mend them, or raise --max_bad_files, and run again to go on:\n'
    + _lines(skipped)
  )


def _make_manifest(
  job: ShardJob,
  source: Source,
  settings: PrepareSettings,
  reports: Sequence[Report],
) -> dict[str, Any]:
  """Returns the manifest; writes the other files that describe the shards."""
  files.remove_temporaries(job.folder)  # also of these files
  counts = [0] * source.num_classes
  for report in reports:
    for label, count in report['classes'].items():
      if int(label) >= 0:
        counts[int(label)] += count
  manifest = {
    'format': shards.FORMAT,
    'job': job.settings,
    'resolution': settings.resolution,
    'buckets': settings.shapes() if settings.bucketed else [],
    'examples': sum(report['examples'] for report in reports),
    'captions': sum(report['captions'] for report in reports),
    'enlarged': sum(report['enlarged'] for report in reports),
    'class_names': source.class_names,
    'class_counts': counts,
    'skipped': _skipped(dict(enumerate(reports))),
    'shards': [
      {key: report[key] for key in ('file', 'examples', 'bytes', 'sha256')}
      for report in reports
    ],
    'indices': [],
  }
  if not manifest['examples']:
    raise UserError(
      f'{settings.source}: no image could be used:\n'
      f'{_lines(manifest["skipped"])}'
    )
  if settings.bucketed:
    manifest['indices'].append(_write_bucket_index(job.folder, reports))
  _draw_sheet(job.folder, manifest)
  return manifest


def _write_bucket_index(out: str, reports: Sequence[Report]) -> files.Entry:
  """Writes the bucket of each example; returns its entry for the manifest."""
  index = np.concatenate([np.array(r['buckets'], np.int16) for r in reports])
  buffer = io.BytesIO()
  np.save(buffer, index)
  path = os.path.join(out, shards.BUCKET_INDEX)
  files.write_bytes(path, buffer.getvalue())
  return files.entry_of(path)


def _draw_sheet(out: str, manifest: Mapping[str, Any]) -> None:
  """Draws a contact sheet of examples spread evenly over the shards."""
  images, titles = [], []
  for record in _records_of_sheet(out, manifest['shards']):
    header, image = shards.unpack(record)
    images.append(np.asarray(transforms.decode(image)))
    names = manifest['class_names']
    kind = names[header['label']] if header['label'] >= 0 else header['name']
    captions = header.get('captions')
    titles.append(captions[0][0] if captions else kind)
  lines = 3 if manifest['captions'] else 1
  sheet = contact_sheet.draw(images, titles, lines=lines)
  write_png(os.path.join(out, _SHEET), sheet)


def _records_of_sheet(
  out: str, entries: Sequence[files.Entry]
) -> Iterator[bytes]:
  """Yields records spread evenly over the shards; one shard is open at once."""
  total = sum(entry['examples'] for entry in entries)
  count, start = min(_SHEET_IMAGES, total), 0
  wanted = [k * total // count for k in range(count)]
  for entry in entries:
    stop = start + entry['examples']
    if inside := [index - start for index in wanted if start <= index < stop]:
      with downloads.borrowed(f'{out}/{entry["file"]}') as path:
        records = open_records(path.parent, [entry])
        yield from (records[index] for index in inside)
    start = stop


def summary(manifest: Mapping[str, Any]) -> str:
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


def _lines(bad: Sequence[Mapping[str, str]]) -> str:
  """Returns a line for each file that was left out, with the reason."""
  return '\n'.join(f'  {file["name"]}: {file["reason"]}' for file in bad)
