"""Fuzzing through the command line: any end but success or a clean error of the user's is a
failure.

``AGENTTTS_HYPOTHESIS_PROFILE=thorough`` tries many more, and new ones each time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import command_line
from tests.support.repeatable import max_examples
from tests.support.scripted import small_spec

quickly = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

TEXTS = st.one_of(
    st.sampled_from(["", " ", "~", "null", "true", "-", "..", "/", "/dev/null", "$NOPE", "~nobody", "%j", "é→", "a\nb", "a\0b", "x" * 300, "[", "{", "1e9", "12:00:00", "<<", "weak", "strong", "answer", "builtin:twohop", "auto", "none", "scripted"]),
    st.text(max_size=8),
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([10**4, 2**31, 10**12, -(10**9), 10**30]),
    st.sampled_from([0.0, -1.5, 0.5, 7e9, float("inf"), float("nan")]),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small spec, its scripts and a profile of every key."""
    folder = tmp_path_factory.mktemp("fuzz")
    small_spec(folder, search__iterations=0, task__examples=2)
    return folder


def clean(*arguments: object, cwd: Path) -> command_line.Done:
    """Run a command: it succeeds, or says in one line what is wrong."""
    done = command_line.call(*arguments, cwd=cwd)
    assert done.returncode in (0, 2, 3, 4), done
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("agenttts-hpc: "), done.stderr
        assert "Traceback" not in done.stderr
        assert len(lines[0]) < 20_000
    return done


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of a document."""
    found = [path] if path else []
    pairs = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()  # fmt: skip
    for key, value in pairs:
        found += places(value, (*path, key))
    return found


def changed(document: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of a document, changed at a path: ``change`` gets what holds the value, and its
    key.
    """
    copy = json.loads(json.dumps(document))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return copy


def put(value: Any) -> Callable[[Any, Any], None]:
    return lambda holder, key: holder.__setitem__(key, value)


def drop(holder: Any, key: Any) -> None:
    del holder[key]


def rename(name: str) -> Callable[[Any, Any], None]:
    def change(holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[name] = holder.pop(key)
        else:
            holder.append(holder[key])

    return change


CHANGES = st.one_of(VALUES.map(put), st.just(drop), TEXTS.map(rename))


@quickly
@given(data=st.data())
def test_specs(place: Path, data: st.DataObject) -> None:
    document = yaml.safe_load((place / "small.yaml").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(document)))
        try:
            document = changed(document, path, data.draw(CHANGES))
        except (TypeError, ValueError):  # no JSON: infinite numbers
            return
    (place / "odd.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    clean("launch", "odd.yaml", "--dry-run", cwd=place)


@quickly
@given(
    key=st.one_of(
        st.sampled_from([
            "search", "search.budget", "search.seed", "search.method", "search.options", "search.options.insights",
            "search.iterations", "search.finalists", "search.test_split.examples", "stages", "stages.answer.samples",
            "stages.answer.samples[0]", "stages.answer.models[1]", "stages.answer.prompt_tokens", "models.weak.path",
            "models.weak.options", "models.weak.thinking", "models.weak.params", "models.new", "task.name", "task.data",
            "task.options", "task.split", "task.skip_bad", "agent", "agent.kind", "container", "container.image",
            "container.binds", "samples", "name", "cluster",
        ]),
        st.text("ab.[]01=-", max_size=8),
    ),
    value=st.one_of(TEXTS, VALUES.map(partial(json.dumps, ensure_ascii=False))),
)  # fmt: skip
@example(key="search.options.insights", value="3")
@example(key="x[0]", value="1")
@example(key="stages.answer.samples", value="[1, 1000000000000]")
def test_settings(place: Path, key: str, value: str) -> None:
    clean("launch", "small.yaml", "--dry-run", "--set", f"{key}={value}", cwd=place)


PROFILE = """
kind: slurm
gpus_per_node: 4
gpu_memory_gb: 80
max_running: 3
max_pending: 5
max_attempts: 3
max_timeouts: 2
max_preemptions: 4
poll_seconds: 1.5
grace_seconds: 60
settle_seconds: 10
retry_pauses: [1, 2]
start_minutes: 5
stall_minutes: 5
setup: ["true"]
env: {A: b}
login_shell: false
cache: ./cache
container: {image: ./x.sif, binds: [/tmp]}
controller: {partition: cpu, time: "1-00:00:00", account: a, qos: b, mem: 2G, cpus: 1, sbatch: {nice: 1}}
trial: {partition: gpu, time: "02:00:00", mem_per_gpu: 40G, cpus: 8, sbatch: {nice: 1}}
"""


@quickly
@given(data=st.data())
def test_profiles(place: Path, data: st.DataObject) -> None:
    document = yaml.safe_load(PROFILE)
    document["kind"] = data.draw(st.sampled_from(["slurm", "local", "in_process"]))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(document)))
        try:
            document = changed(document, path, data.draw(CHANGES))
        except (TypeError, ValueError):
            return
    (place / "profile.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    clean("launch", "small.yaml", "--dry-run", "--cluster", "./profile.yaml", cwd=place)


@settings(quickly, max_examples=max_examples(0.5))
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode), st.sampled_from([b"a: &a [*a]\n", b"[" * 50_000, b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"])))  # fmt: skip
def test_files_that_are_no_specs(place: Path, content: bytes) -> None:
    (place / "file.yaml").write_bytes(content)
    for command in (("launch", "file.yaml", "--dry-run"), ("launch", "small.yaml", "--dry-run", "--cluster", "./file.yaml")):  # fmt: skip
        assert clean(*command, cwd=place).returncode == 2


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A finished run, and beside it the same as it was before its second trial had ended."""
    done = command_line.call("launch", "small.yaml", "--wait", cwd=place)
    assert done.returncode == 0, done.stderr
    run = place / "results" / "small"
    shutil.copytree(run, place / "whole")
    shutil.copytree(run, place / "half")
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b'"finished"' in line)
    (place / "half" / "journal.jsonl").write_bytes(b"".join(lines[: first + 1]))
    return run


FILES = ("controller.json", "examples.jsonl", "journal.jsonl", "profile.yaml", "run.json", "spec.yaml", "trials.parquet", "trials/t0000/COMPLETED.json", "trials/t0000/attempts/01.json", "trials/t0000/examples.parquet", "trials/t0000/result.json", "trials/t0000/trial.json", "trials/t0001/trial.json", "trials/t0000/phase.json", "agent.jsonl", "samples")  # fmt: skip
COMMANDS = (("status",), ("status", "--json"), ("report",), ("report", "--format", "json"), ("resume", "--wait"), ("resume", "--wait", "--retry-failed"), ("resume", "--wait", "--from-tables"), ("cancel",), ("finish", "--wait"), ("launch", "--wait"))  # fmt: skip


def damaged(path: Path, data: st.DataObject) -> None:
    """Damage a file of a run in some way."""
    if path.is_dir():
        path = sorted(path.iterdir())[0]
    content = path.read_bytes() if path.exists() else b'{"event": "reply", "key": "x"}\n'
    how = data.draw(st.sampled_from(["cut", "bytes", "removed", "directory", "link", "value", "value", "value"]))  # fmt: skip
    path.unlink(missing_ok=True)
    if how == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif how == "bytes":
        at = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:at] + data.draw(st.binary(max_size=5)) + content[at + 3 :])
    elif how == "directory":
        path.mkdir()
    elif how == "link":
        path.symlink_to("/nonexistent/file")
    elif how == "value":
        path.write_bytes(with_another_value(path, content, data))


def with_another_value(path: Path, content: bytes, data: st.DataObject) -> bytes:
    """A file of JSON or YAML with one value changed; any other as it is."""
    if path.suffix == ".parquet":
        return content
    if path.suffix == ".yaml":
        document = yaml.safe_load(content)
    else:
        document = [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else json.loads(content)  # fmt: skip
    at = data.draw(st.sampled_from(places(document)))
    try:
        document = changed(document, at, data.draw(CHANGES))
        text = yaml.safe_dump(document) if path.suffix == ".yaml" else json.dumps(document)
        if path.suffix == ".jsonl":
            text = "".join(json.dumps(line) + "\n" for line in document)
    except (TypeError, ValueError, KeyError):
        return content
    return text.encode("utf-8", "backslashreplace")


@settings(quickly, max_examples=max_examples(0.6))
@given(data=st.data())
def test_files_of_a_run(place: Path, finished: Path, data: st.DataObject) -> None:
    shutil.rmtree(finished)
    shutil.copytree(place / data.draw(st.sampled_from(["whole", "half"])), finished)
    name = data.draw(st.sampled_from(FILES))
    damaged(finished / name, data)
    command, *options = data.draw(st.sampled_from(COMMANDS))
    clean(command, "small.yaml" if command == "launch" else "small", *options, cwd=place)
