"""Many pictures edited into a folder: resumable, with a table of what was done.

  OUT/before/000000_name.png   a picture as the network was given it
  OUT/after/000000_name.png    its edit
  OUT/edits.csv                a line for each: what was asked, what it measured
  OUT/edits.png                the first ones, before and after

Edit i depends on the weights, the options, the seed, its line and i alone.
"""

import csv
import dataclasses
import functools
import io
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from PIL import Image

from pixeldit_jax import files, outputs, settings
from pixeldit_jax.editing.editor import Conditions, Editor
from pixeldit_jax.editing.masks import read_mask
from pixeldit_jax.editing.pictures import read_pictures
from pixeldit_jax.editing.preservation import preservation
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.images import contact_sheet
from pixeldit_jax.images.grid import write_png
from pixeldit_jax.progress import Progress
from pixeldit_jax.storage import buckets, downloads
from pixeldit_jax.typing import Bool, PyTree, UInt8

log = logging.getLogger(__name__)

SHOWN = 24  # pairs in the picture
# f(edited images, their targets) -> whether each shows its target.
Judge = Callable[[UInt8[np.ndarray, 'N H W 3'], Sequence[str]], np.ndarray]
# f(edited images) -> the same by another way, which is measured as well.
Detour = Callable[[UInt8[np.ndarray, 'N H W 3']], np.ndarray]
MEASURED = ('psnr', 'ssim', 'structure', 'difference', 'changed')
DETOUR = 'autoencoder_'  # before the names of what is measured after it


@dataclasses.dataclass(frozen=True)
class Edit:
  """One line of what is to be done.

  Attributes:
    image: file of the picture.
    target: label or prompt of what is wanted; '' is none.
    source: of what the picture shows; '' is none.
    mask: the part that may change, see `masks.read_mask`; '' is all.
    region: the part that is to change, which is measured and not enforced.
  """

  image: str
  target: str = ''
  source: str = ''
  mask: str = ''
  region: str = ''


FIELDS = [field.name for field in dataclasses.fields(Edit)]


def read_table(path: str, defaults: Edit) -> list[Edit]:
  """The edits of a CSV file with a line of column names.

  Args:
    path: columns are `image` and any other of `Edit`; relative images are
      looked for next to the table.
    defaults: for columns that are absent or empty.

  Raises:
    MissingFileError: there is no such file.
    UserError: no column `image`, unknown columns, or no line.
  """
  here = downloads.fetch(path)
  if not here.is_file():
    raise MissingFileError(f'table {path} is no file: give a CSV.')
  text = files.read_text(here, 'utf-8-sig')  # as spreadsheets write it, too
  rows = list(csv.DictReader(io.StringIO(text)))
  columns = {name for row in rows for name in row if name is not None}
  if not rows or 'image' not in columns or not columns <= set(FIELDS):
    raise UserError(
      f'{path}: expected lines with a column image, and of '
      f'{", ".join(FIELDS[1:])}; found {sorted(columns) or "none"}.'
    )
  folder = os.path.dirname(path)
  edits = []
  for row in rows:
    given = {k: v for k, v in row.items() if k in FIELDS and v}
    image = given.get('image', '')
    if not buckets.is_bucket(image):
      given['image'] = os.path.join(folder, image)
    edits.append(dataclasses.replace(defaults, **given))
  return edits


@dataclasses.dataclass(frozen=True)
class EditSet:
  """A folder of edits, made or completed by `write`.

  Attributes:
    out: the folder.
    edits: its lines.
    size: height and width that pictures are scaled and cut to.
    asked: everything else that decides an edit, as JSON values.
    grow: pixels that masks and regions are made wider by.
  """

  out: epath.Path
  edits: Sequence[Edit]
  size: tuple[int, int]
  asked: dict[str, Any]
  grow: int = 0

  def check(self, overwrite: bool) -> None:
    """Refuses a folder with other edits, before anything is compiled.

    Raises:
      UserError: names what differs.
    """
    path = self.out / 'edits.json'
    asked = settings.as_json(
      dict(
        self.asked,
        size=self.size,
        grow=self.grow,
        edits=[dataclasses.asdict(edit) for edit in self.edits],
      )
    )
    if jax.process_index():
      return
    names = 'before', 'after', 'edits.json', 'edits.csv', 'edits.png'
    outputs.check((self.out / name for name in names), self.out)
    if path.is_file() and overwrite:
      outputs.remove([self.out / 'before', self.out / 'after'])
    elif path.is_file():
      settings.check_same(
        f'{path} describes edits of',
        settings.flatten(files.read_json(path)),
        settings.flatten(asked),
        'Choose another folder, or --overwrite.',
      )
    self._write(path, lambda made: files.write_json(made, asked))

  def write(
    self,
    editor: Editor,
    weights: PyTree,
    conditions_of: Callable[[Sequence[Edit]], Conditions],
    *,
    seed: int,
    judge: Judge | None = None,
    measure: bool = False,
    detour: Detour | None = None,
  ) -> list[dict[str, Any]]:
    """Makes the edits that are missing, and the table; in all processes.

    Args:
      editor, weights: make the edits.
      conditions_of: what lines ask for, as the network takes it.
      seed: of the noise.
      judge: tells of each edit whether it shows its target: column `agrees`.
      measure: compare before and after outside of the region.
      detour: an autoencoder, there and back: what is measured is also measured
        of edits that have gone through it.

    Returns:
      The table.
    """
    report = Progress('Edited', len(self.edits))
    for start in range(0, len(self.edits), editor.batch_size):
      numbers = range(start, min(start + editor.batch_size, len(self.edits)))
      done = all(self.path('after', n).is_file() for n in numbers)
      # The processes may see different files: they must agree.
      if not multihost_utils.broadcast_one_to_all(np.array(done)):
        edits = [self.edits[n] for n in numbers]
        before = read_pictures([edit.image for edit in edits], self.size)
        masks = [self._mask(e.mask, b) for e, b in zip(edits, before)]
        (after,) = editor.edit(
          weights,
          before,
          np.asarray(numbers),
          conditions_of(edits),
          np.stack(masks),
          seed=seed,
        )
        if jax.process_index() == 0:
          for n, old, new in zip(numbers, before, after):
            for kind, image in (('before', old), ('after', new)):
              write = functools.partial(write_png, image=image)
              self._write(self.path(kind, n), write)
      report(numbers[-1] + 1)
    rows: list[dict[str, Any]] = []
    if jax.process_index() == 0:
      rows = self._table(judge, measure, detour)
      self._write_table(rows)
    multihost_utils.sync_global_devices(f'edited {self.out}')
    return rows

  def path(self, kind: str, number: int) -> epath.Path:
    """The picture 'before' or 'after' the edit of a line."""
    stem = pathlib.Path(self.edits[number].image).stem
    return self.out / kind / f'{number:06d}_{stem}.png'

  def _read(self, kind: str, number: int) -> np.ndarray:
    with self.path(kind, number).open('rb') as file:
      return np.asarray(Image.open(file))

  def _write(
    self, path: epath.Path, write: Callable[[pathlib.Path], None]
  ) -> None:
    with outputs.replacing(path, self.out) as made:
      write(made)

  def _mask(self, text: str, image: np.ndarray) -> Bool[np.ndarray, 'H W']:
    if not text:
      return np.ones(image.shape[:2], bool)
    return read_mask(text, image, self.grow)

  def _table(
    self, judge: Judge | None, measure: bool, detour: Detour | None
  ) -> list[dict[str, Any]]:
    rows = []
    after = []
    for number, edit in enumerate(self.edits):
      old, new = (self._read(kind, number) for kind in ('before', 'after'))
      after.append(new)
      row: dict[str, Any] = dict(number=number, **dataclasses.asdict(edit))
      row['file'] = str(self.path('after', number).relative_to(self.out))
      if measure:
        region = self._mask(edit.region or edit.mask, old)
        compared = {'': new} | (
          {DETOUR: detour(new[None])[0]} if detour else {}
        )
        for prefix, image in compared.items():
          found = preservation(old, image, region)
          row |= {prefix + k: round(v, 4) for k, v in found.items()}
      rows.append(row)
    if judge is not None:
      shown = judge(np.stack(after), [edit.target for edit in self.edits])
      for row, right in zip(rows, shown):
        row['agrees'] = int(right)
    return rows

  def _write_table(self, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    self._write(
      self.out / 'edits.csv',
      lambda made: files.write_text(made, text.getvalue()),
    )
    pictures, titles = [], []
    for number, edit in enumerate(self.edits[:SHOWN]):
      for kind, title in (('before', edit.source), ('after', edit.target)):
        pictures.append(self._read(kind, number))
        titles.append(title)
    sheet = contact_sheet.draw(pictures, titles, 8, cell=128, lines=2)
    self._write(self.out / 'edits.png', lambda made: write_png(made, sheet))
    log.info('Wrote %s', self.out / 'edits.csv')


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """The mean of each measured column; the median of PSNR, which may be inf."""
  names = (*MEASURED, 'agrees', *(DETOUR + name for name in MEASURED))
  return {
    name: float((np.median if name.endswith('psnr') else np.mean)(values))
    for name in names
    if (values := [row[name] for row in rows if name in row])
  }
