# shellcheck shell=bash
# What tpu_pod.sh, xpk.sh and slurm.sh share: showing a command before, or in
# place of, running it, and packing the code to send it away. Sourced.

# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

dry_run=
packed=$root/build/dispatch # what is sent lies here

# Prints a command as one could type it.
quoted() { # WORD...
  local word quote="'\\''" line=
  for word; do
    case $word in
    '' | *[!A-Za-z0-9_./:=,@%+~-]*) word="'${word//\'/$quote}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  echo "$line"
}

# Runs a command; in a dry run only shows it.
run() { # WORD...
  if [ -n "$dry_run" ]; then quoted "$@"; else "$@"; fi
}

need_command() { # NAME HOW_TO_GET_IT
  [ -n "$dry_run" ] || command -v "$1" >/dev/null ||
    fail "$1 is not installed on this machine" "$2" \
      '--dry_run shows what would be done.'
}

need_script() { # [SCRIPT...]
  [ $# -gt 0 ] && [ -f "$root/$1" ] ||
    fail "'${1:-}' is not a script of $root" \
      'After the options comes what to run: launch/train.py --config=...'
  local word name
  for word; do
    case $word in
    --config=*) name=${word#--config=} name=${name%%:*} ;;
    *) continue ;;
    esac
    # The checkout alone is sent; a run may lie on a disk of the workers.
    [ ! -f "$root/configs/${name%.py}.py" ] || continue
    case $name in
    /*.py | *../*.py) ;;
    *.py) [ ! -f "$root/$name" ] || continue ;;
    */*) continue ;;
    esac
    fail "--config=$name is no configuration of $root, which is what is sent" \
      "There are: $(cd "$root/configs" && echo [a-z]*.py)"
  done
}

# Checks the configuration here, before a slice is made, where this machine has
# the packages.
check_config() { # SCRIPT [ARGUMENT...]
  [ "$1" = launch/train.py ] && [ -z "$dry_run" ] || return 0
  cd "$root"
  if "$venv_python" -c 'import jax, pixeldit_jax' 2>/dev/null; then
    JAX_PLATFORMS=cpu "$venv_python" "$@" --check || exit 1
  else
    echo "The configuration is not checked here: $venv lacks the packages." >&2
  fi
}

# What a worker needs of the checkout, in $packed/pixeldit_jax.tgz.
pack_source() {
  run rm -rf "$packed"
  run mkdir -p "$packed"
  run tar -czf "$packed/pixeldit_jax.tgz" --exclude=__pycache__ -C "$root" \
    pixeldit_jax configs launch setup.py pyproject.toml README.md
}
