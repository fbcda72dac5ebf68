#!/usr/bin/env bash
# grain 0.2.18.
#
# Expected: in the usual pipeline of several hosts (one seed for all, as they
# share the shuffle, and ds[host::hosts], "commonly used for sharding" in the
# documentation of slice) each example of the global batch has random numbers of
# its own in random_map, as in grain's DataLoader, where they go by the record.
#
# What happens: they go by the seed and the position in the host's slice. The
# k-th example of every host gets the same numbers: with 8 hosts each crop,
# flip, dropped caption or noise is used 8 times in a global batch, and nothing
# says so. MapDataset and IterDataset are alike in this. A random_map before the
# slice is free of it, and costs no more, as it is lazy; so is a seed of the
# host's own right behind the slice.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  grain==0.2.18

cat >"$folder/try.py" <<'PYTHON'
import importlib.metadata
import sys

import grain

HOSTS = 2


class Draw(grain.transforms.RandomMap):

  def random_map(self, element, rng):
    return int(rng.integers(1000))


def slice_first(host):
  ds = grain.MapDataset.range(8).seed(0).shuffle()
  return list(ds[host::HOSTS].random_map(Draw()))


def as_iterator(host):
  ds = grain.MapDataset.range(8).seed(0).shuffle()
  return list(ds[host::HOSTS].to_iter_dataset().random_map(Draw()))


def map_first(host):
  ds = grain.MapDataset.range(8).seed(0).shuffle()
  return list(ds.random_map(Draw())[host::HOSTS])


def loader(host):
  shard = grain.sharding.ShardOptions(host, HOSTS)
  sampler = grain.samplers.IndexSampler(8, shard, num_epochs=1, seed=0)
  source = grain.sources.RangeDataSource(0, 8, 1)
  data = grain.DataLoader(
    data_source=source, sampler=sampler, operations=[Draw()]
  )
  return list(data)


print('grain', importlib.metadata.version('grain'))
found = {}
for make in (slice_first, as_iterator, map_first, loader):
  found[make] = [make(host) for host in range(HOSTS)]
  print(f'{make.__name__:11} host 0 {found[make][0]} host 1 {found[make][1]}')
same = {make: hosts[0] == hosts[1] for make, hosts in found.items()}
if not (same[slice_first] and same[as_iterator]):
  sys.exit('changed: each host draws its own numbers behind a slice')
if same[map_first] or same[loader]:
  sys.exit('changed: hosts draw alike before a slice, or in the DataLoader')
PYTHON
"$folder/venv/bin/python" "$folder/try.py"

# Seen:
# slice_first host 0 [94, 519, 402, 242] host 1 [94, 519, 402, 242]
# as_iterator host 0 [620, 194, 134, 26] host 1 [620, 194, 134, 26]
# map_first   host 0 [926, 599, 565, 929] host 1 [268, 855, 39, 381]
# loader      host 0 [34, 457, 317, 208] host 1 [458, 862, 206, 163]
