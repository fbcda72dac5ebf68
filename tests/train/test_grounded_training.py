"""Networks grounded in a frozen encoder: trained, sampled, refused."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.config import get_config, make_debug, validate
from pixeldit_jax.convert.dinov3 import to_dinov3
from pixeldit_jax.convert.official import from_official, rename_to_official
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.convert.vision import from_vision
from pixeldit_jax.encoders.frozen import random_encoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.condition_dropout import drop_conditions
from pixeldit_jax.model.families import preset
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.state import join
from pixeldit_jax.train.step import (
  TrainingInputs,
  make_gradients,
  sample_training_inputs,
)

pytestmark = pytest.mark.usefixtures('cache')

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/rivals/pixeldit2.npz'
RATES = {
  'train': dict(label_rate=0.1, feature_rate=0.1),
  'b512/train': dict(label_rate=0.1, feature_rate=0.1, joint_rate=0.05),
}


@functools.cache
def arrays():
  with np.load(GOLDEN) as file:
    return dict(file)


def below(prefix):
  found = arrays().items()
  return {k.removeprefix(prefix): v for k, v in found if k.startswith(prefix)}


def nhwc(name):
  return jnp.asarray(np.moveaxis(arrays()[name], -3, -1))


def public_run(case):
  """The network, its encoder and its configuration, of the public code."""
  part = case.removesuffix('train')
  public = json.loads(bytes(arrays()['meta']))['configs'][part[:-1] or 'main']
  told = ('in_context_start', 'single_silu_cond')
  grounded = from_official(
    below(f'{part}w/'),
    family='pixeldit2',
    encoder=below(f'{part}enc/'),
    encoder_heads=public['grounding_encoder']['num_heads'],
    scan=False,
    **{name: public[name] for name in told if name in public},
  )
  config = get_config()
  shapes = dataclasses.asdict(grounded.config)
  # Adapters have keys of their own.
  config.model.update({k: v for k, v in shapes.items() if k in config.model})
  config.data.update(resolution=16, batch_size=8)
  return grounded, config


@pytest.mark.slow
@pytest.mark.parametrize('case', RATES)
def test_losses_and_gradients_are_the_public_codes(case, assert_close):
  grounded, config = public_run(case)
  network, encoder = grounded.network, grounded.encoder
  ones = np.ones(6, np.float32)
  uniforms = [arrays().get(f'{case}/uniform_{i}', ones) for i in range(3)]
  labels, ungrounded = drop_conditions(
    jnp.asarray(np.stack(uniforms)),
    jnp.asarray(arrays()[f'{case}/y'], jnp.int32),
    network.config.num_classes,
    **RATES[case],
  )
  scale = 2.0 if case.startswith('b512') else 1.0
  inputs = TrainingInputs(
    data=nhwc(f'{case}/x'),
    noise=scale * nhwc(f'{case}/unit_noise'),
    t=jnp.asarray(arrays()[f'{case}/t']),
    condition=labels,
    ungrounded=ungrounded,
  )
  trained, target, teacher = weights_of(network), None, None
  if case == 'train':
    config.repa.update(weight=0.5, block=2, teacher='a file')
    target, teacher = from_vision(
      below('teacher/'),
      heads=2,
      dtype='float32',
      scan=False,
      position_offset=0.1,
    )
    layers = {
      name: dict(
        kernel=jnp.asarray(arrays()[f'train/proj/{i}.weight'].T),
        bias=jnp.asarray(arrays()[f'train/proj/{i}.bias']),
      )
      for name, i in (('first', 0), ('second', 2), ('third', 4))
    }
    trained = join(trained, layers)
  context = RunContext.build(config)
  gradients = jax.jit(make_gradients(context, target, encoder.config))
  losses, found = gradients(trained, inputs, teacher, 0, weights_of(encoder))
  golden = below(f'{case}/')
  assert float(losses['loss']) == pytest.approx(
    float(golden['fm_loss']), rel=1e-5
  )
  if target:  # the public teacher's features are rounded
    assert float(losses['repa']) == pytest.approx(
      float(golden['cos_loss']), rel=1e-3
    )
  found.pop('repa_projector', None)
  theirs = rename_to_official(found, network.config)
  for name, gradient in below(f'{case}/grad/').items():
    assert_close(theirs[name], gradient, 1e-3 if target else 1e-4)


def tiny(**more):
  """PixelDiT's dual-level network, grounded; or PixelDiT2."""
  config = get_config()
  config.model.grounding_width = 16
  family = more.pop('family', None)
  if family:
    config.model.update(preset(family))
  make_debug(config)
  config.update_from_flattened_dict(more)
  return config


@pytest.mark.slow
@pytest.mark.parametrize(
  'family', [None, pytest.param('pixeldit2', marks=pytest.mark.slow)]
)
def test_a_run_trains_the_projector_and_keeps_no_encoder(family, tmp_path):
  pytest.importorskip('mlxtend')
  config = tiny(family=family, **{'repa.teacher': 'a'})
  state = train(RunContext.build(config), str(tmp_path))
  assert int(state.step) == config.steps and int(state.bad_steps) == 0
  assert 'encoder' not in state.weights
  output = state.weights['grounding']['output']['kernel']
  assert float(jnp.abs(output).max()) > 0
  names = (tmp_path / 'parameters.txt').read_text()
  assert 'grounding/output/kernel' in names and 'qv_bias' not in names


def samples(config, weights, **options):
  sampler = Sampler(RunContext.build(config), batch_size=8, **options)
  labels = np.arange(4, dtype=np.int32)
  return np.concatenate(list(sampler.sample(weights, labels, labels)))


@pytest.mark.slow
def test_samples_are_grounded_where_there_is_an_encoder():
  config = tiny(family='pixeldit2')
  context = RunContext.build(config)
  from pixeldit_jax.train.optim.optimizer import make_optimizer
  from pixeldit_jax.train.state import init_state

  weights = jax.jit(
    lambda: init_state(context.model, make_optimizer(context), 0).weights
  )()
  weights = jax.tree.map(
    lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size)).reshape(a.shape), weights
  )
  grounded = samples(config, weights)
  config.grounding.encoder = ''
  ungrounded = samples(config, weights)
  assert (grounded != ungrounded).mean() > 0.1
  # The features have an effect through the projector alone.
  weights['grounding']['output'] = jax.tree.map(
    jnp.zeros_like, weights['grounding']['output']
  )
  expected = samples(config, weights)
  config.grounding.encoder = 'random'
  found = samples(config, weights).astype(int)
  assert np.abs(found - expected).max() <= 1


def test_features_and_labels_are_dropped_by_draws_of_their_own():
  config = tiny(**{'grounding.dropout': 0.2, 'flow.label_dropout': 0.1})
  rng = np.random.default_rng(0)
  batch = dict(
    image=np.zeros((4000, 1, 1, 3), np.uint8),
    label=rng.integers(0, 10, 4000).astype(np.int32),
  )

  def shares():
    inputs = sample_training_inputs(jax.random.key(0), batch, config)
    no_label, no_features = inputs.condition == 10, inputs.ungrounded
    return [
      float(x.mean()) for x in (no_label, no_features, no_label & no_features)
    ]

  np.testing.assert_allclose(shares(), [0.1, 0.2, 0.02], atol=0.02)
  config.grounding.joint_dropout = 0.5
  np.testing.assert_allclose(shares(), [0.55, 0.6, 0.51], atol=0.02)
  config.grounding.update(joint_dropout=0.0, coupled=True)
  np.testing.assert_allclose(shares(), [0.1, 0.1, 0.1], atol=0.02)


def test_an_encoder_is_read_by_path(tmp_path):
  frozen = random_encoder(64, dtype='float32', scan=True, heads=1)
  path = tmp_path / 'encoder.safetensors'
  write_safetensors(path, to_dinov3(*frozen))
  config = tiny(**{'model.grounding_width': 64})
  config.grounding.encoder = str(path)
  found, weights = RunContext.build(config).encoder
  assert (found.width, found.depth) == (64, 2)
  jax.tree.map(np.testing.assert_array_equal, weights, frozen[1])


@pytest.mark.parametrize(
  'changes, named',
  [
    (
      {'model.grounding_width': 0, 'grounding.encoder': 'random'},
      "grounding.encoder='random' with model.grounding_width=0",
    ),
    (
      {
        'model.grounding_width': 0,
        'grounding.encoder': '',
        'grounding.joint_dropout': 0.05,
      },
      'grounding.joint_dropout=0.05 with model.grounding_width=0',
    ),
  ],
)
def test_what_does_not_go_together_is_refused(changes, named):
  with pytest.raises(UserError) as error:
    validate(tiny(**changes))
  assert named in str(error.value) and '\n' not in str(error.value)


def test_training_needs_an_encoder_of_the_width(tmp_path):
  config = tiny(**{'grounding.encoder': ''})
  with pytest.raises(UserError, match='grounding_width=16, but there is no'):
    train(RunContext.build(config), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
  path = tmp_path / 'encoder.safetensors'
  write_safetensors(path, to_dinov3(*random_encoder(64, heads=1)))
  config.grounding.encoder = str(path)
  with pytest.raises(UserError, match='width 64, but model.grounding_width=16'):
    train(RunContext.build(config), str(tmp_path / 'run'))
