"""Several trials in one process: the same results as one by one, each sample drawn once."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import textwrap
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttts.dispatch.blame import AttemptEnd, blame
from agenttts.inference.failure_kind import failure_kind
from agenttts.inference.sampler import SAMPLES_A_CALL
from agenttts.inference.store import SampleStore
from agenttts.tables.stored_results import STORED_FILE, read_stored
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.phase import PHASE_FILE
from agenttts.trial.result import EXAMPLES_FILE, read_fault, read_result
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE
from tests.support.trial_lists import LISTS, Engines, folder, make_list
from tests.support.trials import trial_writer


def run_list(specs, engines=None, notes=None):
    ended: list[str] = []
    err = io.StringIO()
    due = tuple(DueTrial(Path(spec.directory) / SPEC_FILE) for spec in specs)
    code = run_trials(
        TrialCommand(due, notes), engines or Engines(), out=io.StringIO(), err=err,
        ended=lambda directory: ended.append(directory.name),
    )  # fmt: skip
    return code, ended, err.getvalue()


def results(specs):
    found = [read_result(Path(spec.directory)) for spec in specs]
    return [(r.score, r.metrics, r.prompt_tokens, r.decode_tokens) if r else None for r in found]


def test_a_list_has_the_results_of_its_trials_one_by_one(tmp_path):
    together = make_list(trial_writer(folder(tmp_path, "a")), LISTS)
    alone = make_list(trial_writer(folder(tmp_path, "b")), LISTS)
    code, ended, _ = run_list(together)
    assert code == 0
    assert sorted(ended) == [spec.trial for spec in together]
    for spec in alone:
        assert run_list([spec])[0] == 0
    assert results(together) == results(alone)
    assert None not in results(together)


def test_each_model_is_started_once_and_each_sample_drawn_once(tmp_path):
    engines, alone = Engines(), Engines()
    run_list(make_list(trial_writer(folder(tmp_path, "a")), LISTS), engines)
    for spec in make_list(trial_writer(folder(tmp_path, "b")), LISTS):
        run_list([spec], alone)
    assert engines.started == ["weak", "strong"], "they stay loaded"
    assert len(alone.started) == 7
    shared = [read_result(tmp_path / "a" / "trials" / f"t{n:04}").engine_starts for n in range(4)]
    assert shared == [1, 0, 1, 0], "the first that needs an engine is charged for it"
    count = {
        name: [sum(n for m, n in e.calls if m == name) for e in (engines, alone)]
        for name in ("weak", "strong")
    }
    assert count["weak"][0] == count["weak"][1]
    assert count["strong"][0] == count["strong"][1]
    # Two models in two stages; in the second, both also fuse their answers.
    assert len(engines.calls) == 6


def test_the_tokens_of_a_list_are_charged_once(tmp_path):
    specs = make_list(trial_writer(tmp_path), [LISTS[0], LISTS[0], LISTS[1]])
    run_list(specs)
    first, second, third = (read_result(Path(spec.directory)) for spec in specs)
    assert first.reused_tokens < first.prompt_tokens + first.decode_tokens
    assert second.reused_tokens == second.prompt_tokens + second.decode_tokens
    assert 0 < third.reused_tokens < third.prompt_tokens + third.decode_tokens


def test_seconds_add_up_to_those_of_the_process(tmp_path):
    specs = make_list(
        trial_writer(tmp_path), LISTS, options={"weak": {"seconds_per_sample": 0.001}}
    )
    run_list(specs)
    seconds = [read_result(Path(spec.directory)).seconds for spec in specs]
    assert all(found.keys() == {"load", "generate"} for found in seconds)
    assert sum(found["generate"] for found in seconds) >= 0.001 * 6 * 5


def test_a_fault_of_one_trial_ends_that_trial_alone(tmp_path):
    make = trial_writer(tmp_path)
    (tmp_path / "odd.py").write_text(
        "from agenttts.tasks.retrieval.task import Answer, Retrieval, RetrievalQA\n"
        "class Odd(Answer):\n"
        "    def metrics(self, output, example):\n"
        "        return {'em': 1 / 0}\n"
        "class Task(RetrievalQA):\n"
        "    stages = (Retrieval(), Odd())\n"
    )
    good = make("t0000", ("weak", 2), ("strong", 1))
    bad = make("t0001", ("weak", 2), ("strong", 1), task=f"{tmp_path}/odd.py:Task")
    damaged = make("t0002", ("weak", 2), ("strong", 1))
    (Path(damaged.directory) / SPEC_FILE).write_text("{")
    code, ended, err = run_list([damaged, bad, good])
    assert code == 1
    assert ended == ["t0002", "t0001", "t0000"]
    assert read_result(Path(good.directory)) is not None
    assert read_fault(Path(good.directory)) is None
    assert read_fault(Path(bad.directory)).source == "task"
    assert read_fault(Path(damaged.directory)).source == "input"
    assert "ZeroDivisionError" in err


def test_a_call_that_fails_is_tried_trial_by_trial(tmp_path):
    """Only the trial whose prompts the engine cannot serve has a fault."""
    make = trial_writer(tmp_path)
    specs = make_list(make, [[("weak", 2), ("strong", 1)], [("weak", 3), ("weak", 2)]])
    engines = Engines(breaks=lambda request: request.params.max_tokens == 31)
    hostile = make("t0009", ("weak", 1), ("weak", 1), decode_tokens={"retrieval": 31, "answer": 32})
    code, _, _ = run_list([specs[0], hostile, specs[1]], engines)
    assert code == 1
    assert read_fault(Path(hostile.directory)).message == "a prompt that kills the engine"
    assert None not in results(specs)


def test_a_model_that_cannot_be_loaded_is_tried_once(tmp_path):
    specs = make_list(trial_writer(tmp_path), LISTS)
    engines = Engines(no_start=("strong",))
    code, _, _ = run_list(specs, engines)
    assert code == 1
    assert engines.started.count("strong") == 2, "once beside another engine, once alone"
    assert [read_fault(Path(s.directory)) is not None for s in specs] == [True, True, True, False]
    assert read_fault(Path(specs[0].directory)).kind == "OOM"
    assert read_result(Path(specs[3].directory)) is not None


def test_complete_trials_are_left_out(tmp_path):
    specs = make_list(trial_writer(tmp_path), LISTS)
    run_list(specs[:2])
    engines = Engines()
    code, ended, _ = run_list(specs, engines)
    assert code == 0
    assert ended == ["t0003", "t0002"] or ended == ["t0002", "t0003"]
    assert run_list(specs, engines)[:2] == (0, [])


def test_phases_are_noted_where_the_caller_says(tmp_path):
    specs = make_list(trial_writer(tmp_path), LISTS)
    (tmp_path / "worker").mkdir()
    run_list(specs, notes=tmp_path / "worker")
    assert (tmp_path / "worker" / PHASE_FILE).exists()
    assert not (Path(specs[0].directory) / PHASE_FILE).exists()


def test_a_stop_stores_the_samples_of_all(tmp_path):
    class Stopped(BaseException):
        pass

    def stop(request):
        if request.params.max_tokens == 33:
            raise Stopped
        return False

    make = trial_writer(tmp_path)
    tokens = {"retrieval": 32, "answer": 33}
    specs = make_list(make, LISTS, decode_tokens=tokens)
    with pytest.raises(Stopped):
        run_list(specs, Engines(breaks=stop))
    again = Engines()
    assert run_list(specs, again)[0] == 0
    # The first stage is stored; what is left are the answers and their fusions.
    assert sorted(name for name, _ in again.calls) == ["strong", "strong", "weak", "weak"]
    assert sum(drawn for _, drawn in again.calls) < 60


CHOICES = st.tuples(st.sampled_from(["weak", "strong"]), st.integers(1, 6))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(allocations=st.lists(st.tuples(CHOICES, CHOICES), min_size=1, max_size=6))
def test_no_list_draws_a_sample_twice(tmp_path_factory, allocations):
    place = tmp_path_factory.mktemp("list")
    engines = Engines()
    specs = make_list(trial_writer(place), allocations)
    assert run_list(specs, engines)[0] == 0
    found = [read_result(Path(spec.directory)) for spec in specs]
    # What is charged is what was drawn.
    drawn = sum(n for _, n in engines.calls)
    assert all(n <= SAMPLES_A_CALL for _, n in engines.calls)
    retrieval = {m: max([k for (m2, k), _ in allocations if m2 == m], default=0) for m in ("weak", "strong")}  # fmt: skip
    assert drawn >= 6 * sum(retrieval.values())
    assert sum(r.decode_tokens for r in found) >= sum(r.reused_tokens - r.prompt_tokens for r in found)  # fmt: skip
    assert len(engines.started) <= 2


def test_an_error_of_a_task_s_prompt_is_the_trial_s_own_fault(tmp_path):
    """The prompt is rendered when the samples of several trials are drawn together."""
    (tmp_path / "odd.py").write_text(
        "from agenttts.tasks.retrieval.task import Answer, Retrieval, RetrievalQA\n"
        "class Odd(Retrieval):\n"
        "    def prompt(self, example, outputs):\n"
        "        return 'not a prompt'\n"
        "class Task(RetrievalQA):\n"
        "    stages = (Odd(), Answer())\n"
    )
    make = trial_writer(tmp_path)
    good = make("t0000", ("weak", 2), ("strong", 1))
    bad = make("t0001", ("weak", 2), ("strong", 1), task=f"{tmp_path}/odd.py:Task")
    code, _, err = run_list([bad, good])
    assert code == 1
    assert read_result(Path(good.directory)) is not None
    fault = read_fault(Path(bad.directory))
    assert (fault.source, fault.kind) == ("task", "FAILED")
    assert "AttributeError" in fault.message
    assert "Traceback" in err
    (Path(bad.directory) / "fault.json").unlink()
    assert run_list([bad])[0] == 1
    assert read_fault(Path(bad.directory)).source == "task"


def own_task(place, body):
    """A task of the user's own whose answers are as ``body``, methods of their stage, says."""
    (place / "own.py").write_text(
        "import json, sys\n"
        "import numpy as np\n"
        "from agenttts.tasks.retrieval.task import Answer, Retrieval, RetrievalQA\n"
        f"class Own(Answer):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "class Task(RetrievalQA):\n"
        "    stages = (Retrieval(), Own())\n"
    )
    return f"{place}/own.py:Task"


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_a_trial_whose_directory_is_removed_ends_alone(tmp_path, when):
    """The program goes on with the others, and then tells the job by its end."""
    make = trial_writer(tmp_path)
    task = own_task(tmp_path, "def metrics(self, output, example): shutil.rmtree(gone)")
    place = tmp_path / "trials" / "t0000"
    with Path(tmp_path / "own.py").open("a") as own:
        own.write(f"import shutil\ngone = {str(place)!r}\n")
    gone = make("t0000", ("weak", 2), ("strong", 1), task=task)
    good = [make(f"t000{n}", ("weak", 2), ("strong", n)) for n in (1, 2)]
    if when == "before":
        shutil.rmtree(place)
    with pytest.raises(FileNotFoundError, match="t0000"):
        run_list([gone, *good])
    assert Path(gone.directory) == place
    assert not place.exists()
    assert None not in results(good)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("float('nan')", "nan (float)"),
        ("np.float64('inf')", "(float64)"),
        ("'0.5'", "'0.5' (str)"),
        ("[1.0, 0.5]", "[1.0, 0.5] (list)"),
        ("10**400", "(int)"),
    ],
)
def test_a_metric_that_is_not_a_finite_number_is_named(tmp_path, value, shown):
    task = own_task(
        tmp_path, f"def metrics(self, output, example): return {{'em': {value}, 'f1': 1.0}}"
    )
    spec = trial_writer(tmp_path)("t0000", ("weak", 2), ("strong", 1), task=task)
    assert run_list([spec])[0] == 1
    fault = read_fault(Path(spec.directory))
    assert fault.kind == "FAILED"
    assert f"{tmp_path}/own.py:5: metrics() of stage 'answer' returns" in fault.message
    assert f"{shown} as 'em' of example" in fault.message


@pytest.mark.parametrize("value", ["np.float32(0.5)", "np.bool_(True)", "1", "None"])
def test_a_metric_may_be_any_number_or_none(tmp_path, value):
    body = f"def metrics(self, output, example): return {{'em': 1.0, 'f1': {value}}}"
    spec = trial_writer(tmp_path)(
        "t0000", ("weak", 2), ("strong", 2), task=own_task(tmp_path, body), fewer_samples={"answer": (1,)}
    )  # fmt: skip
    assert run_list([spec])[0] == 0
    [stored] = read_stored(Path(spec.directory) / STORED_FILE)
    assert stored.score == read_result(Path(spec.directory)).score == 1.0


def test_half_of_a_character_in_a_reply_does_not_fail_a_trial(tmp_path):
    r"""Models write escapes such as \ud83d without the other half, and own tasks parse JSON."""
    body = r"""
        def parse(self, text, example):
            return json.loads('{"half \\ud83d": ["\\ude00", 1]}') if text else ''
        def fusion(self, candidates, example, outputs):
            return super().fusion([next(iter(c)) for c in candidates], example, outputs)
        def fuse(self, candidates, example):
            return candidates[0]
        def metrics(self, output, example):
            return {'em': float(output == {'half ?': ['?', 1]})}
    """
    spec = trial_writer(tmp_path)(
        "t0000", ("weak", 1), ("strong", 2), task=own_task(tmp_path, body)
    )
    assert run_list([spec])[0] == 0
    assert read_result(Path(spec.directory)).score == 1.0
    rows = pl.read_parquet(Path(spec.directory) / EXAMPLES_FILE).filter(stage="answer")
    assert set(rows["output"]) == {'{"half ?": ["?", 1]}'}


def test_a_fault_that_quotes_half_of_a_character_is_recorded(tmp_path):
    """The other trials go on."""
    make = trial_writer(tmp_path)
    body = r"def metrics(self, output, example): raise ValueError('not a label: \ud83d')"
    bad = make("t0000", ("weak", 1), ("weak", 1), task=own_task(tmp_path, body))
    good = make("t0001", ("weak", 1), ("weak", 1))
    assert run_list([bad, good])[0] == 1
    assert "ValueError: not a label: ? (own.py:5)" in read_fault(Path(bad.directory)).message
    assert read_result(Path(good.directory)) is not None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def parse(self, text, example): return json.loads('{')", r"JSONDecodeError: .*\(own\.py:5\)$"),
        ("def metrics(self, output, example): return 0.5", r"own\.py:5: metrics\(\) of stage 'answer' returns 0\.5 \(float\).*valid: a dict"),
        ("def metrics(self, output, example): return {1: 0.5}", r"own\.py:5: metrics\(\) of stage 'answer' returns \{1: 0\.5\} \(dict\)"),
        ("def fuse(self, candidates, example): return {1, 2}", r"own\.py:5: stage 'answer' gives \{1, 2\} \(set\).*valid values"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_task_is_named_with_its_line_in_the_task(tmp_path, body, message):
    """It was a line of Python's json, or of this package."""
    spec = trial_writer(tmp_path)("t0000", ("weak", 1), ("weak", 1), task=own_task(tmp_path, body))
    assert run_list([spec])[0] == 1
    assert re.search(message, read_fault(Path(spec.directory)).message)


@pytest.mark.parametrize("method", ["parse", "fuse", "metrics"])
def test_a_task_that_ends_the_program_fails_its_own_trial_alone(tmp_path, method):
    """As a scorer does that reads its arguments, or one that exits at the first bad reply."""
    make = trial_writer(tmp_path)
    task = own_task(tmp_path, f"def {method}(self, value, example): sys.exit(0)")
    bad = make("t0000", ("weak", 1), ("weak", 1), task=task)
    good = make("t0001", ("weak", 1), ("weak", 1))
    assert run_list([bad, good])[0] == 1
    fault = read_fault(Path(bad.directory))
    assert (fault.kind, fault.source) == ("FAILED", "task")
    assert "SystemExit: 0: a task must not end the program that runs it (own.py:5)" in fault.message
    assert read_result(Path(good.directory)) is not None


def test_a_task_that_ends_the_program_with_fewer_samples_has_its_own_result(tmp_path):
    body = """
        def fuse(self, candidates, example):
            return candidates[0] if len(candidates) == 3 else sys.exit(1)
        def fusion(self, candidates, example, outputs):
            return None
    """
    spec = trial_writer(tmp_path)(
        "t0000", ("weak", 1), ("weak", 3), task=own_task(tmp_path, body), fewer_samples={"answer": (2,)}
    )  # fmt: skip
    assert run_list([spec])[0] == 0
    assert not (Path(spec.directory) / STORED_FILE).exists()


@pytest.mark.parametrize(
    ("where", "number", "node"),
    [
        ("store", errno.ESHUTDOWN, False),
        ("store", errno.ESTALE, True),
        ("spec", errno.EACCES, False),
    ],
)
def test_trouble_of_the_file_system_is_not_the_allocation_s_fault(
    tmp_path, monkeypatch, where, number, node
):
    [spec] = make_list(trial_writer(tmp_path), LISTS[:1])

    def fails(*args: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))

    with monkeypatch.context() as patched:
        if where == "store":
            patched.setattr(SampleStore, "add", fails)
        else:
            patched.setattr(Path, "read_bytes", fails)
            patched.setattr(Path, "read_text", fails)
        assert run_list([spec])[0] == 1
    fault = read_fault(Path(spec.directory))
    assert fault.kind == "INFRA_FAILED"
    verdict = blame(AttemptEnd(exit_code=1, fault=fault, began=True))
    found = (verdict.state, verdict.retry, verdict.exclude_node)
    assert found == ("INFRA_FAILED", True, node)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ESHUTDOWN, "Cannot send after transport endpoint shutdown"), "INFRA_FAILED"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "OOM"),
        (OSError(errno.ENOENT, "No such file or directory"), "FAILED"),
        (OSError("Unable to load weights"), "FAILED"),
        (RuntimeError("CUDA out of memory"), "OOM"),
    ],
)
def test_what_a_library_raises_while_files_fail_is_not_the_model_s_fault(error, kind):
    assert failure_kind(error) == kind


def test_an_engine_that_fails_in_an_optional_call_costs_only_its_result(tmp_path, caplog):
    """The own result of the trial is known by then; no second count is tried."""
    choices = [[("weak", 1), ("weak", 33)]]
    own, engines = Engines(), Engines(breaks=lambda request: len(engines.calls) >= len(own.calls))
    [spec] = make_list(trial_writer(folder(tmp_path, "a")), choices)
    run_list([spec], own)
    score = read_result(Path(spec.directory)).score
    fewer = {"answer": (1, 4, 17)}
    [spec] = make_list(trial_writer(folder(tmp_path, "b")), choices, fewer_samples=fewer)
    assert run_list([spec], engines)[0] == 0
    assert read_result(Path(spec.directory)).score == score
    assert read_fault(Path(spec.directory)) is None
    assert [stored.samples for stored in read_stored(Path(spec.directory) / STORED_FILE)] == [(1, 1)]  # fmt: skip
    assert caplog.text.count("give no result (EngineError: a prompt that kills the engine)") == 1
