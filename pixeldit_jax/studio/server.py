"""The server of the page: Python's own, for one person and their friends.

It answers only requests that name it as the browser was asked to, so that no
other site can use it through a visitor's browser.
"""

import base64
import http.server
import importlib.resources
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from pixeldit_jax.api import Model
from pixeldit_jax.editing.editor import METHODS
from pixeldit_jax.errors import UserError
from pixeldit_jax.samplers.solvers import SOLVERS
from pixeldit_jax.studio.jobs import Job, JobQueue
from pixeldit_jax.studio.requests import MOST_BYTES, draw_work, edit_work

_PAGE = importlib.resources.files('pixeldit_jax.studio').joinpath('page.html')
_JOB = re.compile(r'/api/jobs/(\d+)(/cancel)?')


def make_server(
  models: Mapping[str, Model], host: str = '127.0.0.1', port: int = 7860
) -> http.server.ThreadingHTTPServer:
  """The server, which `serve_forever` runs.

  Args:
    models: what can draw, by name; the first is chosen at the beginning.
    host: address to bind to; that of all networks lets everyone in.
    port: 0 takes a free one.

  Raises:
    UserError: the port is taken.
  """
  try:
    server = http.server.ThreadingHTTPServer((host, port), _Handler)
  except OSError as error:
    raise UserError(
      f'port {port} of {host} cannot be used ({error}): give another --port.'
    ) from error
  server.daemon_threads = True
  handler: Any = server  # what the handlers share
  handler.models, handler.jobs = dict(models), JobQueue()
  return server


def describe(model: Model) -> dict[str, Any]:
  """What the page has to know of a model."""
  config = model.config
  count = 0 if config.model.text_width else config.model.num_classes
  names = list(model.class_names) or [str(k) for k in range(count)]
  low, high = config.sampler.interval
  return dict(
    texts=bool(config.model.text_width),
    classes=names[:count],
    side=config.data.resolution,
    steps=config.sampler.steps,
    guidance=config.sampler.guidance,
    low=low,
    high=high,
    solver=config.sampler.solver,
  )


def state_of(job: Job) -> dict[str, Any]:
  """What the page has to know of a job."""
  return dict(
    number=job.number,
    state=job.state,
    step=job.step,
    steps=job.steps,
    error=job.error,
    command=job.command,
    images=[_data_url(image) for image in job.images],
  )


def _data_url(image: np.ndarray) -> str:
  pixels = np.asarray(image)
  file = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
    file, format='png'
  )
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


class _Handler(http.server.BaseHTTPRequestHandler):
  """One request."""

  server: Any

  def do_GET(self) -> None:  # noqa: N802
    self._answer(self._get)

  def do_POST(self) -> None:  # noqa: N802
    self._answer(self._post)

  def _get(self) -> None:
    if self.path == '/':
      page = _PAGE.read_bytes()
      self._send(200, page, 'text/html; charset=utf-8')
    elif self.path == '/api/models':
      models = {k: describe(m) for k, m in self.server.models.items()}
      solvers = [solver.__name__ for solver in SOLVERS]
      self._json(
        200, dict(models=models, solvers=solvers, methods=list(METHODS))
      )
    elif match := _JOB.fullmatch(self.path):
      self._json(200, state_of(self.server.jobs.get(int(match[1]))))
    else:
      self._json(404, dict(error='there is nothing here.'))

  def _post(self) -> None:
    asked = self._body()
    if match := _JOB.fullmatch(self.path):
      self.server.jobs.cancel(int(match[1]))
      self._json(200, {})
      return
    make = {'/api/draw': draw_work, '/api/edit': edit_work}.get(self.path)
    model = self.server.models.get(asked.get('model'))
    if make is None or model is None:
      self._json(404, dict(error='there is no such model or action.'))
      return
    self._json(200, state_of(self.server.jobs.submit(*make(model, asked))))

  def _answer(self, respond) -> None:
    """Refuses strangers; tells a `UserError` to the page."""
    host = self.headers.get('Host', '')
    origin = self.headers.get('Origin')
    local = re.fullmatch(r'(127\.0\.0\.1|localhost|\[::1\])(:\d+)?', host)
    bound = self.server.server_address[0]
    strange = bound.startswith('127.') and not local
    if strange or (origin and origin.partition('://')[2] != host):
      self._json(403, dict(error='this page is for this machine alone.'))
      return
    try:
      respond()
    except UserError as error:
      self._json(400, dict(error=str(error)))

  def _body(self) -> dict[str, Any]:
    length = int(self.headers.get('Content-Length') or 0)
    if length > MOST_BYTES:
      self.close_connection = True
      raise UserError(
        f'{length:,} bytes are too many; at most {MOST_BYTES:,}: choose a '
        'smaller picture.'
      )
    try:
      asked = json.loads(self.rfile.read(length) or b'{}')
    except ValueError as error:
      raise UserError('a request that is no JSON.') from error
    if not isinstance(asked, dict):
      raise UserError('a request that is no object.')
    return asked

  def _json(self, status: int, value: Any) -> None:
    self._send(status, json.dumps(value).encode(), 'application/json')

  def _send(self, status: int, body: bytes, kind: str) -> None:
    self.send_response(status)
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(body)))
    self.send_header('Cache-Control', 'no-store')
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, format: str, *args: Any) -> None:
    """Says nothing: the page asks five times a second."""
