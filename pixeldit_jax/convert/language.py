"""Language models in the form of Hugging Face's `transformers`.

A folder or a repository holds `config.json`, the weights as safetensors, in one
file or in several with an index, and `tokenizer.json`. Letters of the patterns,
beyond those of `pixeldit_jax.typing`: V vocabulary, S query, key and value, U
gate and value, G heads of keys, P positions, J kinds of tokens.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pixeldit_jax.convert.files import fetch
from pixeldit_jax.convert.lazy import LazyTensors, Spec
from pixeldit_jax.convert.rules import (
  Rule,
  linear_rules,
  norm_rules,
  to_native,
)
from pixeldit_jax.convert.safetensors import read_safetensors
from pixeldit_jax.encoders.bert import BertConfig
from pixeldit_jax.encoders.gemma2 import Gemma2Config
from pixeldit_jax.errors import MissingFileError
from pixeldit_jax.files import read_json

LanguageConfig = BertConfig | Gemma2Config
# f(file name) -> its path here, downloaded if it has to be.
Find = Callable[[str], pathlib.Path]

# Of a part of the network that we do not use, or made from other tensors.
UNUSED = ('pooler.', 'cls.', 'lm_head.')
CONSTANTS = ('position_ids', 'inv_freq')
PREFIXES = ('bert.', 'model.')

_LAYER = 'encoder.layer.{i}'
_QKV = [f'{_LAYER}.attention.self.{x}' for x in ('query', 'key', 'value')]
BERT = [
  Rule('words', 'embeddings.word_embeddings.weight', 'V D -> V D'),
  Rule('positions', 'embeddings.position_embeddings.weight', 'P D -> P D'),
  Rule('kinds', 'embeddings.token_type_embeddings.weight', 'J D -> J D'),
  *norm_rules('norm', 'embeddings.LayerNorm'),
  Rule(
    'blocks/qkv/kernel',
    tuple(f'{x}.weight' for x in _QKV),
    'S (N K) D -> D S N K',
  ),
  Rule('blocks/qkv/bias', tuple(f'{x}.bias' for x in _QKV), 'S (N K) -> S N K'),
  *linear_rules(
    'blocks/proj',
    f'{_LAYER}.attention.output.dense',
    'D (N K) -> N K D',
    'D -> D',
  ),
  *norm_rules('blocks/norm1', f'{_LAYER}.attention.output.LayerNorm'),
  *linear_rules(
    'blocks/up', f'{_LAYER}.intermediate.dense', 'F D -> D F', 'F -> F'
  ),
  *linear_rules(
    'blocks/down', f'{_LAYER}.output.dense', 'D F -> F D', 'D -> D'
  ),
  *norm_rules('blocks/norm2', f'{_LAYER}.output.LayerNorm'),
]

_SELF = 'layers.{i}.self_attn'
_MLP = 'layers.{i}.mlp'
_NORMS = (
  'input_layernorm',
  'post_attention_layernorm',
  'pre_feedforward_layernorm',
  'post_feedforward_layernorm',
)
GEMMA2 = [
  Rule('words', 'embed_tokens.weight', 'V D -> V D'),
  Rule('blocks/q/kernel', f'{_SELF}.q_proj.weight', '(N K) D -> D N K'),
  Rule(
    'blocks/kv/kernel',
    (f'{_SELF}.k_proj.weight', f'{_SELF}.v_proj.weight'),
    'S (G K) D -> D S G K',
  ),
  Rule('blocks/proj/kernel', f'{_SELF}.o_proj.weight', 'D (N K) -> N K D'),
  Rule(
    'blocks/up/kernel',
    (f'{_MLP}.gate_proj.weight', f'{_MLP}.up_proj.weight'),
    'U F D -> D U F',
  ),
  Rule('blocks/down/kernel', f'{_MLP}.down_proj.weight', 'D F -> F D'),
  *(
    Rule(f'blocks/norm{i}/weight', f'layers.{{i}}.{name}.weight', 'D -> D')
    for i, name in enumerate(_NORMS, 1)
  ),
  Rule('norm/weight', 'norm.weight', 'D -> D'),
]


def finder(source: str) -> Find:
  """How the files of a folder, or of a name on the hub, are found."""
  if os.path.isdir(source):
    return lambda name: fetch(os.path.join(source, name))
  location = source.removeprefix('hf://')
  return lambda name: fetch(f'hf://{location}/{name}')


def read_config(find: Find, **overrides) -> LanguageConfig | None:
  """The configuration of a network that is read here; None for any other.

  Args:
    find: of `finder`.
    overrides: fields of the configuration, as `dtype`.

  Raises:
    FileNotFoundError: there is no `config.json`.
    UserError: it is damaged.
  """
  released = read_json(find('config.json'))
  kind = released.get('model_type')
  if kind == 'bert' and _is(
    released, hidden_act='gelu', position_embedding_type='absolute'
  ):
    return _bert(released, overrides)
  if kind == 'gemma2' and _is(
    released, hidden_activation='gelu_pytorch_tanh', attention_bias=False
  ):
    return _gemma2(released, overrides)
  return None


def _is(released: Mapping[str, Any], **expected) -> bool:
  """Whether keys have these values, which are theirs by default too."""
  return all(released.get(k, value) == value for k, value in expected.items())


def _bert(released, overrides) -> BertConfig:
  found = dict(
    vocabulary=released['vocab_size'],
    width=released['hidden_size'],
    depth=released['num_hidden_layers'],
    heads=released['num_attention_heads'],
    mlp_width=released['intermediate_size'],
    positions=released['max_position_embeddings'],
    kinds=released.get('type_vocab_size', 2),
    epsilon=released.get('layer_norm_eps', 1e-12),
  )
  return BertConfig(**(found | overrides))


def _gemma2(released, overrides) -> Gemma2Config | None:
  depth = released['num_hidden_layers']
  rope = released.get('rope_parameters') or {}
  theta = rope.get('rope_theta', released.get('rope_theta', 10000.0))
  kinds = [('sliding', 'full')[i % 2] + '_attention' for i in range(depth)]
  if theta != 10000 or released.get('layer_types', kinds) != kinds:
    return None
  found = dict(
    vocabulary=released['vocab_size'],
    width=released['hidden_size'],
    depth=depth,
    heads=released['num_attention_heads'],
    groups=released['num_key_value_heads'],
    head_size=released['head_dim'],
    mlp_width=released['intermediate_size'],
    positions=released.get('max_position_embeddings', 8192),
    window=released.get('sliding_window', 4096),
    query_scale=float(released.get('query_pre_attn_scalar', 256)),
    score_cap=released.get('attn_logit_softcapping', 50.0),
    epsilon=released.get('rms_norm_eps', 1e-6),
  )
  return Gemma2Config(**(found | overrides))


def read_tensors(find: Find) -> LazyTensors:
  """The tensors of the network alone, under the names of its own class.

  Raises:
    FileNotFoundError: there are no safetensors.
    UserError: they are damaged.
  """
  try:
    parts = [read_safetensors(find('model.safetensors'))]
  except MissingFileError:
    index = read_json(find('model.safetensors.index.json'))
    names = sorted(set(index['weight_map'].values()))
    parts = [read_safetensors(find(name)) for name in names]
  where = {name: part for part in parts for name in part}
  plain = {}
  for name in where:
    prefix = next((p for p in PREFIXES if name.startswith(p)), '')
    inner = name.removeprefix(prefix)
    if not inner.startswith(UNUSED) and not inner.endswith(CONSTANTS):
      plain[inner] = name
  return LazyTensors(
    {inner: where[name].specs[name] for inner, name in plain.items()},
    lambda inner: where[plain[inner]][plain[inner]],
  )


def from_language(weights: LazyTensors, config: LanguageConfig) -> LazyTensors:
  """Native weights of a configuration by path, each made when asked for.

  Kernels and tables are in `config.dtype`; the rest is float32.

  Raises:
    UserError: tensors that do not fit it.
  """
  gemma = isinstance(config, Gemma2Config)
  rules = GEMMA2 if gemma else BERT
  native = to_native(rules, weights, _sizes(config), {'blocks': config.depth})

  def is_kernel(path):
    return path.rpartition('/')[2] not in ('weight', 'bias')

  def read(path):
    array = native[path]
    if is_kernel(path):
      return array.astype(config.dtype)
    # Gemma's file says how far the factor of a norm is from 1.
    return array.astype(np.float32) + np.float32(gemma)

  dtypes = {
    path: np.dtype(config.dtype if is_kernel(path) else np.float32)
    for path in native
  }
  specs = {
    path: Spec(spec.shape, dtypes[path]) for path, spec in native.specs.items()
  }
  return LazyTensors(specs, read)


def stored_dtype(weights: LazyTensors) -> str:
  """'bfloat16' where all tensors are, else 'float32'."""
  dtypes = {str(spec.dtype) for spec in weights.specs.values()}
  return 'bfloat16' if dtypes == {'bfloat16'} else 'float32'


def checksum(tokenizer: str, weights: LazyTensors) -> str:
  """SHA-256 of all that decides an embedding but the instruction.

  Args:
    tokenizer: as JSON.
    weights: of `read_tensors`.
  """
  digest = hashlib.sha256(tokenizer.encode())
  for name, spec in sorted(weights.specs.items()):
    # PyTorch's name of the type: so it was when PyTorch read the weights.
    digest.update(f'{name} torch.{spec.dtype} {spec.shape}'.encode())
    array = np.ascontiguousarray(weights[name]).reshape(-1)
    digest.update(array.view(np.uint8).data)
  return digest.hexdigest()


def tokenizer_settings(find: Find) -> dict[str, Any]:
  """`model_max_length`, `pad_token` and all else that is said of a tokenizer.

  A text stands for a token; the end of a text fills where nothing else does.
  """
  settings: dict[str, Any] = {}
  for name in ('special_tokens_map.json', 'tokenizer_config.json'):
    try:
      settings |= read_json(find(name))
    except MissingFileError:
      continue
  for name in ('pad_token', 'eos_token'):
    if isinstance(settings.get(name), Mapping):
      settings[name] = settings[name]['content']
  if not settings.get('pad_token'):
    settings['pad_token'] = settings.get('eos_token')
  return settings


def _sizes(config: LanguageConfig) -> dict[str, int]:
  """The length of each letter."""
  sizes = dict(
    D=config.width,
    F=config.mlp_width,
    N=config.heads,
    V=config.vocabulary,
    U=2,
  )
  if isinstance(config, BertConfig):
    head_size = config.width // config.heads
    return sizes | dict(S=3, K=head_size, P=config.positions, J=config.kinds)
  return sizes | dict(S=2, K=config.head_size, G=config.groups)
