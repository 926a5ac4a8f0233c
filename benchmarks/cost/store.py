"""Look-ups and compaction of a sample store with a million samples.

    python benchmarks/cost/store.py [--samples 1000000] [--prompts 50] [--json]

The store is written by the project's own writer (`agenttts.inference.store`), one shard for 2,048
samples, as full engine calls write them. A look-up asks for the 16 samples of each of 50 prompts
that were drawn together, as a trial does. "Scattered" are 50 prompts from anywhere in the store.
Each row is measured in a process of its own: the first look-up, then the median of the following
ones, and the most memory above that of the process before its first look-up. The process waits half
a second before, because a thread of numpy's OpenBLAS is busy for 0.1 s after the import; a trial
reads its questions and starts an engine in that time. Then the shards are compacted
(`agenttts.inference.compaction`), and the same is measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agenttts.inference.compaction import compact
from agenttts.inference.store import SampleStore, StoredSample

A_PROMPT = 16
A_SHARD = 2048
SHARDS_A_WRITER = 4
TARGET_MS = 50.0
LOOK_UPS = 20
SETTLE_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = arguments.samples // A_PROMPT
    if arguments.measure:
        what, folder = arguments.measure
        found = (
            compaction(Path(folder))
            if what == "compaction"
            else look_ups(Path(folder), known, arguments.prompts, scattered=what == "scattered")
        )
        print(json.dumps(found))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, arguments.samples)
        for state in ("as written", "compacted"):
            if state == "compacted":
                rows.append({"what": "compaction", **measured("compaction", folder, arguments)})
            shards = [path.stat().st_size for path in folder.glob("*.parquet")]
            for what in ("together", "scattered"):
                row = measured(what, folder, arguments)
                title = f"{state}, {len(shards)} shards, {sum(shards) >> 20} MiB: {what}"
                rows.append({"what": title, **row})
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    columns = {
        "first_ms": "first, ms",
        "first_cpu_ms": "its CPU time",
        "later_ms": "later, ms",
        "later_cpu_ms": "its CPU time",
        "memory_mib": "memory, MiB",
    }
    print(f"| | {' | '.join(columns.values())} |\n|---|{'--:|' * len(columns)}")
    for row in rows:
        cells = [row.get(key) for key in columns]
        shown = " | ".join("" if cell is None else f"{cell:.0f}" for cell in cells)
        print(f"| {row['what']} | {shown} |")
    slowest = max(row[key] for row in rows if "later_ms" in row for key in ("first_ms", "later_ms"))
    print(
        f"\ntarget of a look-up: {TARGET_MS:.0f} ms, "
        f"{'met' if slowest < TARGET_MS else 'missed'} (the slowest: {slowest:.0f} ms)"
    )


def measured(what: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, str(folder)]
    command += ["--samples", str(arguments.samples), "--prompts", str(arguments.prompts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def fill(folder: Path, samples: int) -> None:
    """Write the samples: 16 of each prompt, one after the other."""
    texts = replies(random.Random(0))
    for first in range(0, samples, A_SHARD):
        if first % (A_SHARD * SHARDS_A_WRITER) == 0:
            store = SampleStore(folder, f"run-t{first // (A_SHARD * SHARDS_A_WRITER):05d}-1")
        for number in range(first, min(samples, first + A_SHARD)):
            text = next(texts)
            tokens = max(1, len(text) // 4)
            store.add(
                StoredSample(
                    key_of(number // A_PROMPT),
                    number % A_PROMPT,
                    text,
                    tokens,
                    "stop",
                    350,
                    False,
                    "m",
                )
            )
        store.flush()


def replies(rng: random.Random) -> Iterator[str]:
    """Yield texts of words with the frequencies of words in a language.

    Their lengths are log-normal: half of them are longer than 400 characters, one in a hundred is
    longer than 2,000.
    """
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = [
        "".join(rng.choices(letters[: rng.randint(8, 26)], k=rng.randint(2, 9)))
        for _ in range(8000)
    ]
    frequencies = [1 / (rank + 1) for rank in range(len(words))]
    text = " ".join(rng.choices(words, frequencies, k=2_000_000))
    while True:
        length = min(4000, int(rng.lognormvariate(6.0, 0.7)))
        start = rng.randrange(len(text) - length)
        yield text[start : start + length]


def key_of(prompt: int) -> str:
    """Return the key of a prompt's samples, which looks like those of `sample_key`."""
    return hashlib.sha256(str(prompt).encode()).hexdigest()[:32]


def look_ups(folder: Path, known: int, prompts: int, *, scattered: bool) -> dict[str, float]:
    """Look samples up, other prompts each time."""
    rng = random.Random(1)
    store = SampleStore(folder, "reader")
    before = peak_mib()
    time.sleep(SETTLE_SECONDS)
    seconds, cpu = [], []
    for _ in range(1 + LOOK_UPS):
        if scattered:
            chosen: Sequence[int] = rng.sample(range(known), prompts)
        else:
            first = rng.randrange(known - prompts)
            chosen = range(first, first + prompts)
        wanted = {key_of(prompt): A_PROMPT for prompt in chosen}
        began, began_cpu = time.perf_counter(), time.process_time()
        found = store.lookup(wanted)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        if any(len(samples) != A_PROMPT for samples in found.values()):
            sys.exit("a sample is missing")
    return {
        "first_ms": 1e3 * seconds[0],
        "first_cpu_ms": 1e3 * cpu[0],
        "later_ms": 1e3 * statistics.median(seconds[1:]),
        "later_cpu_ms": 1e3 * statistics.median(cpu[1:]),
        "memory_mib": peak_mib() - before,
    }


def compaction(folder: Path) -> dict[str, float]:
    """Compact the store, and remove the old shards at once."""
    before, began = peak_mib(), time.perf_counter()
    compact(folder, settle_seconds=0)
    seconds = time.perf_counter() - began
    memory = peak_mib() - before
    compact(folder, settle_seconds=0)
    return {"first_ms": 1e3 * seconds, "memory_mib": memory}


def peak_mib() -> float:
    """Return the most memory of this process so far (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    main()
