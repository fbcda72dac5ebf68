import json

import ml_dtypes
import numpy as np
import pytest

from pixeldit_jax.convert.safetensors import (
  read_safetensors,
  write_safetensors,
)

DTYPES = [
  np.float64,
  np.float32,
  np.float16,
  ml_dtypes.bfloat16,
  np.int64,
  np.int32,
  np.int16,
  np.int8,
  np.uint8,
  np.bool_,
]


def arrays():
  """Every dtype, odd sizes, a scalar and nothing at all."""
  rng = np.random.default_rng(0)
  values = rng.normal(size=(3, 5)) * 9
  out = {np.dtype(dtype).name: values.astype(dtype) for dtype in DTYPES}
  out['scalar'] = np.array(3.5, np.float32)
  out['empty'] = np.zeros((0, 4), np.float32)
  return out


def test_round_trip_bit_for_bit(tmp_path, same_bits):
  path = tmp_path / 'a.safetensors'
  write_safetensors(path, arrays())
  same_bits(read_safetensors(path), arrays())


def test_the_library_reads_what_we_write(tmp_path):
  safetensors = pytest.importorskip('safetensors.torch')
  path = tmp_path / 'a.safetensors'
  write_safetensors(path, arrays())
  found = safetensors.load_file(path)
  assert set(found) == set(arrays())
  for name, array in arrays().items():
    data = found[name].contiguous().flatten()
    bits = data.view(safetensors.torch.uint8) if data.numel() else data
    assert bits.numpy().tobytes() == array.tobytes(), name


def test_we_read_what_the_library_writes(tmp_path, same_bits):
  safetensors = pytest.importorskip('safetensors.numpy')
  path = tmp_path / 'a.safetensors'
  safetensors.save_file(arrays(), path, metadata={'format': 'pt'})
  same_bits(read_safetensors(path), arrays())


def test_shapes_are_known_without_reading(tmp_path):
  path = tmp_path / 'a.safetensors'
  write_safetensors(path, arrays())
  tensors = read_safetensors(path)
  path.unlink()
  assert tensors.specs['bfloat16'] == ((3, 5), ml_dtypes.bfloat16)
  assert 'scalar' in tensors and 'other' not in tensors
  with pytest.raises(FileNotFoundError):
    tensors['scalar']


def test_damaged_files_are_refused(tmp_path):
  path = tmp_path / 'a.safetensors'
  write_safetensors(path, arrays())
  whole = path.read_bytes()
  path.write_bytes(whole[:-1])
  with pytest.raises(ValueError, match=f'cut off: {len(whole) - 1} bytes'):
    read_safetensors(path)
  path.write_bytes(whole[:20])
  with pytest.raises(ValueError, match='no safetensors file'):
    read_safetensors(path)
  entry = {'dtype': 'F4', 'shape': [2], 'data_offsets': [0, 1]}
  header = json.dumps({'x': entry}).encode()
  path.write_bytes(len(header).to_bytes(8, 'little') + header + b'0')
  with pytest.raises(ValueError, match='x is F4; expected one of'):
    read_safetensors(path)


def test_dtypes_without_a_name_are_refused_before_writing(tmp_path):
  path = tmp_path / 'a.safetensors'
  with pytest.raises(ValueError, match='x is complex64'):
    write_safetensors(path, {'x': np.zeros(2, np.complex64)})
  assert not any(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  tmp_path, same_bits
):
  path = tmp_path / 'a.safetensors'
  write_safetensors(path, arrays())

  class Failing(dict):
    asked = 0

    def __getitem__(self, name):
      Failing.asked += 1
      if Failing.asked > len(arrays()) + 3:
        raise OSError('gone')
      return super().__getitem__(name)

  with pytest.raises(OSError, match='gone'):
    write_safetensors(path, Failing(arrays()))
  assert [*tmp_path.iterdir()] == [path]
  same_bits(read_safetensors(path), arrays())
