"""Language models that `transformers` runs by PyTorch, for `text`."""

import concurrent.futures
import copy
import hashlib
import sys
from typing import Any, cast

import ml_dtypes
import numpy as np

from pixeldit_jax.encoders.tokenizer import Tokenizer
from pixeldit_jax.errors import MissingPackageError, UserError
from pixeldit_jax.typing import Bool, Float, Int


class TransformersModel:
  """A `LanguageModel` with a copy on each GPU of this host, or on the CPU."""

  def __init__(self, name: str, *, batch_size: int = 32, dtype: str = 'auto'):
    """Loads the model; see `open_language_model`.

    Raises:
      ImportError: torch or transformers is not installed.
      UserError: there is no such model, or its weights are not whole.
    """
    tokenizer, model = _load(name, dtype)
    self.tokenizer = Tokenizer(tokenizer.backend_tokenizer, tokenizer.pad_token)
    self.width = model.config.get_text_config().hidden_size
    self.positions = tokenizer.model_max_length
    self.checksum = _checksum(self.tokenizer.json, model)
    self._batch_size = batch_size
    self._models = [copy.deepcopy(model).to(device) for device in _devices()]
    self.at_once = batch_size * len(self._models)

  def states(
    self, ids: Int[np.ndarray, 'B L'], mask: Bool[np.ndarray, 'B L'], kept: int
  ) -> Float[np.ndarray, 'B T C']:
    """See `LanguageModel`."""
    size = self._batch_size
    parts = [slice(i, i + size) for i in range(0, len(ids), size)]
    with concurrent.futures.ThreadPoolExecutor(len(self._models)) as pool:
      done = pool.map(
        lambda part, model: _run(ids[part], mask[part], kept, model),
        parts,
        self._models,
      )
      return np.concatenate(list(done))


def import_transformers() -> Any:
  """Imports transformers, even with a torchvision built for another torch.

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


def _load(name: str, dtype: str) -> tuple[Any, Any]:
  """Tokenizer and network."""
  try:
    transformers = import_transformers()
  except ImportError as error:
    raise MissingPackageError(
      f'the text encoder {name!r} is neither BERT nor Gemma 2, and needs '
      f"{error.name}: pip install 'pixeldit_jax[transformers]'."
    ) from error
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model, report = transformers.AutoModel.from_pretrained(
      name, dtype=dtype, output_loading_info=True
    )
  except (OSError, ValueError) as error:
    raise UserError(
      f'text encoder {name!r} cannot be loaded by transformers: give a folder '
      f'of a Hugging Face model, or its name there. {error}'
    ) from error
  # A pooler makes one vector of all tokens; it is not used here.
  missing = [key for key in report['missing_keys'] if 'pooler' not in key]
  if missing:
    raise UserError(f'text encoder {name!r} has no weights for {missing[:5]}.')
  if model.config.is_encoder_decoder:
    model = model.get_encoder()
  if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
  return tokenizer, model.eval().requires_grad_(False)


def _devices() -> list[str]:
  """All GPUs of this host, or the CPU, whose cores torch shares out itself."""
  import torch

  return [f'cuda:{i}' for i in range(torch.cuda.device_count())] or ['cpu']


def _checksum(tokenizer: str, model: Any) -> str:
  """As `convert.language.checksum`, of what PyTorch holds."""
  import torch

  digest = hashlib.sha256(tokenizer.encode())
  for name, tensor in sorted(model.state_dict().items()):
    if 'pooler' in name:
      continue
    digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(raw.numpy())
  return digest.hexdigest()


def _run(ids, mask, kept: int, model: Any) -> Float[np.ndarray, 'B T C']:
  import torch

  device = next(model.parameters()).device
  with torch.inference_mode():
    hidden = model(
      input_ids=torch.from_numpy(ids).long().to(device),
      attention_mask=torch.from_numpy(mask).long().to(device),
    ).last_hidden_state
  length = hidden.shape[1]
  hidden = hidden[:, [0, *range(length - kept + 1, length)]]
  # NumPy's bf16 is not torch's: the bits go over as integers.
  bits = hidden.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy()
  return bits.view(ml_dtypes.bfloat16)
