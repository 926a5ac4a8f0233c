"""The comparison of searchers on halves of a recorded table's examples."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search" / "tables_by_example.py"


def run(log, *arguments):
    command = [sys.executable, str(SCRIPT), "--jobs", "1", "--log", str(log), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_regrets_are_printed_and_finished_searches_are_not_repeated(tmp_path):
    log = tmp_path / "searches.jsonl"
    wanted = ("--tables", "two_facts", "--seeds", "1", "--searchers", "random:75:75")
    done = run(log, *wanted)
    assert done.returncode == 0, done.stderr
    head, rule, *rows = (line.strip("| ").split(" | ") for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == ["random:75:75", "the whole grid measured"]
    assert len(rule[0].split("|")) == len(head) == len(rows[0]) == len(rows[1]) > 1
    for row in rows:
        assert all(0.0 <= float(cell.split(" ± ")[0]) < 100.0 for cell in row[1:])
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    # A search in the log is not run again, and a line that a kill cut off is.
    changed = json.loads(lines[0]) | {"regrets": [99.0, 99.0]}
    log.write_text("\n".join([json.dumps(changed), *lines[1:3], lines[3][:20]]))
    again = run(log, *wanted)
    assert again.returncode == 0, again.stderr
    before, after = done.stdout.splitlines(), again.stdout.splitlines()
    assert after[2] != before[2]
    assert after[3] == before[3]
    assert log.read_text().splitlines()[-1] == lines[3]
    assert run(log, *wanted, "--print").stdout == again.stdout


@pytest.mark.parametrize("table", ["small_llms"])
def test_a_table_without_scores_by_example_is_refused(tmp_path, table):
    done = run(tmp_path / "log", "--tables", table, "--seeds", "1", "--searchers", "random:75:75")
    assert done.returncode == 1
    assert "no scores by example; valid: a table with a column 'examples'" in done.stderr
