"""What all parts of a run share, built once: configuration, network, mesh."""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from pixeldit_jax import sharding
from pixeldit_jax.config import model_config, validate
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.sharding import Rules


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
    mesh = sharding.make_mesh(config.mesh, devices)
    rules = sharding.make_rules(config.mesh)
    return cls(
      config=config,
      model=model_config(config),
      mesh=mesh,
      rules=rules,
      batch_sharding=sharding.batch_sharding(mesh, rules),
    )

  def use(self) -> contextlib.AbstractContextManager[None]:
    """Traces programs for this mesh, its axes assigned by these rules."""
    return sharding.use(self.mesh, self.rules)
