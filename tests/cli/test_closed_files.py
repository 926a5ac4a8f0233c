"""Files and directories without permission: one clear error each that names the place.

The commands run without root's right to pass over permissions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agenttts.files.locks import locked
from tests.support import command_line, unprivileged
from tests.support.scripted import small_spec

pytestmark = pytest.mark.processes

QUESTION = {"question": "q?", "answers": ["a"], "ctxs_candidate": ["a", "b"], "ctxs_gt": ["a"]}
MODEL = {"path": "./model", "params": 1e9, "gpus": 0, "engine": "vllm"}


@pytest.fixture(scope="module")
def closed_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[unprivileged.Unprivileged]:
    if not unprivileged.may_drop_rights(tmp_path_factory.mktemp("rights")):
        pytest.skip("no process here can give up the right to pass over permissions")
    started = unprivileged.start()
    yield started
    started.process.communicate()


@pytest.fixture
def place(tmp_path) -> Iterator[Path]:
    """A folder with all that the specs of these tests name; open again afterwards."""
    files = {
        "fast.yaml": "kind: in_process\ngpus_per_node: 0\npoll_seconds: 0.02\nmax_running: 1\n",
        "data/q.jsonl": "".join(json.dumps(QUESTION | {"question": str(n)}) + "\n" for n in range(6)),
        "data/aliases.json": "{}",
        "model/config.json": "{}",
        "model/model.safetensors": "x",
        "model/tokenizer.json": "{}",
        "model/.cache/x": "x",
        "disk/x": "x",
        "blobs/x": "x",
        "script.json": '{"rules": [], "default": "x"}',
        "task.yaml": "name: x",
        "task.py": "x = 1",
        "image.sif": "x",
        "hub/models--org--x/refs/main": "commit",
        "hub/models--org--x/snapshots/commit/config.json": "{}",
        "samples/x": "",
        "results/x": "",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "model" / "more").symlink_to("../disk")
    (tmp_path / "model" / "blobs").symlink_to("../blobs/x")
    yield tmp_path
    for _ in range(4):  # each time one level deeper
        for path in [tmp_path, *tmp_path.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755)


SCRIPTED = {"path": "./script.json", "params": 1e9, "engine": "scripted"}
CASES: dict[str, tuple[dict[str, object], str, int]] = {
    "spec": ({}, "small.yaml", 0),
    "profile": ({}, "fast.yaml", 0),
    "data": ({"task__data": "./data/q.jsonl"}, "data/q.jsonl", 0),
    "folder of data": ({"task__data": "./data/q.jsonl"}, "data", 0),
    "folder of data, no search": ({"task__data": "./data/q.jsonl"}, "data", 0o644),
    "aliases": ({"task__data": "./data/q.jsonl", "task__options": {"aliases": "./data/aliases.json"}}, "data/aliases.json", 0),
    "model": ({"models__weak": MODEL}, "model", 0),
    "model, no list": ({"models__weak": MODEL}, "model", 0o311),
    "model, no search": ({"models__weak": MODEL}, "model", 0o644),
    "weights": ({"models__weak": MODEL}, "model/model.safetensors", 0),
    "configuration": ({"models__weak": MODEL}, "model/config.json", 0),
    "tokenizer": ({"models__weak": MODEL}, "model/tokenizer.json", 0),
    "tokenizer option": ({"models__weak": MODEL | {"options": {"tokenizer": "./samples"}}}, "samples", 0),
    "hub": ({"models__weak": MODEL | {"path": "org/x"}}, "hub", 0),
    "hub reference": ({"models__weak": MODEL | {"path": "org/x"}}, "hub/models--org--x/refs/main", 0),
    "hub snapshot": ({"models__weak": MODEL | {"path": "org/x"}}, "hub/models--org--x/snapshots/commit", 0),
    "script": ({"models__weak": SCRIPTED}, "script.json", 0),
    "agent": ({"agent": {"kind": "scripted", "replies": "./script.json"}}, "script.json", 0),
    "task in YAML": ({"task__name": "./task.yaml"}, "task.yaml", 0),
    "task in Python": ({"task__name": "./task.py:T"}, "task.py", 0),
    "results": ({}, "results", 0o555),
    "samples": ({"samples": "./samples"}, "samples", 0o555),
    "samples, no list": ({"samples": "./samples"}, "samples", 0o333),
    "folder that a model links to": ({"models__weak": MODEL, "container__image": "./image.sif"}, "disk", 0),
    "folder of a file that a model links to": ({"models__weak": MODEL, "container__image": "./image.sif"}, "blobs", 0),
    "image": ({"container__image": "./image.sif"}, "image.sif", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_launch_names_what_is_closed(place, closed_out, case):
    changes, closed, mode = CASES[case]
    runtime = place / "bin" / "apptainer"
    runtime.parent.mkdir()
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755)
    env = {
        "HF_HUB_CACHE": str(place / "hub"),
        "PATH": f"{runtime.parent}:{os.environ['PATH']}",
    }
    settings = {"search__iterations": 0, "task__examples": 2, "cluster": "./fast.yaml", **changes}
    small_spec(place, **settings)
    (place / closed).chmod(mode)
    done = closed_out("launch", "small.yaml", "--wait", cwd=place, env=env)
    assert done.returncode in (2, 3), done
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("agenttts-hpc: ")
    assert closed in line
    assert "--debug" not in line
    assert not list((place / "results").glob("small/*"))


def test_a_dry_run_lists_what_is_closed(place, closed_out):
    changes = {"models__weak": MODEL, "cluster": "./fast.yaml", "task__examples": 2}
    small_spec(place, **changes)
    (place / "model").chmod(0)
    done = closed_out("launch", "small.yaml", "--dry-run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    [problem] = json.loads(done.stdout)["problems"]
    assert problem["what"] == f"models.weak.path: {place / 'model'} cannot be read (Permission denied)"  # fmt: skip


@pytest.mark.parametrize("mode", [0, 0o644, 0o311])
def test_a_closed_folder_in_a_model_does_not_matter(place, closed_out, mode):
    """The file system's own, such as lost+found, is root's."""
    folder = place / "model" / "lost+found"
    folder.mkdir()
    (folder / "x").symlink_to(place / "blobs" / "x")
    container = {"models__weak": MODEL, "container__image": "./image.sif"}
    small_spec(place, **container, cluster="./fast.yaml", task__examples=2)
    folder.chmod(mode)
    done = closed_out("launch", "small.yaml", "--dry-run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)["problems"]
    assert not [problem for problem in problems if "models.weak" in problem["what"]]


@pytest.fixture
def half(place) -> Path:
    """A run whose second trial has not ended yet."""
    small_spec(place, search__iterations=0, task__examples=2, cluster="./fast.yaml")
    done = command_line.call("launch", "small.yaml", "--wait", cwd=place)
    assert done.returncode == 0, done.stderr
    run = place / "results" / "small"
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b'"finished"' in line)
    (run / "journal.jsonl").write_bytes(b"".join(lines[: first + 1]))
    return run


FILES = [
    (".", 0), (".", 0o555), ("spec.yaml", 0), ("profile.yaml", 0), ("run.json", 0),
    ("examples.jsonl", 0), ("journal.jsonl", 0), ("journal.jsonl", 0o444), ("trials", 0),
    ("trials", 0o555), ("trials/t0001", 0), ("trials/t0001", 0o555), ("samples", 0),
    ("samples", 0o555), ("samples", 0o333), ("slurm", 0o555), ("controller.json", 0),
]  # fmt: skip


@pytest.mark.parametrize(("closed", "mode"), FILES)
def test_each_command_answers_or_names_the_file(half, place, closed_out, closed, mode):
    """No controller is started that would only wait; a cancel comes last."""
    (half / closed).chmod(mode)
    started = [("resume", "small", "--wait"), ("launch", "small.yaml", "--wait")]
    others = [("status", "small"), ("status", "small", "--json"), ("report", "small"), ("cancel", "small")]  # fmt: skip
    for command in (*started, *others):
        done = closed_out(*command, cwd=place)
        assert "Traceback" not in done.stdout + done.stderr
        if done.returncode or command in started:
            assert done.returncode in (2, 3, 4), done
            [line] = done.stderr.strip().splitlines()
            assert line.startswith("agenttts-hpc: ")
            assert str(half / closed) in line


def test_a_run_that_may_only_be_read_is_shown(half, place, closed_out):
    """As one of a colleague's."""
    for path in sorted([half, *half.rglob("*")], reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for command in (("status",), ("status", "--json"), ("report",), ("report", "--format", "json")):
        done = closed_out(command[0], "small", *command[1:], cwd=place)
        assert (done.returncode, done.stderr) == (0, ""), done
    with locked((half / "controller.lock"), 0):
        done = closed_out("status", "small", "--json", cwd=place)
    assert json.loads(done.stdout)["controller"]["alive"]


def test_one_closed_directory_hides_no_other_run(half, place, closed_out):
    """The results directory may be shared, and have directories of the file system's own."""
    results = half.parent
    for name in ("a-colleague", "lost+found", ".snapshot", "notes"):
        (results / name / "run").mkdir(parents=True)
    (results / "a-link").symlink_to(results / "a-colleague" / "run")
    for name in ("a-colleague", "lost+found", ".snapshot"):
        (results / name).chmod(0)
    done = closed_out("list", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    runs = {run["run"]: run for run in json.loads(done.stdout)["runs"]}
    assert {name: run["state"] for name, run in runs.items()} == {
        "small": "stopped",
        "a-colleague": "damaged",
        "a-link": "damaged",
    }
    assert str(results / "a-colleague") in runs["a-colleague"]["detail"]
    assert "Permission denied" in runs["a-colleague"]["detail"]


@pytest.mark.parametrize("mode", [0, 0o311, 0o644])
def test_a_closed_results_directory_is_one_error(half, place, closed_out, mode):
    half.parent.chmod(mode)
    done = closed_out("list", cwd=place)
    assert done.returncode in (2, 3), done
    assert done.stdout == ""
    [line] = done.stderr.strip().splitlines()
    assert "results" in line
    assert "small" not in line


def test_a_run_that_is_open_again_goes_on(half, place, closed_out):
    (half / "trials").chmod(0)
    assert closed_out("resume", "small", "--wait", cwd=place).returncode == 3
    (half / "trials").chmod(0o755)
    done = closed_out("resume", "small", "--wait", cwd=place)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(half)


@pytest.mark.parametrize("kind", ["closed", "in a closed folder", "a link to itself", "failing"])
def test_doctor_goes_on_where_the_image_cannot_be_read(place, closed_out, kind):
    image = place / "images" / "some.sif"
    image.parent.mkdir()
    said = str(image)
    if kind == "a link to itself":
        image.symlink_to(image)
    elif kind == "failing":
        said = "Input/output error"
        image.symlink_to("/proc/self/mem")  # its first page cannot be read
        words = ("sha256", "definition", "built", "agenttts_version", "runtime_version")
        image.with_name("some.sif.json").write_text(json.dumps(dict.fromkeys(words, "0")))
    else:
        image.write_text("an image")
        (image if kind == "closed" else image.parent).chmod(0)
    (place / "far.yaml").write_text(f"kind: slurm\ncontainer: {{image: {image}}}\n")
    done = closed_out("doctor", "--cluster", "./far.yaml", "--json", cwd=place)
    assert done.returncode == 3, done
    checks = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
    assert {"results directory", "Slurm", "apptainer"} < set(checks)
    assert checks["image"]["ok"] is False
    assert said in checks["image"]["detail"]
