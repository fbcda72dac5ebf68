"""The table of configuration keys: defaults, allowed values, meanings.

`get_config` is made from it, `validate` checks by it. The defaults are the
paper's values for ImageNet at 256.
"""

import dataclasses
import inspect
import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

from pixeldit_jax.errors import UserError
from pixeldit_jax.flow.frequency import MODES
from pixeldit_jax.metrics.table import FEATURE_NETWORKS
from pixeldit_jax.model.config import CHOICES, LEAST, ModelConfig
from pixeldit_jax.samplers.guidance import BOUNDS
from pixeldit_jax.samplers.solvers import OF_AVERAGES, OF_NOISE, SOLVERS
from pixeldit_jax.samplers.stronger_guidance import GUIDANCE_RULES
from pixeldit_jax.sharding import RULES

STORED_FEATURES = 'features'  # in place of a teacher: arrays of the data set
JUDGES = ('lpips', 'dino', 'convnext')  # of perceptual losses, see `perceptual`
RANDOM = 'random'  # in place of an encoder: one that learnt nothing


@dataclasses.dataclass(frozen=True)
class Key:
  """One value of a configuration.

  Attributes:
    name: with dots, as 'optimizer.learning_rate'.
    default: the value, of the type that every value must have; None is an
      optional number.
    allowed: the interval of a number, as '[0, 1)'; the words to choose from;
      '' for all values of the type.
    meaning: what it does, in a few words.
  """

  name: str
  default: Any
  allowed: str | Sequence[str] = ''
  meaning: str = ''

  def check(self, value: Any) -> None:
    """Raises UserError for a value of another type or outside `allowed`."""
    if not self._takes(value):
      raise UserError(
        f'{self.name}={value!r}: must be {self.expected} ({self.meaning}).'
      )

  @property
  def expected(self) -> str:
    """The allowed values, in words."""
    if isinstance(self.default, bool):
      return 'True or False'
    if isinstance(self.default, str):
      return f'one of {", ".join(self.allowed)}' if self.allowed else 'a text'
    if isinstance(self.default, tuple):
      return f'{len(self.default)} numbers in {self.allowed}'
    kind = 'an integer' if isinstance(self.default, int) else 'a number'
    kind = f'None or {kind}' if self.default is None else kind
    return f'{kind} in {self.allowed}' if self.allowed else kind

  def _takes(self, value: Any) -> bool:
    if isinstance(self.default, bool):
      return isinstance(value, bool)
    if isinstance(self.default, str):
      words = self.allowed
      return isinstance(value, str) and (not words or value in words)
    interval = str(self.allowed)
    if isinstance(self.default, tuple):
      # A list where the value was read from JSON.
      same = isinstance(value, tuple | list) and len(value) == len(self.default)
      return same and all(_is_number(v, interval) for v in value)
    if value is None:
      return self.default is None
    if isinstance(self.default, int) and not isinstance(value, int):
      return False
    return _is_number(value, interval)


def _is_number(value: Any, interval: str) -> bool:
  """Whether a value is a number in an interval as '[0, 1)'; '' has all."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return False
  try:
    number = float(value)
  except OverflowError:  # an integer of hundreds of digits
    return False
  if not interval or math.isnan(number):
    return not interval
  low, high = map(float, interval[1:-1].split(','))
  above = number >= low if interval[0] == '[' else number > low
  below = number <= high if interval[-1] == ']' else number < high
  return above and below


def _model_keys() -> tuple[Key, ...]:
  """The fields of `ModelConfig`, with the ranges that it knows of them."""
  text = inspect.getdoc(ModelConfig) or ''
  found = re.findall(r'^  (\w+): (.*(?:\n    .*)*)', text, re.M)
  meanings = {name: ' '.join(words.split()) for name, words in found}
  return tuple(
    Key(
      f'model.{field.name}',
      field.default,
      _model_range(field.name, field.default),
      meanings.get(field.name, ''),
    )
    for field in dataclasses.fields(ModelConfig)
    if not field.name.startswith('lora_')  # they have a section of their own
  )


def _model_range(name: str, default: Any) -> str | Sequence[str]:
  """What a field of `ModelConfig` may be."""
  if isinstance(default, bool):
    return ''
  if isinstance(default, int):
    # Above it no network fits anywhere, and sizes overflow.
    return f'[{LEAST.get(name, 0)}, 1e6]'
  if isinstance(default, float):
    return '(-inf, inf)'  # ModelConfig knows more
  return CHOICES.get(name, '')


def describe_keys() -> str:
  """The page of the documentation: all keys as tables of Markdown."""
  lines = [
    '# All keys',
    '',
    'Made from `pixeldit_jax/config/keys.py` by `python -m '
    'pixeldit_jax.config.keys > configs/KEYS.md`.',
    'A value of another type or outside its range is refused before anything '
    'is made.',
  ]
  section = None
  for key in KEYS:
    head = key.name.rpartition('.')[0]
    if head != section:
      section = head
      lines += ['', f'## `{head or "the run"}`', '']
      lines += ['| key | default | values | meaning |', '|---|---|---|---|']
    cells = (f'`{key.name}`', f'`{key.default!r}`', key.expected, key.meaning)
    lines.append('| ' + ' | '.join(c.replace('|', '\\|') for c in cells) + ' |')
  return '\n'.join(lines) + '\n'


KEYS = (
  Key('seed', 0, '[0, 4294967295]', 'of weights, data order and noise'),
  Key('steps', 400_000, '[1, 1e9]', 'the last step'),
  Key(
    'init_from', '', '', "a workdir whose EMA a new run starts with; '' is none"
  ),
  Key(
    'fit_minutes',
    0.0,
    '[0, 1e6]',
    'choose what is not given from data and machine, to train about so long; '
    '0 is off',
  ),
  Key(
    'init_classes',
    'match',
    ('match', 'mean', 'new'),
    'of init_from: rows of classes follow their names and others start from '
    'the mean, or all from the mean, or all anew',
  ),
  Key(
    'debug_nans', False, '', 'stop at the first NaN and name its first layer'
  ),
  *_model_keys(),
  Key(
    'lora.rank',
    0,
    '[0, 1024]',
    'train adapters of the linear layers alone, of this rank; 0 is all weights',
  ),
  Key('lora.alpha', 0.0, '[0, 1e6]', 'scales them by alpha / rank; 0 by 1'),
  Key(
    'lora.classes',
    False,
    '',
    'train what is added to the table of classes, too: new classes need it',
  ),
  Key('data.source', '', '', 'digits, folder:PATH, shards:PATH and so on'),
  Key('data.resolution', 256, '[1, 16384]', 'the side of images in pixels'),
  Key('data.batch_size', 256, '[1, 1e6]', 'images of all devices together'),
  Key(
    'data.buckets',
    False,
    '',
    'images of several aspect ratios, of about resolution**2 pixels',
  ),
  Key(
    'data.text_encoder',
    '',
    '',
    "the encoder that the texts must come from; '' is any",
  ),
  Key(
    'data.encode_texts',
    False,
    '',
    'embed captions while training, by data.text_encoder; nothing is stored',
  ),
  Key(
    'data.text_instruction',
    '',
    '',
    "what data.encode_texts puts before captions: default, a file, or '' none",
  ),
  Key(
    'data.caption_weights',
    '',
    '',
    "how often captions of a kind are drawn, as human=1,long=3; '' is equally",
  ),
  Key('data.caption_min_score', None, '(-inf, inf)', 'the score captions need'),
  Key('data.flip', False, '', 'mirror half of the images'),
  Key(
    'data.crop',
    1.0,
    '(0, 1]',
    'the smallest side of what is cut out at random, as a share of the largest '
    'cut that fits; 1 is that in the middle',
  ),
  Key(
    'data.held_out',
    0,
    '[0, 1e9]',
    'images that are never trained on, for the loss of the EMA on them',
  ),
  Key('data.checksums', False, '', 'read all shards once before the start'),
  Key('data.num_threads', 0, '[0, 4096]', 'to decode; 0 is one for each core'),
  Key('data.num_workers', 0, '[0, 4096]', 'processes to decode; 0 is none'),
  Key('data.prefetch', 4, '[1, 4096]', 'batches that are made ahead'),
  Key(
    'latents.autoencoder',
    '',
    '',
    'the network sees latents of it, stored with the data: a name on the hub '
    'or a file; data.resolution is then the side of latents',
  ),
  Key('latents.scale', 0.18215, '(0, 1e6]', 'times a latent is what it sees'),
  Key(
    'objective',
    'flow_matching',
    ('flow_matching', 'mean_flow'),
    'what the network is trained towards: velocities, or average ones; DiT and '
    'PixelFlow have losses of their own',
  ),
  Key(
    'mean_flow.beta',
    1.0,
    '[0, inf)',
    'the scales of guidance that are trained fall as omega^-beta',
  ),
  Key(
    'mean_flow.uniform',
    0.0,
    '[0, 1]',
    'the share of images whose times are uniform',
  ),
  Key('flow.shift', 1.0, '(0, inf)', 'of training times; above 1 is noisier'),
  Key(
    'flow.discrete_steps',
    0,
    '[0, 1e9]',
    'n: times are multiples of 1 / n; 0 is any time',
  ),
  Key('flow.time_mean', 0.0, '(-inf, inf)', 'of the logit of training times'),
  Key('flow.time_std', 1.0, '(0, inf)', 'of the logit of training times'),
  Key('flow.noise_scale', 1.0, '(0, 1e6]', 'standard deviation of the noise'),
  Key(
    'flow.frequency_weight',
    0.0,
    '[0, 1e6]',
    "of DeCo's frequency loss next to that of flow matching",
  ),
  Key(
    'flow.stages',
    4,
    '[1, 16]',
    "PixelFlow's resolutions, each of half the side of the next",
  ),
  Key('flow.frequency_quality', 85, '[1, 100]', 'its JPEG tables; 100 is even'),
  Key('flow.frequency_mode', 'inv_gamma', MODES, 'weights of its tables'),
  Key('flow.frequency_gamma', 1.0, '[0, 100]', 'of inv_gamma; 0 is even'),
  Key(
    'flow.label_dropout', 0.1, '[0, 1]', 'the share of labels or texts dropped'
  ),
  Key('repa.weight', 0.0, '[0, 1e6]', 'of the loss that aligns patch tokens'),
  Key('repa.block', 8, '[1, 1e4]', 'align the tokens after so many blocks'),
  Key(
    'repa.teacher',
    '',
    '',
    'a name on the hub (facebook/dinov2-base), a folder or a file; or '
    'features, those stored with the data',
  ),
  Key(
    'repa.sharded', False, '', 'split the teacher as the network, or copy it'
  ),
  Key('repa.stop_step', 0, '[0, 1e9]', 'the weight is 0 from it; 0 is never'),
  Key(
    'repa.decay_steps',
    0,
    '[0, 1e9]',
    'steps before stop_step in which the weight falls to 0',
  ),
  Key(
    'repa.position_offset',
    0.0,
    '[0, 1)',
    "of DINOv2's positions on other grids: 0.1 as its authors, 0 as others",
  ),
  Key(
    'grounding.encoder',
    '',
    '',
    'a frozen DINOv3 or DINOv2, as repa.teacher names one; random is one that '
    'learnt nothing',
  ),
  Key('grounding.dropout', 0.1, '[0, 1]', 'the share of features dropped'),
  Key(
    'grounding.joint_dropout',
    0.0,
    '[0, 1]',
    'the share of images that lose label and features, by a draw of its own',
  ),
  Key('grounding.coupled', False, '', 'drop features where labels are dropped'),
  Key(
    'grounding.sharded', False, '', 'split the encoder as the network, or copy'
  ),
  Key('perceptual.lpips_weight', 0.0, '[0, 1e6]', 'of the loss LPIPS'),
  Key(
    'perceptual.lpips',
    '',
    '',
    "its weights: a file, or VGG-16's and its own with a comma between",
  ),
  Key(
    'perceptual.dino_weight',
    0.0,
    '[0, 1e6]',
    'of the loss of features (DINO) of the image that is predicted',
  ),
  Key('perceptual.dino', '', '', 'the network, as repa.teacher names one'),
  Key(
    'perceptual.convnext_weight',
    0.0,
    '[0, 1e6]',
    'of the squared distance of features (ConvNeXt V2)',
  ),
  Key(
    'perceptual.convnext', '', '', 'a FILE, or facebook/convnextv2-base-22k-224'
  ),
  Key(
    'perceptual.side',
    0,
    '[0, 4096]',
    'with objective=mean_flow, of a random part of each image that they are '
    "judged by, 224 in pMF's paper; 0 is the image as it is",
  ),
  Key(
    'perceptual.start',
    0.3,
    '[0, 1]',
    'the time from which both count: before there is too much noise',
  ),
  Key(
    'optimizer.name',
    'adamw',
    ('adamw', 'came', 'muon'),
    'the rule; came needs less memory, muon is of matrices',
  ),
  Key(
    'optimizer.learning_rate',
    1e-4,
    '[0, inf)',
    'the rate after warmup; 0 changes no weight',
  ),
  Key(
    'optimizer.schedule',
    'constant',
    ('constant', 'cosine', 'linear'),
    'of the rate after warmup',
  ),
  Key(
    'optimizer.rest_rate',
    1.0,
    '[0, 1]',
    'factor of the rate for all but the weights of classes or texts: below 1 '
    'new ones are learnt, and the rest changes little',
  ),
  Key('optimizer.warmup_steps', 0, '[0, 1e9]', 'in which the rate rises'),
  Key(
    'optimizer.final_learning_rate',
    0.0,
    '[0, 1]',
    'the rate of cosine and linear at the last step',
  ),
  Key(
    'optimizer.drop_step',
    0,
    '[0, 1e9]',
    'from it a constant rate is dropped_learning_rate; 0 is never',
  ),
  Key('optimizer.dropped_learning_rate', 1e-5, '[0, inf)', 'see drop_step'),
  Key('optimizer.beta1', 0.9, '[0, 1)', 'decay of the mean of gradients'),
  Key('optimizer.beta2', 0.999, '[0, 1)', 'decay of the mean of squares'),
  Key('optimizer.beta3', 0.9999, '[0, 1)', 'of came: decay of instability'),
  Key(
    'optimizer.split_gates',
    False,
    '',
    'of came: the two matrices of SwiGLU that are one array have factors of '
    'their own, as in the release; runs begun before this key had not',
  ),
  Key('optimizer.eps', 1e-8, '(0, inf)', 'of adamw: added to the root'),
  Key(
    'optimizer.moments',
    'float32',
    ('float32', 'bfloat16'),
    'of adamw: what both moments are kept in; bfloat16, rounded at random, '
    'takes half the memory. A run may change it when it goes on',
  ),
  Key('optimizer.weight_decay', 0.0, '[0, inf)', 'of kernels only'),
  Key('optimizer.clip_norm', 1.0, '(0, inf]', 'the largest norm of gradients'),
  Key('optimizer.accumulate', 1, '[1, 1e6]', 'parts a batch is computed in'),
  Key(
    'optimizer.max_bad_steps',
    10,
    '[1, 1e9]',
    'steps in a row that are not finite, which stop the run',
  ),
  Key('ema.decay', 0.9999, '[0, 1)', 'of the average once it is warm'),
  Key('ema.warmup', True, '', 'decay of at most (1 + step) / (10 + step)'),
  Key(
    'sampler.solver',
    'flow_dpm',
    (
      *(solver.__name__ for solver in SOLVERS + OF_AVERAGES),
      *(*OF_NOISE, 'dopri5'),
    ),
    'from noise to image; ddpm and ddim are of DiT, dopri5 of PixelFlow',
  ),
  Key(
    'sampler.steps',
    100,
    '[1, 1e5]',
    'of the solver; of PixelFlow, in each stage',
  ),
  Key('sampler.guidance', 3.25, '(-inf, inf)', 'the scale; 1 is none'),
  Key(
    'sampler.rule',
    'plain',
    tuple(rule.__name__ for rule in GUIDANCE_RULES),
    'how the two velocities are combined; plain is classifier-free guidance',
  ),
  Key('sampler.interval', (0.1, 1.0), '[0, 1]', 'the times with guidance'),
  Key(
    'sampler.interval_bounds',
    'open',
    BOUNDS,
    'its bounds inside: none, the upper one, or a lower one of 0',
  ),
  Key(
    'sampler.interval_time',
    'own',
    ('own', 'step'),
    'what is tested for a slope at the end of a step: its time, or the start',
  ),
  Key('sampler.shift', 1.0, '(0, inf)', 'of the times; above 1 is noisier'),
  Key(
    'sampler.start',
    0.0,
    '[0, 1)',
    'the time of the noise: 0.001 in the text-to-image release',
  ),
  Key(
    'sampler.reuse_patch_tokens',
    1,
    '[1, 1000]',
    'steps that share the patch tokens of the first of them; 1 shares none',
  ),
  Key(
    'sampler.shift_patches',
    False,
    '',
    'each evaluation sees the image moved by less than a patch, as if its '
    'edges met: what it errs at the borders of patches does not add up. Not '
    'for networks that know one position for things',
  ),
  Key(
    'sampler.weak',
    '',
    '',
    'autoguidance: a run, or RUN@STEP, whose network guidance leads away from; '
    "'' leads away from no class, or no text",
  ),
  Key('sampler.batch_size', 64, '[1, 1e6]', 'images of all devices together'),
  Key(
    'sampler.decode_tile',
    0,
    '[0, 1e5]',
    'side of the tiles that latents are decoded by, which overlap by a quarter '
    'of it; 0 decodes an image at once',
  ),
  Key('checkpoint.every', 5_000, '[1, 1e9]', 'steps between checkpoints'),
  Key('checkpoint.keep', 2, '[1, 1e9]', 'the newest checkpoints that stay'),
  Key(
    'checkpoint.keep_period',
    100_000,
    '[0, 1e9]',
    'multiples of it stay too; 0 is none',
  ),
  Key('checkpoint.best', '', '', "the best by this metric stays; '' is none"),
  Key('checkpoint.best_is', 'lowest', ('lowest', 'highest'), 'which is best'),
  Key(
    'checkpoint.checksums',
    True,
    '',
    'read all files before a resume, or compare sizes only',
  ),
  Key('log.every', 100, '[1, 1e9]', 'steps between lines of the log'),
  Key(
    'log.samples_every', 10_000, '[0, 1e9]', 'steps between grids; 0 is never'
  ),
  Key('log.samples', 16, '[1, 1e4]', 'images of a grid'),
  Key(
    'log.gradient_rise',
    10.0,
    '[0, inf)',
    'warn of a norm so many times the median; 0 is never',
  ),
  Key('log.trace', '', '', "steps for the profiler, as 100-110; '' is none"),
  Key(
    'eval.every', 0, '[0, 1e9]', 'steps between evaluations of the EMA; 0: none'
  ),
  Key(
    'eval.held_out_every',
    1_000,
    '[1, 1e9]',
    'steps between losses of the EMA on data.held_out images',
  ),
  Key(
    'eval.patience',
    0,
    '[0, 1e6]',
    'end the run after so many losses on data.held_out images in a row that '
    'are not below the lowest; 0 is never',
  ),
  Key('eval.samples', 5_000, '[2, 1e8]', 'images of an evaluation'),
  Key('eval.features', 'inception', FEATURE_NETWORKS, 'the feature network'),
  Key('eval.reference', '', '', 'as --reference of pixeldit evaluate'),
  Key('eval.weights', '', '', 'the file of the Inception network'),
  Key(
    'eval.captions',
    'probe',
    '',
    'of a network of texts: what judges whether samples show their captions, a '
    "folder with a CLIP of transformers, 'probe' (a ridge regression from "
    "eval.features to the texts, fitted to images of the run), or ''",
  ),
  Key('mesh.data', -1, '[-1, 1e6]', 'devices that are replicas; -1: the rest'),
  Key('mesh.fsdp', 1, '[-1, 1e6]', 'devices that split batch and weights'),
  Key('mesh.sequence', 1, '[-1, 1e6]', 'devices that split patches'),
  Key('mesh.tensor', 1, '[-1, 1e6]', 'devices that split heads and widths'),
  Key(
    'mesh.slices',
    1,
    '[1, 1e6]',
    'TPU slices joined by DCN only; the data axis spans them',
  ),
  *(
    Key(f'mesh.rules.{axis}', default, '', 'mesh axes that split this axis')
    for axis, default in RULES.items()
  ),
)


if __name__ == '__main__':
  print(describe_keys(), end='')
