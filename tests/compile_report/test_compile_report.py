"""Training as the TPU compiler has it: FSDP's traffic, no full copies."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from pixeldit_jax import sharding
from pixeldit_jax.compile_report.report import compile_report, describe
from pixeldit_jax.compile_report.tpu_topology import (
  OutOfMemory,
  compile_for_tpu,
  hbm_bytes,
  make_topology,
  summarize_exhausted,
)
from pixeldit_jax.config import get_config, make_debug
from pixeldit_jax.hardware import chip_of


def xl_of_two_blocks():
  """XL with fewer blocks: its widths, and the lengths of 128 x 128 images."""
  config = get_config()
  config.model.update(patch_depth=2, pixel_depth=1, dtype='bfloat16')
  config.data.update(resolution=128, batch_size=16)
  config.mesh.update(data=1, fsdp=-1)
  return config


@pytest.mark.slow
@pytest.mark.parametrize('resolution', [128, 512])
def test_training_has_the_traffic_of_fsdp_and_no_full_or_padded_arrays(
  resolution,
):
  """With attention by two products, and by our kernel of long sequences.

  Splash attention, the default there, pads its heads of 72.
  """
  pytest.importorskip('libtpu')
  config = xl_of_two_blocks()
  config.data.resolution = resolution
  if resolution == 512:
    config.model.attention = 'flash'
  report = compile_report(config, 'v5e:4x4', 'train')
  moved = report['collectives'].values()
  assert 2.5 < sum(kind['per_parameter'] for kind in moved) < 3.5
  assert report['replicated'] == [] and report['padded'] == []
  memory, parameters = report['memory'], report['parameters']
  # Weights, average and two moments, of which a chip holds a sixteenth.
  assert memory['arguments'] < 1.02 * 4 * 4 * parameters / 16 + 2**20
  assert memory['arguments'] < memory['peak'] < memory['hbm']
  assert report['extra_flops'] < 0.1
  assert any('all-gather' in line for line in describe(report))


@pytest.mark.slow
def test_shares_of_whole_tiles_are_gathered_and_scattered():
  """On the links of a torus, and not summed over all chips."""
  pytest.importorskip('libtpu')
  config = xl_of_two_blocks()
  config.mesh.update(data=16, fsdp=4)
  config.data.batch_size = 64
  report = compile_report(config, 'v5p:4x4x4', 'train')
  moved = {k: v['per_parameter'] for k, v in report['collectives'].items()}
  assert moved['all-gather'] > 1.8 and moved['reduce-scatter'] > 0.8
  assert moved['all-reduce'] < 0.4


@pytest.mark.parametrize(
  'topology, slices, mesh, kind',
  [
    ('v4:2x2x2', 1, dict(fsdp=8), 'TPU v4'),
    ('v5e:1x1', 1, {}, 'TPU v5 lite'),
    ('v6e-1', 1, {}, 'TPU v6 lite'),
    ('v5p:4x4x4', 1, dict(fsdp=32, tensor=2), 'TPU v5'),
    ('v6e:8x8', 1, dict(data=16, fsdp=4), 'TPU v6 lite'),
    ('tpu7x:2x2x1', 1, dict(fsdp=8), 'TPU7x'),  # two devices a chip
    ('v5e:4x4', 2, dict(data=4, fsdp=8), 'TPU v5 lite'),
    ('v6e:8x8', 2, dict(data=32, fsdp=4), 'TPU v6 lite'),
  ],
)
def test_meshes_are_made_of_all_kinds_and_of_parts_of_a_torus(
  topology, slices, mesh, kind
):
  pytest.importorskip('libtpu')
  devices = make_topology(topology, slices)
  made = sharding.make_mesh(dict(mesh, slices=slices), devices)
  assert {k: n for k, n in made.shape.items() if n > 1} == mesh
  assert devices[0].device_kind == kind and chip_of(devices[0]).flops
  of_slice = made.devices.reshape(slices, -1)
  for number, row in enumerate(of_slice):
    assert {getattr(d, 'slice_index', 0) for d in row} == {number}


def test_an_unknown_slice_is_refused():
  pytest.importorskip('libtpu')
  with pytest.raises(ValueError, match='v5e:4x4'):
    make_topology('v9:1x1')


def test_what_slices_exchange_is_told_apart():
  """The gradients of a replica, a share of which each chip holds."""
  pytest.importorskip('libtpu')
  config = get_config()
  make_debug(config)
  config.mesh.update(data=2, fsdp=4, slices=2)
  report = compile_report(config, 'v5e:2x2', 'train')
  of_share = report['between_slices']['per_parameter']
  assert 0.25 < of_share < 1  # small ones are not sharded, and padded
  assert report['between_slices']['runs'] > 10
  assert report['roofline']['network'] == pytest.approx(
    report['between_slices']['bytes'] / (25e9 / 8)
  )
  assert any('between slices' in line for line in describe(report))


@pytest.mark.slow
def test_an_error_of_memory_names_the_largest_arrays():
  pytest.importorskip('libtpu')
  config = xl_of_two_blocks()
  config.model.patch_depth = 1
  config.data.batch_size = 16 * 1024  # and no rematerialisation
  with pytest.raises(OutOfMemory) as refused:
    compile_report(config, 'v5e:4x4', 'train')
  needed, *largest = refused.value.lines
  assert re.fullmatch(r'needs \d+\.\d+G of 15\.75G HBM', needed)
  assert len(largest) == 5
  # The hidden layer of all pixels is 2 GiB of it.
  assert any(
    '2.00GiB' in line and '[1024,64,256,64]' in line for line in largest
  )


def test_the_peak_counts_hbm_only():
  """A loop whose state stays in the vector memory of the chip."""
  pytest.importorskip('libtpu')
  device = SingleDeviceSharding(make_topology('v5e:2x2')[0])
  x, w = (
    jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=device)
    for shape in ((2048, 1024), (8, 1024, 1024))
  )

  def layers(x, w):
    return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, w)[0]

  compiled = compile_for_tpu(jax.jit(layers).lower(x, w))
  arrays = 2 * (2 * 2048 * 1024 + 8 * 1024 * 1024)  # arguments and result
  assert arrays <= compiled.hbm_bytes < arrays + 2**20
  peak = compiled.program.memory_analysis().peak_memory_in_bytes
  assert peak > arrays + 4 * 2**20  # JAX's figure has the state as well


def test_hbm_is_the_default_memory_space_of_the_report():
  report = (
    'Memory Space: default (color=0)\nTotal bytes: 25,217,536 (24.05MiB)\n'
    'Memory Space: vmem (color=1)\nTotal bytes: 8388608 (8.00MiB)\n'
  )
  assert hbm_bytes(report) == 25217536
  with pytest.raises(ValueError, match='memory space'):
    hbm_bytes('')


def test_out_of_memory_is_listed_in_lines():
  error = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (18.30G) exceeds available HBM (15.75G).'
  )
  report = (
    'Memory Space: default (color=0)\nTotal bytes: 19645856768 (18.30GiB)\n'
    '  cumulative_size;  size;  offset; used_by_n_values; shapes_list\n'
    '    3.00GiB( 10%);  3.00GiB;   82416;  4; bf16[8,64,1], 3×f32[4]\n'
    '    4.00GiB( 15%);  1.00GiB;   9;  1; s8[], u8[1], u8[2], u8[3]\n'
  )
  assert summarize_exhausted(error, report) == [
    'needs 18.30G of 15.75G HBM',
    '3.00GiB bf16[8,64,1] f32[4]',
    '1.00GiB s8[] u8[1] u8[2] and 1 more',
  ]
  other = 'RESOURCE_EXHAUSTED: no room.\nmore'
  assert summarize_exhausted(other, '') == ['RESOURCE_EXHAUSTED: no room.']
