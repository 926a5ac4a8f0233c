"""A real small model, served with real vLLM by the run itself on this machine, takes part in a
search.
"""

from __future__ import annotations

import json

import pytest

from tests.support.endpoints import FEWER_PROCESSES
from tests.support.processes import processes_with
from tests.support.real_models import QUICK, check_proposals_of_served_model
from tests.support.runs import table, transcript_events
from tests.support.waiting import until


@pytest.mark.llm
@pytest.mark.timeout(2400)
def test_a_model_that_the_run_serves_itself_proposes(
    cli, scripted_spec, smollm2, tmp_path, monkeypatch
):
    for variable, value in FEWER_PROCESSES.items():
        monkeypatch.setenv(variable, value)
    agent = {
        "kind": "serve",
        "model": str(smollm2),
        "options": dict(QUICK),
        "max_tokens": 300,
        "timeout_seconds": 600,
        "start_seconds": 900,
        "retries": 1,
    }
    spec = scripted_spec(task__examples=4, search__iterations=1, search__batch_size=2, agent=agent)
    done = cli("launch", spec, "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results/small"
    served = [e["what"] for e in transcript_events(run, "served")]
    assert served[0].startswith("started as job")
    assert any(what.startswith("ready at 127.0.0.1:") for what in served)
    assert "released" in served[-1]
    replies = transcript_events(run, "reply")
    assert replies
    assert all(e["completion_tokens"] > 1 and e["prompt_tokens"] > 500 for e in replies)
    # The server held it to the schema: a small model's JSON is read without a repair library.
    first = next(e for e in replies if e["purpose"] == "propose")
    if first["finish_reason"] == "stop":
        assert json.loads(first["reply"])["allocations"]
    frame = table(run)
    assert set(frame["state"]) == {"COMPLETED"}
    check_proposals_of_served_model(run)
    # Nothing is left of it: no process, no key, no address.
    assert not (run / "agent" / "key").exists()
    assert not (run / "agent" / "address.json").exists()
    # The controller itself may still be ending.
    until(lambda: not processes_with(str(run)), seconds=30)
