#!/usr/bin/env bash
# jax 0.10.2, two processes on a CPU.
#
# Expected: multihost_utils.broadcast_one_to_all and process_allgather return
# NumPy values as they were given. With one process they do: 2**40 + 5 comes
# back as it is, in int64.
#
# What happens with two: the values pass through JAX arrays, which have 32 bits
# by default. int64 is cut to its lower 32 bits and float64 to float32, with no
# error and no warning about integers; a seed, a file size, a count of tokens or
# a time in nanoseconds that all hosts agree on is another number.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import socket
import subprocess
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

VALUE = np.int64(2**40 + 5)

if len(sys.argv) == 1:
  alone = multihost_utils.broadcast_one_to_all(VALUE)
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  processes = [
    subprocess.Popen(
      [sys.executable, __file__, address, str(i)],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for i in range(2)
  ]
  printed = [p.communicate(timeout=120)[0] for p in processes]
  seen = [
    line.removeprefix('seen ')
    for text in printed
    for line in text.splitlines()
    if line.startswith('seen ')
  ]
  print('jax', jax.__version__)
  print('one process:', repr(alone))
  print('two processes:', *seen, sep='\n  ')
  if alone != VALUE or seen != ['5 int32 [5, 6]'] * 2:
    sys.exit('changed: other values, or all of their bits')
  sys.exit(0)

address, index = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, 2, index)
sent = multihost_utils.broadcast_one_to_all(VALUE)
gathered = multihost_utils.process_allgather(VALUE + index)
print('seen', sent, sent.dtype, gathered.ravel().tolist())
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# one process: 1099511627781
# two processes:
#   5 int32 [5, 6]
#   5 int32 [5, 6]
