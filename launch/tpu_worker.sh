#!/usr/bin/env bash
# One worker of a Cloud TPU slice; called on each of them by tpu_pod.sh.
set -euo pipefail

usage='usage: bash launch/tpu_worker.sh [--detach] SCRIPT [ARGUMENT...] | --stop'

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
pid_file=${TMPDIR:-/tmp}/pixeldit_jax.pid
log=~/pixeldit_jax.log

is_running() { [ -e "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }

has_python() { # NAME
  "$1" -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' \
    2>/dev/null
}

case ${1:-} in
'' | -h | --help)
  echo "$usage"
  exit
  ;;
--stop)
  if is_running; then kill "$(cat "$pid_file")"; else echo 'Nothing runs.'; fi
  exit
  ;;
esac
if is_running; then
  echo 'error: a run is going on here; end it with tpu_pod.sh --stop' >&2
  exit 1
fi

# The system of TPU machines may have a Python older than 3.11, or no venv.
if ! has_python python3 && ! has_python python3.11; then
  apt='sudo apt-get -qq -o DPkg::Lock::Timeout=600'
  $apt update
  $apt install -y python3.11-venv || $apt install -y python3-venv
fi

cd "$root"
if [ "$1" = --detach ]; then
  shift
  nohup bash launch/run.sh tpu "$@" >"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
  echo "Started on $(hostname); its output: $log"
else
  echo $$ >"$pid_file" # that of Python, too: it takes this process over
  exec bash launch/run.sh tpu "$@"
fi
