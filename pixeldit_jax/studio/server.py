"""Serves the page, only to this machine unless it is asked for more."""

import socket
from collections.abc import Mapping
from typing import Any

from PIL import Image

from pixeldit_jax.api import Model
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.studio.page import CSS, make_page
from pixeldit_jax.studio.requests import MOST_PIXELS

_MOST_WAITING, _MOST_BYTES = 16, 16 << 20  # of an uploaded file
_OWN_NAMES = ('127.0.0.1', 'localhost')
# No public address, no pages and no tools that nobody asked for.
_CLOSED: Any = dict(
  share=False,
  quiet=True,
  prevent_thread_lock=True,
  ssr_mode=False,
  pwa=False,
  mcp_server=False,
  run_history=False,
  enable_monitoring=False,
  footer_links=[],
)
# The page fetches nothing from elsewhere, whatever its libraries would like.
_POLICY = (
  "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
  "frame-ancestors 'none'"
)


def serve(
  models: Mapping[str, Model],
  host: str = '127.0.0.1',
  port: int = 7860,
) -> Any:
  """Starts the page in threads of its own.

  Args:
    models: what can draw, by name; the first is chosen at the beginning.
    host: address to bind to; that of all networks lets everyone in.
    port: 0 takes a free one.

  Returns:
    Gradio's `Blocks`, with `local_url` and `close()`.

  Raises:
    MissingPackageError: Gradio is not installed.
    UserError: the port is taken.
  """
  try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
  except ImportError as error:
    raise MissingPackageError(
      f"the studio needs {error.name}: pip install 'pixeldit_jax[studio]'."
    ) from error
  try:
    with socket.create_server((host, port)) as free:
      port = free.getsockname()[1]
  except OSError as error:
    raise UserError(
      f'port {port} of {host} cannot be used ({error}): give another --port '
      'or --host.'
    ) from error
  Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # of masks; Pillow refuses the double
  # Gradio hides answers from other sites; here they are not even worked for,
  # nor is a name that somebody points at this machine.
  here = host == 'localhost' or host.startswith('127.')
  names = [host, *_OWN_NAMES] if here else ['*']
  page = make_page(models).queue(max_size=_MOST_WAITING)
  page.launch(
    server_name=host,
    server_port=port,
    **_CLOSED,
    max_file_size=_MOST_BYTES,
    css=CSS,
    theme=gr.themes.Default(
      font=('system-ui', 'sans-serif'), font_mono=('monospace',)
    ),
    app_kwargs=dict(
      middleware=[
        Middleware(TrustedHostMiddleware, allowed_hosts=names),
        Middleware(_OwnPagesOnly),
      ]
    ),
  )
  return page


class _OwnPagesOnly:
  """Refuses what other sites ask, and says where this one may fetch from."""

  def __init__(self, app: Any):
    self._app = app

  async def __call__(self, scope, receive, send):
    headers = dict(scope.get('headers', ()))
    origin = headers.get(b'origin')
    if origin and origin.partition(b'://')[2] != headers.get(b'host'):
      await send(dict(type='http.response.start', status=403, headers=[]))
      await send(dict(type='http.response.body', body=b'not of this page'))
      return

    async def send_with_policy(message):
      if message['type'] == 'http.response.start':
        policy = (b'content-security-policy', _POLICY.encode())
        message['headers'] = [*message.get('headers', ()), policy]
      await send(message)

    await self._app(scope, receive, send_with_policy)
