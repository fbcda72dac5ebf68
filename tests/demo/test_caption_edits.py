"""Edits of captioned digits: their tables say what is shown and wanted."""

import numpy as np
import pytest

from pixeldit_jax.demo import caption_edits
from pixeldit_jax.demo.caption_agreement import main_colours, parse_prompt
from pixeldit_jax.editing.edit_set import Edit, read_table
from pixeldit_jax.editing.masks import read_mask
from pixeldit_jax.editing.pictures import read_pictures


@pytest.mark.parametrize('kind', caption_edits.KINDS)
def test_tables_change_one_word_of_what_pictures_show(tmp_path, kind):
  pytest.importorskip('mlxtend')
  caption_edits.write_edits(tmp_path, 30)
  edits = read_table(str(tmp_path / f'{kind}.csv'), Edit(''))
  assert len(edits) == 30
  pictures = read_pictures([edit.image for edit in edits], (20, 20))
  shown = [parse_prompt(edit.source) for edit in edits]
  assert main_colours(pictures) == [colour for _, colour in shown]
  for picture, edit, (digit, colour) in zip(pictures, edits, shown):
    changed = {
      k for k, word in enumerate(edit.source.split()) if word not in edit.target
    }
    assert changed == {caption_edits.KINDS.index(kind)}
    new_digit, new_colour = parse_prompt(edit.target)
    assert (new_digit != digit, new_colour != colour) == (
      (False, True) if kind == 'colour' else (True, False)
    )
    region = read_mask(edit.region, picture, grow=1)
    assert picture[~region].max() <= 30 and region.mean() < 0.6
  again = caption_edits.edit_of(kind, 7)[0]
  np.testing.assert_array_equal(again, pictures[7])
