"""Weights of the public code of each family, in and out."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixeldit_jax.convert import (
  deco,
  dit,
  flatdit,
  jit,
  pixeldit,
  pixeldit2,
  pixelflow,
  pixnerd,
  pmf,
)
from pixeldit_jax.convert.autoencoder import (
  AUTOENCODER,
  from_autoencoder,
  is_autoencoder,
  to_autoencoder,
)
from pixeldit_jax.convert.blocks import Shapes
from pixeldit_jax.convert.lazy import LazyTensors, flat, nested, specs_of
from pixeldit_jax.convert.release import Release
from pixeldit_jax.convert.rules import to_native, to_released
from pixeldit_jax.convert.vision import from_vision
from pixeldit_jax.encoders.autoencoder import Autoencoder
from pixeldit_jax.encoders.dinov3 import DINOv3Config
from pixeldit_jax.encoders.grounding import Grounded, check_encoder
from pixeldit_jax.encoders.vision import VisionConfig, abstract_network
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.config import ModelConfig
from pixeldit_jax.model.families import family_of, preset
from pixeldit_jax.model.pixeldit import PixelDiT, abstract_model, weights_of
from pixeldit_jax.typing import PyTree

RELEASES: Mapping[str, Release] = {
  'pixeldit': pixeldit.RELEASE,
  'deco': deco.RELEASE,
  'pixnerd': pixnerd.RELEASE,
  'flatdit': flatdit.RELEASE,
  'jit': jit.RELEASE,
  'pixeldit2': pixeldit2.RELEASE,
  'dit': dit.RELEASE,
  'pixelflow': pixelflow.RELEASE,
  'pmf': pmf.RELEASE,
}
# What configurations of the public codes call fields of `ModelConfig`.
PUBLIC_NAMES = {
  'hidden_size': 'width',
  'hidden_size_x': 'pixel_width',
  'num_groups': 'heads',
  'num_heads': 'heads',
  'bottleneck_dim': 'bottleneck',
  'in_context_len': 'context_tokens',
  'in_context_start': 'context_start',
  'mlp_hidden_multiple': 'mlp_multiple',
  'grounding_proj_blocks': 'grounding_depth',
  'grounding_proj_heads': 'grounding_heads',
  'nerf_mlpratio': 'field_ratio',
  'num_attention_heads': 'heads',
  'depth': 'patch_depth',
  'learn_sigma': 'variance',
}


def recognise(names: Mapping[str, np.ndarray]) -> str:
  """The family of released weights, from their names.

  Raises:
    UserError: they are of none, or of several.
  """
  found = _families(names)
  if len(found) == 1:
    return found[0]
  some = ', '.join(list(names)[:3])
  raise UserError(
    f'{len(names)} tensors ({some}, ...) are of '
    f'{" or ".join(found) if found else "no known network"}: expected the '
    f"inner names of a release, without a prefix such as 'denoiser.', of one "
    f'of {", ".join(RELEASES)}; give family= to name it.'
  )


def infer_config(
  weights: Mapping[str, np.ndarray], family: str | None = None, **overrides
) -> ModelConfig:
  """The configuration that a mapping of released weights belongs to.

  Args:
    weights: names of the release, without prefixes, to arrays.
    family: whose names they are; recognised by default.
    overrides: fields of `ModelConfig` that weights do not decide, as `dtype`;
      the names of the public configurations are understood as well.

  Raises:
    UserError: a tensor that decides a size is missing, or an override that is
      no field.
  """
  overrides = {PUBLIC_NAMES.get(k, k): v for k, v in overrides.items()}
  if (single := overrides.pop('single_silu_cond', None)) is not None:
    overrides['condition_silu'] = 1 if single else 2
  known = {field.name for field in dataclasses.fields(ModelConfig)}
  if unknown := overrides.keys() - known:
    raise UserError(
      f'{", ".join(sorted(unknown))}: no field of a network; there are '
      f'{", ".join(sorted(known))}.'
    )
  return ModelConfig(**(fields_of(weights, family, overrides) | overrides))


def fields_of(
  weights: Mapping[str, np.ndarray],
  family: str | None = None,
  known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """The fields of `ModelConfig` that weights decide; see `infer_config`."""
  family = _named(family, weights) if family else recognise(weights)
  return preset(family) | RELEASES[family].fields_of(
    Shapes(weights), known or {}
  )


def _families(names: Mapping[str, np.ndarray]) -> list[str]:
  """All families that have such names."""
  return [
    family
    for family, release in RELEASES.items()
    if all(any(re.match(mark, n) for n in names) for mark in release.marks)
  ]


def _named(family: str, names: Mapping[str, np.ndarray]) -> str:
  """Raises UserError for no family, or names that only another family has."""
  if family not in RELEASES:
    known = ', '.join([*RELEASES, AUTOENCODER])
    raise UserError(f'family={family!r}: use one of {known}.')
  found = _families(names)
  if found and family not in found:
    raise UserError(
      f'family={family!r}, but the {len(names)} tensors have the names of '
      f'{" or ".join(found)}.'
    )
  return family


# Tensors of a frozen encoder under released names, or what `load_vision` gives.
Encoder = Mapping[str, np.ndarray] | tuple[VisionConfig | DINOv3Config, PyTree]


def from_official(
  weights: Mapping[str, np.ndarray],
  family: str | None = None,
  encoder: Encoder | None = None,
  encoder_heads: int | None = None,
  **overrides,
) -> PixelDiT | Grounded | Autoencoder:
  """The network that holds released weights; call it as `model(x, t, y)`.

  That of pMF is called as `model(x, h, y, omega, t_min, t_max)`, in pMF's time.

  Its output is what the public code's network predicts, `model.config`
  says which: a velocity or an image.

  Args:
    weights: names of the release, as 'patch_blocks.0.attn.qkv.weight', to
      NumPy arrays. Sizes are seen from the shapes.
    family: one of `RELEASES`, or 'sdvae' for an `Autoencoder`; recognised from
      the names by default.
    encoder: of a grounded network, what it looks at its noisy images with;
      without it the network answers ungrounded.
    encoder_heads: attention heads of an encoder given as tensors, where a head
      is not 64 wide.
    overrides: fields of `ModelConfig`, as `dtype='bfloat16'`.

  Raises:
    UserError: names or shapes that do not fit, all of them listed; an encoder
      of another width than the network was made for.
  """
  if family == AUTOENCODER or family is None and is_autoencoder(weights):
    return from_autoencoder(weights, **overrides)
  config = infer_config(weights, family, **overrides)
  native = native_of(weights, config)
  graphdef = nnx.graphdef(abstract_model(config))
  arrays = {path: jnp.asarray(array) for path, array in native.items()}
  network = nnx.merge(graphdef, nested(arrays))
  if encoder is None:
    return network
  return Grounded(network, _encoder(encoder, encoder_heads, config))


def _encoder(encoder: Encoder, heads: int | None, config: ModelConfig):
  """The encoder with its weights, in the precision of the network."""
  if isinstance(encoder, Mapping):
    options = dict(dtype=config.dtype, scan=config.scan)
    more = dict(heads=heads) if heads else {}
    encoder = from_vision(encoder, **options, **more)
  found, weights = encoder
  check_encoder(config, found)
  graphdef = nnx.graphdef(abstract_network(found))
  return nnx.merge(graphdef, jax.tree.map(jnp.asarray, weights))


def to_official(
  model: PixelDiT | Grounded | Autoencoder,
) -> dict[str, np.ndarray]:
  """The weights of a network under the names of its family's release.

  Those of an encoder are not among them.
  """
  if isinstance(model, Autoencoder):
    return to_autoencoder(model)
  network = model.network if isinstance(model, Grounded) else model
  return rename_to_official(weights_of(network), network.config)


def rename_to_official(
  tree: PyTree, config: ModelConfig
) -> dict[str, np.ndarray]:
  """Any tree in the form of the weights (gradients, EMA) to their names.

  Raises:
    UserError: a configuration that the release cannot express.
  """
  return dict(released_of(flat(tree), config))


def native_of(
  weights: Mapping[str, np.ndarray], config: ModelConfig
) -> LazyTensors:
  """Released weights as native ones, float32, by path.

  A path is as 'patch_blocks/adaln/bias'.

  Raises:
    UserError: names of another family, or names and shapes that do not fit,
      all of them listed.
  """
  release = release_of(config)
  _named(family_of(config)[0], weights)
  lazy = LazyTensors(specs_of(weights), weights.__getitem__)
  released = release.before(lazy, config)
  return to_native(
    release.rules(config), released, release.sizes(config), _depths(config)
  ).cast('float32')


def released_of(native: LazyTensors, config: ModelConfig) -> LazyTensors:
  """The inverse of `native_of`, in the dtypes of `ours`.

  Raises:
    UserError: a configuration that the release cannot express.
  """
  release = release_of(config)
  released = to_released(
    release.rules(config), native, release.sizes(config), _depths(config)
  )
  return release.after(released, config)


def release_of(config: ModelConfig) -> Release:
  """How the weights of a network are named.

  Raises:
    UserError: it mixes what no release has together.
  """
  family, other = family_of(config)
  if config.text_width and family == 'pixeldit':
    other.pop('time', None)  # its check knows better
  if other:
    fields = ', '.join(f'model.{k}={v!r}' for k, v in other.items())
    raise UserError(
      f'{fields}: the release of {family}, the nearest, has no names for the '
      'weights of this variant.'
    )
  if config.grounding_width and family != 'pixeldit2':
    raise UserError(
      f'model.grounding_width={config.grounding_width}: the release of '
      f'{family} has no names for the weights of a grounded network.'
    )
  RELEASES[family].check(config)
  return RELEASES[family]


def _depths(config: ModelConfig) -> dict[str, int]:
  return dict(
    patch_blocks=config.patch_depth - config.branch_depth,
    u_blocks=config.branch_depth,
    v_blocks=config.branch_depth,
    pixel_blocks=config.pixel_depth,
    grounding=config.grounding_depth,
  )
