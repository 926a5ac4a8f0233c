"""Models on a server, searched on real Slurm in real containers: the key arrives, without GPUs."""

from __future__ import annotations

import json
import subprocess

from tests.support.cluster import TESTCLUSTER
from tests.support.llm import KEY, Server, said
from tests.support.runs import attempts, table

VARIABLE = "ENDPOINT_TEST_KEY"


def test_trials_on_nodes_ask_the_server_with_the_key_and_hold_no_gpus(
    cli, cluster, scripted_spec, tmp_path
):
    server = Server()
    server.models = (200, json.dumps({"data": [{"id": "served"}]}), {})
    server.answers = [said("[1] [2]")]
    options = {"base_url": server.url, "api_key_env": VARIABLE}
    model = {"path": "served", "params": 3e9, "engine": "endpoint", "options": options}
    spec = scripted_spec(
        models={"weak": model, "strong": {**model, "params": 14e9}},
        search__iterations=0,
        task__examples=2,
    )
    env = {**cluster.env, VARIABLE: KEY}
    try:
        done = cli("launch", spec, "--cluster", TESTCLUSTER, "--wait", env=env)
        assert done.returncode == 0, done.stderr
    finally:
        server.close()
    run = tmp_path / "results/small"
    assert set(table(run)["state"]) == {"COMPLETED"}
    records = attempts(run)
    assert records
    assert all((a["gpus"], a["devices"]) == (0, "") for a in records)
    asked = {headers.get("Authorization") for _, headers, _ in server.requests}
    assert asked == {f"Bearer {KEY}"}
    requests = [path.read_text() for path in (run / "slurm").rglob("*.sh")]
    assert requests
    assert not any("--gres" in text or "--gpus" in text for text in requests)
    found = subprocess.run(["grep", "-rlaF", KEY, tmp_path], capture_output=True, check=False)
    assert found.stdout == b"", "no file of the run holds the key"
