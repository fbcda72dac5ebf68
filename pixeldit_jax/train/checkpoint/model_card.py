"""A model card beside exported weights: what they are, how they were made."""

import json

from etils import epath

from pixeldit_jax import files
from pixeldit_jax.errors import UserError
from pixeldit_jax.train.run import workdir as run_folder
from pixeldit_jax.train.run.tensorboard import read_events

_PICTURE = 'samples.png'
_HEAD = '---\nlibrary_name: pixeldit_jax\n'  # of every card


def write_model_card(
  workdir: str, target: epath.Path, step: int, repository: str = ''
) -> list[epath.Path]:
  """Writes README.md, and the newest picture of samples, beside a file.

  Args:
    workdir: the run.
    target: the exported file.
    step: of its checkpoint.
    repository: 'user/name' of the hub, where the file will be.

  Returns:
    The files that were written.

  Raises:
    UserError: there is a README.md already that is no card of ours.
  """
  card = target.parent / 'README.md'
  check_card(target)
  pictures = read_events(epath.Path(workdir) / 'events').images
  shown = [png for at, png in pictures.get('samples', ()) if at <= step]
  name = f'hf://{repository}/{target.name}' if repository else target.name
  files.write_text(card, model_card(workdir, name, step, bool(shown)))
  if not shown:
    return [card]
  files.write_bytes(target.parent / _PICTURE, shown[-1])
  return [card, target.parent / _PICTURE]


def check_card(target: epath.Path) -> None:
  """Raises UserError where a card would replace a file that is none of ours."""
  card = target.parent / 'README.md'
  if card.exists() and not card.read_bytes().startswith(_HEAD.encode()):
    raise UserError(
      f'{card} is there already: give --out a folder of its own for --card.'
    )


def model_card(workdir: str, name: str, step: int, picture: bool) -> str:
  """The text of the card, with the metadata that the Hugging Face hub reads.

  Args:
    workdir: the run.
    name: of the exported file, or its address.
    step: of its checkpoint.
    picture: whether samples.png stands beside it.
  """
  config = run_folder.read_config(workdir)
  model, data, sampler = config.model, config.data, config.sampler
  task = (
    'text-to-image' if model.text_width else 'unconditional-image-generation'
  )
  side = data.resolution
  lines = [
    _HEAD.rstrip(),
    f'pipeline_tag: {task}',
    'tags: [pixeldit, diffusion, flow-matching, jax]',
    '---',
    '',
    f'# {epath.Path(workdir).name}',
    '',
    f'A PixelDiT that draws images of {side} x {side} pixels without an '
    f'autoencoder, at step {step:,} of its training.',
  ]
  if picture:
    lines += ['', f'![Samples]({_PICTURE})']
  lines += ['', '## Use', '', '```python', 'import pixeldit_jax as pd', '']
  lines += [f"model = pd.load('{name}')", '```', '', '## Training', '']
  lines += _table(
    dict(
      data=data.source,
      resolution=side,
      batch_size=data.batch_size,
      steps=f'{step:,} of {config.steps:,}',
      optimizer=config.optimizer.name,
      learning_rate=config.optimizer.learning_rate,
      ema=config.ema.decay,
      seed=config.seed,
    )
  )
  lines += ['', '## Sampler', '', *_table(sampler.to_dict())]
  measured = {
    at: found
    for at, found in run_folder.read_evaluations(workdir).items()
    if at <= step
  }
  if measured:
    newest = max(measured)
    lines += ['', f'## Evaluation at step {newest:,}', '']
    lines += _table({k: f'{v:.4g}' for k, v in measured[newest].items()})
  history = run_folder.read_history(workdir)
  if history:
    lines += ['', '## History', '']
    lines += [f'- {h["time"]}: {h["event"]}' for h in history[-10:]]
  lines += ['', '## Network', '', '```json']
  lines += [json.dumps(model.to_dict(), indent=2), '```']
  return '\n'.join(lines) + '\n'


def _table(values: dict) -> list[str]:
  rows = [
    f'| {k} | {str(v).replace("|", chr(92) + "|")} |' for k, v in values.items()
  ]
  return ['| | |', '|---|---|', *rows]
