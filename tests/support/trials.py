"""A trial of the built-in questions with scripted models, as the controller would write it down."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from agenttts import tasks
from agenttts.files.atomic import atomic_write_json
from agenttts.inference.base import ModelConfig
from agenttts.space import Allocation, Choice
from agenttts.tasks.base import TaskConfig
from agenttts.trial.result import MARKER_FILE, TrialOutput, write_result
from agenttts.trial.spec import SPEC_FILE, TrialSpec
from tests.support.scripted import at_fixed_path, small_spec


def trial_writer(folder: Path) -> Callable[..., TrialSpec]:
    """A function that writes the spec of a trial into ``folder``; ``allocation`` is (model,
    samples) by stage.
    """
    small_spec(folder)  # writes the two models' scripts
    examples = folder / "examples.jsonl"
    loaded = tasks.create("retrieval_qa").load(TaskConfig("", "search", 6, seed=1))
    examples.write_text("".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in loaded))

    def make(
        trial: str, *allocation: tuple[str, int], options: dict[str, dict[str, object]] | None = None, **changes: object
    ) -> TrialSpec:  # fmt: skip
        directory = folder / "trials" / trial
        directory.mkdir(parents=True, exist_ok=True)
        choices = zip(("retrieval", "answer"), allocation, strict=True)
        values: dict[str, object] = {
            "run": "run",
            "trial": trial,
            "allocation": Allocation(tuple(Choice(stage, *choice) for stage, choice in choices)),
            "task": "retrieval_qa",
            "examples": str(examples),
            "seed": 1,
            "decode_tokens": {"retrieval": 32, "answer": 32},
            "models": {
                name: ModelConfig(
                    name, str(at_fixed_path(folder / f"{name}.json")), engine="scripted", gpus=0,
                    options=(options or {}).get(name, {}),
                )
                for name in ("weak", "strong")
            },
            "directory": str(directory),
            "samples": str(folder / "samples"),
        }  # fmt: skip
        spec = TrialSpec(**(values | changes))
        atomic_write_json(Path(spec.directory) / SPEC_FILE, spec.to_json())
        return spec

    return make


def store_result() -> str:
    """The source of ``store_result(folder)``, which leaves the files of a complete trial.

    It is for programs in a trial's place: it imports nothing of the package, for which most of them
    would need 0.4 s of processor time. It has no single quotes.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / SPEC_FILE).write_text("{}")
        output = TrialOutput(0.5, {}, 1, 1, 0, 0, 1, {})
        write_result(folder, output, pl.DataFrame({"example": ["a"]}))
        names = sorted((path.name for path in folder.iterdir()), key=MARKER_FILE.__eq__)
        files = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in names}
    return f"""
import base64, pathlib

def store_result(folder):
    for name, content in {json.dumps(files)}.items():
        pathlib.Path(folder, name).write_bytes(base64.b64decode(content))
"""
