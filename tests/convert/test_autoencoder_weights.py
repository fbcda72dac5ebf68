"""The autoencoder's weights by every layout's names, by name and by path."""

import json
import re

import numpy as np
import pytest

from pixeldit_jax.convert.autoencoder import load_autoencoder
from pixeldit_jax.convert.official import from_official, to_official
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.errors import MissingFileError, UserError

OLD = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
COMPVIS = [
  (r'\.down_blocks\.(\d)\.resnets', r'.down.\1.block'),
  (r'\.down_blocks\.(\d)\.downsamplers\.0', r'.down.\1.downsample'),
  (r'\.up_blocks\.(\d)\.resnets', r'.up.\1.block'),
  (r'\.up_blocks\.(\d)\.upsamplers\.0', r'.up.\1.upsample'),
  (r'mid_block\.resnets\.0', 'mid.block_1'),
  (r'mid_block\.resnets\.1', 'mid.block_2'),
  (r'mid_block\.attentions\.0', 'mid.attn_1'),
  (r'group_norm', 'norm'),
  (r'to_(q|k|v)\.', r'\1.'),
  (r'to_out\.0', 'proj_out'),
  (r'conv_shortcut', 'nin_shortcut'),
  (r'conv_norm_out', 'norm_out'),
]


@pytest.fixture
def weights(golden):
  return golden('rivals/sdvae').below('w')


def as_compvis(weights):
  """The same tensors as CompVis names, orders and shapes them."""
  found = {'loss.logvar': np.zeros((), np.float32)}
  for name, array in weights.items():
    if re.search(r'to_(q|k|v|out\.0)\.weight', name):
      array = array[:, :, None, None]
    for pattern, by in COMPVIS:
      name = re.sub(pattern, by, name)
    name = re.sub(r'\.up\.(\d)', lambda m: f'.up.{3 - int(m[1])}', name)
    found[f'first_stage_model.{name}'] = array
  return found


def as_old(weights):
  """The same tensors as diffusers named them until 2023."""
  return {
    re.sub('|'.join(OLD), lambda m: OLD[m[0]], name): array
    for name, array in weights.items()
  }


@pytest.mark.parametrize('layout', [dict, as_old, as_compvis])
def test_weights_of_every_layout_come_back_bit_for_bit(
  weights, same_bits, layout
):
  model = from_official(layout(weights), norm_num_groups=4)
  same_bits(to_official(model), weights)


def test_a_folder_of_diffusers_is_read_with_its_configuration(
  golden, weights, same_bits, tmp_path
):
  write_safetensors(tmp_path / 'diffusion_pytorch_model.safetensors', weights)
  config = golden('rivals/sdvae').meta['config']
  (tmp_path / 'config.json').write_text(json.dumps(config))
  model = load_autoencoder(tmp_path)
  assert (model.config.groups, model.config.widths) == (4, (8, 8, 12, 16))
  same_bits(to_official(model), weights)


def test_what_is_no_autoencoder_is_told(golden, weights):
  with pytest.raises(UserError, match='are no autoencoder: expected') as error:
    from_official(golden('rivals/dit').below('w'), 'sdvae')
  assert '\n' not in str(error.value)
  with pytest.raises(UserError, match='groups=32 does not divide'):
    from_official(weights)
  del weights['decoder.conv_out.bias']
  with pytest.raises(UserError, match=r'missing: decoder.conv_out.bias \(3,\)'):
    from_official(weights, 'sdvae', norm_num_groups=4)
  with pytest.raises(UserError, match='depth: no field of an autoencoder'):
    from_official(weights, 'sdvae', depth=4)


def test_a_name_that_cannot_be_had_tells_two_ways(tmp_path):
  with pytest.raises(MissingFileError, match='Two ways to get them'):
    load_autoencoder(tmp_path / 'none.safetensors')
