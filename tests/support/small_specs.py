"""The small specs, and the tutorial's task, cut down to one trial that goes through every stage
with a real small model, or with a script in its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from agenttts.spec import load_spec
from tests.support.real_models import QUICK
from tests.support.tutorial import write_files

JOBS = Path(__file__).parents[2] / "jobs"
NAMES = ("kgqa-small", "taskbench-small", "chatdev-small", "triage")
_MODEL = "smollm2"
# What the script replies at every stage: steps, numbers of passages and a label of the tutorial's.
_REPLY = "1. [1] [2] billing"
_PROGRAM = "main.py\n```python\nprint(1)\n```"


@dataclass(frozen=True)
class SmallRun:
    """A spec with the ``--set`` arguments that make it small."""

    name: str
    spec: Path
    arguments: tuple[str, ...]
    stages: tuple[str, ...]
    examples: int
    scripted: bool

    def check(self, results: Path) -> None:
        """What a run of it has come to: every stage, with what a model wrote read by the task."""
        trials = pl.read_parquet(results / self.name / "trials.parquet")
        assert trials["state"].to_list() == ["COMPLETED"]
        assert trials["score"].is_between(0, 1).all()
        assert (trials["decode_tokens"] > 0).all()
        rows = pl.read_parquet(results / self.name / "trials" / trials["trial"][0] / "examples.parquet")  # fmt: skip
        assert rows.height == self.examples * len(self.stages)
        assert set(rows["stage"]) == set(self.stages)
        assert rows["candidates"].list.len().unique().to_list() == [2]
        # Not more: the seeds of samples follow from the model's files, whose times differ between
        # two set-ups, and a small model's replies may all be of one word.
        assert any(text.strip() for text in rows["candidates"].explode()), "real text"
        outputs = [json.loads(text) for text in rows["output"]]
        if self.name == "chatdev-small":
            assert all(output["run"]["report"] for output in outputs), "the sandbox has had its say"
            if self.scripted:
                assert all(output["run"]["started"] for output in outputs), "it is a whole one"
        else:
            assert any(outputs), "not every output is the empty value"


def small_run(name: str, folder: Path, model: Path | None) -> SmallRun:
    """``name`` of `NAMES`, cut down.

    Args:
        name: The spec's name.
        folder: Takes the files of the tutorial and the script.
        model: The directory of the model; None: a script.
    """
    # A model reads 300 tokens a second on a core, and a stage's prompt has up to 900.
    examples = 2 if model is None else 1
    own = name == "triage"
    spec = write_files(folder) / "triage.yaml" if own else JOBS / f"{name}.yaml"
    stages = tuple(load_spec(spec).stages)
    settings = [f"task.examples={examples}", "search.iterations=0", "search.budget=1000"]
    settings += [f"stages.{stage}.models=[{_MODEL}]" for stage in stages]
    # One allocation, so one trial; two samples, so that they are fused too.
    settings += [f"stages.{stage}.samples={{values: [2]}}" for stage in stages]
    # Enough for more than one word; programs are long, and a CPU is slow: most samples end here.
    settings += [f"stages.{stage}.decode_tokens=16" for stage in stages]
    if model is None:
        script = folder / "script.json"
        reply = _PROGRAM if name == "chatdev-small" else _REPLY
        script.write_text(json.dumps({"default": reply}))
        settings.append(f"models={{{_MODEL}: {{path: {script}, params: 2700000000, engine: scripted}}}}")  # fmt: skip
    elif own:
        settings.append(
            f"models={{{_MODEL}: {{path: {model}, params: 2700000000, prompt_style: few_shot_completion, "
            "options: {max_model_len: 2048}}}"
        )
    else:
        settings += [f"models.{each}.path={model}" for each in load_spec(spec).models]
    if model is not None:
        names = [_MODEL] if own else load_spec(spec).models
        settings += [
            f"models.{each}.options.{option}={value}"
            for each in names
            for option, value in QUICK.items()
        ]
    arguments = tuple(p for s in settings for p in ("--set", s))
    return SmallRun(name, spec, arguments, stages, examples, scripted=model is None)
