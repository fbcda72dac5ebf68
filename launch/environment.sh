# shellcheck shell=bash
# The virtual environment that the scripts beside this file run in. Sourced:
#
#   . launch/environment.sh
#   prepare_environment 2500 '.[demo]'   # MB of disk, then pip requirements
#   "$venv_python" launch/train.py --help
#
# It is made once and reused until setup.py, pyproject.toml,
# launch/constraints.txt or the requirements change. These variables change what
# it does:
#   PYTHON=python3.12       the Python it is made from
#   PIXELDIT_VENV=DIR       where it is (default: .venv in the checkout)
#   PIXELDIT_NEEDED_MB=N    free disk space asked for before installing
# pip's own variables (PIP_INDEX_URL, HTTPS_PROXY, ...) work as always.
# Plain bash 3.2, the one that macOS ships.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
constraints=$root/launch/constraints.txt
venv=${PIXELDIT_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
venv_python=$venv/bin/python
notes=$venv/.pixeldit_jax # what was installed here, and pip's last words
pip_log=$notes/pip.log

unset PYTHONHOME # it would hide the environment's own packages

# Prints MESSAGE and, below it, how to go on; then ends the script.
fail() { # MESSAGE [HINT...]
  printf 'error: %s\n' "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
  exit 1
}

# Leaves at $venv_python a Python that has the requirements, versions pinned.
prepare_environment() { # NEEDED_MB PROJECT[EXTRAS] REQUIREMENT...
  local needed_mb=${PIXELDIT_NEEDED_MB:-$1} versions stamp old
  shift
  check_checkout
  # A stamp stands for the versions and the requirements in its name.
  versions=$({ cat "$root/setup.py" "$root/pyproject.toml" "$constraints" &&
    echo "$root"; } | cksum)
  versions=$notes/${versions%% *}
  stamp=$versions-$(printf '%s\n' "$@" | cksum | cut -d' ' -f1)
  if [ -n "${PYTHON:-}" ]; then choose_python; fi
  if [ -e "$stamp" ] && venv_is_sound; then return; fi

  check_space "$needed_mb"
  venv_is_sound || make_venv
  install_packages "$@"
  for old in "$notes"/*-*; do
    case $old in "$versions"-*) ;; *) rm -f "$old" ;; esac
  done
  touch "$stamp"
}

check_checkout() {
  local place
  for place in setup.py pyproject.toml pixeldit_jax launch/constraints.txt; do
    [ -r "$root/$place" ] || fail "cannot read $root/$place" \
      "Make the checkout readable (chmod -R u+rX '$root') or clone it again."
  done
  for place in "$root" "$(existing_parent "$venv")"; do
    [ -w "$place" ] || fail "cannot write to $place" \
      'Clone the project into a folder of your own, and keep the environment' \
      'in another one, if you like, by PIXELDIT_VENV=DIR.'
  done
}

# Sets python to one of 3.11 or newer: $PYTHON, or the first that is found.
choose_python() {
  local name version found=''
  if [ -n "${PYTHON:-}" ]; then
    set -- "$PYTHON"
  else
    set -- python3 python3.13 python3.12 python3.11 python
  fi
  for name; do
    version=$(python_version "$name") || continue
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      python=$name
      return
    fi
    found="$found${found:+, }$name ($version)"
  done
  fail "Python 3.11 or newer is needed; found: ${found:-none}" \
    "Looked for: $*" \
    'Install one (apt install python3.12 python3.12-venv, or brew install' \
    'python@3.12, or python.org) and name it, by its name or its path:' \
    "  PYTHON=python3.12 bash $0"
}

python_version() {
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

# True if the environment runs, is of the Python asked for by PYTHON, and was
# not left half-way through an installation.
venv_is_sound() {
  local version
  version=$(python_version "$venv_python") || return 1
  if [ -n "${PYTHON:-}" ]; then
    [ "$version" = "$(python_version "$python")" ] || return 1
  fi
  # pip touches nothing before it says this, and the log goes at success.
  if grep -qs '^Installing collected packages' "$pip_log"; then return 1; fi
  "$venv_python" -c 'import pip' 2>/dev/null
}

make_venv() {
  local version
  if [ -e "$notes/made" ]; then
    clear_venv # ours, and broken or of another Python
  elif [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
    fail "$venv is there, but is not a working environment" \
      'Remove it, or give another place: PIXELDIT_VENV=DIR'
  fi
  choose_python
  version=$(python_version "$python")
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python ($version) cannot make virtual environments: it has no venv" \
      "Install it (Debian, Ubuntu: apt install python${version%.*}-venv) or" \
      'name another Python: PYTHON=python3.12'
  echo "Making a virtual environment in $venv (Python $version)"
  if ! { mkdir -p "$notes" && touch "$notes/made" &&
    "$python" -m venv "$venv"; }; then
    fail "could not make a virtual environment in $venv" \
      'The reason is above. Give another place: PIXELDIT_VENV=DIR'
  fi
}

# In this order, so that one interrupted here is seen to be unsound.
clear_venv() {
  rm -f "$notes"/*-*
  find "$venv" -mindepth 1 -maxdepth 1 ! -path "$notes" -exec rm -rf {} +
  rm -f "$pip_log"
}

install_packages() { # REQUIREMENT...
  echo "Installing $* (some minutes; to watch: tail -f $pip_log)"
  mkdir -p "$notes"
  # What has to be built is built with the pinned setuptools as well.
  if run_pip setuptools >"$pip_log" 2>&1 &&
    run_pip --no-build-isolation -e "$@" >>"$pip_log" 2>&1; then
    rm "$pip_log"
    return
  fi
  tail -n 15 "$pip_log" >&2
  explain_pip_failure
}

# A package without those that it asks for, pinned.
install_alone() { # PACKAGE
  echo "Installing $1"
  mkdir -p "$notes"
  if run_pip --no-deps "$1" >"$pip_log" 2>&1; then
    rm "$pip_log"
    return
  fi
  tail -n 15 "$pip_log" >&2
  explain_pip_failure
}

# Large pages for the big buffers of each step: a tenth faster on Linux.
use_large_pages() {
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
}

run_pip() {
  (cd "$root" && exec "$venv_python" -m pip install --no-input \
    --disable-pip-version-check --progress-bar off -c "$constraints" "$@")
}

explain_pip_failure() {
  if grep -qiE 'no space left|disk quota|errno 28' "$pip_log"; then
    fail 'the disk is full (above: the last words of pip)' \
      'Free some space, or put the environment on another disk by' \
      'PIXELDIT_VENV=DIR and temporary files by TMPDIR=DIR.'
  elif grep -qE 'Retrying|Connection|Timeout|SSLError|ProxyError' \
    "$pip_log"; then
    fail 'a package could not be downloaded (above: the last words of pip)' \
      'Check the network; behind a proxy set HTTPS_PROXY, for a mirror of the' \
      "package index PIP_INDEX_URL; run it again. All of it: $pip_log"
  fi
  fail 'a package could not be installed (above: the last words of pip)' \
    "Is the package index complete (${PIP_INDEX_URL:-pip config list})? Is" \
    "Python $(python_version "$venv_python") too new for it (PYTHON=python3.12)?" \
    "All that pip said: $pip_log"
}

# Asks for room for the environment and, elsewhere, for pip's temporary files.
check_space() { # NEEDED_MB
  require_space "$venv" "$1" PIXELDIT_VENV
  local temporary=${TMPDIR:-/tmp}
  if [ "$(disk_of "$temporary")" != "$(disk_of "$venv")" ]; then
    require_space "$temporary" $(($1 / 2)) TMPDIR
  fi
}

require_space() { # DIR NEEDED_MB VARIABLE
  local free
  free=$(df -Pk "$(existing_parent "$1")" 2>/dev/null |
    sed -nE 's/.* [0-9]+ +[0-9]+ +([0-9]+) +[0-9]+%.*/\1/p')
  [ -n "$free" ] || return 0 # a file system that does not tell
  free=$((free / 1024))
  [ "$free" -ge "$2" ] || fail \
    "not enough disk space for $1: $2 MB needed, $free MB free" \
    "Free some space, or give a place on another disk: $3=DIR"
}

disk_of() { df -P "$(existing_parent "$1")" 2>/dev/null | tail -n 1; }

existing_parent() {
  local place=$1
  while [ ! -e "$place" ]; do place=$(dirname "$place"); done
  echo "$place"
}
