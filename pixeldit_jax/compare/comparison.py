"""A comparison: each network in turn, and the page of all that are finished."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from pixeldit_jax import files, outputs, settings
from pixeldit_jax.compare.page import files_of, write_page
from pixeldit_jax.compare.plan import (
  Network,
  Protocol,
  check_names,
)
from pixeldit_jax.compare.run_network import (
  RESULT,
  SAMPLES,
  is_finished,
  read_result,
  run_network,
)
from pixeldit_jax.config import RANDOM, validate
from pixeldit_jax.convert.vision import write_dinov2
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.demo import digit_teacher
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.latents import check_channels, latent_arrays

log = logging.getLogger(__name__)

PROTOCOL, ENCODER = 'protocol.json', 'encoder.safetensors'


def compare(
  networks: Sequence[Network], out: str | os.PathLike, protocol: Protocol
) -> pathlib.Path:
  """Runs what is not finished yet, and writes the page.

  Args:
    networks: to be in the comparison; those of the folder stay in it.
    out: the folder, whose subfolders are workdirs.
    protocol: the same for all, also those that were run before.

  Returns:
    The page, as HTML.

  Raises:
    UserError: a configuration that cannot be, other data or another protocol
      than those of the folder, or files that are not of this command.
  """
  folder = outputs.local(out)
  check_names(networks)
  shared = dataclasses.asdict(protocol) | data_of(networks)
  for network in networks:
    validate(network.config)
  if (folder / PROTOCOL).is_file():
    settings.check_same(
      f'{folder} holds a comparison of',
      files.read_json(folder / PROTOCOL),
      shared,
      'Give the same values, or another --out.',
    )
  results = {
    path.parent.name: read_result(path.parent)
    for path in sorted(folder.glob(f'*/{RESULT}'))
  }
  outputs.check([folder / name for name in files_of(results)])
  todo = [n for n in networks if not is_finished(folder / n.name)]
  multihost_utils.sync_global_devices('planned')
  if jax.process_index() == 0:
    files.write_json(folder / PROTOCOL, shared)
  _teach_encoders(todo, folder / ENCODER)
  for number, network in enumerate(todo, start=1):
    log.info('Network %d of %d: %s', number, len(todo), network.argument)
    run_network(network, folder / network.name, protocol)
    if jax.process_index() == 0:
      write(folder, protocol)
  if jax.process_index() == 0 and not todo:
    write(folder, protocol)
  multihost_utils.sync_global_devices('compared')
  return folder / 'comparison.html'


def write(folder: pathlib.Path, protocol: Protocol) -> None:
  """The page of all networks of a folder that are finished, oldest first."""
  found = sorted(
    (path.parent for path in folder.glob(f'*/{RESULT}')),
    key=lambda place: (place / RESULT).stat().st_mtime,
  )
  results = {place.name: read_result(place) for place in found}
  samples = [np.load(place / SAMPLES) for place in found]
  named = {r['argument']: r for r in results.values()}
  write_page(folder, protocol, named, samples)


def _teach_encoders(networks: Sequence[Network], file: pathlib.Path) -> None:
  """On the digits, random encoders become one that learnt their names."""
  grounded = [
    n.config
    for n in networks
    if n.config.data.source == 'digits'
    and n.config.grounding.encoder == RANDOM
    and n.config.model.grounding_width == digit_teacher.CONFIG.width
  ]
  if grounded and jax.process_index() == 0 and not file.is_file():
    config, weights, _ = digit_teacher.train_digit_teacher()
    write_dinov2(file, config, weights)
  multihost_utils.sync_global_devices('taught')
  for config in grounded:
    config.grounding.encoder = str(file)


def data_of(networks: Sequence[Network]) -> dict[str, object]:
  """The data, which must be the same for all.

  Raises:
    UserError: two networks have other data.
  """
  found = {
    (n.config.data.source, _pixels(n.config)): n.argument for n in networks
  }
  if len(found) > 1:
    raise UserError(
      'networks of other data are not compared: '
      + '; '.join(f'{name} has {s} at {r}' for (s, r), name in found.items())
      + '. Give --data=, or --set=data.resolution=.'
    )
  ((source, resolution),) = found
  features = networks[0].config.eval.features
  shared = dict(source=source, resolution=resolution, features=features)
  of_texts = {bool(n.config.model.text_width): n.argument for n in networks}
  if len(of_texts) > 1:
    raise UserError(
      f'networks of texts ({of_texts[True]}) and of classes '
      f'({of_texts[False]}) draw different things: compare each with its like.'
    )
  return shared | (dict(texts=True) if True in of_texts else {})


def _pixels(config: ConfigDict) -> int:
  """The side of the images, which a network may see as latents."""
  factor = 1
  if names := latent_arrays(config):
    factor = check_channels(config, open_source(config.data.source, names))
  return factor * config.data.resolution
