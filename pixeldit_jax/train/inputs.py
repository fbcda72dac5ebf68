"""The data of a run, and the shapes of what goes to the devices."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pixeldit_jax.config import model_config
from pixeldit_jax.data import caption_sampler, captions
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.encode_captions import EncodedSource
from pixeldit_jax.data.pipeline.iterator import BatchIterator, Finish
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions
from pixeldit_jax.data.pipeline.sized_source import with_buckets
from pixeldit_jax.data.source import Source, hold_out
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.encoders.text import TextEncoder, read_instruction
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.model.cost import train_flops
from pixeldit_jax.train.latents import check_channels, latent_arrays
from pixeldit_jax.train.repa import stored_arrays, stored_shapes

Size = tuple[int, int]  # height, width


def open_data(config: ConfigDict) -> Source:
  """The source, checked for what the run needs of it.

  Raises:
    FileNotFoundError: the source, or an array stored next to it, is missing.
    UserError: it has other classes or texts, or no buckets.
  """
  data, model = config.data, config.model
  stored = model.text_width and not data.encode_texts
  texts = caption_sampler.ARRAYS if stored else ()
  arrays = (*texts, *stored_arrays(config), *latent_arrays(config))
  source = open_source(data.source, arrays)
  if data.held_out:
    source, _ = hold_out(source, data.held_out, config.seed)
  source = with_buckets(source, config)
  if data.encode_texts:
    source = EncodedSource(source, _open_encoder(config))
  if model.text_width:
    check_text(config, text_meta(source))
  elif source.num_classes != model.num_classes and model.num_classes:
    raise UserError(
      f'data.source={data.source!r} has {source.num_classes} classes, '
      f'but model.num_classes={model.num_classes}: give their number, or 0 to '
      'train on pictures without classes.'
    )
  factor = check_channels(config, source)
  try:
    for size in image_sizes(config, source):
      model_config(config).grid(*size)
  except UserError as error:
    if not data.buckets:
      raise
    raise UserError(
      f'{error} Or prepare the data with --buckets '
      f'--patch_size={model.patch_size}.'
    ) from error
  source.check(
    resolution=factor * data.resolution,
    checksums=data.checksums,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  if model.text_width:
    caption_sampler.check_captions(
      source, captions.parse_weights(data.caption_weights)
    )
  return source


def _open_encoder(config: ConfigDict) -> TextEncoder | WordEncoder:
  """The encoder of captions that are embedded while training."""
  data, model = config.data, config.model
  instruction = read_instruction(data.text_instruction)
  return _encoder(
    data.text_encoder, model.text_tokens, model.text_width, instruction
  )


@functools.lru_cache(maxsize=1)  # of what is trained on and what is held out
def _encoder(
  name: str, tokens: int, width: int, instruction: str
) -> TextEncoder | WordEncoder:
  if name == 'words':
    return WordEncoder(tokens, width)
  return TextEncoder(name, tokens=tokens, instruction=instruction)


def open_held_out(config: ConfigDict) -> Source:
  """The `data.held_out` images that the run does not train on.

  They are not checked again; see `open_data`.
  """
  data = config.data
  stored = config.model.text_width and not data.encode_texts
  source = open_source(data.source, caption_sampler.ARRAYS if stored else ())
  source = hold_out(source, data.held_out, config.seed)[1]
  source = with_buckets(source, config)
  if data.encode_texts:
    source = EncodedSource(source, _open_encoder(config))
  return source


def text_meta(source: Source) -> Mapping[str, Any]:
  """The encoder of the texts of a source; {} without texts."""
  if caption_sampler.TEXT not in source.arrays:
    return {}
  return dict(source.arrays[caption_sampler.TEXT].meta)


def check_text(config: ConfigDict, meta: Mapping[str, Any]) -> None:
  """Raises UserError for stored texts that the network cannot take."""
  data, model = config.data, config.model
  if meta['width'] != model.text_width:
    raise UserError(
      f'the texts of data.source={data.source!r} are {meta["width"]} wide (by '
      f'{meta["encoder"]!r}), but model.text_width={model.text_width}.'
    )
  if meta['tokens'] > model.text_tokens:
    raise UserError(
      f'the texts of data.source={data.source!r} have {meta["tokens"]} tokens, '
      f'but model.text_tokens={model.text_tokens}.'
    )
  if data.text_encoder not in ('', meta['encoder']):
    raise UserError(
      f'the texts of data.source={data.source!r} were encoded by '
      f'{meta["encoder"]!r}, but data.text_encoder={data.text_encoder!r}: '
      'encode them again (pixeldit encode-text), or change it.'
    )


def examples_of(source: Source) -> tuple[Source, Finish | None]:
  """What is read of a source, and what its batches become then."""
  if isinstance(source, EncodedSource):
    return source.captioned, source.encode
  return source, None


def make_data(
  config: ConfigDict, source: Source, rows: Sequence[int]
) -> BatchIterator:
  """The endless batches, of which this process takes the given rows."""
  source, finish = examples_of(source)
  pick = None
  if config.model.text_width:
    pick = caption_sampler.CaptionSampler(
      source,
      dropout=config.flow.label_dropout,
      weights=captions.parse_weights(config.data.caption_weights),
      min_score=config.data.caption_min_score,
    )
  options = LoaderOptions.from_config(config)
  return make_batches(source, options, rows=rows, pick=pick, finish=finish)


def abstract_batch(
  config: ConfigDict, size: Size | None = None, tokens: int | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """The entries of a batch that the step takes, without stored features.

  Args:
    config: its batch size, resolution and network decide the shapes.
    size: of the images, by default the run's resolution squared.
    tokens: of the texts, by default as many as the network takes.
  """
  model, B = config.model, config.data.batch_size
  side = config.data.resolution
  channels, dtype = model.in_channels, jnp.uint8
  if config.latents.autoencoder:  # means and variances, mirrored too
    channels, dtype = 4 * channels, jnp.float16
  image = (B, *(size or (side, side)), channels)
  batch = dict(image=jax.ShapeDtypeStruct(image, dtype))
  if not model.text_width:
    return batch | dict(label=jax.ShapeDtypeStruct((B,), jnp.int32))
  text = (B, tokens or model.text_tokens, model.text_width)
  batch[caption_sampler.TEXT] = jax.ShapeDtypeStruct(text, jnp.bfloat16)
  if model.text_mask:
    batch[caption_sampler.MASK] = jax.ShapeDtypeStruct(text[:2], jnp.bool_)
  return batch


def batch_shapes(
  config: ConfigDict, source: Source
) -> dict[Size, dict[str, jax.ShapeDtypeStruct]]:
  """The entries of a batch for each size of image that the data have."""
  tokens = text_meta(source).get('tokens')
  stored = stored_shapes(config, source)
  return {
    size: abstract_batch(config, size, tokens) | stored
    for size in image_sizes(config, source)
  }


def image_sizes(config: ConfigDict, source: Source) -> dict[Size, float]:
  """The sizes of the images, each with its share of the examples."""
  side = config.data.resolution
  if not config.data.buckets:
    return {(side, side): 1.0}
  counts = np.bincount(source.bucket_of_examples())
  return {
    source.buckets[k]: counts[k] / counts.sum() for k in np.flatnonzero(counts)
  }


def flops_of_batch(config: ConfigDict, sizes: dict[Size, float]) -> float:
  """Operations of a training step, on average over the sizes."""
  model = model_config(config)
  return config.data.batch_size * sum(
    share * train_flops(model, *size, stages=config.flow.stages)
    for size, share in sizes.items()
  )
