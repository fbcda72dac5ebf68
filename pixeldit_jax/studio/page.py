"""The page: draw, compare and edit, in Gradio's components."""

import html
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, no_type_check

import numpy as np
from PIL import Image

from pixeldit_jax.api import Model
from pixeldit_jax.editing.editor import METHODS
from pixeldit_jax.errors import UserError, one_line
from pixeldit_jax.samplers.solvers import SOLVERS
from pixeldit_jax.studio.requests import (
  Sampling,
  draw_work,
  edit_work,
  read_upload,
  watch,
)
from pixeldit_jax.typing import Bool, UInt8

Models = Mapping[str, Model]

CSS = """
img { image-rendering: pixelated; }
.command textarea { font-family: monospace; font-size: .8rem; }
.images .grid-wrap { height: auto !important; min-height: 6rem; }
.images .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)) !important;
}
"""
_SOLVERS = [solver.__name__ for solver in SOLVERS]
_CANVAS = 448  # pixels of the side that is painted on, about
# One at a time, and nothing for programs: they have the API of Python.
_EVENT: Any = dict(concurrency_id='devices', api_visibility='private')
_UPLOAD: Any = _EVENT | dict(concurrency_id='uploads')  # does not wait for them


def make_page(models: Models) -> Any:
  """The page as Gradio's `Blocks`; of `models` by name the first is chosen."""
  import gradio as gr

  with gr.Blocks(
    title='PixelDiT studio', analytics_enabled=False, delete_cache=(3600, 86400)
  ) as page:
    gr.Markdown('# PixelDiT studio')
    with gr.Tab('Draw'):
      _draw_tab(models)
    with gr.Tab('Edit'):
      _edit_tab(models)
  return page


def _draw_tab(models: Models) -> None:
  import gradio as gr

  others = [(f'model {name}', name) for name in models]
  others += [(f'solver {solver}', solver) for solver in _SOLVERS]
  with gr.Row():
    inputs = _inputs(
      models,
      ('What to draw', 4),
      lambda: [
        gr.Slider(1, 16, 4, step=1, label='Images'),
        gr.Dropdown([('nothing', ''), *others], value='', label='Compare with'),
      ],
    )
    with gr.Column(scale=3, min_width=280):
      buttons = _buttons('Draw')
      with gr.Row():
        sides = [_side(visible) for visible in (True, False)]

  def draw(name, wanted, num, other, *values):
    first = Sampling(*values)
    chosen = [(name, first)]
    if other in models:
      chosen.append((other, first))
    elif other:
      chosen.append((name, first._replace(solver=other)))
    outputs = {sides[1][0]: gr.update(visible=bool(other))}
    for _, gallery, command in sides:
      outputs |= {gallery: None, command: ''}
    yield outputs
    for (one, how), (_, gallery, command) in zip(chosen, sides):
      work, line = draw_work(models[one], wanted, num, how)
      for text, images in watch(work):
        shown = [Image.fromarray(np.squeeze(image)) for image in images]
        # All of them each time: to a slow browser, what the next one lacks may
        # never come.
        outputs |= {
          gallery: shown,
          command: line if text == 'done' else '',
          state: f'{one}, {how.solver}: {text}',
        }
        yield outputs

  state = buttons[-1]
  _connect(buttons, draw, inputs, [*sides[0], *sides[1]])


def _edit_tab(models: Models) -> None:
  import gradio as gr

  # It stays, for the command lines that name pictures and masks in it.
  folder = pathlib.Path(tempfile.mkdtemp(prefix='pixeldit_studio_'))
  with gr.Row():
    inputs = _inputs(
      models,
      ('What is wanted', 1),
      lambda: [
        gr.Textbox(label='What the picture shows now'),
        gr.Dropdown(list(METHODS), value=METHODS[0], label='Method'),
        gr.Slider(0.05, 1, 0.7, step=0.05, label='Strength'),
      ],
    )
    with gr.Column(scale=3, min_width=280):
      upload = gr.File(
        label='Picture', file_types=['image'], height=120, elem_id='upload'
      )
      editor = _editor()
      buttons = _buttons('Edit')
      slider = gr.ImageSlider(
        label='Before and after', format='png', visible=False, elem_id='slider'
      )
      command = _command_line()

  def read(name, path):
    if path is None:
      raise UserError('there is no picture: choose one.')
    return read_upload(path, models[name].config.data.resolution)

  def show(name, path):
    yield {editor: gr.update(visible=False, value=None)}
    if path is not None:
      picture = _enlarged(read(name, path))
      painted = dict(background=picture, layers=[], composite=None)
      yield {editor: gr.update(visible=True, value=painted)}

  def edit(path, painted, name, wanted, source, method, strength, *values):
    picture = read(name, path)
    work, line = edit_work(
      models[name],
      picture,
      _mask(painted, picture.shape[:2]),
      *(wanted, source, method, strength, Sampling(*values), folder),
    )
    before = _enlarged(picture)
    for text, images in watch(work):
      after = _enlarged(images[0]) if len(images) else before
      yield {
        slider: gr.update(visible=True, value=(before, after)),
        command: line if text == 'done' else '',
        state: text,
      }

  state = buttons[-1]
  for changed in (upload.change, inputs[0].change):
    changed(_told(show, state), [inputs[0], upload], [editor, state], **_UPLOAD)
  _connect(buttons, edit, [upload, editor, *inputs], [slider, command])


def _inputs(
  models: Models,
  wanted: tuple[str, int],
  between: Callable[[], list[Any]],
) -> list[Any]:
  """A column with the model, what it is asked for, and `Sampling`.

  Args:
    models: by name.
    wanted: label of what is asked for, and how many classes it begins with.
    between: makes components that stand before those of `Sampling`.

  Returns:
    The components, in their order.
  """
  import gradio as gr

  def about(name: str) -> tuple[Any, ...]:
    config = models[name].config
    count, sampler = config.model.num_classes, config.sampler
    known = [*(models[name].class_names or map(str, range(count)))]
    info, value = f'{count} classes, by number or name; divided by ;', known
    if config.model.text_width:
      info, value = 'Prompts, divided by ;', []
    text = dict(info=info, value='; '.join(value[: wanted[1]]))
    numbers = sampler.steps, sampler.guidance, *sampler.interval
    return text, *numbers, sampler.solver

  first = next(iter(models))
  text, steps, guidance, low, high, solver = about(first)
  with gr.Column(scale=1, min_width=280):
    name = gr.Dropdown(list(models), value=first, label='Model')
    asked = gr.Textbox(label=wanted[0], **text)
    others = between()
    of_run = [
      gr.Slider(1, 1000, steps, step=1, label='Steps'),
      gr.Slider(0, 20, guidance, step=0.05, label='Guidance'),
      gr.Slider(0, 1, low, step=0.01, label='Guided from t'),
      gr.Slider(0, 1, high, step=0.01, label='to t'),
      gr.Dropdown(_SOLVERS, value=solver, label='Solver'),
    ]
    # Bounds of Gradio's own would leave the line of text at 'waiting'.
    seed = gr.Number(0, label='Seed', precision=0)

  def choose(name):
    text, *numbers = about(name)
    return gr.update(**text), *numbers

  # At once, and not after the drawings that wait.
  name.change(
    choose, name, [asked, *of_run], queue=False, api_visibility='private'
  )
  return [name, asked, *others, *of_run, seed]


def _buttons(label: str) -> tuple[Any, Any, Any]:
  """The button that begins, the one that cancels, and a line of text."""
  import gradio as gr

  with gr.Row():
    go = gr.Button(label, variant='primary', min_width=100)
    cancel = gr.Button('Cancel', min_width=100)
  return go, cancel, gr.Markdown('', elem_classes='state')


def _side(visible: bool) -> tuple[Any, Any, Any]:
  """A column of images and their command line."""
  import gradio as gr

  with gr.Column(min_width=280, visible=visible) as column:
    gallery = gr.Gallery(
      format='png',
      show_label=False,
      object_fit='contain',
      buttons=['download'],
      elem_classes='images',
    )
    return column, gallery, _command_line()


def _editor() -> Any:
  """Where the mask is painted onto the picture."""
  import gradio as gr

  gr.Markdown('Paint where it may change; without paint, all of it may.')
  return gr.ImageEditor(
    show_label=False,
    height=420,
    sources=(),
    transforms=(),
    layers=False,
    brush=gr.Brush(24, ['#e11d48'], '#e11d48', 'fixed'),
    format='png',
    visible=False,
    elem_id='editor',
  )


def _command_line() -> Any:
  import gradio as gr

  return gr.Textbox(
    label='The same on the command line',
    buttons=['copy'],
    elem_classes='command',
  )


def _connect(buttons, run, inputs: list[Any], outputs: list[Any]) -> None:
  """Lets the buttons begin `run`, and cancel it."""
  go, cancel, state = buttons
  go.click(None, None, state, js="() => 'waiting'")  # for those before
  event = go.click(
    _told(run, state),
    inputs,
    [state, *outputs],
    show_progress='minimal',
    show_progress_on=state,
    **_EVENT,
  )
  cancel.click(lambda: 'cancelled', None, state, cancels=[event], queue=False)


def _told(run: Callable[..., Iterator[Any]], state: Any) -> Any:
  """`run`, whose `UserError` the page shows in its one line."""
  import gradio as gr

  @no_type_check  # which would hide from Gradio that it is a generator
  def told(*values):
    try:
      yield from run(*values)
    except UserError as error:
      yield {state: ''}
      message = html.escape(one_line(error), quote=False)
      raise gr.Error(message, duration=None, print_exception=False) from error

  return told


def _mask(
  painted: Mapping[str, Any] | None, size: tuple[int, int]
) -> Bool[np.ndarray, 'H W'] | None:
  """Where there is paint; None without any."""
  layers = painted['layers'] if painted else []
  if not layers or not layers[0][..., 3].any():
    return None
  alpha = Image.fromarray(layers[0][..., 3])
  return np.asarray(alpha.resize(size[::-1], Image.Resampling.BOX)) >= 128


def _enlarged(pixels: UInt8[np.ndarray, 'S S 3']) -> UInt8[np.ndarray, 'T T 3']:
  """Each pixel as a square, so that small pictures can be painted on."""
  times = -(-_CANVAS // len(pixels))
  return pixels.repeat(times, 0).repeat(times, 1)
