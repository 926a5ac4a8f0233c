"""The comparison of searchers on halves of a recorded table's examples."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search" / "tables_by_example.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_regrets_on_the_recorded_table_are_printed():
    done = run("--seeds", "1", "--searchers", "random:75:75")
    assert done.returncode == 0, done.stderr
    head, rule, *rows = (line.strip("| ").split(" | ") for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == ["random:75:75", "whole grid"]
    assert len(rule[0].split("|")) == len(head) == len(rows[0]) == len(rows[1]) > 1
    for row in rows:
        assert all(0.0 <= float(cell.split(" ± ")[0]) < 100.0 for cell in row[1:])


@pytest.mark.parametrize("table", ["small_llms"])
def test_a_table_without_scores_by_example_is_refused(table):
    done = run("--table", table, "--seeds", "1", "--searchers", "random:75:75")
    assert done.returncode == 1
    assert "no scores by example; valid: a table with a column 'examples'" in done.stderr
