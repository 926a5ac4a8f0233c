"""The ablation of agenttts: a table that goes on where it stopped, and switches that work."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.search.mechanisms import MECHANISMS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search" / "ablation.py"


def test_every_switch_replaces_something_and_puts_it_back():
    for name, mechanism in MECHANISMS.items():
        before = [getattr(place, attribute) for place, attribute, _ in mechanism.off]
        with mechanism.switched_off():
            now = [getattr(place, attribute) for place, attribute, _ in mechanism.off]
        assert all(a is not b for a, b in zip(before, now, strict=True)), name
        assert before == [getattr(place, attribute) for place, attribute, _ in mechanism.off]
        assert mechanism.off or mechanism.searcher or name == "nothing"
        assert mechanism.lines > 0 or not mechanism.code


def test_the_ablation_goes_on_where_it_stopped(tmp_path):
    log = tmp_path / "runs.jsonl"
    off = ["nothing", "three starts of the curves' fit (one)"]
    command = [sys.executable, str(SCRIPT), "--families", "small_llms", "--problems", "1"]
    command += ["--evaluations", "200", "400", "--off", *off, "--minutes", "0", "--log", str(log)]
    for count in (1, 2):  # with no time left one search is run
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [json.loads(line)["off"] for line in log.read_text().splitlines()] == off[:count]
    rows = [line.strip("| ").split(" | ") for line in done.stdout.split("\n\n")[0].splitlines()]
    assert rows[0][3:] == [f"{head} at {n}" for n in (200, 400) for head in ("regret", "change")]
    assert [row[0] for row in rows[2:]] == off
    assert [row[2] for row in rows[2:]] == ["1", "1"]
    assert rows[2][4] == "0.00", "nothing is switched off"
