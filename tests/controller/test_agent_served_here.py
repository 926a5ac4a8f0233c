"""A real small model, served with real vLLM by the run itself on this machine, takes part in a search."""

from __future__ import annotations

import json
import time
from pathlib import Path

import polars as pl
import pytest


@pytest.mark.llm
@pytest.mark.timeout(2400)
def test_a_model_that_the_run_serves_itself_proposes(cli, scripted_spec, smollm2, tmp_path):
    agent = {
        "kind": "serve",
        "model": str(smollm2),
        "max_tokens": 300,
        "timeout_seconds": 600,
        "start_seconds": 900,
        "retries": 1,
    }
    spec = scripted_spec(task__examples=4, search__iterations=2, search__batch_size=3, agent=agent)
    done = cli("launch", spec, "--wait", timeout=2300)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results/small"
    events = [json.loads(line) for line in (run / "agent.jsonl").read_text().splitlines()]
    served = [e["what"] for e in events if e["event"] == "served"]
    assert served[0].startswith("started as job")
    assert any(what.startswith("ready at 127.0.0.1:") for what in served)
    assert "released" in served[-1]
    replies = [e for e in events if e["event"] == "reply"]
    assert len(replies) >= 3
    assert all(e["completion_tokens"] > 1 and e["prompt_tokens"] > 500 for e in replies)
    # The server held it to the schema: a small model's JSON is read without a repair library.
    first = next(e for e in replies if e["purpose"] == "propose")
    if first["finish_reason"] == "stop":
        assert json.loads(first["reply"])["allocations"]
    frame = pl.read_parquet(run / "trials.parquet")
    assert set(frame["state"]) == {"COMPLETED"}
    # What it proposed is usable; whether the search prefers its own ideas is the search's decision.
    assert any(e["usable"] for e in events if e["event"] == "proposals")
    assert set(frame["source"]) <= {"initial", "agent", "agent-repaired", "insight", "explore"}
    # Nothing is left of it: no process, no key, no address.
    assert not (run / "agent" / "key").exists()
    assert not (run / "agent" / "address.json").exists()
    deadline = time.monotonic() + 30  # the controller itself is on its way out
    while left := [
        p for p in Path("/proc").glob("[0-9]*/cmdline") if str(run).encode() in _read(p)
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
