"""The card beside exported weights."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from pixeldit_jax.config import get_config
from pixeldit_jax.train.checkpoint.model_card import write_model_card
from pixeldit_jax.train.run import workdir
from pixeldit_jax.train.run.tensorboard import EventFiles


def test_it_tells_what_the_weights_are(tmp_path):
  run, target = tmp_path / 'run', tmp_path / 'out' / 'weights.safetensors'
  config = get_config()
  config.data.source = 'folder:/data/a|b'
  workdir.write_config(str(run), config)
  workdir.add_history(str(run), 'start')
  workdir.add_evaluation(str(run), 10, dict(fid=9.5))
  workdir.add_evaluation(str(run), 30, dict(fid=4.25))
  board = EventFiles(epath.Path(run) / 'events', 0)
  for step in (10, 20, 30):
    picture = np.full((4, 4, 3), step, np.uint8)
    board.add(step, {}, {'samples': picture})
  board.close()
  target.parent.mkdir()
  write_model_card(str(run), target, step=20)
  text = (target.parent / 'README.md').read_text()
  assert text.startswith('---\nlibrary_name: pixeldit_jax\n')
  assert "pd.load('weights.safetensors')" in text
  assert '| steps | 20 of ' in text and 'folder:/data/a\\|b' in text
  assert (
    'Evaluation at step 10' in text and '9.5' in text and '4.25' not in text
  )
  assert '![Samples](samples.png)' in text
  assert np.asarray(Image.open(target.parent / 'samples.png'))[0, 0, 0] == 20
  network = json.loads(text.split('```json\n')[1].split('```')[0])
  assert network['patch_depth'] == config.model.patch_depth
  write_model_card(str(run), target, step=30, repository='me/mine')
  text = (target.parent / 'README.md').read_text()
  assert "pd.load('hf://me/mine/weights.safetensors')" in text
  (target.parent / 'README.md').write_text('# Mine')
  with pytest.raises(ValueError, match='README.md is there already'):
    write_model_card(str(run), target, step=20)
