"""The configuration of a network: sizes, ablations, precision, and checks."""

import dataclasses

from pixeldit_jax.errors import UserError

PIXEL_ATTENTION = ('patch', 'channel', 'full', 'none')
PIXEL_ADALN = ('pixel', 'patch', 'global')
MODULATION = ('pre', 'post')
NORMS = ('rms', 'layer', 'plain')
ATTENTION_NORMS = ('norm', 'plain')
QK_NORMS = ('head', 'joint', 'none')
MLPS = ('swiglu', 'gelu')
MEAN_FLOW = ('none', 'added', 'tokens')
OUTPUT_NORMS = ('norm', 'plain')
POSITIONS = ('rope', 'absolute', 'both')
ROTARY = ('span', 'row_column', 'column_row')
TIME = ('unit', 'noise')
DECODERS = ('pit_blocks', 'deco', 'nerf_field', 'linear')
PREDICTIONS = ('velocity', 'image', 'noise')
INIT = ('uniform', 'xavier', 'narrow')
DTYPES = ('float32', 'bfloat16')
PRODUCTS = ('dtype', 'bfloat16', 'fp8', 'int8')
REMAT = ('none', 'matmuls', 'full', 'offload')
ATTENTION = ('auto', 'plain', 'xla', 'blockwise', 'splash', 'flash', 'cudnn')

# The least value of each integer, and the words that a text may be.
LEAST = {
  'num_classes': 0,
  'text_width': 0,
  'text_tokens': 1,
  'in_channels': 1,
  'patch_size': 1,
  'patch_depth': 1,
  'pixel_depth': 0,
  'field_ratio': 1,
  'position_grid': 0,
  'bottleneck': 0,
  'branch_depth': 0,
  'context_tokens': 0,
  'context_start': 0,
  'condition_silu': 1,
  'grounding_width': 0,
  'grounding_depth': 1,
  'grounding_heads': 0,
  'mlp_multiple': 0,
}
CHOICES = {
  'decoder': DECODERS,
  'pixel_attention': PIXEL_ATTENTION,
  'pixel_adaln': PIXEL_ADALN,
  'modulation': MODULATION,
  'norm': NORMS,
  'attention_norm': ATTENTION_NORMS,
  'qk_norm': QK_NORMS,
  'mlp': MLPS,
  'mean_flow': MEAN_FLOW,
  'output_norm': OUTPUT_NORMS,
  'positions': POSITIONS,
  'rotary': ROTARY,
  'time': TIME,
  'init': INIT,
  'prediction': PREDICTIONS,
  'dtype': DTYPES,
  'products': PRODUCTS,
  'patch_remat': REMAT,
  'pixel_remat': REMAT,
  'attention': ATTENTION,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Any network of the family, by default PixelDiT-XL.

  `model.families` shows the values that make each network of the family;
  the ablations of PixelDiT's paper are values as well.

  Attributes:
    num_classes: labels 0..num_classes-1; num_classes itself is "no class". 0
      where a text is the condition, or nothing.
    text_width: of the text embeddings; 0 where a class is the condition, or
      nothing. With a text, image and text tokens go through MM-DiT blocks.
    text_tokens: the most tokens that a text has.
    text_mask: attend only to the text tokens that the mask of a text names;
      the release attends to all.
    in_channels: channels of the image.
    patch_size: side p of a patch; both image sides are multiples of it.
    width: D, the width of the patch path.
    heads: attention heads of the patch path.
    patch_depth: blocks of the patch path.
    decoder: from patch tokens to pixels: PiT blocks, DeCo's blocks, PixNerd's
      neural field, or one linear layer, modulated by the condition.
    pixel_width: E, the width of one pixel token.
    pixel_depth: blocks of the decoder; 0 with 'linear', and with 'pit_blocks'
      for PixelDiT with only the patch path (single level).
    field_ratio: hidden width of the neural field over that of a pixel token.
    pixel_attention: 'patch' compacts the p*p pixels of a patch to one token
      before attention (section 3.3); 'channel' compacts the channels instead,
      so that all H*W pixel tokens attend to each other at a narrow width;
      'full' does that at the width of the patch path (the ablation without
      compaction); 'none' has no attention in PiT blocks.
    pixel_attention_width: A, the width of that attention. 0 is 128 for
      'channel', `width` otherwise.
    pixel_heads: heads of that attention. 0 is one for 'channel', `heads`
      otherwise.
    pixel_adaln: one modulation for each pixel ('pixel'), for each patch
      ('patch'), or for the image from time and class ('global'; the
      patch tokens are then added to the pixel tokens, once).
    modulation: 'pre' scales and shifts what enters attention and MLP and gates
      what leaves; 'post' scales and shifts what leaves (no loss spikes).
    norm: 'rms', 'layer', or a LayerNorm without weights ('plain'), for all
      norms.
    attention_norm: that before the attention of patches: `norm`, or 'plain'.
    qk_norm: of queries and keys, for each head ('head'), over all heads
      together ('joint'), or none.
    mlp: of the patch blocks: SwiGLU, or four times the width and a tanh GELU
      ('gelu').
    output_norm: that before the linear decoder: `norm`, or a LayerNorm without
      weights ('plain').
    positions: 'rope', 2-D rotary in attention, 'absolute', fixed 2-D
      sine-cosine added to the patch tokens, or 'both'.
    rotary: 'span', both sides of an image go from 0 to 16, pairs of channels
      turn with column and row in turn; or 'row_column', patches are counted,
      the first half turns with the row; or 'column_row', with the column.
    position_grid: patches along a side of the square whose fixed positions are
      among released weights (JiT); 0 where there are none. Nothing is computed
      from it.
    bottleneck: width of a linear layer in front of the patch embedding; 0 has
      none.
    bottleneck_bias: that layer has a bias.
    mean_flow: how a network of average velocities gets its step, scale
      and interval of guidance (see `model.mean_flow`): it is none, they are
      added to the time, or they are tokens in place of it, as pMF's are.
    branch_depth: the last of the patch blocks, which pMF has once for the
      average velocity; 0 with the others.
    velocity_branch: pMF has such blocks for the velocity too.
    context_tokens: tokens of the class that are put in front of the patches in
      the patch path; 0 has none.
    context_start: how many blocks are run before that.
    condition_silu: how often SiLU is applied to the sum of time and class:
      once, or twice (PixelDiT2 at 256).
    grounding_width: of the features of an encoder that are added to the
      condition of each patch, see `model.grounding`; 0 has none.
    grounding_depth: blocks of the projector of these features.
    grounding_heads: attention heads of these blocks; 0 is `heads`.
    zero_grounding: the projector's last layer starts at zero, so that features
      change nothing at the start; PixelDiT2 starts it random.
    mlp_multiple: the hidden width of SwiGLU is rounded up to a multiple of it;
      0 leaves it as it is.
    biases: of q, k, v and the perceptron of the patch blocks.
    dropout: in training, rate in the middle half of the patch blocks, of what
      attention adds and of the hidden layer of SwiGLU.
    time: what the features of time are of: t ('unit', as for classes), or the
      noise level 1000 (1 - t) ('noise', as the text-to-image release).
    time_period: the longest, over 2 pi, of the features of time.
    time_closed: the slowest feature of time has that period exactly, and not
      the one after it (PixelFlow).
    size_embed: the patches across an image are a condition too (PixelFlow).
    init: of linear layers, where nothing else is said: within 1/sqrt(fan in)
      ('uniform'), Xavier's with biases of 0, or of a normal distribution with
      0.32/sqrt(fan in), also with biases of 0 ('narrow', pMF).
    zero_modulation: patch and PiT blocks start with modulation zero, as the
      identity if 'pre'; the text-to-image release starts them random.
    prediction: what the network gives: the velocity, the image at the end of
      the path (see `flow.prediction`), or the noise (see `flow.diffusion`).
    variance: the output has as many channels again, that say how the variance
      of a step is between its bounds (DiT).
    dtype: of activations and matrix products; parameters are float32.
    products: what the linear layers of all blocks multiply: `dtype`; bfloat16,
      with sums in float32 (a CPU with AVX512-BF16 trains so in 0.6 of the time
      of float32); float8 in both passes ('fp8'), or 8-bit integers in the
      forward pass ('int8'), both by qwix.
    scan: blocks as one scanned loop (quick to compile, TPU and GPU), or
      unrolled (faster on CPU). The weights are stacked either way.
    patch_remat: what the backward pass of the patch path keeps: everything
      ('none'), results of matrix products and of attention over long
      sequences ('matmuls'), only block inputs ('full'), or those in the memory
      of the host ('offload').
    pixel_remat: the same for the pixel path.
    lora_rank: of adapters of the linear layers of all blocks, which alone are
      trained (`model.lora`); 0 has none. `config.lora.rank`.
    lora_alpha: over the rank, what they are multiplied by; 0 is the rank.
    lora_classes: what is added to the rows of the classes is trained, too.
    attention: the kernel; 'auto' chooses by platform and length, the others
      are those of `model.attention`.
  """

  num_classes: int = 1000
  text_width: int = 0
  text_tokens: int = 300
  text_mask: bool = False
  in_channels: int = 3
  patch_size: int = 16
  width: int = 1152
  heads: int = 16
  patch_depth: int = 26
  decoder: str = 'pit_blocks'
  pixel_width: int = 16
  pixel_depth: int = 4
  field_ratio: int = 2
  pixel_attention: str = 'patch'
  pixel_attention_width: int = 0
  pixel_heads: int = 0
  pixel_adaln: str = 'pixel'
  modulation: str = 'pre'
  norm: str = 'rms'
  attention_norm: str = 'norm'
  qk_norm: str = 'head'
  mlp: str = 'swiglu'
  output_norm: str = 'norm'
  positions: str = 'rope'
  rotary: str = 'span'
  position_grid: int = 0
  bottleneck: int = 0
  bottleneck_bias: bool = False
  mean_flow: str = 'none'
  branch_depth: int = 0
  velocity_branch: bool = False
  context_tokens: int = 0
  context_start: int = 0
  condition_silu: int = 1
  grounding_width: int = 0
  grounding_depth: int = 1
  grounding_heads: int = 0
  zero_grounding: bool = True
  mlp_multiple: int = 0
  biases: bool = False
  dropout: float = 0.0
  time: str = 'unit'
  time_period: float = 10.0
  time_closed: bool = False
  size_embed: bool = False
  init: str = 'uniform'
  zero_modulation: bool = True
  prediction: str = 'velocity'
  variance: bool = False
  dtype: str = 'float32'
  products: str = 'dtype'
  scan: bool = True
  patch_remat: str = 'none'
  pixel_remat: str = 'none'
  attention: str = 'auto'
  lora_rank: int = 0
  lora_alpha: float = 0.0
  lora_classes: bool = False

  def __post_init__(self):
    for name, least in LEAST.items():
      if getattr(self, name) < least:
        raise UserError(
          f'model.{name}={getattr(self, name)}: at least {least}.'
        )
    if self.num_classes and self.text_width:
      raise UserError(
        f'model.num_classes={self.num_classes} with '
        f'model.text_width={self.text_width}: the condition is a class or a '
        'text; set one of them to 0, or both for pictures without any.'
      )
    _check_heads('', self.width, self.heads)
    for name, known in CHOICES.items():
      if getattr(self, name) not in known:
        raise UserError(
          f'model.{name}={getattr(self, name)!r}: use one of {known}.'
        )
    self._check_decoder()
    self._check_patch_path()
    self._check_mean_flow()

  def _check_decoder(self) -> None:
    """Raises UserError for a decoder and options that do not go together."""
    if self.decoder == 'pit_blocks':
      _check_heads('pixel_attention_', *self.pixel_attention_size)
      if self.pixel_width < 4 or self.pixel_width % 4:
        raise UserError(
          f'model.pixel_width={self.pixel_width}: a multiple of 4, for 2-D '
          'sine-cosine positions.'
        )
    elif self.pixel_width < 1:
      raise UserError(f'model.pixel_width={self.pixel_width}: at least 1.')
    if self.decoder == 'linear' and self.pixel_depth:
      raise UserError(
        f"model.decoder='linear' with model.pixel_depth={self.pixel_depth}: a "
        'linear decoder has no blocks; set model.pixel_depth=0.'
      )
    if self.decoder in ('deco', 'nerf_field') and not self.pixel_depth:
      raise UserError(
        f'model.decoder={self.decoder!r} with model.pixel_depth=0: at least '
        "one block; model.decoder='linear' has none."
      )
    if self.variance and self.decoder != 'linear':
      raise UserError(
        f'model.variance=True with model.decoder={self.decoder!r}: only the '
        "linear decoder gives it; use 'linear', or variance=False."
      )
    if self.output_norm != 'norm' and self.decoder != 'linear':
      raise UserError(
        f'model.output_norm={self.output_norm!r} with model.decoder='
        f"{self.decoder!r}: only the linear decoder has it; use 'norm'."
      )

  def _check_patch_path(self) -> None:
    """Raises UserError for options of patch tokens that do not fit."""
    if self.text_width and self.context_tokens:
      raise UserError(
        f'model.context_tokens={self.context_tokens} with model.text_width='
        f'{self.text_width}: these are tokens of a class; set one to 0.'
      )
    if self.context_tokens and self.context_start >= self.patch_depth:
      raise UserError(
        f'model.context_start={self.context_start}: below model.patch_depth='
        f'{self.patch_depth}, so that a block sees the class tokens.'
      )
    if self.condition_silu > 2:
      raise UserError(f'model.condition_silu={self.condition_silu}: 1 or 2.')
    if self.grounding_width:
      _check_heads('', self.width, self.grounding_heads or self.heads)
      if self.text_width:
        raise UserError(
          f'model.grounding_width={self.grounding_width} with '
          f'model.text_width={self.text_width}: only networks of classes are '
          'grounded; set one to 0.'
        )
    if not 0 <= self.dropout < 1:
      raise UserError(f'model.dropout={self.dropout}: at least 0, below 1.')
    if self.text_width and self.dropout:
      raise UserError(
        f'model.dropout={self.dropout} with model.text_width='
        f'{self.text_width}: only networks of classes have dropout; set it '
        'to 0.'
      )
    if not self.time_period > 1:
      raise UserError(f'model.time_period={self.time_period}: above 1.')

  def _check_mean_flow(self) -> None:
    """Raises UserError for branches that there are not."""
    tokens = self.mean_flow == 'tokens'
    if tokens != (0 < self.branch_depth < self.patch_depth):
      raise UserError(
        f'model.branch_depth={self.branch_depth} with model.mean_flow='
        f'{self.mean_flow!r}: with tokens between 1 and model.patch_depth - 1, '
        'otherwise 0.'
      )
    if tokens and (self.decoder != 'linear' or not self.position_grid):
      raise UserError(
        f"model.mean_flow='tokens' with model.decoder={self.decoder!r} and "
        f"model.position_grid={self.position_grid}: pMF's decoder is 'linear', "
        'and it has learned positions for a square of position_grid patches.'
      )
    if self.mean_flow != 'none' and self.text_width:
      raise UserError(
        f'model.mean_flow={self.mean_flow!r} with model.text_width='
        f'{self.text_width}: only networks of classes know average velocities.'
      )
    if self.mean_flow != 'none' and self.products != 'dtype':
      raise UserError(
        f'model.products={self.products!r} with model.mean_flow='
        f'{self.mean_flow!r}: its loss needs a derivative that such products '
        "do not have; use 'dtype'."
      )

  @property
  def head_size(self) -> int:
    return self.width // self.heads

  @property
  def pixel_attention_size(self) -> tuple[int, int]:
    """Width and heads of the attention in PiT blocks."""
    narrow = self.pixel_attention == 'channel'
    # A head of 128 fills a TPU's matrix unit; one of 64 takes it as long.
    width, heads = (128, 1) if narrow else (self.width, self.heads)
    return self.pixel_attention_width or width, self.pixel_heads or heads

  @property
  def mlp_width(self) -> int:
    """Hidden width: 4 D, or of SwiGLU two thirds of it, as three matrices."""
    if self.mlp == 'gelu':
      return 4 * self.width
    width = 2 * 4 * self.width // 3
    multiple = self.mlp_multiple or 1
    return -(-width // multiple) * multiple

  @property
  def out_channels(self) -> int:
    """Channels of the output."""
    return self.in_channels * (2 if self.variance else 1)

  @property
  def pixels(self) -> int:
    """P, the pixels of one patch."""
    return self.patch_size**2

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """Patches down and across an image.

    Raises:
      UserError: a side that is not a multiple of the patch size, or a grid that
        the network has no positions for.
    """
    p = self.patch_size
    if height < p or width < p or height % p or width % p:
      near = [max(p, round(side / p) * p) for side in (height, width)]
      raise UserError(
        f'an image of {height} x {width} does not divide into patches of '
        f'{p} x {p} (model.patch_size): use {near[0]} x {near[1]}.'
      )
    grid = height // p, width // p
    if self.mean_flow == 'tokens':
      self.check_positions(grid)
    return grid

  def check_positions(self, grid: tuple[int, int]) -> None:
    """Raises UserError for patches that there are no learned positions for."""
    side = self.position_grid
    if grid != (side, side):
      raise UserError(
        f'an image of {grid[0]} x {grid[1]} patches: the network has learned '
        f'positions for {side} x {side} (model.position_grid).'
      )


def _check_heads(path: str, width: int, heads: int) -> None:
  """Raises UserError for a width that does not divide into heads."""
  unit = 4 * max(1, heads)  # 2-D rotary turns 4 channels together
  if heads < 1 or width < 1 or width % unit:
    raise UserError(
      f'model.{path}width={width} with {heads} heads: the width must be a '
      f'multiple of 4 x heads, such as {unit * max(1, round(width / unit))}.'
    )
