"""The settings that images on disk are made with, in a JSON file next to them.

Images of other settings never join them.
"""

from typing import Any

from etils import epath

from pixeldit_jax import files, settings
from pixeldit_jax.config import get_config

Settings = dict[str, Any]


def path_of(images: epath.Path) -> epath.Path:
  """`samples.npz.json` for the file `samples.npz`, and so for a folder."""
  return images.with_name(f'{images.name}.json')


def read_settings(images: epath.Path) -> Settings | None:
  """The settings of images, finished or not; None if nothing was started."""
  path = path_of(images)
  return with_defaults(files.read_json(path)) if path.exists() else None


def with_defaults(made_with: Settings) -> Settings:
  """Adds the keys of the sampler that are younger than the images.

  Their defaults are what older code did.
  """
  if 'sampler' not in made_with:
    return made_with
  defaults = get_config().sampler.to_dict()
  del defaults['batch_size']  # decides no image
  sampler = settings.as_json(defaults) | made_with['sampler']
  return made_with | dict(sampler=sampler)


def write_settings(images: epath.Path, made_with: Settings) -> None:
  """Writes the settings next to the images; any process may do it."""
  files.write_json(path_of(images), made_with, sort_keys=True)


def check_same(images: epath.Path, stored: Settings, asked: Settings) -> None:
  """Refuses to add images of other settings.

  Raises:
    UserError: names every setting that differs.
  """
  settings.check_same(
    f'{path_of(images)} describes samples of',
    settings.flatten(stored),
    settings.flatten(asked),
    'Choose another folder, or --overwrite.',
  )
