"""Files of the released forms, made from the golden weights."""

import json
import os
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import pytest

from pixeldit_jax.convert.files import fetch, read_weights
from pixeldit_jax.convert.lazy import compare
from pixeldit_jax.convert.lightning import write_lightning
from pixeldit_jax.convert.official import from_official, to_official
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.errors import UserError

torch = pytest.importorskip('torch')

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'
DTYPES = [np.float32, ml_dtypes.bfloat16]


def golden(name='c2i_forward', dtype=np.float32, scale=1.0):
  """The weights of a golden file, by inner names."""
  with np.load(GOLDEN / f'{name}.npz') as arrays:
    return {
      key[2:]: (scale * arrays[key]).astype(dtype)
      for key in arrays
      if key.startswith('w/')
    }


def to_torch(weights, rename=lambda name: name):
  def tensor(array):
    if array.dtype == ml_dtypes.bfloat16:
      bits = torch.from_numpy(array.view(np.int16))
      return bits.view(torch.bfloat16)
    return torch.from_numpy(array)

  return {rename(name): tensor(array) for name, array in weights.items()}


class NotATensor:
  """What a checkpoint may hold of its authors' code."""

  def __init__(self):
    self.path = pathlib.PurePosixPath('data')


@pytest.mark.parametrize('name', ['c2i_forward', 'c2i_forward_postmod'])
@pytest.mark.parametrize('dtype', DTYPES)
def test_lightning_round_trip_bit_for_bit(tmp_path, name, dtype, same_bits):
  path = tmp_path / 'a.ckpt'
  raw, ema = golden(name, dtype), golden(name, dtype, 0.5)
  write_lightning(path, raw, ema)
  same_bits(read_weights(path, ema=False), raw)
  same_bits(read_weights(path, ema=True), ema)
  # And back again, from the lazy tensors themselves.
  again = tmp_path / 'b.ckpt'
  write_lightning(again, read_weights(path, False), read_weights(path))
  same_bits(read_weights(again, ema=False), raw)
  same_bits(read_weights(again, ema=True), ema)


@pytest.mark.parametrize('dtype', DTYPES)
def test_torch_loads_what_we_write(tmp_path, dtype):
  path = tmp_path / 'a.ckpt'
  raw, ema = golden(dtype=dtype), golden(dtype=dtype, scale=0.5)
  write_lightning(path, raw, ema)
  assert zipfile.ZipFile(path).testzip() is None
  for mmap in (False, True):
    found = torch.load(path, weights_only=True, mmap=mmap)['state_dict']
    expected = to_torch(raw, 'denoiser.{}'.format)
    expected |= to_torch(ema, 'ema_denoiser.{}'.format)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
      assert found[key].dtype == tensor.dtype
      assert torch.equal(found[key], tensor), key
      assert found[key].data_ptr() % 4 == 0


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_released_form_with_all_that_it_may_carry(
  tmp_path, dtype, same_bits
):
  path = tmp_path / 'a.ckpt'
  raw, ema = golden(dtype=dtype), golden(dtype=dtype, scale=0.5)

  def compiled(name):
    first, rest = name.split('.', 1)
    return f'denoiser._orig_mod.{first}._orig_mod.{rest}'

  state_dict = to_torch(raw, compiled)
  state_dict |= to_torch(ema, 'ema_denoiser.module.{}'.format)
  state_dict['ema_denoiser.n_averaged'] = torch.tensor(7)
  state_dict['diffusion_trainer._repa_projector.0.weight'] = torch.ones(2)
  checkpoint = dict(
    state_dict=state_dict,
    epoch=79,
    hyper_parameters=dict(code=NotATensor()),
    optimizer_states=[dict(state={0: torch.ones(3)})],
  )
  torch.save(checkpoint, path)
  same_bits(read_weights(path, ema=False), raw)
  same_bits(read_weights(path, ema=True), ema)


@pytest.mark.parametrize('zipped', [True, False])
def test_plain_and_nested_pth(tmp_path, zipped, same_bits):
  path = tmp_path / 'a.pth'
  raw, ema = golden(), golden(scale=0.5)

  def save(found):
    torch.save(found, path, _use_new_zipfile_serialization=zipped)

  save(to_torch(raw) | {'_repa_projector.0.weight': torch.ones(1)})
  same_bits(read_weights(path), raw)  # the only set there is
  save({'model': to_torch(raw), 'ema': to_torch(ema), 'step': 3})
  same_bits(read_weights(path, ema=False), raw)
  same_bits(read_weights(path, ema=True), ema)
  # The text-to-image release.
  save(to_torch(raw, 'core.{}'.format) | {'_repa_projector.0': torch.ones(1)})
  same_bits(read_weights(path), raw)


def test_the_text_to_image_file_becomes_a_network(tmp_path, same_bits):
  weights = golden('t2i')
  path = tmp_path / 'pixeldit_t2i.pth'
  beside = {'_repa_projector.0.weight': torch.ones(2)}
  torch.save(to_torch(weights, 'core.{}'.format) | beside, path)
  model = from_official(read_weights(path))
  assert (model.config.text_width, model.config.time) == (24, 'noise')
  back = to_official(model)
  same_bits({name: back[name] for name in weights}, weights)


@pytest.mark.parametrize('dtype', DTYPES)
def test_safetensors_round_trip_bit_for_bit(tmp_path, dtype, same_bits):
  path = tmp_path / 'a.safetensors'
  raw, ema = golden(dtype=dtype), golden(dtype=dtype, scale=0.5)
  write_safetensors(path, raw)
  same_bits(read_weights(path), raw)
  both = {f'denoiser._orig_mod.{k}': v for k, v in raw.items()}
  write_safetensors(
    path, both | {f'ema_denoiser.{k}': v for k, v in ema.items()}
  )
  same_bits(read_weights(path, ema=False), raw)
  same_bits(read_weights(path, ema=True), ema)


def test_strided_and_shared_tensors_are_read_as_they_look(tmp_path):
  path = tmp_path / 'a.pth'
  table = torch.arange(12.0).reshape(3, 4)
  torch.save({'t': table.T, 'row': table[1], 'same': table}, path)
  found = read_weights(path)
  np.testing.assert_array_equal(found['t'], table.numpy().T)
  np.testing.assert_array_equal(found['row'], [4, 5, 6, 7])
  np.testing.assert_array_equal(found['same'], table.numpy())


def test_a_set_that_is_not_there_is_not_replaced_by_the_other(tmp_path):
  path = tmp_path / 'a.ckpt'
  torch.save({'state_dict': to_torch(golden(), 'denoiser.{}'.format)}, path)
  with pytest.raises(ValueError, match=r'no ema_denoiser.*ask for ema=False'):
    read_weights(path)
  torch.save({'state_dict': to_torch(golden(), 'ema_denoiser.{}'.format)}, path)
  with pytest.raises(ValueError, match=r'no denoiser\..*only the EMA'):
    read_weights(path, ema=False)


def test_two_names_of_one_tensor_are_refused(tmp_path):
  path = tmp_path / 'a.pth'
  torch.save({'x.w': torch.ones(1), 'x._orig_mod.w': torch.ones(1)}, path)
  with pytest.raises(ValueError, match=r'both x\.w and x\._orig_mod\.w'):
    read_weights(path)


class Attack:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_nothing_that_a_pickle_names_is_run(tmp_path, zipped):
  path, trace = tmp_path / 'a.ckpt', tmp_path / 'trace'
  found = {'w': torch.ones(2), 'code': Attack(trace)}
  torch.save(found, path, _use_new_zipfile_serialization=zipped)
  try:
    weights = read_weights(path)
  except ValueError as error:
    assert 'more than weights' in str(error)
  else:
    assert list(weights) == ['w']
  assert not trace.exists()
  torch.load(path, weights_only=False)
  assert trace.exists()  # it would have been run otherwise


def test_damaged_and_absent_files_are_refused(tmp_path):
  path = tmp_path / 'a.ckpt'
  write_lightning(path, golden(), golden())
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match='cut off'):
    read_weights(path)
  for other in (b'<html>not found</html>', b'root:x:0:0:root:/root:/bin/sh'):
    path.write_bytes(other)
    with pytest.raises(ValueError, match='a.ckpt'):
      read_weights(path)
  torch.save({'epoch': 3, 'state_dict': {}}, path)
  with pytest.raises(ValueError, match='holds no tensors'):
    read_weights(path)
  with pytest.raises(FileNotFoundError, match='nothing.pth is no file'):
    read_weights(tmp_path / 'nothing.pth')


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'a.ckpt'
  write_lightning(path, golden(), golden())
  before = path.read_bytes()

  class Failing(dict):
    reads = 0

    def __getitem__(self, name):
      self.reads += 1
      if self.reads > len(self) + 3:  # after the pass over the shapes
        raise OSError('gone')
      return super().__getitem__(name)

  with pytest.raises(OSError, match='gone'):
    write_lightning(path, Failing(golden()), golden())
  assert [*tmp_path.iterdir()] == [path]
  assert path.read_bytes() == before


def test_fetch_takes_a_file_of_the_hub(tmp_path, monkeypatch, same_bits):
  hub = pytest.importorskip('huggingface_hub')
  local = tmp_path / 'a.safetensors'
  write_safetensors(local, golden())

  def download(repository, name):
    if (repository, name) != ('nvidia/PixelDiT-ImageNet', 'sub/a.safetensors'):
      raise ConnectionError('no network')
    return str(local)

  monkeypatch.setattr(hub, 'hf_hub_download', download)
  address = 'hf://nvidia/PixelDiT-ImageNet/sub/a.safetensors'
  assert fetch(address) == local
  same_bits(read_weights(address), golden())
  with pytest.raises(FileNotFoundError, match='no network.*Download it'):
    fetch('hf://nvidia/PixelDiT-ImageNet/b.ckpt')
  with pytest.raises(ValueError, match='organisation/repository/file'):
    fetch('hf://nvidia/a.ckpt')

  there = ['README.md', 'sub/a.safetensors']
  monkeypatch.setattr(hub, 'list_repo_files', lambda repository: there)
  assert fetch('hf://nvidia/PixelDiT-ImageNet') == local
  there.append('b.pth')
  with pytest.raises(UserError, match='2 of weights .b.pth, sub/a.safe'):
    fetch('hf://nvidia/PixelDiT-ImageNet/')
  there[:] = ['README.md']
  with pytest.raises(UserError, match='0 of weights .none'):
    fetch('hf://nvidia/PixelDiT-ImageNet')

  def unreachable(repository):
    raise pytest.importorskip('httpx').ConnectError('[Errno -2] Name unknown')

  monkeypatch.setattr(hub, 'list_repo_files', unreachable)
  with pytest.raises(FileNotFoundError, match='Name unknown.*Download it'):
    fetch('hf://nvidia/PixelDiT-ImageNet')
  monkeypatch.setattr(hub, 'list_repo_files', lambda repository: 1 / 0)
  with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
    fetch('hf://nvidia/PixelDiT-ImageNet')


def test_compare_lists_all_that_does_not_fit(tmp_path):
  path = tmp_path / 'a.safetensors'
  weights = golden()
  expected = {name: array.shape for name, array in weights.items()}
  compare(expected, weights)
  weights['more'] = weights.pop('final_layer.norm.weight')
  weights['final_layer.linear.bias'] = np.zeros(4, np.float32)
  write_safetensors(path, weights)
  with pytest.raises(ValueError) as error:
    compare(expected, read_weights(path))
  assert str(error.value).splitlines() == [
    '3 tensors do not fit:',
    '  missing: final_layer.norm.weight (8,)',
    '  extra: more (8,)',
    '  other shape: final_layer.linear.bias is (4,), expected (3,)',
  ]


@pytest.mark.parametrize(
  'rename',
  [
    'model.diffusion_model.{}',
    'diffusion_model.{}',
    '_fsdp_wrapped_module.{}',
    'model.backbone.{}',
  ],
)
def test_names_of_wrappers_are_left_out(tmp_path, rename, same_bits):
  weights = golden()
  named = {
    rename.format(name.replace('.0.', '.0._checkpoint_wrapped_module.')): array
    for name, array in weights.items()
  }
  write_safetensors(tmp_path / 'a.safetensors', named)
  same_bits(read_weights(tmp_path / 'a.safetensors'), weights)


def test_weights_in_several_files_are_read_by_their_index(tmp_path, same_bits):
  weights = golden()
  parts = [dict(list(weights.items())[k::2]) for k in range(2)]
  file_of = {}
  for k, part in enumerate(parts):
    name = f'model-0000{k + 1}-of-00002.safetensors'
    write_safetensors(tmp_path / name, part)
    file_of |= dict.fromkeys(part, name)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': file_of}))
  same_bits(read_weights(index), weights)
  index.write_text(json.dumps({'weight_map': file_of | {'more': name}}))
  with pytest.raises(UserError, match=r"1 tensors are not in .*'more'"):
    read_weights(index)
  index.write_text(json.dumps({'weight_map': {'a': '../b.safetensors'}}))
  with pytest.raises(UserError, match='no file next to it'):
    read_weights(index)
