"""What all parts of a run share, built once: configuration, network, mesh."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from pixeldit_jax import files, sharding
from pixeldit_jax.config import RANDOM, model_config, validate
from pixeldit_jax.convert.autoencoder import load_autoencoder
from pixeldit_jax.convert.vision import load_vision
from pixeldit_jax.encoders.autoencoder import Autoencoder
from pixeldit_jax.encoders.frozen import Frozen, random_encoder
from pixeldit_jax.encoders.grounding import check_encoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.sharding import Rules

# Keys that are paths, perhaps of a kind: '~' is the home folder.
_PATHS = (
  ('', 'init_from'),
  ('data', 'source'),
  ('repa', 'teacher'),
  ('grounding', 'encoder'),
  ('latents', 'autoencoder'),
  ('sampler', 'weak'),
  ('eval', 'reference'),
  ('eval', 'weights'),
)


@dataclasses.dataclass(frozen=True)
class RunContext:
  """The checked configuration of a run and what follows from it.

  It is built once, and passed to all that train, sample or evaluate.

  Attributes:
    config: all values, a copy that nobody changes.
    model: `config.model` as the network takes it.
    mesh: the devices, by the axes of `config.mesh`.
    rules: logical axis to mesh axes.
    batch_sharding: how the leading axis of a batch is split.
  """

  config: ConfigDict
  model: ModelConfig
  mesh: Mesh
  rules: Rules
  batch_sharding: NamedSharding

  @classmethod
  def build(
    cls, config: ConfigDict, devices: Sequence[jax.Device] | None = None
  ) -> 'RunContext':
    """Checks a configuration and makes its mesh of the devices.

    Args:
      config: every key of `get_config()`.
      devices: those to use, all by default.

    Raises:
      UserError: see `config.validate` and `sharding.make_mesh`.
    """
    validate(config)
    config = config.copy_and_resolve_references()
    for section, name in _PATHS:
      node = config[section] if section else config
      node[name] = files.expand_user(node[name])
    mesh = sharding.make_mesh(config.mesh, devices)
    rules = sharding.make_rules(config.mesh)
    return cls(
      config=config,
      model=model_config(config),
      mesh=mesh,
      rules=rules,
      batch_sharding=sharding.batch_sharding(mesh, rules),
    )

  @functools.cached_property
  def encoder(self) -> Frozen | None:
    """The frozen network that grounds, in host memory; None without one.

    It is read when it is first asked for.

    Raises:
      MissingFileError: `grounding.encoder` is not there.
      UserError: it is no encoder, or one of another width.
    """
    name, model = self.config.grounding.encoder, self.model
    if not name:
      return None
    options = dict(dtype=model.dtype, scan=model.scan)
    if name == RANDOM:
      return random_encoder(model.grounding_width, **options)
    encoder = load_vision(name, keep=files.cache_folder(), **options)
    check_encoder(model, encoder[0])
    return encoder

  @functools.cached_property
  def autoencoder(self) -> Autoencoder | None:
    """What decodes the latents of the network; None if it sees pixels.

    It is read when it is first asked for.

    Raises:
      MissingFileError: `latents.autoencoder` is not there.
      UserError: it is none, or one of another width.
    """
    if not (name := self.config.latents.autoencoder):
      return None
    found = load_autoencoder(name)
    if found.config.latent_channels != self.model.in_channels:
      raise UserError(
        f'latents.autoencoder={name!r} has latents of '
        f'{found.config.latent_channels} channels, but model.in_channels='
        f'{self.model.in_channels}: set the latter to their number.'
      )
    return found

  def without_autoencoder(self) -> 'RunContext':
    """The run as if latents were its images, to time the network alone."""
    config = self.config.copy_and_resolve_references()
    config.latents.autoencoder = ''
    return dataclasses.replace(self, config=config)

  def image_shape(self, height: int, width: int) -> tuple[int, int, int]:
    """That of an image, where the network sees so many pixels or latents."""
    if self.autoencoder is None:
      return height, width, self.model.in_channels
    config = self.autoencoder.config
    return height * config.factor, width * config.factor, config.channels

  def use(self) -> contextlib.AbstractContextManager[None]:
    """Traces programs for this mesh, its axes assigned by these rules."""
    return sharding.use(self.mesh, self.rules)
