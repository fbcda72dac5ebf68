"""A training process for tests that kill it: python process.py JSON.

The JSON has the config, the workdir, and a file for the ids of all examples, a
line of 'position: ids' for each batch, written before the step that takes it.
"""

import json
import os
import pathlib
import sys

import jax
from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))

from pixeldit_jax.cli.log import start_log  # noqa: E402
from pixeldit_jax.errors import EXIT_STOPPED, Stopped  # noqa: E402
from pixeldit_jax.run_context import RunContext  # noqa: E402
from pixeldit_jax.train import inputs, loop  # noqa: E402


class Recorded:
  """The iterator over batches, writing down what it hands out."""

  def __init__(self, data, file: int):
    self._data, self._file = data, file

  def __next__(self):
    batch = next(self._data)
    line = f'{self._data.get_state()["position"]}: {batch["id"].tolist()}\n'
    os.write(self._file, line.encode())  # at once, for a kill may come
    return batch

  def __getattr__(self, name):
    return getattr(self._data, name)


def main():
  task = json.loads(sys.argv[1])
  if 'address' in task:
    jax.distributed.initialize(
      task['address'], task['processes'], task['process']
    )
  start_log(jax.process_index())
  file = os.open(task['ids'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  loop.make_data = lambda *args: Recorded(inputs.make_data(*args), file)
  try:
    context = RunContext.build(ConfigDict(task['config']))
    loop.train(context, task['workdir'])
  except Stopped:
    sys.exit(EXIT_STOPPED)


if __name__ == '__main__':  # workers of the data import this file
  main()
