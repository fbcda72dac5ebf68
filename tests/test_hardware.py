"""The table of chips: what JAX calls a device has the right peak."""

import types

import pytest

from pixeldit_jax import hardware


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('TPU v4', 275e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12),
    ('TPU7x', 1153.5e12),  # two devices are one chip
    ('NVIDIA H100 80GB HBM3', 989e12),
  ],
)
def test_peak_of_one_device(kind, peak):
  device = types.SimpleNamespace(device_kind=kind)
  assert hardware.peak_flops(device) == peak


def test_a_chip_has_its_memory_and_rates():
  device = types.SimpleNamespace(device_kind='TPU v5p')
  chip = hardware.chip_of(device)
  assert chip == (459e12, 95 * 2**30, 2765e9, 600e9, 6.25e9)


def test_an_unknown_device_has_no_peak():
  device = types.SimpleNamespace(device_kind='cpu')
  assert hardware.peak_flops(device) is None
  with pytest.raises(ValueError, match='add it to CHIPS'):
    hardware.chip_of(device)
