"""The figures of .ci/house.py: what chooses a module is found by itself."""

import pathlib
import runpy

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HOUSE = runpy.run_path(str(ROOT / '.ci' / 'house.py'))


def tables_of(module):
  sources = dict(HOUSE['_modules']())
  return HOUSE['_tables'](module, sources[module], sources)


@pytest.mark.parametrize(
  'module, table, chosen',
  [
    ('data.sources.kinds', 'KINDS', 'data.sources.parquet'),
    ('model.attention', 'KERNELS', 'model.kernels.splash'),
    ('convert.official', 'RELEASES', 'convert.deco'),
  ],
)
def test_a_table_shows_the_modules_that_it_chooses(module, table, chosen):
  found = tables_of(f'pixeldit_jax.{module}')
  assert f'pixeldit_jax.{chosen}' in found[f'pixeldit_jax.{module}.{table}']


def test_a_table_of_values_chooses_no_module():
  assert tables_of('pixeldit_jax.config.keys') == {}


def test_a_block_of_six_lines_in_two_files_is_found(tmp_path, capsys):
  lines = ''.join(f'value_{i} = {i}\n' for i in range(6))
  files = {name: tmp_path / f'{name}.py' for name in ('a', 'b')}
  for name, file in files.items():
    file.write_text(f'"""{name}."""\n\n{lines}')
  assert HOUSE['_print_repeated'](files) == ['1 repeated blocks']
  assert 'a:3  b:3' in capsys.readouterr().out
  files['b'].write_text(lines.replace('value_5', 'other'))
  assert HOUSE['_print_repeated'](files) == []
