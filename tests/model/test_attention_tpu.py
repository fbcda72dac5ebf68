"""Attention by the TPU compiler, which needs libtpu but no TPU."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pixeldit_jax.compile_report.hlo_parser import Program
from pixeldit_jax.compile_report.memory_traffic import buffers
from pixeldit_jax.compile_report.tpu_topology import make_topology
from pixeldit_jax.model.attention import attend
from pixeldit_jax.model.kernels import RESIDUALS
from pixeldit_jax.sharding import use

pytestmark = pytest.mark.slow
AXES = ('data', 'fsdp', 'sequence', 'tensor')
SPEC = PartitionSpec(('data', 'fsdp'), 'sequence', 'tensor')
FORWARD = {
  'splash': r'%splash_mha_fwd\S* = .* custom-call\(',
  'flash': r'%\S*flash_attention_forward\S* = .* custom-call\(',
}
MIB = 2**20


@pytest.fixture
def compile_for(monkeypatch):
  """f(topology, mesh sizes, shape of q, k, v) -> forward and backward."""
  pytest.importorskip('libtpu', reason="pip install 'pixeldit_jax[tpu]'")
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')

  def compile_(
    topology, sizes, shape, kernel='auto', masked=False, wrap=lambda f: f
  ):
    devices = np.array(make_topology(topology))[: np.prod(sizes)].reshape(sizes)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4)
    place = functools.partial(NamedSharding, mesh)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place(SPEC))
    spec = PartitionSpec(*SPEC[:2])
    mask = jax.ShapeDtypeStruct(shape[:2], bool, sharding=place(spec))

    def run(q, k, v, do, mask):
      one = functools.partial(
        attend, mask_BS=mask if masked else None, implementation=kernel
      )
      return jax.vjp(wrap(one), q, k, v)[1](do)

    with use(mesh):
      return jax.jit(run).lower(x, x, x, x, mask).compile()

  return compile_


@pytest.mark.parametrize(
  'kernel, topology, sizes, peak',
  [
    ('splash', 'v5e:4x4', (1, 4, 4, 1), 150),
    ('splash', 'v5p:4x4x4', (1, 4, 16, 1), 85),
    ('flash', 'v5e:4x4', (1, 4, 4, 1), 55),
    ('flash', 'v5p:4x4x4', (1, 4, 16, 1), 40),
  ],
)
def test_65536_tokens_over_a_sequence_axis(
  compile_for, kernel, topology, sizes, peak
):
  """One image on the devices of a sequence axis: MiB, not 8 GiB of scores."""
  compiled = compile_for(topology, sizes, (sizes[1], 65536, 1, 64), kernel)
  text = compiled.as_text()
  assert len(re.findall(FORWARD[kernel], text)) == 1
  assert compiled.memory_analysis().peak_memory_in_bytes < peak * MIB
  assert len(re.findall(r' all-gather(-start)?\(', text)) == 2
  assert len(re.findall(r' reduce-scatter\(', text)) == 2
  assert not re.findall(r' (all-reduce|all-to-all)\(', text)


@pytest.mark.parametrize('size', [16, 72, 128])
@pytest.mark.parametrize('kernel', FORWARD)
def test_head_sizes_lengths_and_masks_compile(compile_for, kernel, size):
  """300 text tokens and 1,024 patches, heads split."""
  shape = (4, 1324, 4, size)
  compiled = compile_for('v5p:2x2x2', (2, 2, 1, 2), shape, kernel, masked=True)
  assert len(re.findall(FORWARD[kernel], compiled.as_text())) == 1


@pytest.mark.parametrize('topology', ['v4:2x2x1', 'v5e:2x2', 'v6e:2x2'])
def test_all_gradients_of_long_sequences_fit_in_every_core(
  compile_for, topology
):
  """Of 65,536 queries of width 128: 32 MiB, of the 16 that a v4 has."""
  text = compile_for(
    topology, (1, 1, 1, 1), (1, 65536, 1, 128), 'flash'
  ).as_text()
  assert len(re.findall(FORWARD['flash'], text)) == 1
  backward = FORWARD['flash'].replace('forward', 'backward')
  assert len(re.findall(backward, text)) == 4
  compile_for(topology, (1, 1, 1, 1), (2, 4400, 2, 128), 'flash', masked=True)


@pytest.mark.parametrize('size', [64, 72])
def test_heads_of_any_size_are_not_padded(compile_for, size):
  """Lanes of 128 hold tokens, not channels, before and after the kernel."""
  shape = (4, 1024, 16, size)
  compiled = compile_for('v5e:2x2', (1, 1, 1, 1), shape, 'flash')
  arrays = [b for b in buffers(Program(compiled.as_text())) if b.bytes > MIB]
  assert arrays
  assert all(b.padded_bytes < 1.2 * 2 * math.prod(shape) for b in arrays)


def test_short_sequences_are_left_to_xla(compile_for):
  compiled = compile_for('v5e:2x2', (1, 4, 1, 1), (16, 128, 16, 72))
  text = compiled.as_text()
  assert not any(re.findall(name, text) for name in FORWARD.values())


@pytest.mark.parametrize('kernel', FORWARD)
def test_kept_residuals_spare_the_second_kernel(compile_for, kernel):
  def kernels(policy):
    def wrap(one):
      def block(x, k, v):
        step = jax.checkpoint(
          lambda x, _: (one(x, k, v), None), policy=policy, prevent_cse=False
        )
        return jax.lax.scan(step, x, length=2)[0]

      return block

    shape = (2, 4096, 1, 64)
    compiled = compile_for('v5e:2x2', (1, 2, 2, 1), shape, kernel, wrap=wrap)
    return len(re.findall(FORWARD[kernel], compiled.as_text()))

  policies = jax.checkpoint_policies
  assert kernels(policies.save_only_these_names(RESIDUALS)) == 1
  assert kernels(policies.nothing_saveable) == 2
