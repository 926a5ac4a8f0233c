"""``python -m agenttts.trial SPEC.json``, the program in the container: what crosses, exit
codes, being stopped.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.inference.engine_process import create_engine
from agenttts.inference.partition import SamplePartition
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.phase import PHASE_FILE, read_phase
from agenttts.trial.result import Fault, read_fault, read_result
from agenttts.trial.run import run_trials
from agenttts.trial.spec import PROTOCOL, SPEC_FILE, TrialSpec
from tests.support.waiting import until


def start(spec: TrialSpec) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agenttts.trial", str(Path(spec.directory) / SPEC_FILE)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def run_here(spec: TrialSpec) -> tuple[int, str]:
    """Exit code and standard error of what the program does, in this process."""
    err = io.StringIO()
    code = run_trials(
        TrialCommand((DueTrial(Path(spec.directory) / SPEC_FILE),)),
        create_engine,
        out=io.StringIO(),
        err=err,
    )
    return code, err.getvalue()


def test_a_spec_crosses_as_plain_json(make_trial):
    spec = make_trial("t0000", ("weak", 2), ("strong", 1), options={"weak": {"max_model_len": 9}})
    path = Path(spec.directory) / SPEC_FILE
    assert TrialSpec.read(path) == spec
    shared = replace(spec, shares={"retrieval": SamplePartition(1, 3)})
    assert TrialSpec.from_json(json.loads(json.dumps(shared.to_json()))) == shared
    document = json.loads(path.read_text())
    older = {key: value for key, value in document.items() if key != "shares"} | {"protocol": 2}
    assert TrialSpec.from_json(older) == spec, "written before an upgrade, resumed after it"
    assert document["allocation"][0] == {"stage": "retrieval", "model": "weak", "samples": 2}


KEYS_OF_9 = {
    *("name", "path", "revision", "engine", "prompt_style", "gpus"),
    *("options", "template_args", "thinking", "weights", "rules"),
}


@pytest.mark.parametrize(
    ("later", "protocol"),
    [({}, 9), ({"sampling": {"top_k": 20}}, PROTOCOL), ({"chat_form": "merged"}, PROTOCOL)],
)
def test_an_earlier_image_goes_on_with_a_run_that_needs_nothing_new(make_trial, later, protocol):
    """It refuses keys that it does not know, and says of a later protocol what to do."""
    spec = make_trial("t0000", ("weak", 2), ("strong", 1))
    changed = replace(spec.models["weak"], **later)
    spec = replace(spec, models={**spec.models, "weak": changed})
    document = json.loads(json.dumps(spec.to_json()))
    assert document["protocol"] == protocol
    assert {key for model in document["models"].values() for key in model} == KEYS_OF_9 | {*later}
    assert TrialSpec.from_json(document) == spec


@pytest.mark.processes
def test_a_trial_whose_log_is_on_a_full_disk_ends_as_others_do(make_trial):
    good = make_trial("t0000", ("weak", 2), ("strong", 1))
    bad = make_trial("t0001", ("weak", 2), ("strong", 1), examples="/nowhere.jsonl")
    for spec, code in ((good, 0), (bad, 1)):
        command = [sys.executable, "-m", "agenttts.trial", str(Path(spec.directory) / SPEC_FILE)]
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, stdout=full, stderr=full, check=False)
        assert done.returncode == code
    assert read_result(Path(good.directory)) is not None
    assert read_fault(Path(bad.directory)) is not None


@pytest.mark.processes
def test_a_finished_trial_exits_with_0(make_trial):
    spec = make_trial("t0000", ("weak", 2), ("strong", 1))
    code, out, err = finish(start(spec))
    assert code == 0, err
    result = read_result(Path(spec.directory))
    assert out == f"t0000: score {result.score:.4f}\n"
    assert read_fault(Path(spec.directory)) is None


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["OOM", "FAILED"])
def test_an_engine_s_failure_is_a_fault_of_its_kind(make_trial, kind):
    spec = make_trial("t0000", ("strong", 1), ("weak", 1), options={"weak": {"fail": kind}})
    code, _, err = finish(start(spec))
    assert code == 1
    fault = read_fault(Path(spec.directory))
    assert (fault.kind, "fail: " + kind in fault.message) == (kind, True)
    assert fault.message in err
    assert "Traceback" not in err
    assert read_result(Path(spec.directory)) is None


@pytest.mark.processes
def test_an_error_in_a_user_s_task_says_where(make_trial, tmp_path, monkeypatch):
    (tmp_path / "mytask.py").write_text(
        "from agenttts.tasks.retrieval.task import Answer, Retrieval, RetrievalQA\n"
        "class Odd(Answer):\n"
        "    def metrics(self, output, example):\n"
        "        return {'em': 1 / 0}\n"
        "class MyTask(RetrievalQA):\n"
        "    stages = (Retrieval(), Odd())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    spec = make_trial("t0000", ("weak", 1), ("weak", 1), task="mytask:MyTask")
    code, _, err = finish(start(spec))
    assert code == 1
    assert read_fault(Path(spec.directory)) == Fault("FAILED", "ZeroDivisionError: division by zero (mytask.py:4)", "task")  # fmt: skip
    assert "Traceback" in err, "in the log, for whoever mends the task"


def test_an_image_of_another_protocol_is_found_out_before_it_computes(make_trial):
    spec = make_trial("t0000", ("weak", 1), ("weak", 1))
    document = spec.to_json() | {"protocol": PROTOCOL + 1, "invented": "later"}
    with pytest.raises(UserError, match=f"controller's is {PROTOCOL + 1}.*image build"):
        TrialSpec.from_json(document)
    (Path(spec.directory) / SPEC_FILE).write_text(json.dumps(document))
    code, err = run_here(spec)
    assert code == 1
    assert "image build" in read_fault(Path(spec.directory)).message
    assert "Traceback" not in err
    assert not Path(spec.samples).exists()


@pytest.mark.parametrize("content", ["", "{", "null", f'{{"protocol": {PROTOCOL}}}', f'{{"protocol": {PROTOCOL}, "allocation": 3}}'])  # fmt: skip
def test_a_damaged_spec_is_a_fault(make_trial, content):
    spec = make_trial("t0000", ("weak", 1), ("weak", 1))
    (Path(spec.directory) / SPEC_FILE).write_text(content)
    code, err = run_here(spec)
    assert code == 1
    assert SPEC_FILE in read_fault(Path(spec.directory)).message
    assert "Traceback" not in err


def test_a_damaged_shard_is_set_aside_and_told_in_the_log(make_trial):
    spec = make_trial("t0000", ("weak", 1), ("weak", 1))
    Path(spec.samples).mkdir()
    (Path(spec.samples) / "odd.parquet").write_bytes(b"PAR1")
    code, _, err = finish(start(spec))
    assert code == 0, err
    assert "odd.parquet is damaged" in err
    assert (Path(spec.samples) / "odd.parquet.damaged").exists()


def test_a_trial_notes_what_it_does(make_trial):
    spec = make_trial("t0000", ("weak", 2), ("strong", 1))
    assert read_phase(Path(spec.directory)) is None
    assert finish(start(spec))[0] == 0
    found = read_phase(Path(spec.directory))
    assert found.name == "other"
    assert found.number > 8, "two models' starts and a call each, at least"


@pytest.mark.parametrize("content", ["", "{", "null", "3", '{"number": 1}', '{"name": "load", "number": "x"}'])  # fmt: skip
def test_a_phase_that_cannot_be_read_is_none(tmp_path, content):
    (tmp_path / PHASE_FILE).write_text(content)
    assert read_phase(tmp_path) is None


def test_a_phase_of_a_later_image_is_not_watched(tmp_path):
    (tmp_path / PHASE_FILE).write_text('{"number": 3, "name": "later", "more": 1}')
    assert read_phase(tmp_path).name == "other"


@pytest.mark.processes
@pytest.mark.parametrize("signals", [1, 3])
def test_a_trial_told_to_stop_exits_with_143_and_goes_on_from_its_samples(make_trial, signals):
    """Retrieval is done when the signal comes, or comes repeatedly, as through a container
    runtime.
    """
    slow = {"weak": {"seconds_per_sample": 5}}  # a minute, if nothing stops it
    spec = make_trial("t0000", ("strong", 6), ("weak", 2), options=slow)
    process = start(spec)
    samples = Path(spec.samples)
    until(
        lambda: list(samples.glob("*.parquet")) or process.poll() is not None,
        "stored samples",
        pause=0.02,
    )
    assert process.poll() is None
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert (code, err) == (143, "")
    assert read_result(Path(spec.directory)) is None
    assert read_fault(Path(spec.directory)) is None
    stored = pl.read_parquet(sorted(samples.glob("*.parquet")))
    assert stored.height == 36, "six samples of six questions"
    spec = make_trial("t0000", ("strong", 6), ("weak", 2))
    assert finish(start(spec))[0] == 0
    retrieval = pl.read_parquet(Path(spec.directory) / "examples.parquet").filter(stage="retrieval")
    assert (retrieval["reused_tokens"] == retrieval["prompt_tokens"] + retrieval["decode_tokens"]).all()  # fmt: skip
