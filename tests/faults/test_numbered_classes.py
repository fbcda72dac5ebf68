"""Class folders that are numbers mean themselves, in new runs."""

import logging

import pytest
from PIL import Image

from pixeldit_jax.data.sources.folder import FolderSource
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.run import trained_on


def folders(tmp_path, names):
  for name in names:
    (tmp_path / name).mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(tmp_path / name / 'a.png')
  return FolderSource(str(tmp_path))


def test_whole_numbers_without_gaps_are_labels(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  source = folders(tmp_path, [str(k) for k in range(12)])
  assert source.class_names == tuple(str(k) for k in range(12))
  labels = {source[i]['name']: source[i]['label'] for i in range(12)}
  assert all(label == int(name.split('/')[0]) for name, label in labels.items())
  assert 'named by their labels, 0 to 11' in caplog.text


@pytest.mark.parametrize('first', [1, 5])
def test_numbers_with_gaps_follow_their_names_and_it_is_said(
  tmp_path, caplog, first
):
  names = [str(k) for k in range(first, first + 12)]
  assert folders(tmp_path, names).class_names == tuple(sorted(names))
  assert 'labels follow the order of their names' in caplog.text


def test_names_keep_their_order(tmp_path, caplog):
  assert folders(tmp_path, ['n2', 'n10', '3']).class_names == ('3', 'n10', 'n2')
  assert not caplog.records


def test_a_run_begun_with_the_old_labels_is_not_shifted(tmp_path):
  names = [str(k) for k in range(12)]
  with pytest.raises(UserError, match='--allow_change=classes'):
    trained_on.check_classes(str(tmp_path), names)
  trained_on.check_classes(str(tmp_path), sorted(names))  # of shards
  trained_on.check_classes(str(tmp_path), names, ['classes'])
