#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with jax 0.10.2, on a CPU.
#
# Expected: with best_fn and max_to_keep=2 the two checkpoints of the best
# metric stay ("kept based on their quality", CheckpointManagerOptions). An
# evaluation that gave NaN is the worst, or refused; the best is never deleted.
#
# What happens: the metrics are sorted as they are. No comparison with NaN
# holds, so it cuts the list in two parts that are not compared with each other,
# and the older part goes first, however good. FIDs of 5, NaN and 7 leave NaN
# and 7, and best_step() is that of 7, in both modes, in a new manager too.
# Nothing warns. (The policy BestN sorts alike.) A best_fn that gives inf for
# NaN, or -inf with mode 'max', mends it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  orbax-checkpoint==0.12.8 jax==0.10.2
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import importlib.metadata
import math
import sys
import tempfile

import orbax.checkpoint as ocp


def kept(metrics, mode, best_fn=lambda metrics: metrics['fid']):
  """The metrics of the checkpoints that stay, and of best_step()."""
  options = ocp.CheckpointManagerOptions(
    max_to_keep=2, best_fn=best_fn, best_mode=mode
  )
  with tempfile.TemporaryDirectory() as run:
    with ocp.CheckpointManager(run, options=options) as manager:
      for step, value in enumerate(metrics):
        args = ocp.args.JsonSave({'step': step})
        manager.save(step, args=args, metrics={'fid': value})
        manager.wait_until_finished()
    with ocp.CheckpointManager(run, options=options) as again:
      steps = again.all_steps()
      return [metrics[step] for step in steps], metrics[again.best_step()]


def guarded(metrics):
  return metrics['fid'] if math.isfinite(metrics['fid']) else math.inf


print('orbax-checkpoint', importlib.metadata.version('orbax-checkpoint'))
low = kept([5.0, math.nan, 7.0], 'min')
high = kept([7.0, math.nan, 5.0], 'max')
mended = kept([5.0, math.nan, 7.0], 'min', guarded)
print('lowest of 5, nan, 7: kept %s, best_step() is of %s' % low)
print('highest of 7, nan, 5: kept %s, best_step() is of %s' % high)
print('NaN given as inf: kept %s, best_step() is of %s' % mended)
if 5.0 in low[0] or 7.0 in high[0] or (low[1], high[1]) != (7.0, 5.0):
  sys.exit('changed: the best checkpoint stays')
if mended != ([5.0, 7.0], 5.0):
  sys.exit('changed: inf for NaN does not keep the best')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# lowest of 5, nan, 7: kept [nan, 7.0], best_step() is of 7.0
# highest of 7, nan, 5: kept [nan, 5.0], best_step() is of 5.0
# NaN given as inf: kept [5.0, 7.0], best_step() is of 5.0
