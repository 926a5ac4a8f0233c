"""The ablation of agenttts: a table that goes on where it stopped, and switches that work."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search"


@pytest.fixture(scope="module")
def ablation():
    sys.path.insert(0, str(BENCHMARK))  # its scripts import each other by their own names
    try:
        return importlib.import_module("ablation")
    finally:
        sys.path.remove(str(BENCHMARK))


def test_every_switch_replaces_something_and_puts_it_back(ablation):
    for name, mechanism in ablation.MECHANISMS.items():
        before = [getattr(place, attribute) for place, attribute, _ in mechanism.off]
        with mechanism.switched_off():
            now = [getattr(place, attribute) for place, attribute, _ in mechanism.off]
        assert all(a is not b for a, b in zip(before, now, strict=True)), name
        assert before == [getattr(place, attribute) for place, attribute, _ in mechanism.off]
        assert mechanism.off or mechanism.searcher or name == "nothing"
        assert mechanism.lines > 0 or not mechanism.code


def test_the_ablation_goes_on_where_it_stopped(ablation, tmp_path, monkeypatch, capsys):
    log = tmp_path / "runs.jsonl"
    off = ["nothing", "exploration where scores stand still"]
    command = ["ablation.py", "--families", "small_llms", "--problems", "1", "--off", *off]
    monkeypatch.setattr(sys, "argv", [*command, "--minutes", "0", "--log", str(log)])
    monkeypatch.setattr(ablation, "SPENT", (400, 800))
    for count in (1, 2, 2):  # with no time left one search is run, as long as one is missing
        ablation.main()
        assert [json.loads(line)["off"] for line in log.read_text().splitlines()] == off[:count]
        shown = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in shown.split("\n\n")[0].splitlines()]
    assert rows[0][3:] == [f"{head} at {n}" for n in (400, 800) for head in ("regret", "change")]
    assert [row[0] for row in rows[2:]] == off
    assert [row[2] for row in rows[2:]] == ["1", "1"]
    assert rows[2][4] == "0.00", "nothing is switched off"
