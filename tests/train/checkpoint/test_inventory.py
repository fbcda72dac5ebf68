"""Checkpoints on disk are listed, verified and deleted by rule."""

import json

import pytest
from etils import epath

from pixeldit_jax.config import get_config
from pixeldit_jax.train.checkpoint import integrity, inventory
from pixeldit_jax.train.run import lock
from pixeldit_jax.train.run.workdir import add_evaluation, write_config

FID = {100: 9.0, 200: 3.0, 300: 5.0}


@pytest.fixture
def run(tmp_path):
  """Five checkpoints; of 500 a byte is changed, of 50, put aside, many."""
  write_config(str(tmp_path), get_config())
  for place, step in [('damaged', 50)] + [
    ('checkpoints', step) for step in (100, 200, 300, 400, 500)
  ]:
    folder = epath.Path(tmp_path) / place / str(step)
    (folder / 'ema').mkdir(parents=True)
    (folder / 'ema' / 'd').write_bytes(bytes(1000))
    integrity.write_manifest(folder)
    written = dict(commit_timestamp_nsecs=(2e9 - step) * 1e9)
    (folder / '_CHECKPOINT_METADATA').write_text(json.dumps(written))
  for step, fid in FID.items():
    add_evaluation(str(tmp_path), step, dict(fid=fid, kid=0.25))
  (tmp_path / 'checkpoints' / '500' / 'ema' / 'd').write_bytes(b'1' * 1000)
  (tmp_path / 'damaged' / '50' / 'ema' / 'd').write_bytes(b'1' * 10)
  return tmp_path


def steps(entries):
  return [entry.step for entry in entries]


def left(run):
  return sorted(int(p.name) for p in (run / 'checkpoints').iterdir())


def test_a_table_tells_all_of_them(run, monkeypatch):
  monkeypatch.setattr(inventory.time, 'time', lambda: 2e9)
  found = inventory.entries(str(run), checksums=True)
  head, *lines = inventory.table(found, 'fid').splitlines()
  assert head.split() == ['step', 'age', 'size', 'intact', 'fid']
  assert lines[1].split() == ['200', '0:03:20', '0.000', 'GB', 'yes', '3']
  assert lines[3].split() == ['400', '0:06:40', '0.000', 'GB', 'yes']
  assert lines[4].split() == ['500', '0:08:20', '0.000', 'GB', 'NO']
  assert lines[5] == '    ema/d has other bytes than were written'
  assert lines[6].split()[0] == '50' and lines[6].split()[-1] == 'aside'
  assert lines[7] == '    ema/d has 10 bytes of 1,000'
  assert 'fid 3  kid 0.25' in inventory.table(found)
  monkeypatch.setattr(inventory, '_SHOWN', 0)
  assert inventory.table(found).splitlines()[-1] == '    and 1 more'
  # By sizes alone the changed byte is not seen.
  assert inventory.entries(str(run), checksums=False)[4].intact


@pytest.mark.parametrize(
  'rule, gone',
  [
    (dict(keep=2), [100, 200]),
    (dict(keep=1, period=200), [100, 300]),
    (dict(keep=1, best='fid'), [100, 300]),
    (dict(keep=1, best='fid', best_is='highest'), [200, 300]),
    (dict(keep=9), []),
    (dict(keep=9, damaged=True), [500, 50]),
    (dict(keep=0), [100, 200, 300]),  # never the newest intact one
  ],
  ids=str,
)
def test_a_rule_deletes_what_it_does_not_keep(run, rule, gone):
  found, deleted = inventory.delete(str(run), **rule)
  assert steps(found) == [100, 200, 300, 400, 500, 50]
  assert steps(deleted) == gone
  assert left(run) == sorted({100, 200, 300, 400, 500} - set(gone))
  assert (run / 'damaged' / '50').exists() == (50 not in gone)
  assert 400 in left(run)


def test_nothing_is_deleted_where_that_would_be_a_mistake(run, tmp_path):
  with lock.hold(str(run)), pytest.raises(ValueError, match='is in use by'):
    inventory.delete(str(run), keep=1)
  with pytest.raises(ValueError, match=r"'fdi'; there are \['fid', 'kid'\]"):
    inventory.delete(str(run), keep=1, best='fdi')
  for step in left(run):
    (run / 'checkpoints' / str(step) / 'ema' / 'd').unlink()
  with pytest.raises(ValueError, match='no checkpoint is intact'):
    inventory.delete(str(run), keep=1, damaged=True)
  assert left(run) == [100, 200, 300, 400, 500]
  with pytest.raises(FileNotFoundError, match='holds no run'):
    inventory.delete(str(run / 'nowhere'), keep=1)
  assert not (run / 'nowhere').exists()
