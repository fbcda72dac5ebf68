"""Pictures edited by a run: from Python, and into a folder."""

import csv
import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import pixeldit_jax as pd
from pixeldit_jax.editing.edit_set import Edit, EditSet, read_table, summarize
from pixeldit_jax.editing.editor import EditOptions
from pixeldit_jax.editing.pictures import find_pictures, read_pictures

STEPS = 4


@pytest.fixture(scope='module')
def model(tiny_run):
  return pd.load(tiny_run[1].workdir, devices=jax.devices()[:2])


@pytest.fixture(scope='module')
def pictures():
  rng = np.random.default_rng(1)
  return rng.integers(0, 256, (3, 28, 28, 3), np.uint8)


@pytest.fixture
def mask():
  new = np.zeros((28, 28), bool)
  new[:, 14:] = True
  return new


@pytest.mark.slow
def test_inpainting_leaves_what_is_known_to_the_bit(model, pictures, mask):
  images = model.inpaint(pictures, mask, [3, 4, 5], repeats=2, steps=STEPS)
  np.testing.assert_array_equal(images[:, :, :14], pictures[:, :, :14])
  assert (images[:, :, 14:] != pictures[:, :, 14:]).mean() > 0.5
  other = model.inpaint(
    pictures, mask, 3, repeats=1, steps=STEPS, solver='heun'
  )
  assert (other != images).any()


@pytest.mark.slow
@pytest.mark.parametrize('method', ['flowedit', 'sdedit'])
def test_edits_keep_more_with_less_strength(model, pictures, method):
  options = dict(method=method, steps=STEPS, seed=2)

  def change(strength):
    edited = model.edit(pictures, 7, 1, strength=strength, **options)
    assert edited.shape == pictures.shape and edited.dtype == np.uint8
    return np.abs(edited.astype(int) - pictures).mean()

  assert 0 < change(0.25) < change(1.0)


@pytest.mark.slow
def test_the_same_source_and_target_change_nothing(model, pictures):
  same = model.edit(
    pictures, 1, 1, guidance=2.0, source_guidance=2.0, steps=STEPS
  )
  assert np.abs(same.astype(int) - pictures).max() <= 1


@pytest.mark.slow
def test_an_edit_depends_on_its_index_and_not_on_the_batch(model, pictures):
  whole = model.edit(pictures, [2, 3, 4], 1, steps=STEPS)
  first = model.edit(pictures[:1], 2, 1, steps=STEPS)
  assert np.abs(whole[:1].astype(int) - first).max() <= 1


@pytest.mark.slow
def test_outside_of_a_mask_an_edit_has_the_pixels_of_the_picture(
  model, pictures, mask
):
  edited = model.edit(pictures, 7, 1, mask=mask, steps=STEPS, free_steps=1)
  np.testing.assert_array_equal(edited[:, :, :14], pictures[:, :, :14])
  boxed = model.edit(
    pictures, 7, 1, mask='box:14,0,28,28', steps=STEPS, free_steps=1
  )
  np.testing.assert_array_equal(edited, boxed)


@pytest.mark.slow
@pytest.mark.parametrize(
  'options, times',
  [
    (dict(), [0.5, 0.75, 1.0]),
    (dict(method='sdedit', solver='heun_reuse'), [0.5, 0.75, 1.0]),
    (
      dict(method='inpaint', repeats=2, solver='euler'),
      [0.5, 0.5, 0.75, 0.75, 1.0],
    ),
  ],
  ids=str,
)
def test_each_step_of_an_edit_is_shown(model, pictures, mask, options, times):
  seen = []
  options = dict(mask=mask, steps=STEPS, strength=0.75) | options
  whole = model.edit(pictures, 7, 1, **options)
  shown = model.edit(pictures, 7, 1, on_step=seen.append, **options)
  assert np.abs(shown.astype(int) - whole).max() <= 1
  assert [step.time for step in seen] == times
  assert {step.steps for step in seen} == {len(times)}
  np.testing.assert_array_equal(seen[-1].images, shown)
  for step in seen:
    np.testing.assert_array_equal(step.images[:, :, :14], pictures[:, :, :14])


def test_an_edit_with_free_steps_has_no_steps_to_show(model, pictures):
  with pytest.raises(ValueError, match='leave on_step out'):
    model.edit(pictures, 7, 1, steps=STEPS, free_steps=1, on_step=print)


@pytest.mark.parametrize(
  'options, named',
  [
    (dict(method='paint'), "method='paint'"),
    (dict(strength=0.0), 'strength=0.0'),
    (dict(strength=0.1, steps=STEPS), '0 of 4 steps'),
    (dict(free_steps=9, steps=STEPS), 'free_steps=9'),
    (dict(method='inpaint', repeats=2, solver='adams2'), 'repeats=2'),
    (dict(method='inpaint', solver='heun_reuse'), 'heun_reuse'),
    (dict(mask=np.zeros((3, 3), bool)), 'mask of shape'),
    (dict(mask=np.zeros((2, 28, 28), bool)), 'mask of shape .2, 28, 28.'),
    (dict(method='inpaint', mask=None), 'inpainting needs a mask'),
    (dict(height=27), '27 x 28'),
  ],
  ids=str,
)
def test_edits_that_cannot_be_are_refused(model, pictures, options, named):
  with pytest.raises(ValueError, match=named):
    model.edit(pictures, 3, 1, **options)


def test_pictures_are_read_in_every_form(tmp_path, pictures):
  Image.fromarray(pictures[0]).save(tmp_path / 'b.png')
  (tmp_path / 'a').mkdir()
  Image.fromarray(pictures[1]).resize((56, 56)).save(tmp_path / 'a' / 'c.png')
  found = find_pictures(str(tmp_path))
  assert [pathlib.Path(p).name for p in found] == ['c.png', 'b.png']
  both = read_pictures([found[1], Image.fromarray(pictures[2])], (28, 28))
  np.testing.assert_array_equal(both, pictures[[0, 2]])
  assert read_pictures(found[0], (20, 24)).shape == (1, 20, 24, 3)
  with pytest.raises(ValueError, match='no picture'):
    read_pictures([], (8, 8))
  with pytest.raises(FileNotFoundError, match='nowhere'):
    find_pictures(str(tmp_path / 'nowhere'))
  (tmp_path / 'bad.png').write_text('no')
  with pytest.raises(ValueError, match='cannot be read'):
    read_pictures(str(tmp_path / 'bad.png'), (8, 8))


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'I;16', 'L', 'CMYK'])
def test_pictures_of_pillow_are_those_of_their_files(tmp_path, mode, pictures):
  picture = Image.fromarray(pictures[0])
  if mode == 'I;16':
    picture = Image.fromarray(pictures[0, ..., 0].astype(np.uint16) * 200)
  elif mode in ('RGBA', 'LA'):
    picture.putalpha(Image.fromarray(pictures[0, ..., 1]))
  picture = picture if mode == 'I;16' else picture.convert(mode)
  path = tmp_path / 'picture.tif'
  picture.save(path)
  np.testing.assert_array_equal(
    read_pictures(picture, (28, 28)), read_pictures(str(path), (28, 28))
  )


def test_an_array_without_pixels_is_refused():
  with pytest.raises(ValueError, match='shape .0, 0, 3.'):
    read_pictures(np.zeros((0, 0, 3), np.uint8), (28, 28))


@pytest.fixture
def edits(tmp_path, pictures):
  lines = []
  for i, pixels in enumerate(pictures):
    Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    lines.append(
      f'{i}.png,{i + 4},box:14,0,28,28'.replace('box:', '"box:') + '"'
    )
  (tmp_path / 'edits.csv').write_text(
    'image,target,region\n' + '\n'.join(lines) + '\n'
  )
  return read_table(str(tmp_path / 'edits.csv'), Edit('', source='1'))


def write(model, out, edits, batch_size=2, **options):
  chosen = EditSet(out, edits, (28, 28), dict(seed=0))
  chosen.check(overwrite=False)
  editor = model.editor(EditOptions(), (28, 28), batch_size, steps=STEPS)
  return chosen.write(
    editor,
    model.weights,
    model.edit_conditions_of(edits, ''),
    seed=0,
    **options,
  )


def test_a_set_has_a_table_and_is_continued(model, tmp_path, edits):
  assert [e.target for e in edits] == ['4', '5', '6']
  assert edits[0].source == '1' and edits[0].region == 'box:14,0,28,28'
  judge = lambda images, targets: np.array([t != '5' for t in targets])  # noqa: E731
  rows = write(model, tmp_path / 'a', edits, judge=judge, measure=True)
  with open(tmp_path / 'a' / 'edits.csv') as file:
    table = list(csv.DictReader(file))
  assert [row['agrees'] for row in table] == ['1', '0', '1']
  assert (
    table[2]['file'] == 'after/000002_2.png' and float(table[0]['psnr']) > 0
  )
  assert summarize(rows)['agrees'] == pytest.approx(2 / 3)
  assert (tmp_path / 'a' / 'edits.png').is_file()
  images = {p.name: p.read_bytes() for p in (tmp_path / 'a/after').iterdir()}
  lost = tmp_path / 'a' / 'after' / '000001_1.png'
  lost.unlink()
  kept = tmp_path / 'a' / 'after' / '000002_2.png'
  before = kept.stat().st_mtime_ns
  write(model, tmp_path / 'a', edits)
  assert lost.read_bytes() == images[lost.name]
  assert kept.stat().st_mtime_ns == before
  changed = [dataclasses.replace(edits[0], target='9'), *edits[1:]]
  with pytest.raises(ValueError, match='describes edits of'):
    write(model, tmp_path / 'a', changed)
  (tmp_path / 'a' / 'before' / 'mine.png').write_bytes(b'of the user')
  with pytest.raises(ValueError, match='mine.png.*not written by this'):
    write(model, tmp_path / 'a', edits)


def test_what_stays_is_measured_through_an_autoencoder_too(
  model, tmp_path, edits
):
  coarse = lambda images: images // 16 * 16  # noqa: E731
  rows = write(
    model, tmp_path / 'a', edits, batch_size=3, measure=True, detour=coarse
  )
  for row in rows:
    after = tmp_path / 'a' / row['file']
    old, new = (
      np.asarray(Image.open(path))[:, :14].astype(int)
      for path in (tmp_path / 'a' / 'before' / after.name, after)
    )
    assert row['difference'] == pytest.approx(
      np.abs(old - new).mean(), abs=1e-3
    )
    through = np.abs(old - coarse(new)).mean()
    assert row['autoencoder_difference'] == pytest.approx(through, abs=1e-3)
  found = summarize(rows)
  assert found['autoencoder_psnr'] != found['psnr']


def test_a_table_of_a_spreadsheet_is_read(tmp_path):
  path = tmp_path / 'edits.csv'
  path.write_text('image,target\na.png,3\n', encoding='utf-8-sig')
  (edit,) = read_table(str(path), Edit(''))
  assert edit == Edit(str(tmp_path / 'a.png'), '3')


def test_what_is_no_table_is_refused(tmp_path):
  path = tmp_path / 'edits.csv'
  with pytest.raises(FileNotFoundError, match='no file: give a CSV'):
    read_table(str(path), Edit(''))
  path.write_bytes(b'image,target\n\xff,3\n')
  with pytest.raises(ValueError, match='no text in UTF-8'):
    read_table(str(path), Edit(''))


@pytest.mark.parametrize(
  'text, named', [('file\nx\n', 'found'), ('image\n', 'none')]
)
def test_a_table_of_other_columns_is_refused(tmp_path, text, named):
  (tmp_path / 'edits.csv').write_text(text)
  with pytest.raises(ValueError, match=named):
    read_table(str(tmp_path / 'edits.csv'), Edit(''))
