"""Every network of the family against arrays of its public code."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert.official import from_official
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.decoders.cosine_basis import cosine_basis
from pixeldit_jax.model.embed import patchify
from pixeldit_jax.model.families import FAMILIES, SIZES, family_of, preset
from pixeldit_jax.model.pixeldit import (
  PixelDiT,
  abstract_model,
  axes_of,
  weights_of,
)
from pixeldit_jax.model.rope import rotary_2d
from pixeldit_jax.sharding import spec

# The golden file, the part of it, its sizes of images, and what the weights do
# not tell.
CASES = [
  ('deco', '', ('16x16', '16x24'), {}),
  ('pixnerd', '', ('16x16', '16x24'), {}),
  ('flatdit', '', ('16x16', '16x24'), {}),
  ('jit', '', ('16x16',), dict(context_start=2)),
  ('jit', 'noctx/', ('16x16',), {}),
  ('dit', '', ('8x8',), dict(heads=2)),
  ('pixelflow', '', ('16x16', '16x24'), dict(heads=2)),
]
RUNS = [
  pytest.param(family, part, size, known, id=f'{family} {part}{size}')
  for family, part, sizes, known in CASES
  for size in sizes
]
# Names of blocks in the golden files, by ours.
BLOCKS = {
  'deco': dict(patch_blocks='cond_block', pixel_blocks='res_block'),
  'pixnerd': dict(patch_blocks='cond_block', pixel_blocks='nerf_block'),
  'flatdit': dict(patch_blocks='block'),
  'jit': dict(patch_blocks='block'),
  'dit': dict(patch_blocks='block'),
  'pixelflow': dict(patch_blocks='block'),
}


class Case:
  """A network with an input, and the public code's arrays for it."""

  def __init__(self, golden, family, part, size, known, **overrides):
    arrays = golden(f'rivals/{family}')
    self.arrays = arrays.below(f'{part}{size}')
    self.model = from_official(
      arrays.below(f'{part}w'), family, **known, **overrides
    )
    self.config = self.model.config
    self.x = jnp.asarray(self['x'].transpose(0, 2, 3, 1))
    self.t = jnp.asarray(self['t'])
    self.y = jnp.asarray(self['y'], jnp.int32)
    self.told = {}
    if family == 'pixelflow':
      self.told = dict(latent_size=self['latent_size'].astype(np.int32))
    self.grid = self.config.grid(*self.x.shape[1:3])
    self.x_BLPC = patchify(self.x, self.config.patch_size)

  def __getitem__(self, name: str) -> np.ndarray:
    return self.arrays[name]


@pytest.mark.slow
@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('family, part, size, known', RUNS)
def test_forward_and_every_block_are_the_public_codes(
  golden, assert_close, family, part, size, known, scan
):
  case = Case(golden, family, part, size, known, scan=scan)
  output, features = call(
    case.model, case.x, case.t, case.y, method='with_features', **case.told
  )
  assert_close(output.transpose(0, 3, 1, 2), case['out'])
  for path, name in BLOCKS[family].items():
    for i, block in enumerate(features[path]):
      expected = case[f'{name}_{i}']
      if family == 'jit':  # theirs have the tokens of the class in front
        expected = expected[:, -block.shape[1] :]
      assert_close(block.reshape(expected.shape), expected)


@pytest.mark.parametrize('family, part, size, known', RUNS)
def test_embeddings_are_the_public_codes(
  golden, assert_close, family, part, size, known
):
  case = Case(golden, family, part, size, known)
  assert_close(case.model.time_embed(case.t), case['t_emb'])
  if 'size_emb' in case.arrays:
    sizes = jnp.asarray(case['latent_size'], jnp.float32)
    assert_close(case.model.size_embed(sizes), case['size_emb'])
  if 'y_emb' in case.arrays:
    assert_close(case.model.class_embed(case.y), case['y_emb'])
  if 'patch_embed' in case.arrays:
    case.model.patch_embed.absolute = False  # it is added after this array
    patches = case.model.patch_embed(case.x_BLPC, case.grid)
    assert_close(patches, case['patch_embed'])


@pytest.mark.parametrize('part', ['', 'noctx/'])
def test_rotary_tables_of_jit_are_the_public_codes(golden, assert_close, part):
  """Theirs has both channels of a pair next to each other."""
  arrays = golden('rivals/jit')
  cos, sin = arrays[f'{part}rope/cos'], arrays[f'{part}rope/sin']
  side = int(len(cos) ** 0.5)
  ours = rotary_2d(side, side, cos.shape[1], 'row_column')
  for table, expected in zip(ours, (cos, sin)):
    assert_close(np.repeat(table, 2, axis=1), expected)


@pytest.mark.parametrize('patch', [4, 16])
def test_the_cosine_basis_is_the_public_codes(golden, assert_close, patch):
  for family in ('deco', 'pixnerd'):
    expected = golden(f'rivals/{family}')[f'nerf_dct/p{patch}'][0]
    assert_close(cosine_basis(patch), expected)


@pytest.mark.parametrize('size', ['16x16', '16x24'])
def test_the_stages_of_deco_are_the_public_codes(golden, assert_close, size):
  case = Case(golden, 'deco', '', size, {})
  model, rows = case.model, (-1, case.config.pixels, case.config.pixel_width)
  embedded = model.pixel_embed.basis(case.x_BLPC, case.grid)
  assert_close(embedded.reshape(rows), case['x_embed'])
  tokens = model.pixel_embed(case.x_BLPC, case.grid)
  assert_close(tokens.reshape(rows), case['input_proj'])
  condition = model.pixel_condition(jnp.asarray(case['s'])[None])
  assert_close(condition.reshape(case['cond_embed'].shape), case['cond_embed'])
  last = jnp.asarray(case[f'res_block_{case.config.pixel_depth - 1}'])
  assert_close(model.output(last), case['decoder_out'])


@pytest.mark.parametrize('size', ['16x16', '16x24'])
def test_the_stages_of_pixnerd_are_the_public_codes(golden, assert_close, size):
  case = Case(golden, 'pixnerd', '', size, {})
  rows = (-1, case.config.pixels, case.config.pixel_width)
  embedded = case.model.pixel_embed(case.x_BLPC, case.grid)
  assert_close(embedded.reshape(rows), case['x_embed'])
  last = jnp.asarray(case[f'nerf_block_{case.config.pixel_depth - 1}'])
  assert_close(case.model.output(last), case['decoder_out'])
  if size == '16x16':
    graphdef, weights = nnx.split(case.model.pixel_blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda a: a[0], weights))
    s = jnp.asarray(case['s'][:4])
    for layer, name in ((block.first, 'fc1'), (block.second, 'fc2')):
      w = layer(s)
      w /= jnp.linalg.norm(w, axis=1, keepdims=True)
      assert_close(w, case[f'nerf_{name}_0'])


@pytest.mark.parametrize(
  'family, size, known',
  [
    ('flatdit', '16x16', {}),
    ('jit', '16x16', dict(context_start=2)),
    ('dit', '8x8', dict(heads=2)),
    ('pixelflow', '16x24', dict(heads=2)),
  ],
)
def test_the_last_layer_is_the_public_codes(
  golden, assert_close, family, size, known
):
  case = Case(golden, family, '', size, known)
  expected = case['final' if 'final' in case.arrays else 'final_tokens']
  last = case[f'block_{case.config.patch_depth - 1}']
  s = jnp.asarray(last[:, -expected.shape[1] :])
  c = case.model.time_embed(case.t) + case.model.class_embed(case.y)
  if family == 'pixelflow':
    c += case.model.size_embed(jnp.asarray(case['latent_size'], jnp.float32))
  pixels_BLPC = case.model.output(s, jax.nn.silu(c)[:, None])
  if family == 'flatdit':  # channel by channel
    pixels_BLPC = pixels_BLPC.swapaxes(2, 3)
  assert_close(pixels_BLPC.reshape(expected.shape), expected)


# ---- What holds of every network, published or not.

TINY = dict(
  num_classes=10, patch_size=4, width=32, heads=2, patch_depth=4, scan=False
)
NARROW = {  # of PixelDiT there are tests enough in `test_pixeldit`
  'deco': dict(pixel_width=8),
  'pixnerd': dict(pixel_width=8, pixel_depth=2),
  'flatdit': {},
  'jit': dict(
    bottleneck=8,
    context_tokens=4,
    context_start=2,
    position_grid=4,
    dropout=0.5,
  ),
  'dit': dict(in_channels=3),
  'pixelflow': {},
}
# pMF is tested in `test_mean_flow_network`.


@functools.cache
def initialiser(config: ModelConfig):
  """f(scale): weights, with noise of that scale on every one."""

  @jax.jit
  def make(random):
    weights = weights_of(PixelDiT(config, rngs=nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(weights)
    noise = jax.random.normal(jax.random.key(1), (max(a.size for a in leaves),))
    leaves = [a + random * noise[: a.size].reshape(a.shape) for a in leaves]
    return treedef.unflatten(leaves)

  return make


def tiny(family: str, random: float = 0.0, **overrides) -> PixelDiT:
  """A network, with noise of that scale on every weight if asked for."""
  fields = {**preset(family), **TINY, **NARROW[family], **overrides}
  config = ModelConfig(**fields)
  weights = initialiser(config)(random)
  return nnx.merge(nnx.graphdef(abstract_model(config)), weights)


def call(model: PixelDiT, *arguments, method: str = '__call__', **static):
  """A method of the network, compiled: much quicker than step by step."""
  graphdef = nnx.graphdef(model)

  @jax.jit
  def f(weights, *arguments):
    return getattr(nnx.merge(graphdef, weights), method)(*arguments, **static)

  return f(weights_of(model), *arguments)


def inputs(height=16, width=24, batch=2):
  x = jax.random.normal(jax.random.key(2), (batch, height, width, 3))
  return x, jnp.linspace(0.2, 0.9, batch), jnp.arange(batch, dtype=jnp.int32)


@pytest.mark.slow
@pytest.mark.parametrize('family', NARROW)
def test_every_network_starts_at_zero_and_uses_every_weight(family):
  model = tiny(family)
  np.testing.assert_array_equal(call(model, *inputs()), 0)
  graphdef = nnx.graphdef(model)

  @jax.jit
  def gradient(weights):
    return jax.grad(lambda w: jnp.mean(nnx.merge(graphdef, w)(*inputs()) ** 2))(
      weights
    )

  for path, g in jax.tree.leaves_with_path(
    gradient(weights_of(tiny(family, 0.2)))
  ):
    for block in g if path[0].key.endswith('_blocks') else g[None]:
      assert jnp.abs(block).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize('family', NARROW)
def test_every_weight_names_each_of_its_axes(family):
  model = abstract_model(tiny(family).config)
  weights, axes = weights_of(model), axes_of(model)
  jax.tree.map(lambda w, names: spec(names), weights, axes)
  jax.tree.map(
    lambda w, names: np.testing.assert_equal(w.ndim, len(names)), weights, axes
  )


@pytest.mark.slow
@pytest.mark.parametrize('family', NARROW)
def test_scan_remat_and_a_feature_change_no_output(family, assert_close):
  model = tiny(family, 0.2)
  expected, features = call(model, *inputs(), method='with_features')
  change = dict(scan=True, patch_remat='full', pixel_remat='matmuls')
  assert_close(call(tiny(family, 0.2, **change), *inputs()), expected, 1e-5)
  for layer in (1, 4):
    output, feature = call(
      model, *inputs(), method='with_patch_feature', feature_layer=layer
    )
    assert_close(output, expected, 1e-5)
    assert_close(feature, features['patch_blocks'][layer - 1], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('family', NARROW)
def test_bfloat16_computes_near_float32(family, assert_close):
  exact = call(tiny(family, 0.05), *inputs())
  rough = call(tiny(family, 0.05, dtype='bfloat16'), *inputs())
  assert rough.dtype == jnp.float32
  assert_close(rough, exact, 0.1)
  assert jnp.abs(rough - exact).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize('scan', [True, False])
def test_dropout_falls_on_each_example_by_its_own_key(scan):
  model = tiny('jit', 0.2, scan=scan)
  x, t, y = inputs(batch=3)
  keys = jax.random.split(jax.random.key(5), 3)
  dropped = call(model, x, t, y, keys)
  assert jnp.abs(dropped - call(model, x, t, y)).min() > 0
  alone = call(model, x[1:2], t[1:2], y[1:2], keys[1:2])
  np.testing.assert_allclose(dropped[1:2], alone, atol=1e-4)
  other = call(model, x, t, y, keys[::-1])
  assert jnp.abs(other[0] - dropped[0]).max() > 0


@pytest.mark.slow
def test_dropout_keeps_the_mean_of_what_it_drops():
  """Of the middle half of the blocks; here one of the four is not dropped."""
  model = tiny('jit', 0.05, dropout=0.2)
  x, t, y = (jnp.repeat(a[:1], 400, 0) for a in inputs(8, 8))
  keys = jax.random.split(jax.random.key(5), 400)
  mean = call(model, x, t, y, keys).mean(0)
  exact = call(model, x[:1], t[:1], y[:1])[0]
  assert jnp.abs(mean - exact).max() < 0.05 * jnp.abs(exact).max()


@pytest.mark.parametrize('family', FAMILIES)
def test_each_size_is_of_its_family(family):
  for size in (None, *SIZES[family]):
    config = ModelConfig(**preset(family, size))
    found, departures = family_of(config)
    assert found == family
    assert set(departures) <= {'time'}  # of PixelDiT's text to image


def test_a_mixture_is_named_with_its_departures():
  config = ModelConfig(**preset('deco') | dict(positions='both'))
  assert family_of(config) == ('deco', dict(positions='both'))


@pytest.mark.parametrize(
  'family, overrides, named',
  [
    ('jit', dict(pixel_depth=2), 'linear decoder has no blocks'),
    ('deco', dict(pixel_depth=0), "model.decoder='linear' has none"),
    ('deco', dict(output_norm='plain'), 'only the linear decoder'),
    ('jit', dict(context_start=26), 'below model.patch_depth=26'),
    ('jit', dict(dropout=1.0), 'model.dropout=1.0: at least 0, below 1'),
    ('pixeldit', dict(variance=True), 'only the linear decoder gives it'),
    ('pixeldit', dict(decoder='conv'), "model.decoder='conv': use one of"),
    ('pixeldit', dict(prediction='score'), "('velocity', 'image', 'noise')"),
    (
      'jit',
      dict(num_classes=0, text_width=8),
      'model.context_tokens=32 with model.text_width=8',
    ),
    (
      'pixeldit',
      dict(num_classes=0, text_width=8, dropout=0.1),
      'model.dropout=0.1 with model.text_width=8',
    ),
  ],
)
def test_what_does_not_go_together_is_refused(family, overrides, named):
  with pytest.raises(UserError) as error:
    dataclasses.replace(ModelConfig(**preset(family)), **overrides)
  assert named in str(error.value)


@pytest.mark.parametrize(
  'arguments, named',
  [
    (('unet',), "model='unet': use one of ['pixeldit', 'deco'"),
    (('jit', 'XL'), "size='XL' with model='jit': use one of ['B', 'L'"),
  ],
)
def test_an_unknown_preset_is_told_with_those_that_there_are(arguments, named):
  with pytest.raises(UserError) as error:
    preset(*arguments)
  assert named in str(error.value)
