"""Opens the feature network and the reference that flags or a config name.

Imports are local: the commands that only show their help need none of them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from pixeldit_jax.eval.online_evaluator import OnlineEvaluator
  from pixeldit_jax.eval.reference import Reference
  from pixeldit_jax.metrics.feature_extractor import FeatureNetwork
  from pixeldit_jax.run_context import RunContext

FILE = 'pt_inception-2015-12-05-6726825d.pth'  # in the working directory


def open_network(
  features: str, weights: str = '', batch_size: int = 0
) -> 'FeatureNetwork':
  """The feature network on the devices of this process.

  Args:
    features: one of `metrics.table.FEATURE_NETWORKS`; none is for pixels alone.
    weights: the file of the FID network; FILE by default.
    batch_size: images per step; 0 is the network's own.

  Raises:
    MissingFileError: no such file; the message says where to get it.
    MissingPackageError: a package is missing that reads it.
    UserError: the file is not that network.
  """
  if features == 'digits':
    from pixeldit_jax.demo.digit_classifier import digit_network

    return digit_network()
  if features == 'efficientnet_lite0':
    from pixeldit_jax.convert.efficientnet_lite import load_efficientnet_lite0
    from pixeldit_jax.metrics.feature_extractor import efficientnet_network

    return efficientnet_network(*load_efficientnet_lite0(), batch_size or None)
  if features == 'none':
    from pixeldit_jax.metrics.feature_extractor import no_network

    return no_network()
  from pixeldit_jax.convert.inception import load_inception
  from pixeldit_jax.metrics.feature_extractor import inception_network

  model, checksum = load_inception(weights or FILE)
  return inception_network(model, checksum, batch_size=batch_size or None)


def open_reference(
  spec: str | None,
  network: 'FeatureNetwork',
  resolution: int | None,
  keep: int | None = None,
) -> 'Reference':
  """Reads a reference, with its progress in the log.

  Args:
    spec: its path; the embedded digits by default.
    network: from `open_network`.
    resolution: side of the images, for a data source.
    keep: images whose features are kept.
  """
  from pixeldit_jax.eval.reference import read_reference
  from pixeldit_jax.progress import Progress

  return read_reference(
    spec or 'digits',
    network,
    lambda count: Progress('Reference: measured', count),
    resolution=resolution,
    keep=keep,
  )


def make_evaluator(context: 'RunContext') -> 'OnlineEvaluator':
  """The evaluator that `config.eval` describes, for `train.loop.train`."""
  import jax

  from pixeldit_jax.eval.evaluation_conditions import open_captions
  from pixeldit_jax.eval.online_evaluator import OnlineEvaluator

  options, reference = context.config.eval, None
  network = open_network(options.features, options.weights)
  if jax.process_index() == 0:
    side = context.config.data.resolution
    resolution, _, _ = context.image_shape(side, side)
    reference = open_reference(options.reference, network, resolution)
  captions = open_captions(context.config)
  return OnlineEvaluator(context, network, reference, captions)
