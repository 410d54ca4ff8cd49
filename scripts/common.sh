# Sourced by every script here: where things lie, and how to speak. Nothing in it does work.
#
# The tools (apt, pip, cmake, the tests) never run under a preload: LD_PRELOAD=libdjinn.so is for the program that wants a GPU, and a script that
# is asked to start one (scripts/python) takes it from djinn_preload.
# shellcheck shell=bash disable=SC2034

djinn_preload=${LD_PRELOAD-}
unset LD_PRELOAD

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The first is the default; DJINN_TORCH_VERSION=2.15.0 before any script here means that one. A build has a hook and an executor for each that is there.
readonly torch_versions=(2.14.1 2.15.0 2.13.0) python_version=3.11
readonly torch_version=${DJINN_TORCH_VERSION:-${torch_versions[0]}}
if [[ " ${torch_versions[*]} " != *" $torch_version "* ]]; then
  echo "djinn: DJINN_TORCH_VERSION=$torch_version is none of: ${torch_versions[*]}" >&2
  exit 1
fi
if [[ -z ${DJINN_CACHE:-} && -z ${XDG_CACHE_HOME:-} && -z ${HOME:-} ]]; then
  echo "djinn: neither DJINN_CACHE nor XDG_CACHE_HOME nor HOME is set: no place to keep the Python environment" >&2
  exit 1
fi
cache=${DJINN_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/djinn}
environment=$cache/torch-$torch_version-py$python_version
site=lib/python$python_version/site-packages
# Written last: an environment without it is one whose making was interrupted.
complete=$environment/djinn-complete
python=$environment/bin/python
torch_dir=$environment/$site/torch

# The torch packages of all environments that are complete, the chosen one first; separated by semicolons, as CMake likes it.
torch_dirs() {
  local version dirs=$torch_dir
  for version in "${torch_versions[@]}"; do
    local other=$cache/torch-$version-py$python_version
    [[ $version == "$torch_version" || ! -e $other/djinn-complete ]] || dirs+=";$other/$site/torch"
  done
  echo "$dirs"
}

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
