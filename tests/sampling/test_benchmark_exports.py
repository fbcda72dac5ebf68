"""The layouts that GenEval and DPG-Bench read."""

import json

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.sampling.benchmark_exports import export_samples, open_export

LINES = [
  {'tag': 'single_object', 'prompt': 'a photo of a bench', 'include': []},
  {'tag': 'counting', 'prompt': 'a photo of two cats', 'include': []},
  {'tag': 'colors', 'prompt': 'a photo of a red cup', 'include': []},
]


class Sampler:
  """Images of 4 x 6 whose colour is their index; it remembers the prompts."""

  def __init__(self):
    self.seen = {}

  def sample(self, texts, indices):
    self.seen |= dict(zip(indices.tolist(), texts))
    for index in indices:
      yield np.full((1, 4, 6, 3), index, np.uint8)


@pytest.fixture
def geneval(tmp_path):
  path = tmp_path / 'evaluation_metadata.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in LINES))
  return f'geneval:{path}'


@pytest.fixture
def dpg(tmp_path):
  (tmp_path / 'prompts').mkdir()
  for name in ('stanford7', '12', '3'):
    (tmp_path / 'prompts' / f'{name}.txt').write_text(f'prompt of {name}\n')
  return f'dpg:{tmp_path}/prompts'


def pixels(path):
  return np.asarray(Image.open(path))


def test_geneval_has_a_folder_for_each_line(geneval, tmp_path):
  sampler, out = Sampler(), tmp_path / 'out'
  export_samples(open_export(geneval, out), sampler, 2)
  assert sorted(p.name for p in out.iterdir()) == ['00000', '00001', '00002']
  for i, line in enumerate(LINES):
    folder = out / f'{i:05d}'
    assert json.loads((folder / 'metadata.jsonl').read_text()) == line
    files = sorted((folder / 'samples').iterdir())
    assert [f.name for f in files] == [f'{k:04d}.png' for k in range(4)]
    for k, file in enumerate(files):
      assert pixels(file).shape == (4, 6, 3)
      assert (pixels(file) == 4 * i + k).all()
      assert sampler.seen[4 * i + k] == line['prompt']


def test_dpg_has_one_picture_of_four_for_each_prompt(dpg, tmp_path):
  sampler, out = Sampler(), tmp_path / 'out'
  export_samples(open_export(dpg, out), sampler, 5)
  names = ['12', '3', 'stanford7']
  assert sorted(p.stem for p in out.iterdir()) == names
  for i, name in enumerate(names):
    grid = pixels(out / f'{name}.png')
    assert grid.shape == (8, 12, 3)
    corners = grid[0, 0, 0], grid[0, -1, 0], grid[-1, 0, 0], grid[-1, -1, 0]
    assert corners == tuple(range(4 * i, 4 * i + 4))
    assert sampler.seen[4 * i] == f'prompt of {name}'


def test_marks_empty_lines_and_files_of_systems_are_no_prompts(dpg, tmp_path):
  lines = '\ufeff{"prompt": "a"}\n\n{"prompt": "b"}\n\n'
  (tmp_path / 'marked.jsonl').write_text(lines, encoding='utf-8')
  found = open_export(f'geneval:{tmp_path}/marked.jsonl', tmp_path / 'out')
  assert found.prompts == ['a', 'b']
  (tmp_path / 'prompts' / '._3.txt').write_bytes(b'\0\5Mac OS X')
  (tmp_path / 'prompts' / '3.txt').write_bytes(b'\xef\xbb\xbfthree\n')
  found = open_export(dpg, tmp_path / 'out')
  assert found.prompts == ['prompt of 12', 'three', 'prompt of stanford7']


def test_what_is_there_is_not_made_again(geneval, tmp_path):
  out = tmp_path / 'out'
  benchmark = open_export(geneval, out)
  benchmark.write(1, np.zeros((4, 4, 6, 3), np.uint8))
  (out / '00002.part').mkdir()  # of a stop in the middle
  sampler = Sampler()
  export_samples(benchmark, sampler, 1)
  assert sorted(sampler.seen) == [0, 1, 2, 3, 8, 9, 10, 11]
  assert (pixels(out / '00001/samples/0000.png') == 0).all()
  assert (pixels(out / '00002/samples/0001.png') == 9).all()


def test_prompts_that_are_none_are_refused(tmp_path):
  bad = tmp_path / 'bad.jsonl'
  bad.write_text('{"prompt": "a cat"}\n{"text": "a dog"}\n')
  with pytest.raises(ValueError, match='bad.jsonl, line 2.*prompt'):
    open_export(f'geneval:{bad}', tmp_path)
  bad.write_text('{"prompt": 3}\n')
  with pytest.raises(ValueError, match='bad.jsonl, line 1'):
    open_export(f'geneval:{bad}', tmp_path)
  bad.write_text('')
  with pytest.raises(ValueError, match='is empty'):
    open_export(f'geneval:{bad}', tmp_path)
  with pytest.raises(FileNotFoundError, match='is no file'):
    open_export(f'geneval:{tmp_path}', tmp_path)
  with pytest.raises(FileNotFoundError, match='no .txt files'):
    open_export(f'dpg:{tmp_path}', tmp_path)
  with pytest.raises(ValueError, match='geneval:FILE'):
    open_export('coco:x', tmp_path)
