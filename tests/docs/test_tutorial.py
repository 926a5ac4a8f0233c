"""The tutorial: its files are written as it shows them, and its commands run in their order."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import polars as pl
import pytest

from tests.support.tutorial import blocks, write_files


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path)


@pytest.mark.processes
def test_its_commands_run_and_its_source_is_frozen(cli, folder):
    commands = [
        shlex.split(line.removeprefix("$ "))
        for language, _, text in blocks()
        if language == "console"
        for line in text.splitlines()
        if line.startswith("$ ")
    ]
    assert len(commands) >= 6
    for program, *arguments in commands:
        if program == "python":
            subprocess.run([sys.executable, *arguments], cwd=folder, check=True)
        else:
            assert program == "agenttts-hpc"
            done = cli(*arguments)
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
    yaml_run, python_run = (
        pl.read_parquet(folder / "results" / name / "trials.parquet") for name in ("triage", "triage-py")
    )  # fmt: skip
    for frame in (yaml_run, python_run):
        assert set(frame["state"]) == {"COMPLETED"}
        assert frame["score"].n_unique() > 1
        assert frame["score"].max() > 0.5
    assert set(yaml_run["metrics"].struct.fields) == {
        "naming.exact_match", "sorting.exact_match", "answer.rouge_l", "answer.token_f1",
    }  # fmt: skip
    rows = pl.read_parquet(folder / "results/triage/trials/t0000/examples.parquet")
    assert rows.height == 18
    # The source is frozen into the run.
    task = folder / "results" / "triage" / "task"
    assert (task / "triage-task.yaml").read_text() == (folder / "triage-task.yaml").read_text()
    spec = json.loads((folder / "results/triage/trials/t0000/trial.json").read_text())
    assert spec["task"] == str(task / "triage-task.yaml")
    assert spec["task_source"] == str(task)
