"""What the page asks for, checked, as work for the queue."""

import base64
import binascii
import io
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax.api import Model
from pixeldit_jax.data.transforms import crop, decode
from pixeldit_jax.editing.editor import METHODS
from pixeldit_jax.errors import UserError
from pixeldit_jax.studio.jobs import Job
from pixeldit_jax.typing import UInt8

MOST_BYTES = 16 << 20  # of a request, with its pictures
MOST_PIXELS = 32_000_000  # of an uploaded picture
MOST_IMAGES, MOST_STEPS = 16, 1000

Asked = Mapping[str, Any]
Work = Callable[[Job], Any]


def draw_work(model: Model, asked: Asked) -> tuple[Work, str]:
  """The work of a drawing, and the command line that draws the same.

  Args:
    model: that draws.
    asked: `wanted` (labels or prompts, divided by ';'), `num`, `seed`, `steps`,
      `guidance`, `low`, `high` and `solver`.

  Raises:
    UserError: what cannot be.
  """
  texts = bool(model.config.model.text_width)
  wanted = _wanted(model, asked)
  num, seed = _integer(asked, 'num', 1, MOST_IMAGES), _seed(asked)
  options = dict(_sampler(model, asked))
  labels, prompts = (None, wanted) if texts else (wanted, None)

  def work(job: Job):
    return model.sample(
      labels, prompts, num=num, seed=seed, on_step=job.progress, **options
    )

  flags = [f'--num_samples={num}', f'--seed={seed}', *_flags(options)]
  if texts:
    flags.append(f'--prompts={"; ".join(wanted)}')
  else:
    flags.append(f'--labels={",".join(map(str, wanted))}')
  return work, _command('sample', model, flags)


def edit_work(model: Model, asked: Asked) -> tuple[Work, str]:
  """The work of an edit, and the command line for the same.

  Args:
    model: that edits.
    asked: `picture` and perhaps `mask` (data URLs), `wanted`, `source`,
      `method`, `strength`, and as for a drawing.

  Raises:
    UserError: what cannot be.
  """
  side = model.config.data.resolution
  picture = read_picture(asked.get('picture'), side)
  mask = None
  if asked.get('mask'):
    mask = read_picture(asked['mask'], side)[..., 0] >= 128
    if not mask.any():
      raise UserError('the mask is empty: paint where the picture may change.')
  method = str(asked.get('method', METHODS[0]))
  if method not in METHODS:
    raise UserError(f'method {method!r}: use one of {", ".join(METHODS)}.')
  if method == 'inpaint' and mask is None:
    raise UserError('inpainting needs a mask: paint where to draw anew.')
  strength = _number(asked, 'strength', 0.01, 1.0)
  target = (_wanted(model, asked) or [None])[0]
  source = (_wanted(model, asked, 'source') or [None])[0]
  seed, options = _seed(asked), dict(_sampler(model, asked))
  if method == 'inpaint' and options['solver'] == 'heun_reuse':
    options['solver'] = 'heun'

  def work(job: Job):
    edited = model.edit(
      picture[None],
      None if target is None else [target],
      None if source is None else [source],
      method=method,
      strength=strength,
      mask=mask,
      seed=seed,
      on_step=job.progress,
      **options,
    )
    return np.concatenate([picture[None], np.asarray(edited)])

  scale = options.pop('guidance')
  flags = ['--images=picture.png', f'--method={method}', f'--seed={seed}']
  flags += [f'--strength={strength:g}', f'--target_guidance={scale:g}']
  flags += [f'--target_prompt={target}'] if target is not None else []
  flags += [f'--source_prompt={source}'] if source is not None else []
  flags += ['--mask=mask.png'] if mask is not None else []
  command = _command('edit', model, [*flags, *_flags(options)])
  options['guidance'] = scale
  return work, command


def read_picture(url: Any, side: int) -> UInt8[np.ndarray, 'S S 3']:
  """A picture from a data URL, scaled and cut to a square.

  Raises:
    UserError: no picture, or one of too many pixels.
  """
  if not isinstance(url, str) or ',' not in url:
    raise UserError('there is no picture: choose one.')
  try:
    data = base64.b64decode(url.partition(',')[2], validate=True)
    with Image.open(io.BytesIO(data)) as header:
      pixels = header.width * header.height
    if pixels > MOST_PIXELS:
      raise UserError(
        f'the picture has {pixels:,} pixels; at most {MOST_PIXELS:,}.'
      )
    return crop(decode(data), side, side)
  except UserError:
    raise
  except (binascii.Error, OSError, ValueError) as error:
    raise UserError('the file is no picture that can be read.') from error


def _wanted(model: Model, asked: Asked, name: str = 'wanted') -> list[Any]:
  """Checked labels or prompts; empty where nothing is asked for."""
  text = str(asked.get(name) or '')
  parts = [part.strip() for part in text.split(';') if part.strip()]
  if not parts and name == 'wanted' and not model.config.model.text_width:
    return []
  return model.conditions.read(parts) if parts else []


def _sampler(model: Model, asked: Asked) -> Mapping[str, Any]:
  from pixeldit_jax.samplers.solvers import SOLVERS

  solver = str(asked.get('solver', model.config.sampler.solver))
  if solver not in {one.__name__ for one in SOLVERS}:
    raise UserError(f'solver {solver!r}: there is none of this name.')
  low, high = _number(asked, 'low', 0, 1), _number(asked, 'high', 0, 1)
  if low >= high:
    raise UserError('the interval of guidance must rise.')
  return dict(
    steps=_integer(asked, 'steps', 1, MOST_STEPS),
    solver=solver,
    guidance=_number(asked, 'guidance', 0, 100),
    interval=(low, high),
  )


def _flags(options: Mapping[str, Any]) -> list[str]:
  return [
    f'--config.sampler.{name}={str(value).replace(" ", "")}'
    for name, value in options.items()
  ]


def _command(name: str, model: Model, flags: list[str]) -> str:
  where = model.ref.workdir if model.ref else 'RUN'
  words = ['pixeldit', name, f'--workdir={where}', '--out=out', *flags]
  return shlex.join(words)


def _number(asked: Asked, name: str, low: float, high: float) -> float:
  value = asked.get(name)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if value is None or not number or not low <= value <= high:
    raise UserError(f'{name}: a number from {low} to {high}, not {value!r}.')
  return float(value)


def _integer(asked: Asked, name: str, low: int, high: int) -> int:
  value = _number(asked, name, low, high)
  if value != int(value):
    raise UserError(f'{name}: a whole number, not {value}.')
  return int(value)


def _seed(asked: Asked) -> int:
  return _integer(asked, 'seed', 0, 2**31 - 1)
