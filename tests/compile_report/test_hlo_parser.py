"""Programs that XLA compiled here: operations, loops, traffic, layouts."""

import functools
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pixeldit_jax import sharding
from pixeldit_jax.compile_report.flops_and_collectives import (
  collectives,
  group_size,
)
from pixeldit_jax.compile_report.hlo_parser import (
  Program,
  parse_buffers,
  parse_instruction,
)
from pixeldit_jax.compile_report.memory_traffic import Work, work_of
from pixeldit_jax.compile_report.roofline import roofline


def compile_(f, *arrays):
  return Program(jax.jit(f).lower(*arrays).compile().as_text())


def count_flops(program):
  return sum(w.times * w.flops for w in work_of(program))


def count_bytes(program):
  return sum(w.times * w.bytes for w in work_of(program))


def test_products_in_loops_count_as_often_as_they_run():
  def layers(x, w):
    return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, w)[0]

  x, w = jnp.ones((32, 64)), jnp.ones((5, 64, 64))
  assert count_flops(compile_(layers, x, w)) == 5 * 2 * 32 * 64 * 64
  twice = compile_(lambda x, w: layers(layers(x, w), w), x, w)
  assert count_flops(twice) == 2 * 5 * 2 * 32 * 64 * 64


def test_a_loop_counts_up_from_its_start_by_its_step():
  def every_third(x):
    return jax.lax.fori_loop(0, 4, lambda i, x: jnp.sin(x @ x) * (2 + 3 * i), x)

  x = jnp.ones((8, 8))
  assert count_flops(compile_(every_third, x)) == 4 * 2 * 8**3
  with pytest.raises(ValueError, match='how often it runs'):
    program = compile_(
      lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, jnp.sin, x), x
    )
    list(program.visits())


@pytest.mark.parametrize(
  'window, inputs, outputs, pairs',
  [
    ('size=3', 5, 3, 9),
    ('size=3 stride=2', 5, 2, 6),
    ('size=3 pad=1_1', 5, 5, 13),
    ('size=3 pad=-1_0', 5, 2, 6),
    ('size=3 rhs_dilate=2', 5, 1, 3),
    ('size=2 lhs_dilate=2', 3, 4, 4),
  ],
)
def test_products_with_padding_do_not_count(window, inputs, outputs, pairs):
  text = f"""ENTRY %main (a: f32[1,9,2]) -> f32[1,{outputs},4] {{
  %a = f32[1,{inputs},2]{{2,1,0}} parameter(0)
  %k = f32[3,2,4]{{2,1,0}} parameter(1)
  ROOT %c = f32[1,{outputs},4]{{2,1,0}} convolution(%a, %k), window={{{window}}}, dim_labels=b0f_0io->b0f
}}"""  # noqa: E501
  assert count_flops(Program(text)) == 2 * 2 * 4 * pairs


def test_recomputation_is_counted():
  def loss(w, x, wrap):
    body = wrap(lambda x, w: jnp.sin(x @ w))
    return jax.lax.scan(lambda x, w: (body(x, w), None), x, w)[0].sum()

  x, w = jnp.ones((32, 64)), jnp.ones((5, 64, 64))
  kept, again = (
    count_flops(compile_(jax.grad(functools.partial(loss, wrap=wrap)), w, x))
    for wrap in (
      lambda f: f,
      functools.partial(
        jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable
      ),
    )
  )
  product = 5 * 2 * 32 * 64 * 64
  assert kept == 3 * product
  assert again == 4 * product


def test_collectives_of_a_mesh():
  mesh = sharding.make_mesh({'fsdp': 8})
  split = NamedSharding(mesh, PartitionSpec('fsdp'))
  complete = NamedSharding(mesh, PartitionSpec())
  x = jax.device_put(jnp.ones((64, 16)), split)
  w = jax.device_put(jnp.ones((16, 16)), split)

  def step(x, w):
    gathered = jax.lax.with_sharding_constraint(w, complete)
    return (x @ gathered).sum()

  found = {c.kind: c for c in collectives(compile_(step, x, w))}
  gather = found['all-gather']
  assert (gather.group, gather.elements, gather.times) == (8, 256, 1)
  assert gather.bytes == 256 * 4 * 7 / 8
  assert found['all-reduce'].bytes == 2 * 4 * 7 / 8


def test_bytes_are_at_least_arguments_and_results():
  x = jnp.ones((256, 256))
  assert count_bytes(compile_(lambda x: x + 1, x)) == 2 * x.nbytes


@pytest.mark.parametrize(
  'text, padded',
  [
    ('bf16[4,256,256,16]{2,1,3,0:T(8,128)(2,1)}', 1),
    ('bf16[4,256,256,16]{3,2,1,0:T(8,128)(2,1)S(1)}', 8),
    ('f32[26,72,3,16,72]{4,3,2,1,0:T(8,128)}', 128 / 72),
    ('f32[100]{0:T(128)}', 1.28),
    ('f32[7,100]{1,0}', 1),
  ],
)
def test_padding_follows_the_layout(text, padded):
  (buffer,) = parse_buffers(text)
  assert buffer.padded_bytes / buffer.bytes == pytest.approx(padded)


def test_a_product_that_a_tpu_has_as_a_convolution():
  """Three by twelve heads of 64 from 768: batches are spatial, and padded."""
  lines = """ENTRY %main (a: bf16[4,256,768], b: bf16[768,3,12,64]) -> bf16[] {
  %a = bf16[4,256,1,1,768]{4,1,0,3,2:T(8,128)(2,1)} parameter(0)
  %b = bf16[768,3,1,12,64]{4,3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[4,256,3,12,64]{4,3,2,1,0:T(8,128)(2,1)} convolution(%a, %b), window={size=3x1x12 pad=2_2x0_0x11_11 rhs_reversal=1x0x1}, dim_labels=1b02f_i012o->1b02f
}"""  # noqa: E501
  assert count_flops(Program(lines)) == 2 * 4 * 256 * 768 * 3 * 12 * 64


@pytest.mark.parametrize(
  'groups, size',
  [
    ("mesh['a'=2,'b'=8] {'b'}", 8),
    ("mesh['a'=2,'b'=8] {'a','b'}", 16),
    ("mesh['a'=16,'b'=1,'c'=4], device_ids=([4,16]T(1,0)) {'c'}, d={1}", 4),
    ('[4,16]<=[64]', 16),
    ('{{0,1,2},{3,4,5}}', 3),
  ],
)
def test_replica_groups_in_every_form(groups, size):
  assert (
    group_size(f'channel_id=1, replica_groups={groups}, to_apply=x') == size
  )


def test_a_tuple_has_all_its_buffers():
  found = parse_instruction(
    '  ROOT %w.1 = (s32[]{:T(128)}, /*index=1*/bf16[2,3]{1,0:T(8,128)(2,1)}) '
    'while(%t), condition=%c, body=%b'
  )
  assert (found.name, found.opcode, found.operands) == ('w.1', 'while', ('t',))
  assert [str(b) for b in found.result] == ['s32[]', 'bf16[2,3]']


def test_a_kernel_counts_the_operations_that_it_declares():
  line = """ENTRY %main () -> bf16[8] {
  %q = bf16[8]{0} parameter(0)
  ROOT %f.1 = bf16[8]{0} custom-call(%q), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"42"}}}
}
"""  # noqa: E501
  assert count_flops(Program(line)) == 42
  assert count_flops(Program(line.replace('cost_estimate', 'other'))) == 0


@pytest.mark.parametrize(
  'name, result, products',
  [
    ('splash_mha_fwd_residuals.1', 'bf16[2,4,512,80], f32[2,4,512,128]', 2),
    ('splash_mha_dkv_segmented_no_residuals.2', 'bf16[2,1,4,512,80]', 5),
    ('splash_mha_dkv_no_residuals', 'bf16[2,4,1024,80]', 4),
    ('splash_mha_dq_no_residuals', 'bf16[2,4,512,80]', 3),
    ('another_kernel.1', 'bf16[2,4,512,80]', 0),
  ],
)
@pytest.mark.parametrize('images', [2, 1])
def test_splash_attention_counts_though_it_declares_nothing(
  name, result, products, images
):
  """The compiler drops the axis of a single image."""
  text = f"""ENTRY %main (q: bf16[2,4,80,512]) -> bf16[8] {{
  %block = s8[1,1,1] parameter(0)
  %q = bf16[2,4,80,512]{{3,2,1,0}} parameter(1)
  %k = bf16[2,4,80,1024]{{3,2,1,0}} parameter(2)
  ROOT %{name} = (f32[2,512,128], {result}) custom-call(%block, %q, %k, %k), custom_call_target="tpu_custom_call"
}}
"""  # noqa: E501
  if images == 1:
    text = text.replace('[2,', '[').replace('{3,2,1,0}', '{2,1,0}')
  expected = 2 * products * images * 4 * 512 * 1024 * 80
  assert count_flops(Program(text)) == expected


def test_a_slice_in_a_fusion_in_a_fusion_reads_the_slice_only():
  text = """%inner (p: bf16[26,16], i: s32[]) -> bf16[1,16] {
  %p = bf16[26,16]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = bf16[1,16]{1,0} dynamic-slice(%p, %i, %i)
}

%outer (q: bf16[26,16], j: s32[]) -> bf16[16] {
  %q = bf16[26,16]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %f = bf16[1,16]{1,0} fusion(%q, %j), kind=kLoop, calls=%inner
  ROOT %b = bf16[16]{0} bitcast(%f)
}

ENTRY %main (a: bf16[26,16], k: s32[]) -> bf16[16] {
  %a = bf16[26,16]{1,0} parameter(0)
  %k = s32[]{:T(128)S(6)} parameter(1)
  ROOT %g = bf16[16]{0} fusion(%a, %k), kind=kLoop, calls=%outer
}
"""
  assert count_bytes(Program(text)) == 2 * 16 * 2


def test_a_product_in_a_fusion_is_counted_once():
  text = """%inner (p: f32[8,16], w: f32[16,4]) -> f32[8,4] {
  %p = f32[8,16]{1,0} parameter(0)
  %w = f32[16,4]{1,0} parameter(1)
  ROOT %d = f32[8,4]{1,0} dot(%p, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[8,16], b: f32[16,4]) -> f32[8,4] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16,4]{1,0} parameter(1)
  ROOT %f = f32[8,4]{1,0} fusion(%a, %b), kind=kOutput, calls=%inner
}
"""  # noqa: E501
  (work,) = [w for w in work_of(Program(text)) if w.flops]
  assert work == Work(2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4), False, 1)


def test_what_allocates_or_waits_moves_nothing():
  text = """ENTRY %main (a: bf16[64]) -> bf16[64] {
  %a = bf16[64]{0} parameter(0)
  %new = bf16[999]{0} custom-call(), custom_call_target="AllocateBuffer"
  %go = ((bf16[64]{0}), bf16[32]{0:S(1)}, s32[]) slice-start(%a), slice={[0:32]}
  %s = bf16[32]{0:S(1)} slice-done(%go)
  ROOT %x = bf16[32]{0:S(1)} negate(%s)
}
"""
  assert count_bytes(Program(text)) == 32 * 2


def test_other_tiles_of_a_stack_are_no_bytes():
  """As a TPU7x program has them before it updates a row of a stack."""
  text = """%tiles (p: bf16[12,64]) -> bf16[12,64] {
  %p = bf16[12,64]{1,0:T(8,128)} parameter(0)
  ROOT %c = bf16[12,64]{1,0:T(2,128)} copy(%p)
}

%update (s: bf16[12,64], x: bf16[1,64], i: s32[]) -> bf16[12,64] {
  %s = bf16[12,64]{1,0:T(8,128)} parameter(0)
  %t = bf16[12,64]{1,0:T(2,128)} fusion(%s), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%tiles
  %x = bf16[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %u = bf16[12,64]{1,0:T(8,128)} dynamic-update-slice(%t, %x, %i, %zero)
}

ENTRY %main (s: bf16[12,64], x: bf16[1,64], i: s32[]) -> bf16[12,64] {
  %s = bf16[12,64]{1,0:T(8,128)} parameter(0)
  %x = bf16[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = bf16[12,64]{1,0:T(8,128)} fusion(%s, %x, %i), kind=kLoop, calls=%update
}
"""  # noqa: E501
  assert count_bytes(Program(text)) == 2 * 64 * 2 + 4


def test_collectives_of_another_thread_of_the_chip_count_and_overlap():
  text = """%gather (p: bf16[8,64]) -> bf16[32,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  ROOT %g = bf16[32,64]{1,0} all-gather(%p), channel_id=1, replica_groups=[4,4]<=[16], dimensions={0}
}, execution_thread="sparsecore"

ENTRY %main (a: bf16[8,64]) -> bf16[32,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %go = ((bf16[8,64]{1,0}), bf16[32,64]{1,0}, u32[]) call-start(%a), async_execution_thread="sparsecore", to_apply=%gather
  %b = bf16[32,64]{1,0} call-done(%go)
  ROOT %h = bf16[32,64]{1,0} all-gather(%a), channel_id=2, replica_groups=[4,4]<=[16], dimensions={0}
}
"""  # noqa: E501
  first, second = collectives(Program(text))
  assert first.bytes == second.bytes == 24 * 64 * 2
  assert first.overlaps and not second.overlaps


def test_instructions_take_their_time_one_after_the_other():
  """On a chip of 197 TFLOP/s and 819 GB/s, with copies meanwhile."""
  device = types.SimpleNamespace(device_kind='TPU v5 lite', platform='tpu')
  computes, moves = (
    Work(197 * 10**9, 0, False, 2),
    Work(0, 819 * 10**6, False, 3),
  )
  copies = moves._replace(is_async=True)
  times = roofline(device, [computes, moves, copies], received=0)
  assert times == pytest.approx(
    dict(compute=2e-3, hbm=6e-3, interconnect=0, network=0, seconds=6e-3)
  )
  times = roofline(device, [computes, moves], received=0)
  assert times['seconds'] == pytest.approx(5e-3)
  times = roofline(device, [computes], received=200e9)
  assert times['seconds'] == times['interconnect'] == pytest.approx(1)
  times = roofline(device, [computes], received=0, from_slices=25e9)
  assert times['seconds'] == times['network'] == pytest.approx(8)
