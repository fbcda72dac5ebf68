"""The FID network agrees with torch-fidelity's, and resizes as TensorFlow 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pixeldit_jax.convert.inception import load_inception
from pixeldit_jax.encoders import inception


def _images(shape):
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _assert_close(ours, theirs):
  scale = np.abs(np.asarray(theirs)).max()
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize('side', [28, 256, 299, 512])
def test_resize_is_tensorflow_1(torch_fidelity, side):
  import torch
  from torch_fidelity import interpolate_compat_tensorflow as reference

  images = _images((1, side, side + 4, 3))
  ours = inception.preprocess(jnp.asarray(images))
  theirs = reference.interpolate_bilinear_2d_like_tensorflow1x(
    torch.from_numpy(images).permute(0, 3, 1, 2).float(),
    size=(299, 299),
    align_corners=False,
  )
  theirs = (theirs.permute(0, 2, 3, 1) - 128) / 128
  np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.slow
def test_features_are_torch_fidelitys(torch_inception):
  import torch

  network, path = torch_inception
  images = _images((2, 40, 56, 3))
  seen = []
  hook = network.Mixed_6d.branch1x1.register_forward_hook(
    lambda module, inputs, output: seen.append(output)
  )
  pooled, unbiased, logits = network(
    torch.from_numpy(images).permute(0, 3, 1, 2)
  )
  hook.remove()

  model, _ = load_inception(path)
  ours = jax.jit(lambda x: model(x))(images)
  _assert_close(ours.pooled, pooled)
  _assert_close(ours.logits, unbiased)
  _assert_close(ours.logits + network.fc.bias.numpy(), logits)
  spatial = seen[0][:, :7].permute(0, 2, 3, 1).reshape(2, -1)
  assert spatial.shape[1] == inception.SPATIAL
  _assert_close(ours.spatial, spatial)
  # Features that hardly vary would agree whatever the network.
  assert np.std(np.asarray(pooled[0] - pooled[1])) > 1e-3 * pooled.std()
