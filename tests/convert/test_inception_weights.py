"""Inception weight files that are absent, damaged or of another network."""

import jax
import numpy as np
import pytest
from flax import nnx

from pixeldit_jax.convert import inception as convert
from pixeldit_jax.encoders.inception import Inception


@pytest.fixture(scope='module')
def tensors():
  """Zeros named and shaped as in the released file."""
  model = nnx.eval_shape(lambda: Inception(rngs=nnx.Rngs(0)))
  result = {'fc.weight': np.zeros((1008, 2048), np.float32)}
  for path, module in nnx.iter_modules(model):
    if path and path[-1] == 'conv':
      name = '.'.join(path[:-1]).capitalize()
      height, width, d_in, d_out = module.kernel.shape
      shape = (d_out, d_in, height, width)
      result[f'{name}.conv.weight'] = np.zeros(shape, np.float32)
      for part in ('weight', 'bias', 'running_mean', 'running_var'):
        result[f'{name}.bn.{part}'] = np.ones(d_out, np.float32)
      result[f'{name}.bn.num_batches_tracked'] = np.zeros((), np.int64)
  return result


def test_batch_norm_is_folded(tensors):
  model = convert.from_torch(tensors)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(model))
  scale = 1 / np.sqrt(1 + 1e-3)
  bias = np.asarray(model.mixed_7c.branch_pool.conv.bias[...])
  np.testing.assert_allclose(bias, 1 - scale, rtol=1e-4)


def test_absent_file_says_where_to_get_it(tmp_path):
  with pytest.raises(FileNotFoundError, match='curl -L .*6726825d'):
    convert.load_inception(tmp_path / 'pt_inception.pth')


def test_damaged_download_is_refused(tmp_path):
  path = tmp_path / 'pt_inception-2015-12-05-6726825d.pth'
  path.write_bytes(b'half of it')
  with pytest.raises(ValueError, match='download is damaged'):
    convert.load_inception(path)


def test_a_file_of_something_else_is_refused(tmp_path):
  pytest.importorskip('torch')
  path = tmp_path / 'inception.pth'
  path.write_bytes(b'root:x:0:0:root:/root:/bin/sh')
  with pytest.raises(ValueError, match='is no PyTorch file'):
    convert.load_inception(path)


def _without_a_layer(tensors):
  return {n: v for n, v in tensors.items() if 'Mixed_7c.branch1x1' not in n}


def _without_a_norm(tensors):
  return {n: v for n, v in tensors.items() if n != 'Mixed_5b.branch1x1.bn.bias'}


def _with_a_thousand_classes(tensors):
  return tensors | {'fc.weight': np.zeros((1000, 2048), np.float32)}


def _with_auxiliary_logits(tensors):
  return tensors | {'AuxLogits.fc.weight': np.zeros((1008, 768), np.float32)}


def _with_nan(tensors):
  return tensors | {'fc.weight': np.full((1008, 2048), np.nan, np.float32)}


@pytest.mark.parametrize(
  'change, reason',
  [
    (_without_a_layer, 'nothing for mixed_7c.branch1x1.conv'),
    (_without_a_norm, 'has no Mixed_5b.branch1x1.bn.bias'),
    (_with_a_thousand_classes, '1,000-class Inception is another one'),
    (_with_auxiliary_logits, 'AuxLogits'),
    (_with_nan, 'not finite'),
  ],
)
def test_another_network_is_refused(tensors, change, reason):
  with pytest.raises(ValueError, match=reason):
    convert.from_torch(change(tensors))
