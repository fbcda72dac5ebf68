"""Training on texts and images of several shapes."""

import json
import logging
import os
import pathlib
import socket
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from pixeldit_jax.configs import _t2i_base

from pixeldit_jax import config as defaults
from pixeldit_jax import sharding
from pixeldit_jax.data.prepare import prepare, text_embeddings
from pixeldit_jax.data.prepare.write_shard import PrepareSettings
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train import inputs
from pixeldit_jax.train.loop import train

SHAPES = {(64, 64): 20, (32, 128): 10, (128, 32): 8}  # images of each
ROOT = pathlib.Path(__file__).parents[2]
WORKER = """\
import json, sys
import jax
from ml_collections import ConfigDict
from pixeldit_jax import sharding
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train import inputs
address, count, index, config = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(index))
config = ConfigDict(json.loads(config))
mesh = sharding.make_mesh(config.mesh)
place = sharding.batch_sharding(mesh)
rows = sharding.local_rows(place, config.data.batch_size)
data = inputs.make_data(config, inputs.open_data(config), rows)
batches = [next(data) for _ in range(12)]
data.close()
print(json.dumps([(b['image'].shape[1:3], b['id'].tolist(), b['caption'])
                  for b in batches]))
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> ConfigDict:
  """Of a tiny network on buckets of about 64 x 64, with stored texts."""
  path = tmp_path_factory.mktemp('buckets')
  (path / 'in').mkdir()
  random = np.random.default_rng(0)
  names = ['red', 'green', 'blue']
  for (height, width), count in SHAPES.items():
    for i in range(count):
      colour = i % 3
      pixels = random.integers(0, 80, (height, width, 3), np.uint8)
      pixels[..., colour] += 150
      name = path / f'in/{height}-{i:02d}'
      Image.fromarray(pixels).save(name.with_suffix('.png'))
      name.with_suffix('.txt').write_text(f'a {names[colour]} picture {i}')
  settings = PrepareSettings(
    f'images:{path}/in', 64, bucketed=True, patch_size=4
  )
  prepare.prepare(settings, str(path / 'out'), num_processes=1)
  text_embeddings.store(str(path / 'out'), WordEncoder(), batch_size=8)
  config = _t2i_base.get_config()
  defaults.make_debug(config)
  config.model.update(patch_size=4, patch_depth=1, text_mask=True, scan=False)
  config.data.update(
    source=f'shards:{path}/out', resolution=64, buckets=True, num_threads=1
  )
  config.checkpoint.update(every=100)
  return config


@pytest.mark.slow
def test_several_shapes_resume_exactly_and_compile_once_each(
  config, tmp_path, caplog
):
  config = config.copy_and_resolve_references()
  config.steps = 8
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    unbroken = train(RunContext.build(config), str(tmp_path / 'unbroken'))
  messages = [record.getMessage() for record in caplog.records]
  steps = [m for m in messages if 'Compiling' in m and 'train_step' in m]
  assert len(steps) == len(SHAPES)
  text = json.loads((tmp_path / 'unbroken/text.json').read_text())
  assert text == WordEncoder().meta
  config.steps = 3
  train(RunContext.build(config), str(tmp_path / 'broken'))
  config.steps = 8
  resumed = train(RunContext.build(config), str(tmp_path / 'broken'))
  chex.assert_trees_all_equal(resumed, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_processes_draw_the_same_buckets_and_share_each_batch(config, count):
  rows = range(config.data.batch_size)
  data = inputs.make_data(config, inputs.open_data(config), rows)
  whole = [next(data) for _ in range(12)]
  data.close()
  assert {b['image'].shape[1:3] for b in whole} == set(SHAPES)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  flags = f'--xla_force_host_platform_device_count={8 // count}'
  environment = os.environ | dict(XLA_FLAGS=flags, PYTHONPATH=str(ROOT))
  text = config.to_json_best_effort()
  workers = [
    subprocess.Popen(
      [sys.executable, '-c', WORKER, address, str(count), str(i), text],
      stdout=subprocess.PIPE,
      env=environment,
    )
    for i in range(count)
  ]
  found = [json.loads(w.communicate(timeout=300)[0]) for w in workers]
  for want, *parts in zip(whole, *found):
    assert all(tuple(p[0]) == want['image'].shape[1:3] for p in parts)
    assert sum((p[1] for p in parts), []) == want['id'].tolist()
    assert sum((p[2] for p in parts), []) == want['caption']


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes, named',
  [
    ({'model.text_width': 5}, '16 wide .by .words.*text_width=5'),
    ({'model.text_tokens': 4}, '8 tokens.*text_tokens=4'),
    ({'data.text_encoder': 'gemma'}, "encoded by 'words'.*'gemma'"),
    ({'data.resolution': 128}, 'the run expects 128'),
    ({'model.patch_size': 64}, 'does not divide'),
    ({'data.source': 'digits'}, 'text.*next to shards only'),
  ],
)
def test_data_that_do_not_fit_are_refused(config, changes, named):
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(changes)
  with pytest.raises(ValueError, match=named):
    inputs.open_data(config)


@pytest.mark.slow
def test_a_mesh_takes_the_batch_of_every_shape(config):
  """What the data give is what the step was compiled for."""
  source = inputs.open_data(config)
  shapes = inputs.batch_shapes(config, source)
  data = inputs.make_data(config, source, range(8))
  place = sharding.batch_sharding(sharding.make_mesh(config.mesh))
  for _ in range(8):
    batch = next(data)
    wanted = shapes[batch['image'].shape[1:3]]
    put = sharding.put_batch({k: batch[k] for k in wanted}, place)
    for name, array in put.items():
      assert (array.shape, array.dtype) == (
        wanted[name].shape,
        wanted[name].dtype,
      )
  data.close()


@pytest.mark.slow
def test_texts_encoded_while_training_are_those_that_are_stored(config):
  stored_data = inputs.make_data(config, inputs.open_data(config), range(8))
  config = config.copy_and_resolve_references()
  config.model.text_tokens = 8  # as they are stored
  config.data.update(encode_texts=True, text_encoder='words')
  RunContext.build(config)  # the keys go together
  source = inputs.open_data(config)
  assert inputs.text_meta(source) == WordEncoder().meta
  data = inputs.make_data(config, source, range(8))
  for _ in range(6):
    want, batch = next(stored_data), next(data)
    for key in ('id', 'image', 'text', 'text_mask'):
      np.testing.assert_array_equal(batch[key], want[key])
  assert data.get_state() == stored_data.get_state()
  data.close()
  stored_data.close()
  config.data.text_encoder = ''
  with pytest.raises(ValueError, match='encode_texts=True.*name an encoder'):
    RunContext.build(config)
