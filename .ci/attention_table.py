"""Prints the table of what the TPU compiler says of the kernels of attention.

python .ci/attention_table.py  # for launch/README.md, a CPU minute

Attention and its gradients are compiled for one v5e, for as many images as a
chip of the recipes has; the rest of the step is the same for all kernels.
"""

import os
import re

KERNELS = 'splash', 'flash', 'xla'
# Name: images, tokens, heads, head size. The last has the tokens of a text.
RUNS = {
  'XL-256': (16, 256, 16, 72),
  'XL-512': (4, 1024, 16, 72),
  'XL-1024': (1, 4096, 16, 72),
  'T2I-1024': (1, 4396, 24, 64),
}
HEADER = (
  'run | images, tokens, heads of | kernel | peak MB | GFLOP | HBM MB | '
  'at least | VMEM MB, output and gradients'
)


def main():
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # no TPU is needed
  print(f'| {HEADER} |\n|{" --- |" * (HEADER.count("|") + 1)}')
  for name, shape in RUNS.items():
    for kernel in KERNELS:
      cells = cells_of(shape, kernel)
      B, L, N, K = shape
      sizes = f'{B}, {L:,}, {N} x {K}'
      print(f'| {" | ".join([name, sizes, kernel, *cells])} |', flush=True)


def cells_of(shape: tuple[int, ...], kernel: str) -> list[str]:
  """Figures of one kernel: memory, work, least time, vector memory."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from pixeldit_jax.compile_report.hlo_parser import Program
  from pixeldit_jax.compile_report.memory_traffic import work_of
  from pixeldit_jax.compile_report.roofline import roofline
  from pixeldit_jax.compile_report.tpu_topology import (
    compile_for_tpu,
    make_topology,
  )
  from pixeldit_jax.model.attention import attend

  devices = make_topology('v5e:1x1')
  mesh = jax.sharding.Mesh(np.array(devices), ('x',))
  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=here)

  def both_passes(q, k, v, gradient):
    def attended(*qkv):
      return attend(*qkv, implementation=kernel, mesh=mesh)

    output, backward = jax.vjp(attended, q, k, v)
    return output, backward(gradient)

  with jax.set_mesh(mesh):
    lowered = jax.jit(both_passes).lower(*[array] * 4)
    compiled = compile_for_tpu(lowered)
  text = compiled.program.as_text()
  assert text is not None  # TPUs give it
  work = list(work_of(Program(text)))
  times = roofline(devices[0], work, 0.0)
  return [
    f'{compiled.hbm_bytes / 1e6:,.0f}',
    f'{sum(w.times * w.flops for w in work) / 1e9:.1f}',
    f'{sum(w.times * w.bytes for w in work) / 1e6:,.0f}',
    f'{times["seconds"] * 1e3:.2f} ms',
    ', '.join(f'{size / 1e6:.1f}' for size in vmem_of(text)),
  ]


def vmem_of(program: str) -> list[int]:
  """Bytes of the vector memory of a chip that each Pallas kernel uses."""
  sizes = re.findall(
    r'%\w*(?:splash|flash)_\S+ = [^\n]* custom-call\(.*?'
    r'"used_scoped_memory_configs":\[\{"memory_space":"1",'
    r'"offset":"\d+","size":"(\d+)"',
    program,
    re.DOTALL,
  )
  return [int(size) for size in sizes]


if __name__ == '__main__':
  main()
