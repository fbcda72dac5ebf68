"""Compares variants of the network, each trained on the digits.

  pixeldit ablate --config=mnist --workdir=runs/ablate

Trains variants of the network at equal steps, with and without REPA, and
writes ablation.md and ablation.png to the workdir: final loss and how many
samples show the digit that was asked for. Stopped and started again, it goes
on where it was. REPA's teacher is a small ViT that is first trained to name
the same digits.
"""

import pathlib

from absl import flags

from pixeldit_jax.cli import cluster_flags, config_flag, path_flag, run_command

_CONFIG = config_flag.define(
  'Of the digits, such as mnist; --config.key=value changes one value.'
)
_WORKDIR = path_flag.define(
  'workdir', 'build/ablate', 'Folder of all runs; made if absent.'
)
_STEPS = flags.DEFINE_integer('steps', 300, 'Of each variant.', lower_bound=1)
_NUM_SAMPLES = flags.DEFINE_integer(
  'num_samples', 300, 'Drawn from each variant.', lower_bound=1
)
flags.adopt_module_key_flags(cluster_flags)


def main():
  import jax

  from pixeldit_jax import outputs
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.convert.vision import load_dinov2, write_dinov2
  from pixeldit_jax.demo import ablation
  from pixeldit_jax.demo.digit_teacher import train_digit_teacher

  cluster_flags.initialize()
  start_log(jax.process_index())
  folder = pathlib.Path(_WORKDIR.value)
  outputs.check([folder / 'ablation.md', folder / 'ablation.png'])
  file = folder / 'teacher.safetensors'
  config = _CONFIG.value
  config.steps = _STEPS.value
  config.repa.update(teacher=str(file), block=config.model.patch_depth // 2)
  configs = {
    name: ablation.variant_config(config, name) for name in ablation.VARIANTS
  }
  if not file.is_file():
    vision, weights, right = train_digit_teacher()
    write_dinov2(file, vision, weights)
    print(f'The teacher names {right:.1%} of digits that it never saw.')
  teacher = load_dinov2(file, dtype=config.model.dtype, scan=False)
  results = {}
  for i, name in enumerate(configs):
    print(f'{i + 1} of {len(configs)}: {name}', flush=True)
    results[name] = ablation.run_variant(
      configs[name],
      str(folder / name.replace(' ', '_')),
      teacher,
      _NUM_SAMPLES.value,
    )
  text = ablation.markdown_table(results)
  with outputs.replacing(folder / 'ablation.md') as made:
    made.write_text(text + '\n')
  with outputs.replacing(folder / 'ablation.png') as made:
    ablation.plot(made, results)
  print(f'{text}\nThe plot: {folder}/ablation.png')


if __name__ == '__main__':
  run_command.run(main)
