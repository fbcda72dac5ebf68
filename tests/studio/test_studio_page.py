"""The page in a real Chromium: draw, compare, cancel, edit, errors, a phone."""

import io
import re
import shutil
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

import pixeldit_jax as pd
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.studio import requests, server

SECONDS = 120  # that a slow machine may take for one thing
PHONE = dict(width=390, height=844)


@pytest.fixture(scope='module')
def model(tiny_run):
  return pd.load(tiny_run[1].workdir, devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def studio(model):
  """The address of a studio with one tiny model under two names."""
  pytest.importorskip('gradio')
  with pytest.MonkeyPatch.context() as patch:
    # It is set for the whole process.
    patch.setattr(Image, 'MAX_IMAGE_PIXELS', Image.MAX_IMAGE_PIXELS)
    page = server.serve({'tiny': model, 'twin': model}, port=0)
    yield page.local_url
    page.close(verbose=False)


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
  """The page; it may fetch nothing from elsewhere, and break nowhere."""
  opened = browser.new_page()
  opened.set_default_timeout(SECONDS * 1000)
  errors, urls = [], []
  opened.on('pageerror', lambda error: errors.append(str(error)))
  opened.on('request', lambda request: urls.append(request.url))
  opened.goto(studio)
  button(opened, 'Draw').wait_for()
  yield opened
  opened.close()
  assert errors == []
  assert urls and all(
    url.startswith((studio, 'data:', 'blob:')) for url in urls
  )


@pytest.fixture
def patient_drawings(monkeypatch):
  """Drawings that last, however slow the browser is."""

  def draw_work(*args):
    work, command = requests.draw_work(*args)

    def patient(on_step):
      return work(lambda step: (on_step(step), time.sleep(0.25)))

    return patient, command

  monkeypatch.setattr('pixeldit_jax.studio.page.draw_work', draw_work)


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'picture.png'
  pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def button(page, name):
  return page.get_by_role('button', name=name, exact=True)


def fill(page, label, value):
  page.get_by_label(label).locator('visible=true').fill(str(value))


def set_number(page, label, value):
  box = page.get_by_role('spinbutton', name=f'number input for {label}')
  box.locator('visible=true').fill(str(value))
  page.keyboard.press('Tab')


def choose(page, label, option):
  page.get_by_label(label).locator('visible=true').click()
  page.get_by_role('option', name=option, exact=True).click()


def wait_for_state(page, words):
  page.wait_for_function(
    'words => [...document.querySelectorAll(".state")].some('
    'x => x.checkVisibility() && x.innerText.includes(words))',
    arg=words,
  )


def error_of(page):
  """The one line of the error, which is then closed."""
  toast = page.locator('.toast-body.error').first
  toast.wait_for()
  text = toast.inner_text()
  toast.get_by_test_id('toast-close').click()
  return text


def pictures(page, selector):
  """The arrays of what is shown."""
  urls = page.eval_on_selector_all(selector, 'all => all.map(x => x.src)')
  answers = [urllib.request.urlopen(url, timeout=SECONDS) for url in urls]
  opened = [Image.open(io.BytesIO(answer.read())) for answer in answers]
  return [np.asarray(image.convert('RGB')) for image in opened]


def wait_until(page, get, accept=bool):
  """What `get` returns once it is accepted.

  A state can be on the page before the images and commands of its update.
  """
  ends = time.monotonic() + SECONDS
  value = get()
  while not accept(value):
    assert time.monotonic() < ends, f'it stays {value}'
    page.wait_for_timeout(250)
    value = get()
  return value


def commands(page):
  """The command lines that are shown."""
  return [
    box.input_value()
    for box in page.locator('.command textarea').all()
    if box.is_visible()
  ]


def run_command_of(page, out):
  """Runs the first command line that is shown, and returns its text."""
  command = wait_until(page, lambda: commands(page)[0])
  ours = command.replace('pixeldit ', f'{sys.executable} -c "{MAIN}" ', 1)
  subprocess.run(
    ['bash', '-c', ours.replace('--out=out', f'--out={out}')],
    check=True,
    timeout=10 * SECONDS,
  )
  return command


def draw(page, wanted, images, steps, other):
  fill(page, 'What to draw', wanted)
  set_number(page, 'Images', images)
  set_number(page, 'Steps', steps)
  choose(page, 'Compare with', other)
  button(page, 'Draw').click()


MAIN = 'from pixeldit_jax.cli.commands import main; main()'


@pytest.mark.slow
def test_it_draws_and_the_command_line_draws_the_same(page, tmp_path):
  draw(page, '3; 7', images=2, steps=3, other='model twin')
  wait_for_state(page, 'twin, ')
  wait_for_state(page, 'done')
  page.wait_for_function('document.querySelectorAll(".images img").length == 4')
  command = run_command_of(page, tmp_path / 'out')
  assert '--labels=3,7' in command and '--config.sampler.steps=3' in command
  drawn = 2 * [
    np.asarray(Image.open(tmp_path / f'out/images/00000{k}.png')).astype(int)
    for k in range(2)
  ]
  images = wait_until(
    page,
    lambda: pictures(page, '.images img'),
    # Of rounding: a program of steps, and one of all.
    lambda shown: np.abs(np.subtract(shown, drawn)).max() <= 1,
  )
  np.testing.assert_array_equal(images[:2], images[2:])
  assert (images[0] != images[1]).any()


@pytest.mark.slow
def test_two_solvers_are_compared(page):
  draw(page, '1', images=1, steps=2, other='solver heun')
  wait_for_state(page, 'tiny, heun: done')
  ours, other = wait_until(page, lambda: commands(page), all)
  assert 'solver=heun ' in other and 'solver=heun ' not in ours
  assert len(pictures(page, '.images img')) == 2


def test_a_mistake_is_told(page):
  fill(page, 'What to draw', 'eleven')
  button(page, 'Draw').click()
  assert "'eleven' is not a class" in error_of(page)


def test_a_seed_out_of_bounds_is_told(page):
  fill(page, 'Seed', -5)
  button(page, 'Draw').click()
  assert 'seed=-5: an integer, at least 0' in error_of(page)
  states = page.locator('.state').all_inner_texts()
  assert not any('waiting' in text for text in states)


def test_a_drawing_is_cancelled(page, patient_drawings):
  set_number(page, 'Steps', 1000)
  button(page, 'Draw').click()
  wait_for_state(page, ' step ')
  assert page.locator('.images img').count() == 4  # the preview
  button(page, 'Cancel').click()
  wait_for_state(page, 'cancelled')
  assert commands(page) == ['']
  for thread in threading.enumerate():
    if thread.name == requests.THREAD:
      thread.join(SECONDS)  # it ends with the step that it was at
      assert not thread.is_alive()


def test_a_model_and_a_picture_are_chosen_while_another_draws(
  page, picture, patient_drawings
):
  fill(page, 'What to draw', '5')
  set_number(page, 'Steps', 1000)
  button(page, 'Draw').click()
  wait_for_state(page, ' step ')
  choose(page, 'Model', 'twin')
  page.wait_for_function(
    '[...document.querySelectorAll("textarea")].some('
    'x => x.value == "0; 1; 2; 3")'
  )
  wait_for_state(page, ' step ')  # it still draws
  page.get_by_role('tab', name='Edit').click()
  page.locator('#upload input[type=file]').set_input_files(picture)
  page.locator('#editor canvas').first.wait_for()
  page.get_by_role('tab', name='Draw').click()
  wait_for_state(page, ' step ')
  button(page, 'Cancel').click()
  wait_for_state(page, 'cancelled')


@pytest.mark.slow
def test_a_picture_is_edited_where_it_is_painted_on(page, picture, tmp_path):
  page.get_by_role('tab', name='Edit').click()
  fill(page, 'What is wanted', '4')
  choose(page, 'Method', 'inpaint')
  set_number(page, 'Steps', 3)
  set_number(page, 'Strength', 1)
  button(page, 'Edit').click()
  assert 'choose one' in error_of(page)
  page.locator('#upload input[type=file]').set_input_files(picture)
  canvas = page.locator('#editor canvas').first
  canvas.wait_for()
  page.wait_for_timeout(2000)  # the editor is drawn
  button(page, 'Edit').click()
  assert 'paint where to draw anew' in error_of(page)
  canvas.scroll_into_view_if_needed()
  box = canvas.bounding_box()
  middle = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
  page.mouse.move(middle[0] - 50, middle[1] - 60)
  page.mouse.down()
  page.mouse.move(middle[0] + 50, middle[1] - 60, steps=12)
  page.mouse.up()
  button(page, 'Edit').click()
  wait_for_state(page, 'done')
  command = run_command_of(page, tmp_path / 'out')
  (again,) = (tmp_path / 'out' / 'after').glob('*.png')
  again = np.asarray(Image.open(again)).astype(int)
  old, new = wait_until(
    page,
    lambda: [
      image[8::16, 8::16] for image in pictures(page, '#slider img')[:2]
    ],
    lambda shown: len(shown) == 2 and np.abs(again - shown[1]).max() <= 1,
  )
  np.testing.assert_array_equal(old, np.asarray(Image.open(picture)))
  changed = (old != new).any(-1)
  assert changed[:14].sum() > 10 and not changed[16:].any()
  assert not changed[:, :4].any() and not changed[:, -4:].any()
  mask = re.search(r'--mask=(\S+)', command)[1]
  assert not changed[np.asarray(Image.open(mask)) == 0].any()


@pytest.mark.parametrize(
  'name, named',
  [('bad.png', 'no picture that can be read'), ('large.png', 'at most 32,0')],
)
def test_a_bad_upload_is_told(page, tmp_path, name, named):
  (tmp_path / 'bad.png').write_bytes(b'no picture')
  side = int(requests.MOST_PIXELS**0.5) + 10
  Image.new('1', (side, side)).save(tmp_path / 'large.png')
  page.get_by_role('tab', name='Edit').click()
  page.locator('#upload input[type=file]').set_input_files(tmp_path / name)
  assert named in error_of(page)
  assert page.locator('#editor canvas').count() == 0


def test_it_fits_a_phone(studio, browser, picture):
  page = browser.new_page(viewport=PHONE)
  page.set_default_timeout(SECONDS * 1000)
  page.goto(studio)
  for tab in ('Draw', 'Edit'):
    page.get_by_role('tab', name=tab).click()
    button(page, tab).wait_for()
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
  page.locator('#upload input[type=file]').set_input_files(picture)
  page.locator('#editor canvas').first.wait_for()
  assert page.evaluate('document.documentElement.scrollWidth') <= 390
  page.close()


@pytest.mark.parametrize(
  'headers, status',
  [(dict(Host='evil.example'), 400), (dict(Origin='http://evil.example'), 403)],
  ids=('host', 'origin'),
)
def test_strange_requests_are_refused(studio, headers, status):
  request = urllib.request.Request(studio, headers=headers)
  with pytest.raises(urllib.error.HTTPError) as refused:
    urllib.request.urlopen(request, timeout=SECONDS)
  assert refused.value.code == status


def test_a_large_upload_is_refused(studio):
  data = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"'
  )
  data += b'\r\n\r\n' + bytes(17 << 20) + b'\r\n--x--\r\n'
  form = {'Content-Type': 'multipart/form-data; boundary=x'}
  request = urllib.request.Request(f'{studio}gradio_api/upload', data, form)
  with pytest.raises(urllib.error.HTTPError) as refused:
    urllib.request.urlopen(request, timeout=SECONDS)
  assert refused.value.code == 413


def test_a_port_that_is_taken_is_told(studio, model):
  port = int(studio.rstrip('/').rpartition(':')[2])
  with pytest.raises(UserError, match=f'port {port} .* another --port'):
    server.serve({'tiny': model}, port=port)


def test_a_missing_gradio_is_told(model, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(MissingPackageError, match=r'pixeldit_jax\[studio\]'):
    server.serve({'tiny': model}, port=0)


IMAGES = np.zeros((1, 2, 2, 3), np.uint8)


def test_batches_that_are_finished_stay_in_sight():
  go_on = threading.Semaphore(0)

  def work(on_step):
    for number in (1, 2, 1, 2):  # of two batches
      assert go_on.acquire(timeout=SECONDS)
      on_step(types.SimpleNamespace(number=number, steps=2, images=IMAGES))
    return IMAGES

  counts = []
  for text, images in requests.watch(work):
    counts.append((text, len(images)))
    go_on.release()
  # The last step may already be past.
  assert counts[:4] == [
    ('starting', 0),
    *[('step 1 of 2', 1), ('step 2 of 2', 1), ('step 1 of 2', 2)],
  ]
  assert counts[-1] == ('done', 1)


def test_what_the_work_raises_is_raised():
  def work(on_step):
    on_step(types.SimpleNamespace(number=1, steps=2, images=IMAGES))
    raise UserError('no such class')

  with pytest.raises(UserError, match='no such class'):
    list(requests.watch(work))
