#!/usr/bin/env bash
# Installs the CPU inference stack, the tools of development and this project (editable) into a virtual environment:
#     containers/install-cpu.sh VENV
# VENV is created when it is absent. A second call with unchanged locks does nothing and takes no time.
# Environment: PYTHON, the Python 3.11 to make VENV with (default python3). Where wheels come from (an index, a folder
# with a CPU build of torch) is pip's own configuration: pip.conf, PIP_INDEX_URL, PIP_FIND_LINKS.
set -euo pipefail

say() { printf 'install-cpu: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ $# -eq 1 ] || fail "usage: containers/install-cpu.sh VENV"
venv=$1
root=$(cd "$(dirname "$0")/.." && pwd)
locks=("$root/locks/dev.txt" "$root/containers/cpu-requirements.txt")
stamp=$venv/.agenttts-installed
python=${PYTHON:-python3}

# The project's own metadata (entry point, path of the checkout) is part of what is installed.
wanted=$({ cat "${locks[@]}" "$root/pyproject.toml"; echo "$root"; } | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  say "$venv is up to date"
  exit 0
fi

for file in "${locks[@]}" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE"; do
  [ -r "$file" ] || fail "$file is missing: run this from a complete checkout"
done
if [ ! -x "$venv/bin/python" ]; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail "no Python found as '$python': install Python 3.11 or set PYTHON"
  [ "$version" = 3.11 ] || fail "the locks are for Python 3.11, and '$python' is $version: set PYTHON"
  say "making $venv"
  "$python" -m venv "$venv" || fail "could not make $venv: is the venv package of '$python' installed?"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet --no-input)
# Two calls at once (a test run and a person) would write over each other's files.
exec 9>"$venv/.agenttts-lock"
flock 9
rm -f "$stamp"
say "installing $(cat "${locks[@]}" | grep -c ==) pinned packages (about 2.5 GB; minutes when nothing is cached)"
# uv unpacks them in 18 CPU seconds, pip in 98. It is pinned like all else, and gets what pip is configured with.
by_uv() (
  "${pip[@]}" install --no-deps "$(grep '^uv==' "${locks[0]}")" || return 1
  settings=$(PYTHONPATH=$root "$venv/bin/python" -m agenttts.images.pip_settings) || return 1
  while read -r line; do [ -z "$line" ] || export "${line?}"; done <<<"$settings"
  "$venv/bin/uv" --quiet pip install --python "$venv/bin/python" --no-deps -r "${locks[0]}" -r "${locks[1]}"
)
# --no-compile: most modules are never imported; below, bytecode is made of those that are.
by_uv || { say "uv could not install them, for the reason above; pip tries now" &&
  "${pip[@]}" install --no-deps --no-compile -r "${locks[0]}" -r "${locks[1]}"; } ||
  fail "pip could not install the locked packages: its message is above; pip must reach an index, and a CPU wheel of torch"
"$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' ||
  fail "pip chose a CUDA build of torch: offer a CPU wheel of torch through PIP_FIND_LINKS or an index and run this again"
# Programs that start at the same time would each compile the same modules. Compiling all that is installed would take
# 50 CPU seconds more, for modules that are never imported.
"$venv/bin/python" "$root/containers/make-bytecode.py" >/dev/null 2>&1 ||
  say "the bytecode of some packages could not be made: their first import takes longer"
say "installing this project, editable"
# hatchling is in locks/dev.txt, so the build needs nothing from an index.
"${pip[@]}" install --no-deps --no-build-isolation -e "$root" ||
  fail "pip could not install the project from $root: its message is above"
echo "$wanted" >"$stamp"
say "done: $venv/bin/agenttts-hpc"
