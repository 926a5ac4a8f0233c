"""Polars' allocator gives memory back in a way that all kernels get right."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

# Prints the most kilobytes that the kernel could have taken back, and the last setting.
PROGRAM = """
import os, re, time, {imported}
import polars as pl
most = 0
for _ in range(20):
    frame = pl.DataFrame(dict(a=pl.int_range(1_000_000, eager=True))).select(pl.all().cast(pl.String))
    del frame
    time.sleep(0.02)
    rollup = open("/proc/self/smaps_rollup").read()
    most = max(most, int(re.search(r"LazyFree:\\s+(\\d+)", rollup)[1]))
print(most, os.environ["_RJEM_MALLOC_CONF"].split(",")[-1])
"""


def most_lazily_freed(imported: str, setting: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(imported=imported)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "_RJEM_MALLOC_CONF": setting},
    )
    most, last = done.stdout.split()
    return int(most), last


# Memory is given back after milliseconds instead of after half a second.
SOON = "dirty_decay_ms:10"
OF_POLARS = "dirty_decay_ms:500,muzzy_decay_ms:1000"


def test_polars_alone_gives_memory_back_lazily():
    assert most_lazily_freed("sys", SOON)[0] > 0


@pytest.mark.parametrize("setting", [SOON, f"{OF_POLARS},{SOON}"], ids=["own", "inherited"])
def test_with_this_package_it_never_does(setting):
    """Also in a program started by one that has imported Polars, which leaves its settings."""
    assert most_lazily_freed("agenttts", setting) == (0, "muzzy_decay_ms:0")


def test_programs_of_programs_do_not_repeat_the_setting():
    code = "import os, agenttts; print(os.environ['_RJEM_MALLOC_CONF'])"
    env = {**os.environ, "_RJEM_MALLOC_CONF": f"{OF_POLARS},muzzy_decay_ms:0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == f"{OF_POLARS},muzzy_decay_ms:0\n"
