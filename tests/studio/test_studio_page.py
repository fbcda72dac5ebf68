"""The page in a real Chromium: draw, cancel, edit, a bad upload, a phone."""

import base64
import json
import shutil
import threading
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

import pixeldit_jax as pd
from pixeldit_jax.studio.requests import MOST_PIXELS, read_picture
from pixeldit_jax.studio.server import make_server

SECONDS = 120  # that a slow machine may take for one thing


@pytest.fixture(scope='module')
def studio(tiny_run):
  """The address of a studio with one tiny model under two names."""
  model = pd.load(tiny_run[1].workdir, devices=jax.devices()[:1])
  server = make_server({'tiny': model, 'twin': model}, port=0)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield f'http://127.0.0.1:{server.server_port}'
  server.shutdown()
  thread.join()
  server.jobs.close()
  server.server_close()


@pytest.fixture(scope='module')
def browser():
  sync_api = pytest.importorskip('playwright.sync_api')
  path = shutil.which('chromium') or shutil.which('google-chrome')
  if path is None:
    pytest.skip('there is no Chromium')
  with sync_api.sync_playwright() as playwright:
    chromium = playwright.chromium.launch(
      executable_path=path, args=['--no-sandbox']
    )
    yield chromium
    chromium.close()


@pytest.fixture
def page(studio, browser):
  opened = browser.new_page()
  opened.set_default_timeout(SECONDS * 1000)
  errors = []
  opened.on('pageerror', lambda error: errors.append(str(error)))
  opened.goto(studio)
  opened.wait_for_function('document.querySelector("#wanted").value != ""')
  yield opened
  opened.close()
  assert errors == []


def set_range(page, name, value):
  page.evaluate(
    '([id, v]) => { const x = document.getElementById(id); x.value = v;'
    'x.dispatchEvent(new Event("input", {bubbles: true})); }',
    [name, str(value)],
  )


def ended(page, state):
  page.wait_for_selector('#go:not([disabled])')
  assert page.inner_text('#error') == ''
  assert page.inner_text('#state') == state


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'picture.png'
  pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


@pytest.mark.slow
def test_it_draws_compares_and_tells_the_command(page):
  page.fill('#wanted', '3; 7')
  set_range(page, 'num', 2)
  set_range(page, 'steps', 3)
  page.select_option('#other', 'model:twin')
  page.click('#go')
  ended(page, 'done')
  images = page.eval_on_selector_all('#sides img', 'all => all.map(x => x.src)')
  assert len(images) == 4 and images[:2] == images[2:]
  assert images[0].startswith('data:image/png') and images[0] != images[1]
  command = page.inner_text('#commands code >> nth=0')
  assert command.startswith('pixeldit sample --workdir=')
  assert '--labels=3,7' in command and '--config.sampler.steps=3' in command


def test_a_mistake_is_told(page):
  page.fill('#wanted', 'eleven')
  page.click('#go')
  page.wait_for_function('document.querySelector("#error").textContent != ""')
  assert "'eleven' is not a class" in page.inner_text('#error')
  assert page.is_enabled('#go')


def test_a_drawing_is_cancelled(page):
  page.fill('#wanted', '1')
  set_range(page, 'num', 8)
  page.evaluate('document.getElementById("steps").max = 1000')
  set_range(page, 'steps', 1000)
  page.click('#go')
  page.wait_for_function(
    'document.querySelector("#state").textContent.startsWith("step ")'
  )
  assert page.locator('#sides img').count() == 8  # the preview
  page.click('#cancel')
  ended(page, 'cancelled')
  assert page.locator('#commands code').count() == 0


@pytest.mark.slow
def test_a_picture_is_edited_where_it_is_painted_on(page, picture, tmp_path):
  page.click('#tab-edit')
  page.set_input_files('#file', picture)
  page.wait_for_selector('#paint:not([hidden])')
  page.fill('#wanted', '4')
  page.select_option('#method', 'inpaint')
  set_range(page, 'steps', 3)
  set_range(page, 'strength', 1)
  set_range(page, 'brush', 40)
  box = page.locator('#mask').bounding_box()
  page.mouse.move(box['x'] + 5, box['y'] + 5)
  page.mouse.down()
  page.mouse.move(box['x'] + box['width'] - 5, box['y'] + 5, steps=12)
  page.mouse.up()
  page.click('#go')
  ended(page, 'done')
  old, new = (
    read_picture(page.get_attribute(f'#{name}', 'src'), 28)
    for name in ('old', 'new')
  )
  assert (old[:2] != new[:2]).mean() > 0.5
  np.testing.assert_array_equal(old[20:], new[20:])
  assert '--mask=mask.png' in page.inner_text('#commands code')
  set_range(page, 'wipe', 100)
  assert '100%' in page.eval_on_selector('#new', 'x => x.style.clipPath')
  page.screenshot(path=tmp_path / 'edit.png', full_page=True)


@pytest.mark.slow
def test_an_edit_is_cancelled(page, picture):
  page.click('#tab-edit')
  page.set_input_files('#file', picture)
  page.wait_for_selector('#paint:not([hidden])')
  page.fill('#wanted', '4')
  page.fill('#source', '1')
  page.evaluate('document.getElementById("steps").max = 1000')
  set_range(page, 'steps', 1000)
  page.click('#go')
  page.wait_for_function(
    'document.querySelector("#state").textContent.startsWith("step ")'
  )
  page.click('#cancel')
  ended(page, 'cancelled')
  assert page.is_hidden('#result')
  assert page.locator('#commands code').count() == 0


def test_a_bad_upload_is_told(page, tmp_path):
  page.click('#tab-edit')
  (tmp_path / 'bad.png').write_bytes(b'no picture')
  page.set_input_files('#file', tmp_path / 'bad.png')
  page.wait_for_function('document.querySelector("#error").textContent != ""')
  assert 'no picture' in page.inner_text('#error')
  page.click('#go')
  page.wait_for_function(
    'document.querySelector("#error").textContent.includes("choose one")'
  )


def test_it_fits_a_phone(studio, browser):
  page = browser.new_page(viewport=dict(width=360, height=740))
  page.set_default_timeout(SECONDS * 1000)
  page.goto(studio)
  page.wait_for_function('document.querySelector("#wanted").value != ""')
  for tab in ('draw', 'edit'):
    page.click(f'#tab-{tab}')
    assert page.evaluate('document.documentElement.scrollWidth') <= 360
    assert page.is_visible('#go')
  page.close()


def ask(url, body=None, **headers):
  data = None if body is None else json.dumps(body).encode()
  request = urllib.request.Request(url, data, headers)
  with urllib.request.urlopen(request, timeout=SECONDS) as answer:
    return json.loads(answer.read())


@pytest.mark.parametrize(
  'path, body, headers, status, named',
  [
    ('/api/models', None, dict(Host='evil.example'), 403, 'this machine'),
    ('/api/draw', {}, dict(Origin='http://evil.example'), 403, 'this machine'),
    ('/api/draw', dict(model='none'), {}, 404, 'no such model'),
    ('/api/draw', dict(model='tiny', num=99), {}, 400, 'num'),
    ('/api/draw', dict(model='tiny', num=True), {}, 400, 'num'),
    ('/api/edit', dict(model='tiny'), {}, 400, 'no picture'),
    ('/api/edit', dict(model='tiny', picture='a,*'), {}, 400, 'no picture'),
    ('/api/jobs/12345', None, {}, 400, 'no job'),
    ('/api/nothing', None, {}, 404, 'nothing here'),
    ('/api/draw', [], {}, 400, 'no object'),
  ],
  ids=str,
)
def test_strange_requests_are_refused(
  studio, path, body, headers, status, named
):
  with pytest.raises(urllib.error.HTTPError) as refused:
    ask(studio + path, body, **headers)
  assert refused.value.code == status
  assert named in json.loads(refused.value.read())['error']


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
  side = int(MOST_PIXELS**0.5) + 10
  import io

  file = io.BytesIO()
  Image.new('1', (side, side)).save(file, format='png')
  url = f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'
  with pytest.raises(ValueError, match='at most 32,000,000'):
    read_picture(url, 28)
