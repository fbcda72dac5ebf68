"""Released weights in and out, and files that do not fit."""

import jax
import numpy as np
import pytest

from pixeldit_jax.convert.official import (
  from_official,
  infer_config,
  recognise,
  rename_to_official,
  to_official,
)
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.pixeldit import weights_of

CASES = ['c2i_forward', 'c2i_forward_postmod', 't2i']


@pytest.mark.parametrize('name', CASES)
def test_weights_come_back_bit_for_bit(golden, name):
  weights = golden(name).below('w')
  back = to_official(from_official(weights))
  assert back.keys() == weights.keys()
  for key, array in weights.items():
    np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize('family', ['dit', 'pixelflow'])
def test_weights_of_other_networks_come_back_bit_for_bit(
  golden, same_bits, family
):
  weights = golden(f'rivals/{family}').below('w')
  assert recognise(weights) == family
  same_bits(to_official(from_official(weights, family, heads=2)), weights)


def test_weights_of_pmf_come_back_with_and_without_its_training_branch(
  golden, same_bits
):
  weights = golden('one_step').below('w')
  assert recognise(weights) == 'pmf'
  same_bits(to_official(from_official(weights)), weights)
  sampled = {k: v for k, v in weights.items() if not k.startswith('v_')}
  model = from_official(sampled, 'pmf')
  assert not model.config.velocity_branch
  same_bits(to_official(model), sampled)
  del sampled['omega_tokens']
  with pytest.raises(UserError, match='missing: omega_tokens'):
    from_official(sampled, 'pmf')


@pytest.mark.parametrize('family', ['dit', 'pixelflow'])
def test_heads_that_weights_do_not_tell_are_asked_for(golden, family):
  weights = golden(f'rivals/{family}').below('w')
  with pytest.raises(UserError, match='published has width=32: give heads'):
    from_official(weights)


@pytest.mark.parametrize(
  'family, other', [('dit', 'deco'), ('pixelflow', 'dit'), ('deco', 'dit')]
)
def test_a_file_of_another_family_is_refused_in_a_line(golden, family, other):
  weights = golden(f'rivals/{other}').below('w')
  with pytest.raises(UserError) as error:
    from_official(weights, family, heads=2)
  assert f'family={family!r}, but the {len(weights)}' in str(error.value)
  assert f'names of {other}' in str(error.value)
  assert '\n' not in str(error.value)


def test_sizes_and_variant_are_seen_from_the_weights(golden):
  config = infer_config(golden('c2i_forward').below('w'))
  assert (config.width, config.heads, config.patch_size) == (32, 2, 4)
  assert (config.patch_depth, config.pixel_depth) == (2, 2)
  assert (config.num_classes, config.modulation) == (10, 'pre')
  config = infer_config(golden('c2i_forward_postmod').below('w'))
  assert config.modulation == 'post'


def test_overrides_reach_the_network(golden):
  model = from_official(golden('c2i_forward').below('w'), dtype='bfloat16')
  assert model.config.dtype == 'bfloat16'


def test_what_does_not_fit_is_listed(golden):
  weights = golden('c2i_forward').below('w')
  weights['patch_blocks.1.mlp.w1.weight'] = np.zeros((3, 3), np.float32)
  del weights['final_layer.linear.bias']
  weights['extra.weight'] = np.zeros(1, np.float32)
  with pytest.raises(ValueError) as error:
    from_official(weights)
  for part in (
    '3 tensors do not fit',
    'missing: final_layer.linear.bias (3,)',
    'extra: extra.weight (1,)',
    'other shape: patch_blocks.1.mlp.w1.weight is (3, 3), expected (85, 32)',
  ):
    assert part in str(error.value)


def test_prefixed_names_are_told_apart(golden):
  weights = golden('c2i_forward').below('w')
  prefixed = {f'denoiser.{name}': array for name, array in weights.items()}
  with pytest.raises(ValueError, match='without a prefix'):
    from_official(prefixed)


def test_variants_the_release_lacks_are_refused(golden):
  model = from_official(golden('c2i_forward').below('w'))
  import dataclasses

  config = dataclasses.replace(model.config, pixel_adaln='global')
  with pytest.raises(ValueError, match='pixel_adaln'):
    rename_to_official(jax.tree.map(np.asarray, weights_of(model)), config)
