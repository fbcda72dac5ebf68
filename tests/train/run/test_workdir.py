"""One truth about a run: what may change, and what is written of it."""

import json

import jax
import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.run import trained_on, workdir


@pytest.fixture
def run(tmp_path):
  workdir.write_config(str(tmp_path), get_config())
  workdir.write_progress(str(tmp_path), dict(saved=2))
  return str(tmp_path)


def changed(**values):
  config = get_config()
  config.update_from_flattened_dict(
    {key.replace('__', '.'): value for key, value in values.items()}
  )
  return config


def test_the_whole_configuration_is_kept(run):
  config = get_config()
  config.lock()
  assert workdir.read_config(run).to_json() == config.to_json()
  assert workdir.changes(run, config) == {}


@pytest.mark.parametrize(
  'values',
  [
    dict(optimizer__learning_rate=1e-3),
    dict(ema__decay=0.99),
    dict(log__every=7, log__trace='1-2'),
    dict(eval__every=10, eval__reference='x.npz', sampler__steps=9),
    dict(checkpoint__keep=5, checkpoint__best='fid'),
    dict(steps=10, debug_nans=True),
    dict(mesh__fsdp=4),
    dict(model__patch_remat='full', data__num_workers=2),
  ],
  ids=str,
)
def test_this_may_change_freely(run, values):
  workdir.check_same_run(run, changed(**values))


@pytest.mark.parametrize(
  'values',
  [
    dict(data__source='digits'),
    dict(data__batch_size=8),
    dict(data__flip=True),
    dict(flow__shift=3.0),
    dict(seed=1),
    dict(init_from='runs/other'),
  ],
  ids=str,
)
def test_this_is_another_run_unless_it_is_named(run, values):
  config = changed(**values)
  (key,) = (key.replace('__', '.') for key in values)
  with pytest.raises(ValueError) as error:
    workdir.check_same_run(run, config)
  assert f'  {key}: ' in str(error.value)
  assert f'stored, {config_value(config, key)} asked for' in str(error.value)
  assert str(error.value).endswith(f'--allow_change={key}')
  workdir.check_same_run(run, config, [key])
  with pytest.raises(ValueError):
    workdir.check_same_run(run, config, ['model.positions'])


@pytest.mark.parametrize(
  'values', [dict(model__width=64), dict(repa__weight=0.5)], ids=str
)
def test_what_changes_shapes_is_never_allowed(run, values):
  config = changed(**values)
  (key,) = (key.replace('__', '.') for key in values)
  for allow in ([], [key]):
    with pytest.raises(UserError) as error:
      workdir.check_same_run(run, config, allow)
    assert f'{key} cannot change in a run' in str(error.value)
    assert '--allow_change' not in str(error.value)


@pytest.mark.parametrize(
  'name, told',
  [
    ('model.widht', 'did you mean model.width'),
    ('optimizer.eps', 'may change in any run'),
  ],
)
def test_only_keys_that_say_what_a_run_is_can_be_allowed(run, name, told):
  with pytest.raises(UserError, match=told):
    workdir.check_same_run(run, get_config(), [name])


def test_a_folder_without_a_checkpoint_claims_nothing(run, tmp_path):
  (tmp_path / 'progress.json').unlink()
  assert workdir.changes(run, changed(seed=1)) == {}
  workdir.check_same_run(run, changed(model__width=64))
  (tmp_path / 'checkpoints/2').mkdir(parents=True)
  with pytest.raises(UserError, match='seed: 0 stored, 1 asked for'):
    workdir.check_same_run(run, changed(seed=1))


def config_value(config, key):
  for part in key.split('.'):
    config = config[part]
  return config


def test_differences_are_found_by_key(run):
  config = changed(seed=3, sampler__interval=(0.2, 0.9))
  assert workdir.changes(run, config) == {
    'sampler.interval': ([0.1, 1.0], [0.2, 0.9]),
    'seed': (0, 3),
  }


def test_history_and_evaluations_are_added_to(run, tmp_path):
  workdir.add_history(run, 'start', command='a')
  workdir.add_history(run, 'stop', reason='done')
  first, second = workdir.read_history(run)
  assert first['command'] == 'a' and second['reason'] == 'done'
  assert first['time'] <= second['time']
  workdir.add_evaluation(run, 10, dict(fid=3))
  workdir.add_evaluation(run, 20, dict(fid=2))
  workdir.add_evaluation(run, 10, dict(kid=0.5))
  assert workdir.read_evaluations(run) == {
    10: dict(fid=3.0, kid=0.5),
    20: dict(fid=2.0),
  }
  lines = (tmp_path / 'history.jsonl').read_text().splitlines()
  assert [json.loads(line)['event'] for line in lines] == ['start', 'stop']
  assert not list(tmp_path.glob('*.tmp'))


def test_a_damaged_file_is_named(run, tmp_path):
  readers = {
    'config.json': workdir.read_config,
    'progress.json': workdir.read_progress,
    'history.jsonl': workdir.read_history,
  }
  for name, read in readers.items():
    (tmp_path / name).write_text('{"step": 3')
    with pytest.raises(ValueError, match=f'{name} is damaged'):
      read(run)


def test_one_process_writes(run, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  workdir.add_history(run, 'start')
  workdir.write_progress(run, dict(step=1))
  assert workdir.read_history(run) == []
  assert workdir.read_progress(run) == dict(saved=2)


META = dict(encoder='/models/a', checksum='12', width=4, tokens=3)


def test_the_same_encoder_may_lie_elsewhere(tmp_path):
  with pytest.raises(FileNotFoundError, match='no run with texts'):
    trained_on.read_text_encoder(str(tmp_path))
  trained_on.keep_text_encoder(str(tmp_path), META)
  trained_on.keep_text_encoder(str(tmp_path), META | dict(encoder='/models/b'))
  assert trained_on.read_text_encoder(str(tmp_path)) == META


@pytest.mark.parametrize('key', ['checksum', 'width', 'tokens', 'instruction'])
def test_another_encoder_is_refused(tmp_path, key):
  trained_on.keep_text_encoder(str(tmp_path), META)
  with pytest.raises(ValueError, match=f'  {key}: .* stored, 99 asked for'):
    trained_on.keep_text_encoder(str(tmp_path), META | {key: 99})
  assert trained_on.read_text_encoder(str(tmp_path)) == META


def test_a_run_starts_from_one_that_knows_the_same_words(tmp_path):
  trained_on.check_init_text_encoder(
    str(tmp_path), META
  )  # not a run of texts: nothing is known
  trained_on.keep_text_encoder(str(tmp_path), META)
  trained_on.check_init_text_encoder(
    str(tmp_path), META | dict(tokens=5, instruction='Paint: ')
  )
  for key in ('checksum', 'width'):
    with pytest.raises(ValueError, match=f'  {key}: .* stored, 99 asked for'):
      trained_on.check_init_text_encoder(str(tmp_path), META | {key: 99})
