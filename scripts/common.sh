# Sourced by every script here: where things lie, and how to speak. Nothing in it does work.
#
# The tools (apt, pip, cmake, the tests) never run under a preload: LD_PRELOAD=libdjinn.so is for the program that wants a GPU, and a script that
# is asked to start one (scripts/python) takes it from djinn_preload.
# shellcheck shell=bash disable=SC2034

djinn_preload=${LD_PRELOAD-}
unset LD_PRELOAD

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly torch_version=2.14.1 python_version=3.11
if [[ -z ${DJINN_CACHE:-} && -z ${XDG_CACHE_HOME:-} && -z ${HOME:-} ]]; then
  echo "djinn: neither DJINN_CACHE nor XDG_CACHE_HOME nor HOME is set: no place to keep the Python environment" >&2
  exit 1
fi
cache=${DJINN_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/djinn}
environment=$cache/torch-$torch_version-py$python_version
# Written last: an environment without it is one whose making was interrupted.
complete=$environment/djinn-complete
python=$environment/bin/python
torch_dir=$environment/lib/python$python_version/site-packages/torch

say() { printf 'djinn: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# Shows a command as a reader would type it, then runs it.
show() { printf '$ %s\n' "$*"; "$@"; }

# Compilers of libtorch's headers take up to 2 GB each: as many as there are processors, but not more than the memory holds.
jobs_here() {
  local memory
  memory=$(awk '/^MemAvailable:/ { print int($2 / 2097152) }' /proc/meminfo)
  local processors
  processors=$(nproc)
  echo $((memory < 1 ? 1 : memory < processors ? memory : processors))
}
