"""A small teacher for digits: a ViT of DINOv2's shape that learnt their names.

It stands in for DINOv2, which knows photographs and has to be downloaded, so
that REPA can be tried offline. Unlike DINOv2 it has seen labels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from pixeldit_jax.data.sources.mnist_digits import load_digits
from pixeldit_jax.data.transforms import normalize
from pixeldit_jax.demo.digit_classifier import NUM_CLASSES, held_out
from pixeldit_jax.encoders.vision import (
  DINOv2,
  VisionConfig,
  imagenet_normalize,
)
from pixeldit_jax.model.pixeldit import weights_of
from pixeldit_jax.typing import PyTree

CONFIG = VisionConfig(
  width=64, depth=2, heads=1, patch_size=7, grid=4, dtype='float32', scan=False
)
STEPS, BATCH, RATE = 600, 128, 4e-3


def train_digit_teacher(
  config: VisionConfig = CONFIG, steps: int = STEPS, seed: int = 0
) -> tuple[VisionConfig, PyTree, float]:
  """Learns to name digits from the mean of its patch features, in seconds.

  Args:
    config: the network.
    steps: of Adam, at 128 digits each.
    seed: of the weights and of the order.

  Returns:
    The configuration, the weights without the layer that names, and the share
    of the held-out digits that it names rightly.
  """
  images, labels = load_digits()
  seen, unseen = np.flatnonzero(~held_out()), np.flatnonzero(held_out())
  model = DINOv2(config, rngs=nnx.Rngs(seed))
  graphdef = nnx.graphdef(model)
  head = jnp.zeros((config.width, NUM_CLASSES), jnp.float32)
  weights = dict(network=weights_of(model), head=head)
  tx = optax.adam(optax.cosine_decay_schedule(RATE, steps))

  def logits(weights, images):
    network = nnx.merge(graphdef, weights['network'])
    features = network(imagenet_normalize(normalize(images)))
    return features.mean(1) @ weights['head']

  def loss(weights, images, labels):
    named = logits(weights, images)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      named, labels
    ).mean()

  @jax.jit
  def step(weights, state, images, labels):
    # optax raises a float to an integer power, as in `train.step`.
    with jax.numpy_dtype_promotion('standard'):
      updates, state = tx.update(jax.grad(loss)(weights, images, labels), state)
    return optax.apply_updates(weights, updates), state

  state = tx.init(weights)
  rng = np.random.default_rng(seed)
  for _ in range(steps):
    chosen = rng.choice(seen, BATCH, replace=False)
    weights, state = step(weights, state, images[chosen], labels[chosen])
  named = jax.jit(logits)(weights, images[unseen]).argmax(1)
  right = float((np.asarray(named) == labels[unseen]).mean())
  return config, jax.device_get(weights['network']), right
