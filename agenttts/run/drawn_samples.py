"""The samples of a run with their prompts, one record each.

The store keeps samples under addresses, without their prompts. A stage's prompt is made again from
its example and the recorded outputs of earlier stages, and its address is computed from it. Calls
that fuse samples are not included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.files.documents import parse_json
from agenttts.inference.base import (
    Message,
    ModelConfig,
    SamplingParams,
    cut_key,
    render,
    sample_key,
)
from agenttts.inference.context import context_of
from agenttts.inference.store import SampleStore, StoredSample
from agenttts.replies import Thinking, remove_thinking
from agenttts.run.directory import Run
from agenttts.tables.schema import read_examples, trial_order
from agenttts.tasks.user_tasks import frozen_name, make_importable
from agenttts.trial.evaluate import examples_of
from agenttts.trial.spec import TrialSpec


@dataclass(frozen=True)
class _Place:
    """Where a prompt occurs: the trial, the example, the stage, and its samples there."""

    trial: str
    example: str
    stage: str
    model: str
    content: str | tuple[Message, ...]
    samples: Sequence[str]
    cut: tuple[str, ...]
    """The addresses of its samples if the prompt was cut: on a CPU and on a GPU."""
    thinking: Thinking | None
    """The markers of the model's thinking, which ``samples`` are without."""


def drawn_samples(run: Run) -> Iterator[dict[str, Any]]:
    """Yield every sample of a run's trials once, in the order of the trials.

    A record has ``trial`` (the first that used the sample), ``example``, ``stage``, ``model``,
    ``index``, ``prompt`` (a text, or a chat's messages), ``text``, and of the store
    ``decode_tokens``, ``finish_reason``, ``prompt_tokens`` and ``truncated``. What the store does
    not hold any more (``clean``) is null there, and ``text`` is then without the model's thinking.

    Raises:
        UserError: A file of the run is damaged.
    """
    seen: dict[str, int] = {}
    store = SampleStore(run.samples, "reader")
    paths = (run.directory.path / "trials").glob("t*/trial.json")
    for path in sorted(paths, key=lambda path: trial_order(path.parent.name)):
        if not (path.parent / "examples.parquet").exists():
            continue
        places = _places(_here(TrialSpec.read(path), run), path.parent)
        fresh = {
            key: place for key, place in places.items() if len(place.samples) > seen.get(key, 0)
        }
        wanted = {at: place for key, place in fresh.items() for at in (*place.cut, key)}
        stored = store.lookup(
            {at: len(place.samples) for at, place in wanted.items()}, partial(_is_of, wanted)
        )
        for key, place in fresh.items():
            for index in range(seen.get(key, 0), len(place.samples)):
                found = [s for at in (key, *place.cut) if (s := stored[at].get(index))]
                used = next((s for s in found if _text(place, s) == place.samples[index]), None)
                yield _record(place, index, used or next(iter(found), None))
            seen[key] = len(place.samples)


def _is_of(wanted: Mapping[str, _Place], sample: StoredSample) -> bool:
    """Return whether a trial may have used a stored sample.

    That of a cut prompt may be another context's.
    """
    place = wanted[sample.key]
    return not sample.truncated or _text(place, sample) == place.samples[sample.index]


def _text(place: _Place, sample: StoredSample) -> str:
    """Return a stored sample as a trial records it."""
    return remove_thinking(sample.text, place.thinking)


def _places(spec: TrialSpec, directory: Path) -> dict[str, _Place]:
    """Return where the prompts of a trial occur, by the addresses of their samples."""
    if spec.task_source is not None:
        make_importable(spec.task, spec.task_source)
    task = tasks.create(spec.task)
    stages = {stage.name: stage for stage in task.stages}
    examples = {example.id: example for example in examples_of(spec)}
    contexts = {name: _contexts(model) for name, model in spec.models.items()}
    outputs: dict[str, dict[str, Any]] = {ident: {} for ident in examples}
    found: dict[str, _Place] = {}
    for row in read_examples(directory / "examples.parquet").iter_rows(named=True):
        example, stage = examples.get(row["example"]), stages.get(row["stage"])
        if example is None or stage is None:
            raise UserError(
                f"{directory / 'examples.parquet'}: has the example '{row['example']}' or the "
                f"stage '{row['stage']}', which the run does not have"
            )
        name = row["model"]
        model = spec.models[name]
        content, stop = render(stage.prompt(example, outputs[example.id]), model.prompt_style)
        params = SamplingParams(stage.temperature, max_tokens=spec.decode_tokens[stage.name])
        prompt = (content, params, spec.seed, stop)
        key = sample_key(model, *prompt)
        cut = [at for tokens in contexts[name] if (at := cut_key(model, tokens, *prompt))]
        place = _Place(
            spec.trial,
            example.id,
            stage.name,
            name,
            content,
            row["candidates"],
            tuple(cut),
            model.thinking,
        )
        known = found.get(key)
        if known is None or len(known.samples) < len(place.samples):
            found[key] = place
        outputs[example.id][stage.name] = parse_json(row["output"])
    return found


def _here(spec: TrialSpec, run: Run) -> TrialSpec:
    """Return a trial's spec with the paths of its run.

    The run may have been moved or copied.
    """
    directory = run.directory
    frozen = directory.task_source.is_dir()
    return replace(
        spec,
        task=frozen_name(spec.task, directory.task_source) if frozen else spec.task,
        examples=str(directory.path / Path(spec.examples).name),
        task_source=str(directory.task_source) if frozen else None,
    )


def _contexts(model: ModelConfig) -> set[int]:
    """Return the known contexts that a model's engine may have had."""
    found = (context_of(model, cpu=cpu).exact for cpu in (True, False))
    return {tokens for tokens in found if tokens is not None}


def _record(place: _Place, index: int, stored: StoredSample | None) -> dict[str, Any]:
    content = place.content
    return {
        "trial": place.trial,
        "example": place.example,
        "stage": place.stage,
        "model": place.model,
        "index": index,
        "prompt": content if isinstance(content, str) else [dict(m) for m in content],
        "text": place.samples[index] if stored is None else stored.text,
        "decode_tokens": None if stored is None else stored.decode_tokens,
        "finish_reason": None if stored is None else stored.finish_reason,
        "prompt_tokens": None if stored is None else stored.prompt_tokens,
        "truncated": None if stored is None else stored.truncated,
    }


def sample_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"
