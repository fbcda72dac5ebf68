"""A run keeps to its text encoder."""

import pytest

from pixeldit_jax.train.run.text_encoder_metadata import (
  check_start,
  keep_text,
  read_text,
)

META = dict(encoder='/models/a', checksum='12', width=4, tokens=3)


def test_the_same_encoder_may_lie_elsewhere(tmp_path):
  with pytest.raises(FileNotFoundError, match='no run with texts'):
    read_text(str(tmp_path))
  keep_text(str(tmp_path), META)
  keep_text(str(tmp_path), META | dict(encoder='/models/b'))
  assert read_text(str(tmp_path)) == META


@pytest.mark.parametrize('key', ['checksum', 'width', 'tokens', 'instruction'])
def test_another_encoder_is_refused(tmp_path, key):
  keep_text(str(tmp_path), META)
  with pytest.raises(ValueError, match=f'{key} was .* is 99'):
    keep_text(str(tmp_path), META | {key: 99})
  assert read_text(str(tmp_path)) == META


def test_a_run_starts_from_one_that_knows_the_same_words(tmp_path):
  check_start(str(tmp_path), META)  # not a run of texts: nothing is known
  keep_text(str(tmp_path), META)
  check_start(str(tmp_path), META | dict(tokens=5, instruction='Paint: '))
  for key in ('checksum', 'width'):
    with pytest.raises(ValueError, match=f'{key} was .* is 99'):
      check_start(str(tmp_path), META | {key: 99})
