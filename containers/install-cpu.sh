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
# --no-compile: pip makes the bytecode of 20,000 modules one after another; below that is done on all cores.
"${pip[@]}" install --no-deps --no-compile -r "${locks[0]}" -r "${locks[1]}" ||
  fail "pip could not install the locked packages: its message is above; pip must reach an index, and a CPU wheel of torch"
"$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' ||
  fail "pip chose a CUDA build of torch: offer a CPU wheel of torch through PIP_FIND_LINKS or an index and run this again"
# Some packages hold files of other Pythons, which do not compile: pip leaves those out without a word too.
# A fifth of the code is of models' classes (transformers, vLLM), of which few are ever imported: those compile then.
"$venv/bin/python" -m compileall -q -j 0 -x '/(tests?|models)/' "$venv"/lib/python3.11/site-packages >/dev/null 2>&1 ||
  say "some modules of the packages do not compile, as usual"
say "installing this project, editable"
# hatchling is in locks/dev.txt, so the build needs nothing from an index.
"${pip[@]}" install --no-deps --no-build-isolation -e "$root" ||
  fail "pip could not install the project from $root: its message is above"
echo "$wanted" >"$stamp"
say "done: $venv/bin/agenttts-hpc"
