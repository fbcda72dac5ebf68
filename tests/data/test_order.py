"""The order over real processes: hosts, workers, and random interruptions."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.data import pipeline, sources

BATCH, EXAMPLES, BATCHES = 8, 1003, 1000

HOST = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_order import Numbered, stream

if __name__ == '__main__':
  path, host, hosts, workers = sys.argv[2:6]
  ids = stream(1000, None, int(host), int(hosts), int(workers))[0]
  np.save(path, ids)
"""


class Numbered(sources.Source):
  """Examples that are nothing but their number."""

  class_names = ('all',)

  def __len__(self):
    return EXAMPLES

  def __getitem__(self, index):
    image = np.zeros((1, 1, 3), np.uint8)
    return {'image': image, 'label': 0, 'name': str(index)}


def stream(batches, state=None, host=0, hosts=1, workers=0):
  """Returns the ids of some batches of one host, and the state after them."""
  iterator = pipeline.make_pipeline(
    Numbered(), resolution=1, batch_size=BATCH, seed=5,
    process_index=host, process_count=hosts, num_workers=workers,
    num_threads=1, prefetch=8,
  )  # fmt: skip
  if state:
    iterator.set_state(state)
  ids = [next(iterator)['id'] for _ in range(batches)]
  state = iterator.get_state()
  iterator.close()
  return np.stack(ids), state


def processes(tmp_path, hosts, workers):
  """Runs each host in a process of its own; returns their ids, joined."""
  script = tmp_path / 'host.py'
  script.write_text(HOST)
  paths = [tmp_path / f'{hosts}-{workers}-{host}.npy' for host in range(hosts)]
  running = [
    subprocess.Popen(
      [sys.executable, str(script), os.path.dirname(__file__), str(path)]
      + [str(host), str(hosts), str(workers)],
      env=os.environ | {'PYTHONPATH': os.getcwd()},
    )
    for host, path in enumerate(paths)
  ]
  assert [process.wait() for process in running] == [0] * hosts
  return np.concatenate([np.load(path) for path in paths], axis=1)


@pytest.mark.slow
def test_a_thousand_batches_are_equal_for_all_hosts_and_workers(tmp_path):
  want = processes(tmp_path, 1, 0)
  assert want.shape == (BATCHES, BATCH)
  for epoch in want.reshape(-1)[: EXAMPLES * 7].reshape(7, EXAMPLES):
    assert sorted(epoch) == list(range(EXAMPLES))
  for hosts, workers in [(2, 0), (4, 0), (1, 1), (1, 2), (2, 2)]:
    got = processes(tmp_path, hosts, workers)
    np.testing.assert_array_equal(got, want, err_msg=f'{hosts} {workers}')


def test_interrupted_at_random_with_other_hosts_nothing_repeats_or_is_missed():
  rng = np.random.default_rng(0)
  total = 3 * EXAMPLES // BATCH + 1
  done, state, seen = 0, None, []
  while done < total:
    batches = int(min(rng.integers(1, 90), total - done))
    hosts = int(rng.choice([1, 2, 4]))
    parts = [stream(batches, state, host, hosts) for host in range(hosts)]
    assert all(part[1] == parts[0][1] for part in parts)
    state = parts[0][1]
    seen.append(np.concatenate([ids for ids, _ in parts], axis=1))
    done += batches
  assert len(seen) > 5
  ids = np.concatenate(seen)
  np.testing.assert_array_equal(ids, stream(total)[0])
  epochs = ids.reshape(-1)[: 3 * EXAMPLES].reshape(3, EXAMPLES)
  for epoch in epochs:
    assert sorted(epoch) == list(range(EXAMPLES))
