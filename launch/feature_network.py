"""The network whose features metrics compare, by its name on a command line."""

FEATURES = ('inception', 'digits')
FILE = 'pt_inception-2015-12-05-6726825d.pth'  # in the folder one stands in


def open_network(features: str, weights: str = '', batch_size: int = 0):
  """The feature network on the devices of this process.

  Args:
    features: one of FEATURES.
    weights: the file of the FID network; FILE by default.
    batch_size: images per step; 0 is the network's own.

  Raises:
    FileNotFoundError: no such file; says where to get it.
    ValueError: the file is not that network.
    ImportError: a package is missing that reads it.
  """
  if features == 'digits':
    from pixeldit_jax.eval.digit_features import digit_network

    return digit_network()
  from pixeldit_jax.convert.inception import load_inception
  from pixeldit_jax.eval.features import inception_network

  model, checksum = load_inception(weights or FILE)
  return inception_network(model, checksum, batch_size=batch_size or None)
