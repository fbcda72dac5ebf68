"""Sample sets of prompts, their grid, and exports to benchmarks."""

import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from pixeldit_jax import config as defaults
from pixeldit_jax.encoders.words import WordEncoder
from pixeldit_jax.errors import UserError
from pixeldit_jax.images.image_sets import open_images
from pixeldit_jax.model.pixeldit import abstract_model, weights_of
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling import benchmark_exports, sample_set, set_pictures
from pixeldit_jax.sampling.text_sampler import Prompts
from pixeldit_jax.train.checkpoint.restore import CheckpointRef

TEXTS = ['a red seven', 'blue digit 2', 'a green one']


@pytest.fixture(scope='module')
def text_run(tmp_path_factory):
  """The context of a run with texts, never trained, and its EMA."""
  import jax

  config = defaults.get_config()
  config.model.update(num_classes=0, text_width=16)
  defaults.make_debug(config)
  config.model.update(patch_depth=1, scan=False)
  config.data.resolution = 14
  random = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda a: random.normal(0, 0.3, a.shape).astype(a.dtype),
    weights_of(abstract_model(defaults.model_config(config))),
  )
  workdir = tmp_path_factory.mktemp('text_run')
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(workdir / 'checkpoints' / '4' / 'ema', weights)
  return RunContext.build(config), CheckpointRef(str(workdir))


@pytest.mark.slow
def test_prompts_take_turns_and_stand_below_their_images(text_run, tmp_path):
  prompts = Prompts(TEXTS, WordEncoder(), size=(14, 21))
  path = tmp_path / 'samples.npz'
  settings = sample_set.make_sample_set(*text_run, path, 7, prompts=prompts)
  assert settings['prompts'] == TEXTS and settings['size'] == [14, 21]
  with np.load(path) as file:
    assert file['arr_0'].shape == (7, 14, 21, 3)
    assert 'arr_1' not in file  # numbers of prompts are no classes
  set_pictures.write_grid(tmp_path / 'grid.png', path, prompts)
  grid = np.asarray(Image.open(tmp_path / 'grid.png'))
  bare = np.full_like(grid, 255)
  assert (grid == bare).any() and grid.shape[0] > 3 * 128

  # The same again is what is there; another wish is another set.
  before = path.read_bytes()
  sample_set.make_sample_set(*text_run, path, 7, prompts=prompts)
  assert path.read_bytes() == before
  for other in (
    Prompts(TEXTS[::-1], WordEncoder(), size=(14, 21)),
    Prompts(TEXTS, WordEncoder(), 'dark', (14, 21)),
  ):
    with pytest.raises(UserError, match='stored, .* asked for'):
      sample_set.make_sample_set(*text_run, path, 7, prompts=other)


def test_a_benchmark_gets_four_images_of_each_prompt(text_run, tmp_path):
  (tmp_path / 'in').mkdir()
  for number, text in enumerate(TEXTS):
    (tmp_path / 'in' / f'{number}.txt').write_text(text)
  out = tmp_path / 'out'
  benchmark = benchmark_exports.open_export(f'dpg:{tmp_path}/in', out)
  prompts = Prompts(benchmark.prompts, WordEncoder(), size=(14, 21))
  benchmark_exports.export_run(*text_run, benchmark, prompts)
  assert sorted(p.name for p in out.iterdir()) == ['0.png', '1.png', '2.png']
  assert Image.open(out / '1.png').size == (42, 28)

  # One that was stopped goes on, but not with other images.
  (out / '1.png').unlink()
  kept, old = (out / '0.png').stat().st_mtime_ns, (out / '2.png').read_bytes()
  benchmark_exports.export_run(*text_run, benchmark, prompts)
  assert (out / '1.png').exists()
  assert (out / '0.png').stat().st_mtime_ns == kept
  other = Prompts(benchmark.prompts, WordEncoder(), 'dark', (14, 21))
  with pytest.raises(UserError, match='negative:  stored, dark asked for'):
    benchmark_exports.export_run(*text_run, benchmark, other)
  benchmark_exports.export_run(*text_run, benchmark, other, overwrite=True)
  assert (out / '2.png').read_bytes() != old
  (tmp_path / 'out.json').unlink()
  with pytest.raises(ValueError, match='no .*out.json says how'):
    benchmark_exports.export_run(*text_run, benchmark, other)


def test_a_size_that_does_not_divide_leaves_nothing(text_run, tmp_path):
  for size in ((14, 15), (-14, 14), (0, 14)):
    prompts = Prompts(TEXTS, WordEncoder(), size=size)
    with pytest.raises(ValueError, match='does not divide'):
      path = tmp_path / 'samples.npz'
      sample_set.make_sample_set(*text_run, path, 3, prompts=prompts)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_several_sizes_share_the_prompts_and_can_be_measured(
  text_run, tmp_path
):
  prompts = Prompts(TEXTS, WordEncoder())
  sizes = {(14, 21): 1.0, (21, 14): 1.0}
  sample_set.make_sized_sets(*text_run, tmp_path, 6, prompts, sizes)
  images = open_images(tmp_path / 'images', 6)
  assert images.sizes() == set(sizes)
  for height, width in sizes:
    name = f'{height}x{width}'
    assert (tmp_path / f'{name}.png').is_file()
    with np.load(tmp_path / f'{name}.npz') as arrays:
      assert arrays['arr_0'].shape == (3, height, width, 3)
  with pytest.raises(ValueError, match='does not divide'):
    sizes = {(14, 14): 1.0, (14, 15): 1.0}
    sample_set.make_sized_sets(*text_run, tmp_path / 'x', 6, prompts, sizes)
  assert not (tmp_path / 'x').exists()


def test_sizes_get_their_shares():
  sizes = {(4, 4): 0.5, (4, 8): 0.3, (8, 4): 0.2}
  found = sample_set.split_over_sizes(['a', 'b'], 1000, sizes)
  shares = [len(found[size]) / 1000 for size in sizes]
  np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.005)
  texts = [text for given in found.values() for text in given]
  assert texts.count('a') == texts.count('b') == 500
