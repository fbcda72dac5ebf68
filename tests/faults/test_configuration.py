"""A value that cannot be is one line, exit code 1, and no file."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from pixeldit_jax import files
from pixeldit_jax.config import KEYS, get_config, make_debug
from pixeldit_jax.convert.safetensors import (
  read_safetensors,
  write_safetensors,
)
from pixeldit_jax.data.sources.open_source import open_source
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.train.checkpoint import integrity
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run import workdir

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = 'train --config=mnist:debug --workdir=run'


@pytest.mark.slow
@pytest.mark.parametrize(
  'command, told',
  [
    (f'{TRAIN} --config.model.in_channels=1', 'model.in_channels=1'),
    (f'{TRAIN} --config.steps={10**20}', 'steps=1000'),
    (f'{TRAIN} --config.log.samples=0', 'log.samples=0'),
    (f'{TRAIN} --config.data.resolution=700000', 'resolution=700000'),
    (f'{TRAIN} --config.data.batch_size={10**9}', 'batch_size=1000000000'),
    (
      f'{TRAIN} --config.data.batch_size={10**6} --config.data.resolution=1120',
      'GB that this machine has',
    ),
    ('train --config=imagenet256:size=foo --workdir=run', "size='foo'"),
    ('sample --workdir=w --out=o --config.sampler.guidancee=2', "'guidancee'"),
    (
      'evaluate --workdir=w --out=o --config.sampler.guidancee=2',
      "'guidancee'",
    ),
    ('convert --workdir=w --out=o --config.sampler.guidancee=2', "'guidancee'"),
    ('compile --config=mnist', 'give --config and --topology'),
  ],
)
def test_it_is_refused_in_one_line_without_files(tmp_path, command, told):
  name, *rest = command.split()
  done = subprocess.run(
    [sys.executable, ROOT / f'launch/{name}.py', *rest],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert told in done.stderr, done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


ODD = [-1, 0, 10**20, float('inf'), float('-inf'), float('nan'), 'x', None]
NUMERIC = [k for k in KEYS if not isinstance(k.default, bool | str | tuple)]


@pytest.mark.parametrize(
  'key, value',
  [
    ('flow.noise_scale', 10**20),
    ('flow.frequency_weight', 10**20),
    ('flow.frequency_gamma', 10**20),
    ('repa.weight', 10**20),
    ('optimizer.final_learning_rate', 10**20),
  ],
)
def test_numbers_whose_step_is_not_finite_are_refused(key, value):
  config = get_config()
  with config.ignore_type():
    config.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=key):
    RunContext.build(config)


@pytest.mark.slow
def test_odd_values_that_are_taken_train_a_step(tmp_path):
  """A few of all that the table takes; the others are refused without files."""
  taken = []
  for key in NUMERIC:
    for value in ODD:
      config = get_config()
      make_debug(config)
      config.steps, config.optimizer.warmup_steps = 1, 0
      config.model.update(width=16, patch_depth=1)
      try:
        key.check(value)
        with config.ignore_type():
          config.update_from_flattened_dict({key.name: value})
        if value == config.to_dict().get(key.name):
          continue
        RunContext.build(config)
        taken.append(config)
      except UserError:
        continue
  rng = np.random.default_rng(0)
  trained = 0
  for i in rng.permutation(len(taken))[:4]:
    try:
      before = RunContext.build(taken[i])
      state = train(before, str(tmp_path / str(i)))
    except UserError as error:
      assert len(str(error).splitlines()) == 1 or 'at 0 in' not in str(error)
      assert not (tmp_path / str(i)).exists()
      continue
    trained += 1
    assert not state.bad_steps
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.weights))
  assert trained


WRONG = [
  None,
  3,
  'x',
  [],
  {},
  [[]],
  {'step': 'x'},
  {'event': 3},
  {'saved': 'x'},
  {'seconds': {'step': []}},
  {'seconds': 3},
  {'model': 3},
  {'model': {'width': 'x'}},
  {'optimizer': {'eps': None}},
  {'names': 3},
]


@pytest.mark.parametrize('value', WRONG, ids=json.dumps)
def test_json_of_another_form_names_file_and_key(tmp_path, value):
  readers = {
    'config.json': workdir.read_config,
    'progress.json': workdir.read_progress,
    'history.jsonl': workdir.read_history,
    'evaluations.jsonl': workdir.read_evaluations,
  }
  for name, read in readers.items():
    (tmp_path / name).write_text(json.dumps(value))
    try:
      read(str(tmp_path))
    except UserError as error:
      assert name in str(error)
      assert len(str(error).splitlines()) == 1
  (tmp_path / integrity.FILES).write_text(json.dumps(value))
  found = integrity.verify(epath.Path(tmp_path), checksums=True)
  assert found and found[0].startswith((integrity.FILES, ' was not saved'))


@pytest.mark.parametrize(
  'state, said',
  [
    ('{}', '_data_files is absent'),
    ('[]', 'it holds list, not dict'),
    ('{"_data_files": []}', '_data_files is empty'),
    ('{"_data_files": [{}]}', 'filename is absent'),
    ('{"_data_files": [{"filename": "a.arrow"}]}', '1 files of state.json'),
  ],
)
def test_a_list_of_tables_that_names_none_says_so(tmp_path, state, said):
  (tmp_path / 'state.json').write_text(state)
  with pytest.raises(UserError, match=said):
    open_source(f'arrow:{tmp_path}')


def test_forms_are_compared_key_by_key():
  form = {'a': int, 'b?': [{'c': float}], 'd': object}
  assert not files.differs({'a': 1, 'd': None}, form)
  assert not files.differs({'a': 1, 'b': [{'c': 1}], 'd': 0}, form)
  assert files.differs({'a': True, 'd': 0}, form) == 'a is True, expected int'
  wrong = {'a': 1, 'b': [{'c': 1}, {'c': 'x'}], 'd': 0}
  assert files.differs(wrong, form) == "b[1].c is 'x', expected float"
  assert files.differs({'a': 1}, form) == 'd is absent'
  assert files.differs([], form) == 'it is [], expected an object'


def test_manifests_name_no_file_outside_their_folder(tmp_path):
  manifest = {'format': 'f', 'shards': [{'file': '../secret', 'bytes': 1}]}
  files.write_json(tmp_path / 'm.json', manifest)
  with pytest.raises(UserError, match="'../secret' is no file next to it"):
    files.read_manifest(tmp_path / 'm.json', 'f', 'x')


ENTRY = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}


@pytest.mark.parametrize(
  'header',
  [
    b'3',
    b'{"x": 3}',
    b'\xff\xfe',
    b'[' * 5000,
    *(
      json.dumps({'x': ENTRY | wrong}).encode()
      for wrong in (
        {'shape': [-2]},
        {'shape': 'x'},
        {'shape': [10**20]},
        {'dtype': 3},
        {'data_offsets': [0, 4]},
        {'data_offsets': [8, 0]},
        {'data_offsets': [0]},
        {'data_offsets': [-8, 0]},
      )
    ),
  ],
)
def test_headers_of_weights_that_cannot_be_are_refused(tmp_path, header):
  path = tmp_path / 'a.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + b'0' * 8)
  with pytest.raises(UserError, match='a.safetensors') as error:
    read_safetensors(path)
  assert len(str(error.value).splitlines()) == 1


def test_a_header_is_bounded_before_it_is_read(tmp_path):
  path = tmp_path / 'a.safetensors'
  with open(path, 'wb') as file:
    file.write((2 * 10**8).to_bytes(8, 'little'))
    file.truncate(3 * 10**8)  # sparse
  with pytest.raises(UserError, match='the form allows 100,000,000'):
    read_safetensors(path)


def test_float8_is_read(tmp_path):
  import ml_dtypes

  values = np.array([0.5, -2.0], ml_dtypes.float8_e4m3fn)
  write_safetensors(tmp_path / 'a.safetensors', {'x': values})
  read = read_safetensors(tmp_path / 'a.safetensors')['x']
  assert read.astype(np.float32).tolist() == [0.5, -2.0]


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda torch, x: {'x': x.to_sparse()}, "'x' is sparse"),
    (lambda torch, x: {'x': x.to('meta')}, "'x' is on the meta device"),
    (
      lambda torch, x: {'x': torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)},
      "'x' is quantized",
    ),
    (lambda torch, x: {3: x}, '3 is under a name that is no text'),
  ],
)
def test_tensors_that_are_no_plain_arrays_are_named(tmp_path, make, told):
  torch = pytest.importorskip('torch')
  from pixeldit_jax.convert.lightning import read_lightning

  torch.save(make(torch, torch.ones(2, 2)), tmp_path / 'a.pth')
  with pytest.raises(UserError, match=told):
    read_lightning(tmp_path / 'a.pth', ema=True)
