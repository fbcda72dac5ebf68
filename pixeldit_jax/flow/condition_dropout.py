"""Drops the class or the features of some examples of a batch.

Classifier-free guidance needs both networks: with all conditions, and with
none (PixelDiT2, arXiv 2609.24919).
"""

import jax.numpy as jnp

from pixeldit_jax.typing import AnyArray, Array, Bool, Float, Int


def drop_conditions(
  uniforms: Float[Array, '3 B'],
  labels: Int[AnyArray, 'B'],
  null: int,
  *,
  label_rate: float,
  feature_rate: float,
  joint_rate: float = 0.0,
  coupled: bool = False,
) -> tuple[Int[Array, 'B'], Bool[Array, 'B']]:
  """Labels with some dropped, and where the features of an encoder are.

  Args:
    uniforms: draws in [0, 1): for labels, for features and for both.
    labels: of each example.
    null: the label of no class.
    label_rate: of examples that lose their label.
    feature_rate: of examples that lose their features, by a second draw.
    joint_rate: of examples that lose both, by a third draw.
    coupled: features are dropped where the label is, and `feature_rate` counts
      for nothing.
  """
  label, feature, joint = uniforms
  no_label = label < label_rate
  no_features = no_label if coupled else feature < feature_rate
  both = joint < joint_rate
  return jnp.where(no_label | both, null, labels), no_features | both
