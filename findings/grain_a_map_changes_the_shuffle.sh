#!/usr/bin/env bash
# grain 0.2.18.
#
# Expected: MapDataset.seed(0).shuffle() gives an order that depends on the seed
# and the length, so that a step before it that changes no item, such as a map
# that renames a field or counts, leaves the order as it was.
#
# What happens: each transformation takes its seed from the one before, and any
# of them, random or not, advances it. A map of the identity gives another
# order and other augmentations (random_map), and a slice of all items too. The
# state of an iterator (a position) is taken by the changed pipeline without a
# word, so a resumed run repeats some examples of its epoch and misses others.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  grain==0.2.18
export JAX_PLATFORMS=cpu

cat >"$folder/try.py" <<'PYTHON'
import importlib.metadata
import sys

import grain


def pipeline(*, identity):
  dataset = grain.MapDataset.range(10).seed(0)
  if identity:
    dataset = dataset.map(lambda x: x)
  return dataset.shuffle()


print('grain', importlib.metadata.version('grain'))
before, after = pipeline(identity=False), pipeline(identity=True)
print('shuffle:                ', list(before))
print('identity, then shuffle: ', list(after))

iterator = iter(before.to_iter_dataset())
seen = [next(iterator) for _ in range(5)]
resumed = iter(after.to_iter_dataset())
resumed.set_state(iterator.get_state())
rest = list(resumed)
print('resumed with it: twice', sorted(set(seen) & set(rest)), 'never',
      sorted(set(range(10)) - set(seen) - set(rest)))
if list(before) == list(after) or not set(seen) & set(rest):
  sys.exit('changed: the order is the same, or the state is refused')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# shuffle:                 [1, 2, 4, 5, 9, 7, 8, 6, 0, 3]
# identity, then shuffle:  [2, 3, 7, 8, 4, 1, 0, 6, 5, 9]
# resumed with it: twice [1, 5, 9] never [3, 7, 8]
