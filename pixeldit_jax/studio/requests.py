"""What the page asks for: the work, and the command line for the same."""

import hashlib
import pathlib
import queue
import shlex
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pixeldit_jax import files
from pixeldit_jax.api import Model
from pixeldit_jax.data.transforms import BadExample, size_of
from pixeldit_jax.editing.pictures import read_pictures
from pixeldit_jax.errors import UserError
from pixeldit_jax.sampling.sampler import Step
from pixeldit_jax.typing import Bool, UInt8

MOST_PIXELS = 32_000_000  # of an uploaded picture
THREAD = 'studio'  # name of those that draw
_ENDS = ('done', 'failed')

# f(on_step) -> images.
Work = Callable[[Callable[[Step], Any]], UInt8[np.ndarray, 'N H W C']]


class Sampling(NamedTuple):
  """How drawings and edits are sampled."""

  steps: int
  guidance: float
  low: float
  high: float
  solver: str
  seed: int

  def options(self) -> dict[str, Any]:
    """Those of `config.sampler`, but for the scale of guidance."""
    interval = (float(self.low), float(self.high))
    return dict(steps=self.steps, solver=self.solver, interval=interval)


def draw_work(
  model: Model, wanted: str, num: int, sampling: Sampling
) -> tuple[Work, str]:
  """The work of drawing `num` images, and the command line for the same.

  Raises:
    UserError: `wanted`, labels or prompts divided by ';', cannot be.
  """
  texts = bool(model.config.model.text_width)
  chosen = _read(model, wanted)
  if texts and not chosen:
    raise UserError('there is no prompt: write what to draw.')
  options = sampling.options() | dict(guidance=float(sampling.guidance))
  asked: dict[str, Any] = dict(num=num, seed=sampling.seed, **options)
  flags = [f'--num_samples={num}', f'--seed={sampling.seed}', *_flags(options)]
  if texts:
    asked['prompts'] = chosen
    flags.append(f'--prompts={"; ".join(chosen)}')
  elif chosen:
    asked['labels'] = chosen
    flags.append(f'--labels={",".join(map(str, chosen))}')
  command = _command('sample', model, flags)
  return lambda on_step: model.sample(**asked, on_step=on_step), command


def edit_work(
  model: Model,
  picture: UInt8[np.ndarray, 'S S 3'],
  mask: Bool[np.ndarray, 'S S'] | None,
  wanted: str,
  source: str,
  method: str,
  strength: float,
  sampling: Sampling,
  folder: pathlib.Path,
) -> tuple[Work, str]:
  """The work of an edit, and the command line for the same.

  Args:
    model: that edits.
    picture: of the model's size.
    mask: where it may change; None is everywhere.
    wanted, source: class or prompt to be, and that is; '' is none.
    method, strength: see `EditOptions`.
    sampling: how.
    folder: for the files that the command line names.

  Raises:
    UserError: what cannot be.
  """
  if method == 'inpaint' and mask is None:
    raise UserError('inpainting needs a mask: paint where to draw anew.')
  options = sampling.options()
  if method == 'inpaint' and options['solver'] == 'heun_reuse':
    options['solver'] = 'heun'  # it goes back, where no slope is left to reuse
  asked = dict(
    target=_read(model, wanted) or None,
    source=_read(model, source) or None,
    method=method,
    strength=strength,
    mask=mask,
    seed=sampling.seed,
    guidance=float(sampling.guidance),
    **options,
  )
  flags = [f'--images={_kept(folder, picture)}']
  flags += [
    f'--{name}={asked[name]}' for name in ('method', 'strength', 'seed')
  ]
  flags += [f'--target_guidance={asked["guidance"]}', *_flags(options)]
  for name in ('target', 'source'):
    if asked[name]:
      flags.append(f'--{name}_prompt={asked[name][0]}')
  if mask is not None:
    flags.append(f'--mask={_kept(folder, np.uint8(255) * mask)}')
  command = _command('edit', model, flags)
  return lambda on_step: model.edit(picture, **asked, on_step=on_step), command


def read_upload(path: str, side: int) -> UInt8[np.ndarray, 'S S 3']:
  """A picture, scaled and cut to a square.

  Raises:
    UserError: no picture, or one of too many pixels, which is not decoded.
  """
  try:
    height, width = size_of(files.read_limited(path))
  except BadExample as error:
    raise UserError(
      'the file is no picture that can be read, or one of too many pixels.'
    ) from error
  if height * width > MOST_PIXELS:
    raise UserError(
      f'the picture has {height * width:,} pixels; at most {MOST_PIXELS:,}.'
    )
  return read_pictures(path, (side, side))[0]


def watch(work: Work) -> Iterator[tuple[str, Any]]:
  """Yields what is said and shown of the newest step, and in the end.

  The work is done in a thread. Once the iterator is closed, as when somebody
  cancels, it ends with the step that it is at. What it raises is raised here.
  """
  seen: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
  closed = threading.Event()
  finished: list[Any] = []  # images of the batches before

  def on_step(step: Step) -> None:
    if closed.is_set():
      raise InterruptedError  # nobody hears of it
    images = [*finished, *step.images]
    seen.put((f'step {step.number} of {step.steps}', images))
    if step.number == step.steps:
      finished[:] = images

  def run() -> None:
    try:
      seen.put(('done', work(on_step)))
    except Exception as error:
      seen.put(('failed', error))

  threading.Thread(target=run, name=THREAD, daemon=True).start()
  text: str = 'starting'
  shown: Any = []
  try:
    while text not in _ENDS:
      yield text, shown
      text, shown = seen.get()
      while text not in _ENDS and not seen.empty():
        text, shown = seen.get()
    if text == 'failed':
      raise shown
    yield text, shown
  finally:
    closed.set()


def _read(model: Model, text: str) -> list[Any]:
  """Checked labels or prompts; empty where nothing is asked for."""
  parts = [part.strip() for part in text.split(';') if part.strip()]
  return model.conditions.read(parts) if parts else []


def _flags(options: dict[str, Any]) -> list[str]:
  return [
    f'--config.sampler.{name}={str(value).replace(" ", "")}'
    for name, value in options.items()
  ]


def _command(name: str, model: Model, flags: list[str]) -> str:
  ref = model.ref
  run = [f'--workdir={ref.workdir}', f'--step={ref.step}'] if ref else []
  run = run or ['--workdir=RUN']  # made of the released file by --source
  words = map(shlex.quote, [*run, '--out=out', *flags])
  return ' \\\n  '.join([f'pixeldit {name}', *words])


def _kept(folder: pathlib.Path, pixels: np.ndarray) -> pathlib.Path:
  """A PNG of the pixels, which a command line can name."""
  path = folder / f'{hashlib.sha256(pixels.tobytes()).hexdigest()[:12]}.png'
  Image.fromarray(pixels).save(path)
  return path
