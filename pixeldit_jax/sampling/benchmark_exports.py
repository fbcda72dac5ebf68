"""Samples in the layouts that text-to-image benchmarks read.

GenEval (arXiv 2310.11513) takes a folder for each line of its
evaluation_metadata.jsonl, DPG-Bench (arXiv 2403.05135) one picture of 2 x 2
images for each of its prompts/*.txt. Both score them by their own programs.
"""

import json
import os
import pathlib

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from pixeldit_jax import files, outputs
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.images.image_files import is_left_behind
from pixeldit_jax.progress import Progress
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling import provenance
from pixeldit_jax.sampling.checkpoint_weights import image_settings
from pixeldit_jax.sampling.text_sampler import Prompts, TextSampler
from pixeldit_jax.settings import as_json
from pixeldit_jax.storage import downloads
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.typing import UInt8

IMAGES = 4  # of each prompt


class GenEval:
  """00000/metadata.jsonl and 00000/samples/0000.png to 0003.png, and on.

  Attributes:
    prompts: one for each line.
    out: the folder to write to.
  """

  def __init__(self, metadata: str | os.PathLike, out: str | os.PathLike):
    """Reads the lines of `metadata`; nothing is written yet.

    Raises:
      MissingFileError: there is no such file.
      UserError: a line that is no JSON with a 'prompt', or no line.
    """
    if not os.path.isfile(metadata):
      raise MissingFileError(
        f'{metadata} is no file: give evaluation_metadata.jsonl of GenEval.'
      )
    self.out, self._lines, self.prompts = outputs.path_of(out), [], []
    with open(metadata, encoding='utf-8-sig') as file:
      lines = file.read().splitlines()
    for number, line in enumerate(lines, start=1):
      if not line.strip():
        continue
      try:
        prompt = json.loads(line)['prompt']
        if not isinstance(prompt, str):
          raise TypeError(prompt)
      except (ValueError, KeyError, TypeError) as error:
        raise UserError(
          f"{metadata}, line {number}: expected JSON with a 'prompt', as in "
          f'evaluation_metadata.jsonl of GenEval ({error!r}).'
        ) from error
      self.prompts.append(prompt)
      self._lines.append(line)
    if not self.prompts:
      raise UserError(f'{metadata} is empty.')

  def path(self, number: int) -> epath.Path:
    """The folder of a prompt."""
    return self.out / f'{number:05d}'

  def is_done(self, number: int) -> bool:
    """Whether the last of its files is there: in a bucket they come in turn."""
    return (self.path(number) / 'samples' / f'{IMAGES - 1:04d}.png').exists()

  def write(self, number: int, images: UInt8[np.ndarray, 'B H W 3']) -> None:
    """Writes the images of a prompt; its folder appears when complete."""
    with outputs.replacing(self.path(number), self.out.parent) as folder:
      (folder / 'samples').mkdir(parents=True)
      (folder / 'metadata.jsonl').write_text(
        self._lines[number] + '\n', encoding='utf-8'
      )
      for i, image in enumerate(images):
        write_png(folder / 'samples' / f'{i:04d}.png', image)


class DPGBench:
  """<name>.png for each <name>.txt: four images, row by row, without a gap.

  Attributes:
    prompts: in the order of the names.
    out: the folder to write to.
  """

  def __init__(self, prompts: str | os.PathLike, out: str | os.PathLike):
    """Reads the folder `prompts`; nothing is written yet.

    Raises:
      MissingFileError: there are no text files.
    """
    files = sorted(
      path
      for path in pathlib.Path(prompts).glob('*.txt')
      if not is_left_behind(path.name)
    )
    if not files:
      raise MissingFileError(
        f'{prompts} holds no .txt files: give dpg_bench/prompts of DPG-Bench.'
      )
    self.out, self._names = outputs.path_of(out), [file.stem for file in files]
    self.prompts = [
      file.read_text(encoding='utf-8-sig').strip() for file in files
    ]

  def path(self, number: int) -> epath.Path:
    """The file of a prompt."""
    return self.out / f'{self._names[number]}.png'

  def is_done(self, number: int) -> bool:
    """Whether it is there."""
    return self.path(number).exists()

  def write(self, number: int, images: UInt8[np.ndarray, 'B H W 3']) -> None:
    """Writes the four images of a prompt as one."""
    self.out.mkdir(parents=True, exist_ok=True)
    rows = [np.concatenate(list(images[i : i + 2]), 1) for i in (0, 2)]
    with outputs.replacing(self.path(number), self.out.parent) as temporary:
      write_png(temporary, np.concatenate(rows))


def open_export(spec: str, out: str | os.PathLike) -> GenEval | DPGBench:
  """The benchmark of 'geneval:FILE' or 'dpg:FOLDER', to be written to `out`.

  Raises:
    MissingFileError: its prompts do not exist.
    UserError: another benchmark, or prompts that cannot be read.
  """
  kind, _, path = spec.partition(':')
  if kind == 'geneval' and path:
    return GenEval(downloads.here(path), out)
  if kind == 'dpg' and path:
    return DPGBench(downloads.here(path), out)
  raise UserError(
    f'export {spec!r}: write geneval:FILE (evaluation_metadata.jsonl) or '
    'dpg:FOLDER (of .txt prompts).'
  )


def export_samples(
  benchmark: GenEval | DPGBench, sampler: TextSampler, prompts_at_once: int
) -> None:
  """Makes the missing images of a benchmark, called by all processes.

  Image k of prompt i has index 4 i + k in the sample set, so no image depends
  on those made before, or on the number of devices.

  Args:
    benchmark: from `open_export`.
    sampler: of the run.
    prompts_at_once: prompts between two writes.
  """
  count = len(benchmark.prompts)
  missing = np.array([not benchmark.is_done(i) for i in range(count)])
  # Disks may show the processes different files: they must agree.
  missing = multihost_utils.broadcast_one_to_all(missing)
  todo = np.flatnonzero(missing)
  report = Progress('Exported', IMAGES * len(todo))
  for start in range(0, len(todo), prompts_at_once):
    numbers = todo[start : start + prompts_at_once]
    prompts = [benchmark.prompts[i] for i in numbers for _ in range(IMAGES)]
    indices = (numbers[:, None] * IMAGES + np.arange(IMAGES)).reshape(-1)
    images = np.concatenate(list(sampler.sample(prompts, indices)))
    for j, number in enumerate(numbers):
      if number % jax.process_count() == jax.process_index():
        benchmark.write(number, images[j * IMAGES : (j + 1) * IMAGES])
    report(IMAGES * (start + len(numbers)))
  multihost_utils.sync_global_devices('exported')


def export_run(
  context: RunContext,
  ref: CheckpointRef,
  benchmark: GenEval | DPGBench,
  prompts: Prompts,
  *,
  overwrite: bool = False,
) -> None:
  """`export_samples` of a run, called by all processes.

  Next to the folder OUT is OUT.json, the settings of the images.

  Args:
    context: of the run, with the sampler and seed wanted.
    ref: the weights.
    benchmark: from `open_export`.
    prompts: encoder, negative prompt and size; the texts are the benchmark's.
    overwrite: remove images of other settings first.

  Raises:
    MissingFileError: the run has no such checkpoint.
    UserError: images of other settings exist.
  """
  weights, ref = restore_weights(
    ref, context.model, context.mesh, context.rules
  )
  sampler = TextSampler(context, weights, prompts)
  settings = image_settings(context.config, weights, ref) | prompts.settings
  if jax.process_index() == 0:
    check_settings(benchmark, settings, overwrite)
    files.remove_temporaries(str(benchmark.out))
  multihost_utils.sync_global_devices('settings of the export')
  export_samples(benchmark, sampler, max(1, sampler.batch_size // IMAGES))


def check_settings(
  benchmark: GenEval | DPGBench,
  settings: provenance.Settings,
  overwrite: bool,
) -> None:
  """Writes the settings of the images, or compares them with those stored.

  Raises:
    UserError: images of other settings exist, and `overwrite` is not set.
  """
  asked = as_json(settings)
  stored = provenance.read_settings(benchmark.out)
  if asked == stored:
    return
  numbers = range(len(benchmark.prompts))
  made = [path for path in map(benchmark.path, numbers) if path.exists()]
  if made and not overwrite:
    if stored is None:
      raise UserError(
        f'{made[0]} exists, but no {provenance.path_of(benchmark.out)} says '
        'how it was made. Choose another folder, or --overwrite.'
      )
    provenance.check_same(benchmark.out, stored, asked)
  outputs.check(made, benchmark.out.parent)
  outputs.remove(made)
  provenance.write_settings(benchmark.out, asked)
