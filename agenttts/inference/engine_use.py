"""What a sampler reports of its engines: starts, wakes, and what was computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agenttts.inference.base import Completion


@dataclass(frozen=True)
class ModelDraw:
    """What one engine call computed for one model, by the model's name in the spec.

    ``prompt_tokens`` counts each prompt of the call once. ``seconds`` are the wall seconds of the
    call. If the call served several names of one engine, each has its part, by its tokens.
    """

    model: str
    prompt_tokens: int
    decode_tokens: int
    sequences: int
    seconds: float


class EngineObserver:
    """Is told what a sampler does with its engines, each time after the fact.

    The methods of this class do nothing. A model is named as in the spec. An engine that serves
    several names is named by the one that it was started for.
    """

    def started(self, model: str, seconds: float) -> None:
        """Take note that an engine was started, its model loaded."""

    def woken(self, model: str, seconds: float) -> None:
        """Take note that an engine that slept is awake."""

    def loaded(self, seconds: float) -> None:
        """Take note of the wall seconds until an engine was ready for a call.

        They include starting or waking it, making room for it, and attempts that failed. They are
        about 0 if it was awake.
        """

    def called(self, draws: Sequence[ModelDraw], seconds: float) -> None:
        """Take note of an engine call; ``draws`` is empty if it failed."""

    def kept(self, awake: str | None, others: Sequence[str]) -> None:
        """Take note of the engines that are loaded now.

        Args:
            awake: The one that was used last; None if that is not ready.
            others: The others: asleep or, without GPUs, beside it.
        """


def model_draws(
    names: Sequence[str], completions: Sequence[Completion], seconds: float
) -> list[ModelDraw]:
    """Return what an engine call computed for each model.

    Args:
        names: For each completion, the name of its model.
        completions: What the engine returned.
        seconds: The wall seconds of the call. They are divided among the models by tokens.
    """
    prompt, decode, sequences = Counter[str](), Counter[str](), Counter[str]()
    for name, completion in zip(names, completions, strict=True):
        prompt[name] += completion.prompt_tokens
        decode[name] += sum(sample.decode_tokens for sample in completion.samples)
        sequences[name] += len(completion.samples)
    total = prompt.total() + decode.total()
    return [
        ModelDraw(
            name,
            prompt[name],
            decode[name],
            count,
            seconds * (prompt[name] + decode[name]) / total if total else seconds / len(sequences),
        )
        for name, count in sequences.items()
    ]
