"""Trains each network of the family on the digits at equal operations.

  python .ci/compare_family.py build/family 250

Operations are those that PixelDiT takes for so many steps; every network gets
the recipe `mnist:model=...` and as many steps as they pay for, its encoder
counted. Prints a table, and draws curves.png and samples.png in the folder (one
row a network, from the same noise). Stopped and run again, it goes on where it
was.
"""

import pathlib
import sys

import jax
import numpy as np

from pixeldit_jax.cli.config_flag import load
from pixeldit_jax.convert.vision import write_dinov2
from pixeldit_jax.demo.digit_teacher import train_digit_teacher
from pixeldit_jax.encoders import vision
from pixeldit_jax.eval import feature_networks
from pixeldit_jax.images.grid import image_grid, write_png
from pixeldit_jax.images.plots import line_plot
from pixeldit_jax.model.cost import count_parameters, train_flops
from pixeldit_jax.run_context import RunContext
from pixeldit_jax.sampling.sampler import Sampler
from pixeldit_jax.train.loop import train
from pixeldit_jax.train.run.workdir import read_evaluations

# Name in the table, option of mnist.py, whether it is grounded.
ROWS = [
  ('PixelDiT', 'pixeldit', False),
  ('PixelDiT, grounded', 'pixeldit', True),
  ('PixelDiT2', 'pixeldit2', True),
  ('DeCo', 'deco', False),
  ('PixNerd', 'pixnerd', False),
  ('plain DiT', 'flatdit', False),
  ('JiT', 'jit', False),
]
SIDE, EVALUATIONS, SAMPLES, SAMPLER_STEPS = 28, 3, 200, 12


def main(folder: pathlib.Path, steps_of_pixeldit: int) -> None:
  encoder = folder / 'encoder.safetensors'
  if not encoder.is_file():
    folder.mkdir(parents=True, exist_ok=True)
    config, weights, _ = train_digit_teacher()
    write_dinov2(encoder, config, weights)
  base = RunContext.build(load('mnist'))
  budget = steps_of_pixeldit * step_flops(base)
  print('| network | parameters | GFLOPs | steps | agreement |', flush=True)
  print('|---|--:|--:|--:|--:|')
  curves, rows = {}, []
  for name, model, grounded in ROWS:
    config = load(f'mnist:model={model}')
    if grounded:
      config.model.grounding_width = 64
      config.grounding.encoder = str(encoder)
    flops = step_flops(RunContext.build(config))
    config.steps = round(budget / flops)
    config.eval.update(
      every=-(-config.steps // EVALUATIONS), samples=SAMPLES, features='digits'
    )
    config.checkpoint.every = config.eval.every
    config.sampler.steps = SAMPLER_STEPS
    context = RunContext.build(config)
    workdir = str(folder / name.replace(' ', '_').replace(',', ''))
    evaluator = feature_networks.make_evaluator(context)
    state = train(context, workdir, [evaluator])
    found = read_evaluations(workdir)
    curves[name] = [
      (step * flops / 1e12, 100 * metrics['class_agreement'])
      for step, metrics in sorted(found.items())
    ]
    rows.append(samples(context, jax.device_get(state.ema)))
    forward = flops / config.data.batch_size / 3e9
    print(
      f'| {name} | {count_parameters(context.model):,} | {forward:.4f} | '
      f'{config.steps} | {curves[name][-1][1]:.1f}% |',
      flush=True,
    )
    draw(folder, curves, rows)


def draw(folder: pathlib.Path, curves: dict, rows: list) -> None:
  line_plot(
    folder / 'curves.png',
    curves,
    'operations of training, 10^12',
    'samples that show their digit, %',
  )
  grid = image_grid(np.concatenate(rows), columns=len(rows[0]))
  write_png(folder / 'samples.png', grid[::2, ::2])


def step_flops(context: RunContext) -> float:
  """Operations of a training step, with a forward pass of the encoder."""
  flops = train_flops(context.model, SIDE, SIDE)
  if context.encoder:
    config, _ = context.encoder
    S, D = 1 + (SIDE // config.patch_size) ** 2, config.width
    block = S * (4 + 2 * config.mlp_ratio) * D * D + 2 * S * S * D
    flops += 2 * config.depth * block
    assert isinstance(config, vision.VisionConfig)  # of the digits
  return context.config.data.batch_size * flops


def samples(context: RunContext, weights) -> np.ndarray:
  """The ten digits, from the noise of samples 0 to 9."""
  sampler = Sampler(context, batch_size=10)
  digits = np.arange(10, dtype=np.int32)
  return np.concatenate(list(sampler.sample(weights, digits, digits)))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
