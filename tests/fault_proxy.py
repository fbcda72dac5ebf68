"""An HTTP server before another one, which counts, delays, cuts and refuses."""

import http.client
import http.server
import socket
import threading
import time

# What a fault does: a number of seconds to wait, a status to answer with, or
CUT = 'cut'  # half of the request is read, and the connection closed
_REASONS = {429: 'SlowDown', 503: 'SlowDown'}
LOST = 'lost'  # the request is done, and the connection closed without answer


class Proxy(http.server.ThreadingHTTPServer):
  """Passes requests on to `backend`, 'host:port'.

  Attributes:
    url: of this server.
    requests: method, path and bytes of each, those that failed as well.
    fault: f(method, path) -> None, a float of seconds, an int as the status of
      the answer, CUT or LOST; called for each request, one at a time.
  """

  daemon_threads = True

  def __init__(self, backend: str):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.backend, self.url = backend, f'http://127.0.0.1:{self.server_port}'
    self.requests, self.lock = [], threading.Lock()
    self.fault = lambda method, path: None

  def __enter__(self):
    threading.Thread(target=self.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *error):
    self.shutdown()
    self.server_close()

  def handle_error(self, request, client_address):
    pass  # clients close connections as they like


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def _pass_on(self):
    server = self.server
    with server.lock:
      fault = server.fault(self.command, self.path)
    if fault == CUT:
      self.rfile.read(int(self.headers.get('Content-Length', 0)) // 2)
      return self._close()
    body = self._body()
    with server.lock:
      server.requests.append((self.command, self.path, len(body)))
    if isinstance(fault, float):
      time.sleep(fault)
    elif isinstance(fault, int):
      reason = _REASONS.get(fault, 'AccessDenied')
      text = f'<Error><Code>{reason}</Code><Message>No.</Message></Error>'
      return self._answer(fault, {}, text.encode())
    status, headers, data = self._ask(body)
    if fault == LOST:
      return self._close()
    self._answer(status, headers, data)

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _pass_on

  def _body(self) -> bytes:
    if self.headers.get('Transfer-Encoding', '') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    parts = []
    while size := int(self.rfile.readline().split(b';')[0], 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    while self.rfile.readline().strip():
      pass
    return b''.join(parts)

  def _ask(self, body):
    backend = http.client.HTTPConnection(self.server.backend)
    headers = {
      name: value
      for name, value in self.headers.items()
      if name.lower() not in ('host', 'transfer-encoding', 'content-length')
    }
    if body or self.command in ('PUT', 'POST'):
      headers['Content-Length'] = str(len(body))
    backend.request(self.command, self.path, body, headers)
    found = backend.getresponse()
    data = found.read()
    backend.close()
    return found.status, dict(found.getheaders()), data

  def _answer(self, status, headers, data):
    self.send_response(status)
    for name, value in headers.items():
      if name.lower() == 'location':  # where an upload goes on: through here
        value = value.replace(f'http://{self.server.backend}', self.server.url)
      if name.lower() not in ('transfer-encoding', 'connection'):
        if name.lower() != 'content-length' or self.command == 'HEAD':
          self.send_header(name, value)
    if self.command != 'HEAD':
      self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(data)

  def _close(self):
    self.close_connection = True
    self.connection.shutdown(socket.SHUT_RDWR)

  def log_message(self, *args):
    pass
