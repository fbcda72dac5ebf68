"""The order over real processes: hosts, workers, and random interruptions."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pixeldit_jax.data import source
from pixeldit_jax.data.pipeline.batches import make_batches
from pixeldit_jax.data.pipeline.loader_options import LoaderOptions

BATCH, EXAMPLES, BATCHES = 8, 1003, 1000
KINDS = ('squares', 'buckets')


class Numbered(source.Source):
  """Examples that are nothing but their number, in three buckets."""

  class_names = ('all',)
  buckets = ((1, 1), (1, 2), (2, 1))

  def __len__(self):
    return EXAMPLES

  def __getitem__(self, index):
    image = np.zeros((1, 1, 3), np.uint8)
    return {'image': image, 'label': 0, 'name': str(index)}

  def bucket_of_examples(self):
    return np.repeat(np.arange(3), [600, 300, 103])


def make(kind, host=0, hosts=1, workers=0):
  options = LoaderOptions(
    batch_size=BATCH,
    seed=5,
    resolution=1,
    buckets=kind == 'buckets',
    num_workers=workers,
    num_threads=1,
    prefetch=8,
  )
  part = BATCH // hosts
  rows = range(host * part, (host + 1) * part)
  return make_batches(Numbered(), options, rows=rows)


def run_host(kinds, batches, state=None, **options):
  """What a process does: prints the ids, shape and state of each batch."""
  for kind in kinds:
    iterator = make(kind, **options)
    if state:
      iterator.set_state(state)
    for _ in range(batches):
      batch = next(iterator)
      line = batch['id'].tolist(), batch['image'].shape, iterator.get_state()
      print(json.dumps(line), flush=True)
    iterator.close()


def start(hosts, **options):
  """Starts all hosts, each a process of its own."""
  code = 'import json, sys, test_order\n'
  code += 'test_order.run_host(**json.loads(sys.argv[1]))'
  path = os.pathsep.join([os.getcwd(), os.path.dirname(__file__)])
  return [
    subprocess.Popen(
      [
        sys.executable,
        '-c',
        code,
        json.dumps(options | dict(host=k, hosts=hosts)),
      ],
      env=os.environ | {'PYTHONPATH': path},
      stdout=subprocess.PIPE,
      text=True,
    )
    for k in range(hosts)
  ]


def joined(outputs):
  """Joins what hosts printed: ids of global batches, their shapes, states."""
  rows = [
    [json.loads(line) for line in text.splitlines(True) if line.endswith('\n')]
    for text in outputs
  ]
  ids, shapes, states = [], [], []
  for parts in zip(*rows):  # up to where the last host came
    ids.append([i for part in parts for i in part[0]])
    shapes.append({tuple(part[1][1:3]) for part in parts})
    states.append(parts[0][2])
    assert all(part[2] == parts[0][2] for part in parts)
  return ids, shapes, states


@pytest.mark.slow
def test_a_thousand_batches_are_equal_for_all_hosts_and_workers():
  results = []
  for hosts, workers in [(1, 0), (2, 1), (4, 0), (1, 2)]:
    running = start(hosts, kinds=KINDS, batches=BATCHES, workers=workers)
    ids, shapes, _ = joined([process.communicate()[0] for process in running])
    assert [process.returncode for process in running] == [0] * hosts
    assert len(ids) == 2 * BATCHES
    # Every host draws the same bucket at the same step.
    assert all(len(shape) == 1 for shape in shapes)
    results.append((ids, shapes))
  assert all(result == results[0] for result in results[1:])
  squares, bucketed = np.array(results[0][0]).reshape(2, -1)
  for epoch in squares[: EXAMPLES * 7].reshape(7, EXAMPLES):
    assert sorted(epoch) == list(range(EXAMPLES))
  bucket_of = Numbered().bucket_of_examples()
  for batch, shape in zip(bucketed.reshape(-1, BATCH), results[0][1][BATCHES:]):
    assert {Numbered.buckets[bucket_of[i]] for i in batch} == shape


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_killed_at_random_it_resumes_on_other_hosts(kind):
  total = 2 * EXAMPLES // BATCH
  rng = np.random.default_rng(KINDS.index(kind))
  seen, state = [], None
  for hosts in (2, 1, 4, 2):
    batches = total - len(seen)
    running = start(hosts, kinds=[kind], batches=batches, state=state)
    outputs = [''] * hosts
    if hosts != 2 or not seen:  # killed at a random place of a random host
      k = int(rng.integers(hosts))
      for _ in range(rng.integers(5, 70)):
        outputs[k] += running[k].stdout.readline()
      for process in running:
        process.kill()
    for k, process in enumerate(running):
      outputs[k] += process.communicate()[0]
    ids, _, states = joined(outputs)
    seen += ids
    state = states[-1] if states else state
  assert len(seen) == total
  whole = make(kind)
  want = [next(whole)['id'].tolist() for _ in range(total)]
  whole.close()
  assert seen == want


def test_interrupted_at_random_nothing_repeats_or_is_missed():
  rng = np.random.default_rng(0)
  total = 3 * EXAMPLES // BATCH + 1
  seen, state = [], None
  while len(seen) < total:
    batches = int(min(rng.integers(1, 90), total - len(seen)))
    hosts = int(rng.choice([1, 2, 4]))
    iterators = [make('squares', host, hosts) for host in range(hosts)]
    for iterator in iterators:
      if state:
        iterator.set_state(state)
    for _ in range(batches):
      parts = [next(iterator)['id'] for iterator in iterators]
      seen.append(np.concatenate(parts))
    state = iterators[0].get_state()
    for iterator in iterators:
      iterator.close()
  epochs = np.concatenate(seen)[: 3 * EXAMPLES].reshape(3, EXAMPLES)
  for epoch in epochs:
    assert sorted(epoch) == list(range(EXAMPLES))
