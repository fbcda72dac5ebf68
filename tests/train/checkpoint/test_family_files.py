"""Released files of the family: recognised, sampled, fine-tuned, written."""

import numpy as np
import pytest

from pixeldit_jax.config import get_config
from pixeldit_jax.convert.files import read_weights
from pixeldit_jax.convert.safetensors import write_safetensors
from pixeldit_jax.errors import UserError
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.checkpoint.released import (
  from_workdir,
  infer_run,
  to_workdir,
)
from pixeldit_jax.train.checkpoint.restore import CheckpointRef, restore_weights
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.workdir import read_config

# What weights do not tell of a network that was not released, and its solver.
FAMILIES = {
  'deco': ({}, 'euler'),
  'pixnerd': ({}, 'euler'),
  'flatdit': ({}, 'euler'),
  'jit': ({'model.context_start': 2}, 'heun'),
  'pixeldit2': ({'model.context_start': 2}, 'heun'),
}
SAMPLED = FAMILIES | {'pmf': ({}, 'jump')}


def convert(family, golden, tmp_path):
  """The released weights of a family, a workdir of them, and its folder."""
  name = 'one_step' if family == 'pmf' else f'rivals/{family}'
  weights = golden(name).below('w')
  file, run = tmp_path / 'released.safetensors', str(tmp_path / 'run')
  write_safetensors(file, weights)
  known, solver = SAMPLED[family]
  overrides = known | {'data.resolution': 16, 'sampler.steps': 2}
  if family == 'pixeldit2':
    overrides['grounding.encoder'] = 'random'
  config = infer_run(file, overrides)
  assert config.sampler.solver == solver
  to_workdir(file, run, config)
  return weights, run, tmp_path


@pytest.fixture(params=FAMILIES)
def converted(request, golden, tmp_path):
  return convert(request.param, golden, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('family', SAMPLED)
def test_a_file_is_sampled_at_once_and_comes_back(
  family, golden, tmp_path, same_bits
):
  weights, run, tmp_path = convert(family, golden, tmp_path)
  context = RunContext.build(read_config(run))
  native, _ = restore_weights(CheckpointRef(run), context.model, context.mesh)
  labels = np.arange(8, dtype=np.int32) % context.model.num_classes
  sampler = Sampler(context, batch_size=8)
  (images,) = sampler.sample(native, np.arange(8), labels)
  assert images.shape == (8, 16, 16, 3) and images.std() > 1
  back = tmp_path / 'back.safetensors'
  from_workdir(run, back)
  same_bits(read_weights(back), weights)


@pytest.mark.slow
def test_a_file_is_fine_tuned(converted):
  pytest.importorskip('mlxtend')
  _, run, tmp_path = converted
  config = get_config()
  converted_config = read_config(run)
  config.model.update(converted_config.model)
  config.grounding.update(converted_config.grounding)
  config.data.update(source='digits', resolution=28, batch_size=8)
  config.update(steps=1, init_from=run)
  config.log.update(every=1, samples_every=0)
  state = train(RunContext.build(config), str(tmp_path / 'tuned'))
  assert int(state.step) == 1 and int(state.bad_steps) == 0


def test_the_second_average_of_jit_is_told_apart(golden, tmp_path, same_bits):
  torch = pytest.importorskip('torch')
  weights = golden('rivals/jit').below('w')
  sets = {
    name: {k: (scale * v).astype('f') for k, v in weights.items()}
    for name, scale in (('model', 1.0), ('model_ema1', 0.5), ('model_ema2', 2))
  }
  file = tmp_path / 'checkpoint-last.pth'
  named = {
    name: {f'net.{k}': torch.tensor(v) for k, v in tensors.items()}
    for name, tensors in sets.items()
  }
  torch.save(named | {'epoch': 600}, file)
  same_bits(read_weights(file), sets['model_ema1'])
  same_bits(read_weights(file, second=True), sets['model_ema2'])
  same_bits(read_weights(file, ema=False), sets['model'])
  del named['model_ema2']
  torch.save(named, file)
  with pytest.raises(UserError, match='no second average'):
    read_weights(file, second=True)


def test_names_of_several_families_need_the_family(golden, tmp_path):
  """The plain DiT's names next to DeCo's decoder are of neither alone."""
  both = {
    **golden('rivals/jit').below('w'),
    **golden('rivals/flatdit').below('w'),
  }
  file = tmp_path / 'both.safetensors'
  write_safetensors(file, both)
  overrides = {'data.resolution': 16}
  with pytest.raises(UserError) as error:
    infer_run(file, overrides)
  assert ' or ' in str(error.value) and 'family=' in str(error.value)
  assert infer_run(file, overrides, family='flatdit').sampler.steps == 50
  with pytest.raises(UserError, match="family='sit'"):
    infer_run(file, overrides, family='sit')


def test_a_file_of_another_family_names_both(golden, tmp_path):
  file = tmp_path / 'deco.safetensors'
  write_safetensors(file, golden('rivals/deco').below('w'))
  config = infer_run(file, {'data.resolution': 16})
  config.model.update(decoder='nerf_field', pixel_depth=1)
  with pytest.raises(UserError) as error:
    to_workdir(file, str(tmp_path / 'run'), config)
  told = str(error.value)
  assert 'deco' in told and 'pixnerd' in told
  assert not (tmp_path / 'run').exists()
