"""PixelDiT2 against the golden arrays: network, encoder, losses, samplers."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import (
  from_official,
  rename_to_official,
  to_official,
)
from pixeldit_jax.convert.vision import from_vision
from pixeldit_jax.encoders.dinov3 import DINOv3, DINOv3Config
from pixeldit_jax.encoders.grounding import Grounded, ground
from pixeldit_jax.encoders.vision import abstract_network, teacher_features
from pixeldit_jax.flow.condition_dropout import drop_conditions
from pixeldit_jax.flow.path import interpolate
from pixeldit_jax.flow.prediction import as_velocity, target_velocity
from pixeldit_jax.flow.repa import REPAProjector, repa_loss
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.pixeldit import PixelDiT, abstract_model, weights_of
from pixeldit_jax.model.rope import rotary_2d
from pixeldit_jax.samplers import solvers
from pixeldit_jax.samplers.grid import time_grid
from pixeldit_jax.samplers.guidance import guide
from pixeldit_jax.typing import GroundedCondition

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/rivals/pixeldit2.npz'
NETS = {'main': '', 'b512': 'b512/', 'resize': 'resize/'}
FORWARD = [
  ('main', '16x16'),
  ('main', '16x24'),
  ('main', '16x16_nogrounding'),
  ('main', '16x16_masked'),
  ('b512', 'b512/16x16'),
  ('resize', 'resize/32x16'),
]
# Rates of what is dropped.
TRAINING = {
  'train': ('main', dict(label_rate=0.1, feature_rate=0.1)),
  'b512/train': (
    'b512',
    dict(label_rate=0.1, feature_rate=0.1, joint_rate=0.05),
  ),
  'b512/train_coupled': (
    'b512',
    dict(label_rate=0.1, feature_rate=0.0, coupled=True),
  ),
}
SAMPLES = [
  'sample/heun',
  'sample/euler',
  'sample/heun_late',
  'b512/sample/heun',
]


@functools.cache
def arrays():
  with np.load(GOLDEN) as file:
    return dict(file)


@functools.cache
def meta():
  return json.loads(bytes(arrays()['meta']))


def below(prefix):
  found = arrays().items()
  return {k.removeprefix(prefix): v for k, v in found if k.startswith(prefix)}


def nhwc(name):
  return jnp.asarray(np.moveaxis(arrays()[name], -3, -1))


def nchw(x):
  return np.moveaxis(np.asarray(x), -1, -3)


def labels(name):
  return jnp.asarray(arrays()[name], jnp.int32)


@functools.cache
def network(net) -> Grounded:
  """From the public names of weights and of what they do not tell."""
  public = meta()['configs'][net]
  told = ('in_context_start', 'single_silu_cond')
  return from_official(
    below(f'{NETS[net]}w/'),
    family='pixeldit2',
    encoder=below(f'{NETS[net]}enc/'),
    encoder_heads=public['grounding_encoder']['num_heads'],
    scan=False,
    **{name: public[name] for name in told if name in public},
  )


@jax.jit
def run(model, x, t, y):
  return model.with_features(x, t, y)


@pytest.mark.slow
@pytest.mark.parametrize('net,case', FORWARD)
def test_forward_and_every_block(net, case, assert_close):
  model, golden = network(net), arrays()
  x, t = nhwc(f'{case}/x'), jnp.asarray(golden[f'{case}/t'])
  y = labels(f'{case}/y')
  if not case.endswith('nogrounding'):
    mask = golden.get(f'{case}/mask')
    dropped = None if mask is None else jnp.asarray(mask)
    y = ground(model.encoder, x, y, model.config.patch_size, dropped)
  out, features = run(model.network, x, t, y)
  assert_close(nchw(out), golden[f'{case}/out'], 1e-5)
  for i, block in enumerate(features['patch_blocks']):
    if f'{case}/block_{i}' in golden:
      expected = golden[f'{case}/block_{i}'][:, -block.shape[1] :]
      assert_close(block, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('net,case', FORWARD[:2] + FORWARD[4:])
def test_called_as_a_network_it_is_grounded(net, case, assert_close):
  model = network(net)
  out = jax.jit(lambda m, *a: m(*a))(
    model,
    nhwc(f'{case}/x'),
    jnp.asarray(arrays()[f'{case}/t']),
    labels(f'{case}/y'),
  )
  assert_close(nchw(out), arrays()[f'{case}/out'], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('net,case', FORWARD[:2] + FORWARD[4:])
def test_every_stage_of_the_condition(net, case, assert_close):
  model, golden = network(net), arrays()
  config, t = model.config, jnp.asarray(golden[f'{case}/t'])
  x = nhwc(f'{case}/x')
  grid = config.grid(*x.shape[1:3])

  @jax.jit
  def stages(model):
    network = model.network
    features = teacher_features(model.encoder, x, config.patch_size)
    heads = config.grounding_heads or config.heads
    rotary = rotary_2d(*grid, config.width // heads)
    tokens, blocks = network.grounding.with_features(features, t, rotary)
    time = network.time_embed(t)
    classes = network.class_embed(labels(f'{case}/y'))
    return dict(
      enc_out=features,
      pg_in=network.grounding.input(features),
      pg_t_emb=network.grounding.time_embed(t),
      t_emb=time,
      y_emb=classes,
      grounding=tokens,
      cond=(time + classes)[:, None] + tokens,
    ), blocks

  found, blocks = stages(model)
  if config.condition_silu == 2:
    found['cond'] = jax.nn.silu(found['cond'])
  for name, array in found.items():
    expected = golden[f'{case}/{name}']
    expected = expected[:, 5:] if name == 'enc_out' else expected
    assert_close(array, expected, 1e-5)
  for i, block in enumerate(blocks):
    assert_close(block, golden[f'{case}/pg_block_{i}'], 1e-5)


@pytest.mark.parametrize('net', NETS)
def test_weights_come_back_bit_for_bit(net, same_bits):
  same_bits(to_official(network(net)), below(f'{NETS[net]}w/'))


def test_files_of_training_have_an_encoder_that_is_left_out(same_bits):
  weights = below('w/')
  encoder = {
    f'dino_conditioner.encoder.{k}': v for k, v in below('enc/').items()
  }
  model = from_official(weights | encoder, context_start=2)
  assert isinstance(model, PixelDiT)  # it is recognised, and answers ungrounded
  same_bits(to_official(model), weights)


@functools.cache
def teacher():
  config, weights = from_vision(
    below('teacher/'), heads=2, dtype='float32', scan=False, position_offset=0.1
  )
  graphdef = nnx.graphdef(abstract_network(config))
  return nnx.merge(graphdef, jax.tree.map(jnp.asarray, weights))


def projector(case):
  """REPA's, of the public weights."""
  model = REPAProjector(32, 24, dtype='float32', rngs=nnx.Rngs(0))
  layers = (model.first, model.second, model.third)
  for i, layer in zip((0, 2, 4), layers):
    layer.kernel[...] = jnp.asarray(arrays()[f'{case}/proj/{i}.weight'].T)
    layer.bias[...] = jnp.asarray(arrays()[f'{case}/proj/{i}.bias'])
  return nnx.split(model)


def train(case):
  """Losses, intermediates and gradients of the public training step."""
  net, rates = TRAINING[case]
  model, settings = network(net), meta()[case]
  config = model.config
  uniforms = [
    arrays().get(f'{case}/uniform_{i}', np.ones(6, np.float32))
    for i in range(3)
  ]
  y, dropped = drop_conditions(
    jnp.asarray(np.stack(uniforms)),
    labels(f'{case}/y'),
    config.num_classes,
    **rates,
  )
  t = jax.nn.sigmoid(0.8 * jnp.asarray(arrays()[f'{case}/normal_for_t']) - 0.8)
  data = nhwc(f'{case}/x')
  noise = settings['noise_scale'] * nhwc(f'{case}/unit_noise')
  x = interpolate(data, noise, t)
  graphdef, weights = nnx.split(model.network)
  repa_def, repa_weights, frozen = None, {}, None
  if settings['repa_weight']:
    (repa_def, repa_weights), frozen = projector(case), teacher()

  def loss_fn(weights, repa_weights):
    network = nnx.merge(graphdef, weights)
    condition = ground(model.encoder, x, y, config.patch_size, dropped)
    out, tokens = network.with_patch_feature(x, t, condition, 2)
    v = as_velocity('image', out, x, t)
    target = target_velocity('image', data, noise, x, t)
    per_example = jnp.mean((v - target) ** 2, (1, 2, 3))
    found = dict(
      x_pred=nchw_traced(out),
      v_pred=nchw_traced(v),
      v_target=nchw_traced(target),
      x_t=nchw_traced(x),
      fm_per_example=per_example,
      fm_loss=per_example.mean(),
    )
    loss = per_example.mean()
    if repa_def is not None:
      student = nnx.merge(repa_def, repa_weights)(tokens)
      seen = teacher_features(frozen, data, config.patch_size)
      rounded = seen.astype(jnp.bfloat16).astype(jnp.float32)
      repa = jnp.mean(repa_loss(student, rounded, (4, 4), (4, 4)))
      found |= dict(
        repa_feature=tokens,
        repa_projected=student,
        teacher_tokens_unrounded=seen,
        cos_loss=repa,
      )
      loss += settings['repa_weight'] * repa
    return loss, found | dict(loss=loss)

  gradient_fn = jax.jit(jax.grad(loss_fn, argnums=(0, 1), has_aux=True))
  gradients, found = gradient_fn(weights, repa_weights)
  return y, dropped, found, gradients, config


def nchw_traced(x):
  return jnp.moveaxis(x, -1, -3)


@pytest.mark.slow
@pytest.mark.parametrize('case', TRAINING)
def test_losses_and_gradients(case, assert_close):
  golden = arrays()
  y, dropped, found, (gradient, repa_gradient), config = train(case)
  np.testing.assert_array_equal(y, golden[f'{case}/y_used'])
  np.testing.assert_array_equal(dropped, golden[f'{case}/grounding_drop'])
  per_example = found.pop('fm_per_example')
  np.testing.assert_allclose(
    per_example, golden[f'{case}/fm_per_example'], rtol=1e-5
  )
  for name, array in found.items():
    assert_close(array, golden[f'{case}/{name}'], 1e-5)
  theirs = rename_to_official(nnx.to_pure_dict(gradient), config)
  expected = below(f'{case}/grad/')
  assert expected
  for name, array in expected.items():
    assert_close(theirs[name], array, 1e-5)
  expected = below(f'{case}/grad_proj/')
  for i, layer in zip((0, 2, 4), ('first', 'second', 'third')):
    if expected:
      pair = repa_gradient[layer]
      assert_close(pair['kernel'][...].T, expected[f'{i}.weight'])
      assert_close(pair['bias'][...], expected[f'{i}.bias'])


def test_positions_of_the_teacher(assert_close):
  found = teacher().positions_at((4, 4))[1:]
  assert_close(found, arrays()['train/teacher_pos_embed'][0], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('case', SAMPLES)
def test_whole_trajectories(case, assert_close):
  settings = meta()['samplers'][case]
  model = network('b512' if case.startswith('b512') else 'main')
  y = labels(f'{case}/y')
  null = jnp.full_like(y, settings['null_label'])

  @jax.jit
  def sample(model, noise):
    velocity = guide(
      lambda x, t: as_velocity('image', model(x, t, y), x, t),
      lambda x, t: as_velocity('image', model.network(x, t, null), x, t),
      settings['guidance'],
      (
        settings['guidance_interval_min'],
        settings['guidance_interval_max'],
      ),
      'zero',
    )
    heun = 'Heun' in settings['method']
    solver = solvers.heun if heun else solvers.euler
    start = settings['noise_scale'] * noise
    times = time_grid(settings['num_steps'])
    return solver(velocity, start, times, integrate=solvers.all_states)

  found = sample(model, nhwc(f'{case}/noise'))
  # Thirty steps add up what processors round differently: 1e-5 to 2.1e-5 seen.
  assert_close(nchw(found), arrays()[f'{case}/traj'][1:], 5e-5)


# ---- What must hold of any grounded network

TINY = ModelConfig(
  num_classes=10,
  patch_size=4,
  width=32,
  heads=2,
  patch_depth=2,
  pixel_width=8,
  pixel_depth=2,
  grounding_width=16,
  scan=False,
)
ENCODER = DINOv3Config(
  width=16, depth=1, heads=2, mlp_width=32, patch_size=4, dtype='float32'
)


def make(**changes) -> PixelDiT:
  """A network with every weight random but those that start grounding at 0."""
  config = dataclasses.replace(TINY, **changes)

  @jax.jit
  def weights():
    first = weights_of(PixelDiT(config, rngs=nnx.Rngs(0)))
    made = jax.tree.map(
      lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size)).reshape(a.shape), first
    )
    if config.zero_grounding and config.grounding_width:
      made['grounding']['output'] = first['grounding']['output']
    return made

  return nnx.merge(nnx.graphdef(abstract_model(config)), weights())


@functools.cache
def encoder() -> DINOv3:
  return nnx.jit(lambda: DINOv3(ENCODER, rngs=nnx.Rngs(1)))()


def inputs(B=3, side=16):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(B, side, side, 3)), jnp.float32)
  return x, jnp.linspace(0, 1, B), jnp.arange(B) % 10


call = jax.jit(lambda model, *args: model(*args))


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes',
  [
    dict(),
    dict(pixel_adaln='global'),
    dict(norm='layer', positions='absolute', modulation='post'),
    dict(decoder='deco'),
    dict(decoder='linear', pixel_depth=0, context_tokens=2, context_start=1),
  ],
)
def test_grounding_of_zero_changes_nothing(changes, assert_close):
  """PixelDiT's dual-level network starts as it is without grounding."""
  model = make(**changes)
  x, t, y = inputs()
  expected = call(model, x, t, y)
  found = call(Grounded(model, encoder()), x, t, y)
  assert float(jnp.abs(expected).max()) > 0.01
  assert_close(found, expected, 1e-5)
  # And with another last layer it changes something.
  model.grounding.output.kernel[...] = 0.1 + model.grounding.output.kernel[...]
  changed = call(Grounded(model, encoder()), x, t, y)
  assert float(jnp.abs(changed - expected).max()) > 1e-3


def test_a_network_without_grounding_has_no_such_weights():
  plain = dataclasses.replace(TINY, grounding_width=0)
  grounded, plain = (weights_of(abstract_model(c)) for c in (TINY, plain))
  assert set(grounded) - set(plain) == {'grounding'}


@pytest.mark.slow
def test_a_dropped_image_is_one_without_features(assert_close):
  model = make(zero_grounding=False)
  x, t, y = inputs()
  dropped = jnp.array([True, False, True])
  grounded = Grounded(model, encoder())
  found = call(grounded, x, t, y, dropped)
  assert_close(found[dropped], call(model, x, t, y)[dropped], 1e-5)
  assert_close(found[1], call(grounded, x, t, y)[1], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes', [dict(scan=True), dict(patch_remat='full', scan=True)]
)
def test_scan_and_remat_change_no_gradient(changes, assert_close):
  x, t, y = inputs()
  condition = ground(encoder(), x, y, 4)

  def gradient(**changes):
    model = make(
      zero_grounding=False,
      decoder='linear',
      pixel_depth=0,
      context_tokens=2,
      context_start=1,
      **changes,
    )
    graphdef, weights = nnx.split(model)

    @jax.jit
    def fn(weights):
      loss = lambda w: jnp.mean(nnx.merge(graphdef, w)(x, t, condition) ** 2)  # noqa: E731
      return jax.grad(loss)(weights)

    return nnx.to_pure_dict(fn(weights))

  jax.tree.map(lambda a, b: assert_close(a, b), gradient(**changes), gradient())


@pytest.mark.slow
def test_what_does_not_fit_names_both():
  x, _, y = inputs()
  model = make()
  with pytest.raises(
    ValueError, match='width 24, but model.grounding_width=16'
  ):
    other = dataclasses.replace(ENCODER, width=24)
    Grounded(model, DINOv3(other, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match='width 16 for a network with'):
    Grounded(make(grounding_width=0), encoder())
  features = jnp.zeros((3, 16, 8))
  with pytest.raises(ValueError, match='8 wide, but model.grounding_width=16'):
    model(x, 0.5, GroundedCondition(y, features))
  features = jnp.zeros((3, 9, 16))
  with pytest.raises(ValueError, match='of 9 patches, but the image has 4 x 4'):
    model(x, 0.5, GroundedCondition(y, features))
  with pytest.raises(ValueError, match='only networks of classes'):
    ModelConfig(num_classes=0, text_width=8, grounding_width=16)
  with pytest.raises(ValueError, match='condition_silu=3: 1 or 2'):
    ModelConfig(condition_silu=3)
  with pytest.raises(ValueError, match='give context_start'):
    from_official(below('w/'))
  with pytest.raises(ValueError, match='no names for the weights of a ground'):
    to_official(model)
