"""How images on disk are made, in a file beside them: no others join them."""

import json
import os
import pathlib
import uuid
from typing import Any

from pixeldit_jax.errors import UserError

Plan = dict[str, Any]
_SHOWN = 200  # characters of a setting in an error


def path_of(images: pathlib.Path) -> pathlib.Path:
  """`samples.npz.json` for the file `samples.npz`, and so for a folder."""
  return images.with_name(f'{images.name}.json')


def read_plan(images: pathlib.Path) -> Plan | None:
  """The plan of images that are there or under way; None if there is none."""
  path = path_of(images)
  return json.loads(path.read_text()) if path.exists() else None


def write_plan(images: pathlib.Path, plan: Plan) -> None:
  """Writes it beside and renames."""
  path = path_of(images)
  path.parent.mkdir(parents=True, exist_ok=True)
  # All hosts write the same plan: each beside in a file of its own.
  beside = path.with_name(f'{path.name}.{uuid.uuid4().hex}.tmp')
  beside.write_text(json.dumps(plan, indent=2, sort_keys=True) + '\n')
  os.replace(beside, path)


def as_json(plan: Plan) -> Plan:
  """The plan as it will be read: tuples become lists."""
  return json.loads(json.dumps(plan))


def refuse_other(images: pathlib.Path, there: Plan, asked: Plan) -> None:
  """Raises UserError, naming the first setting that differs."""
  for key in sorted(there.keys() | asked.keys()):
    if there.get(key) != asked.get(key):
      raise UserError(
        f'{path_of(images)} describes samples of {key}='
        f'{_short(there.get(key))}, now asked for {key}='
        f'{_short(asked.get(key))}. Choose another folder, or --overwrite.'
      )


def _short(value: Any) -> str:
  text = str(value)
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'
