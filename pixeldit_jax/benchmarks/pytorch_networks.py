"""The public PyTorch networks of the family, timed in a process of their own.

Nothing of them is here: a checkout of each is given by its path. A step is what
their trainers do: a squared error, its gradients, AdamW, an average of the
weights; a sample is a loop of guided Euler steps. Both under torch.compile.
"""

import dataclasses
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from pixeldit_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class PublicNetwork:
  """Where a checkout has a network, and what its sizes are called there.

  Attributes:
    file: of the checkout.
    name: of the class.
    sizes: arguments of the class, besides `_SIZES`, to fields of `ModelConfig`,
      or 'side', that of the image, or 'blocks', those of both paths.
    time_scale: of the time that it takes: 1000 where it counts steps.
  """

  file: str
  name: str
  sizes: Mapping[str, str]
  time_scale: float = 1.0

  def arguments(self, model: ModelConfig, side: int) -> dict[str, Any]:
    """Of the class, for a network of ours and images of this side."""
    blocks = model.patch_depth + model.pixel_depth
    known = dataclasses.asdict(model) | dict(side=side, blocks=blocks)
    return {k: known[ours] for k, ours in {**_SIZES, **self.sizes}.items()}


_SIZES = dict(
  in_channels='in_channels',
  patch_size='patch_size',
  hidden_size='width',
  num_classes='num_classes',
)
_DECODER = dict(
  num_groups='heads',
  hidden_size_x='pixel_width',
  num_blocks='blocks',
  num_cond_blocks='patch_depth',
)
_DIT = dict(input_size='side', depth='patch_depth', num_heads='heads')
_FOLDER = 'src/models/transformer'
NETWORKS: Mapping[str, PublicNetwork] = {
  'pixeldit': PublicNetwork(
    'pixdit_core/pixeldit_c2i.py',
    'PixDiT',
    dict(
      num_groups='heads',
      pixel_hidden_size='pixel_width',
      patch_depth='patch_depth',
      pixel_depth='pixel_depth',
    ),
  ),
  'deco': PublicNetwork(f'{_FOLDER}/dit_c2i_DeCo.py', 'PixNerDiT', _DECODER),
  'pixnerd': PublicNetwork(f'{_FOLDER}/pixnerd_c2i.py', 'PixNerDiT', _DECODER),
  'flatdit': PublicNetwork(
    f'{_FOLDER}/dit_c2i_baseline.py',
    'FlattenDiT',
    dict(num_groups='heads', num_blocks='patch_depth'),
  ),
  'jit': PublicNetwork(
    'model_jit.py',
    'JiT',
    _DIT
    | dict(
      bottleneck_dim='bottleneck',
      in_context_len='context_tokens',
      in_context_start='context_start',
    ),
  ),
  'dit': PublicNetwork('models.py', 'DiT', _DIT, time_scale=1000.0),
}


@dataclasses.dataclass(frozen=True)
class Work:
  """What is timed, for the other process.

  Attributes:
    checkout: folder.
    network: of `NETWORKS`.
    sizes: of the class.
    shape: B, C, H, W of a batch.
    what: 'train' or 'sample'.
    bfloat16: products in bfloat16, by autocast.
    steps: of a sample.
    clip: the norm that gradients are cut to; 0 leaves them.
  """

  checkout: str
  network: str
  sizes: Mapping[str, Any]
  shape: tuple[int, int, int, int]
  what: str
  bfloat16: bool
  steps: int
  clip: float


def serve(pipe: Connection, work: Work) -> None:
  """The other process: says 'ready', then seconds, each time it is asked.

  What it sends besides is the text of an error.
  """
  try:
    call = _prepare(work)
    for _ in range(2):  # the second compiles again for what the first made
      call()
    pipe.send('ready')
    while pipe.recv():
      started = time.perf_counter()
      call()
      pipe.send(time.perf_counter() - started)
  except EOFError:  # the other end is closed
    pass
  except Exception as error:  # of code that is not ours
    pipe.send(f'{type(error).__name__}: {error}')


def _prepare(work: Work) -> Callable[[], None]:
  import torch
  import torch.nn.functional as F

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  public = NETWORKS[work.network]
  sys.path.insert(0, work.checkout)
  name = pathlib.PurePath(public.file).with_suffix('').as_posix()
  module = importlib.import_module(name.replace('/', '.'))
  if device == 'cpu':  # JiT asks for a GPU in its tables and its attention
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor  # type: ignore[method-assign]
    # torch.compile looks past that.
    module.scaled_dot_product_attention = F.scaled_dot_product_attention  # type: ignore[attr-defined]
  network = getattr(module, public.name)(**work.sizes).to(device)
  B, C = work.shape[:2]
  label = torch.zeros(B, dtype=torch.long, device=device)
  precision = torch.autocast(device, torch.bfloat16, enabled=work.bfloat16)
  compiled = torch.compile(network)

  def velocity(x, t, y):
    with precision:
      return compiled(x, t * public.time_scale, y)[:, :C].float()

  if work.what == 'train':
    data = torch.randn(work.shape, device=device)
    call = _training(network, velocity, data, label, work.clip)
  else:
    call = _sampling(network, velocity, work, label, device)

  def timed() -> None:
    call()
    if device == 'cuda':
      torch.cuda.synchronize()

  return timed


def _training(network, velocity, data, label, clip) -> Callable[[], None]:
  import torch

  weights = [w for w in network.parameters() if w.requires_grad]
  optimizer = torch.optim.AdamW(weights, lr=1e-4)
  average = [w.detach().clone() for w in weights]

  def call() -> None:
    noise = torch.randn_like(data)
    t = torch.rand(len(data), device=data.device)
    x = t[:, None, None, None] * data + (1 - t[:, None, None, None]) * noise
    loss = (velocity(x, t, label) - (data - noise)).square().mean()
    loss.backward()
    if clip:
      torch.nn.utils.clip_grad_norm_(weights, clip)
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
      torch._foreach_lerp_(average, weights, 1e-4)

  return call


def _sampling(network, velocity, work, label, device) -> Callable[[], None]:
  import torch

  network.eval()
  null = torch.full_like(label, work.sizes['num_classes'])
  both = torch.cat([label, null])

  @torch.no_grad()
  def call() -> None:
    x = torch.randn(work.shape, device=device)
    for step in range(work.steps):
      t = torch.full((2 * len(x),), step / work.steps, device=device)
      guided, plain = velocity(torch.cat([x, x]), t, both).chunk(2)
      x = x + (plain + 3.0 * (guided - plain)) / work.steps

  return call
