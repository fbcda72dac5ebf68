"""Opens a page to play in: draw, compare and edit in a browser.

  pixeldit studio runs/xl256
  pixeldit studio --workdir=runs/a --compare=runs/b --compare=runs/a@1000

The page draws by class or words with a preview of the denoising, compares two
checkpoints or two solvers from the same noise, edits a picture where it is
painted on, and shows the command line of each result. It is only for this
machine, unless --host says otherwise: whoever reaches it can draw.
"""

import pathlib
import threading

from absl import flags

from pixeldit_jax.cli import path_flag, run_command

_WORKDIR = path_flag.define_workdir()
_COMPARE = flags.DEFINE_multi_string(
  'compare',
  [],
  'Another run, or RUN@STEP for a checkpoint of any; repeat for more.',
)
_HOST = flags.DEFINE_string(
  'host', '127.0.0.1', 'Address to bind to; 0.0.0.0 lets the network in.'
)
_PORT = flags.DEFINE_integer(
  'port',
  7860,
  'Of the page; 0 takes a free one.',
  lower_bound=0,
  upper_bound=65535,
)


def main():
  from pixeldit_jax.api import load
  from pixeldit_jax.cli.log import start_log
  from pixeldit_jax.files import expand_user
  from pixeldit_jax.studio.server import serve
  from pixeldit_jax.train.checkpoint.restore import CheckpointRef

  start_log()
  folders = [_WORKDIR.value, *map(expand_user, _COMPARE.value)]
  names = [pathlib.Path(folder).name for folder in folders]
  if len({*names}) < len(names):
    names = folders
  refs = map(CheckpointRef.of_text, folders)
  models = {
    name: load(ref.workdir, step=ref.step) for name, ref in zip(names, refs)
  }
  page = serve(models, _HOST.value, _PORT.value)
  print(f'The studio is at {page.local_url} (Ctrl-C ends it)', flush=True)
  try:
    threading.Event().wait()
  except KeyboardInterrupt:
    print('Ended.')
  finally:
    page.close(verbose=False)


if __name__ == '__main__':
  run_command.run(main)
