""".ci/attention_table.py: what it reads from a compiled program."""

import pathlib
import runpy

TOOL = pathlib.Path(__file__).parents[2] / '.ci' / 'attention_table.py'


def kernel(name, size):
  """A custom call; the limit of a kernel is not what it uses."""
  config = '[{"memory_space":"1","offset":"0","size":"%d"}]'
  return (
    f'  %{name} = (bf16[4,80,512]) custom-call(%q, %k), metadata={{\n}}, '
    f'backend_config={{"scoped_memory_configs":{config % 48},'
    f'"used_scoped_memory_configs":{config % size}}}\n'
  )


def test_vector_memory_is_that_of_kernels_of_attention():
  tool = runpy.run_path(str(TOOL))
  program = kernel('splash_mha_fwd_residuals.1', 7) + kernel('fusion.2', 8)
  program += kernel('jvp_flash_attention_forward_.1', 9)
  assert tool['vmem_of'](program) == [7, 9]
