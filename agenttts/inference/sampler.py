"""Draw samples: read stored samples, and generate the missing ones with an engine.

The sampler looks into the store before every engine call, because other trials may have drawn the
same samples meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from agenttts.inference.base import (
    Completion,
    Engine,
    ModelConfig,
    Prompt,
    Request,
    SamplingParams,
    keeps_special,
    render,
    sample_key,
    sample_seed,
)
from agenttts.inference.engine_process import create_engine
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.inference.store import SampleStore, StoredSample
from agenttts.replies import COMMON_THINKING, Thinking, opened_thinking, remove_thinking

SAMPLES_A_CALL = 2048
"""Samples of one engine call, which are stored before the next call.

They fill vLLM's batch. A killed job loses at most one call.
"""
TOKENS_A_CALL = 4 << 20
"""Tokens that a call may generate.

It bounds the hours that a killed job loses with a model that thinks.
"""
FEWEST_A_CALL = 512
"""The fewest samples of a call, also if they may be long.

It is twice the number that vLLM runs at once by default.
"""


@dataclass(frozen=True)
class DrawResult:
    """The k samples of one prompt.

    ``texts`` are the samples without the model's thinking. The store keeps them with it. ``cut``
    counts the samples that ended at ``max_tokens``. ``prompt_tokens`` (the prompt, once) and
    ``decode_tokens`` (all k samples) are the tokens of the draw, computed here or not.
    ``reused_tokens`` is the part of their sum that came from the sample store or from an equal
    prompt of the same draw. The prompt counts as reused when no sample had to be drawn.
    """

    texts: tuple[str, ...]
    prompt_tokens: int
    decode_tokens: int
    reused_tokens: int
    truncated: bool
    cut: int = 0


@dataclass
class ModelTotals:
    """What was computed on a model: tokens as in `DrawResult`, and wall seconds."""

    prompt_tokens: int = 0
    decode_tokens: int = 0
    reused_tokens: int = 0
    load_seconds: float = 0.0
    generate_seconds: float = 0.0


class Sampler:
    """Draws samples of any of ``models``, with one engine at a time.

    A model's engine starts when the first sample is missing from the store. It ends when the engine
    of another model must start, because models share a GPU one after the other. ``totals`` counts
    by model name. `close` ends the engine and stores what was drawn.
    """

    def __init__(
        self,
        store: SampleStore,
        models: Mapping[str, ModelConfig],
        run_seed: int,
        engine_factory: Callable[[ModelConfig], Engine] = create_engine,
        samples_a_call: int = SAMPLES_A_CALL,
    ) -> None:
        self.totals: dict[str, ModelTotals] = {name: ModelTotals() for name in models}
        self._store = store
        self._models = models
        self._run_seed = run_seed
        self._engine_factory = engine_factory
        self._samples_a_call = samples_a_call
        self._loaded: tuple[ModelConfig, Engine] | None = None

    def draw(
        self,
        model_name: str,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        k: int,
        partition: SamplePartition = ALONE,
    ) -> list[DrawResult]:
        """Return samples 0..k-1 of each prompt, in order.

        Equal prompts are drawn once. At temperature 0 all samples are equal, so one is drawn and
        repeated.

        Args:
            model_name: The model to draw from.
            prompts: The prompts.
            params: The sampling parameters.
            k: The number of samples of each prompt.
            partition: This sampler's part where others draw from the same prompts.

        Raises:
            EngineError: The model cannot be loaded or run.
        """
        if k < 1:
            raise ValueError(f"k is {k}; a draw takes at least one sample")
        model = self._models[model_name]
        distinct = k if params.temperature > 0 else 1
        requests: dict[str, Request] = {}
        keys = []
        for prompt in prompts:
            content, stop = render(prompt, model.prompt_style)
            key = sample_key(model, content, params, self._run_seed, stop)
            keys.append(key)
            requests[key] = Request(
                content, params, (), stop, model.template_args, keeps_special(model)
            )
        samples = self._store.lookup(dict.fromkeys(requests, distinct))
        drawn = self._draw_missing(model_name, requests, samples, distinct, partition)
        results = []
        for key in keys:
            here = drawn.pop(key, set())  # the next equal prompt reuses all of it
            result = _result(samples[key], here, model.thinking, repeats=k // distinct)
            self._count(model_name, result, new_prompt=bool(here))
            results.append(result)
        return results

    def seconds(self) -> dict[str, float]:
        """Wall seconds by phase, over all models: ``load`` and ``generate``."""
        return {
            "load": sum(total.load_seconds for total in self.totals.values()),
            "generate": sum(total.generate_seconds for total in self.totals.values()),
        }

    def close(self) -> None:
        """Store what was drawn and end the engine; may be called twice."""
        self._store.flush()
        self._unload()

    def _draw_missing(
        self,
        model_name: str,
        requests: Mapping[str, Request],
        samples: dict[str, list[StoredSample]],
        k: int,
        partition: SamplePartition,
    ) -> dict[str, set[int]]:
        """Extend every list of ``samples`` to k, and store after each engine call.

        Returns:
            The indices that were drawn here, by key.
        """
        drawn: dict[str, set[int]] = {}
        missing = sum(k - len(found) for found in samples.values())
        if not missing:
            return drawn
        parts = partition.parts(list(requests))
        tokens = next(iter(requests.values())).params.max_tokens
        size = partition.call_size(missing, most_samples(self._samples_a_call, tokens))
        engine = self._engine(model_name)
        thinking = self._models[model_name].thinking
        while True:
            self._take_new(samples, k)
            calls = _next_call(parts, samples, k, size)
            if not calls:
                return drawn
            started = time.monotonic()
            completions = engine.generate(
                [
                    dataclasses.replace(
                        requests[key], seeds=tuple(sample_seed(key, index) for index in indices)
                    )
                    for key, indices in calls.items()
                ]
            )
            self.totals[model_name].generate_seconds += time.monotonic() - started
            for (key, indices), completion in zip(calls.items(), completions, strict=True):
                drawn.setdefault(key, set()).update(indices)
                for sample in _stored(key, indices, completion, model_name, thinking):
                    self._store.add(sample)
                    samples[key].append(sample)
            self._store.flush()

    def _take_new(self, samples: dict[str, list[StoredSample]], k: int) -> None:
        """Extend the lists by the samples that others stored since the last lookup."""
        new = self._store.lookup_new({key: k for key, found in samples.items() if len(found) < k})
        # A sample after a gap (the shard before it is not visible yet) is drawn again. This is rare
        # and costs only time.
        for key, found in new.items():
            while len(samples[key]) in found:
                samples[key].append(found[len(samples[key])])

    def _engine(self, model_name: str) -> Engine:
        # The key holds the parts that the engine is made from. Two names for one model share it.
        model = self._models[model_name]
        if self._loaded is not None:
            if _same_engine(self._loaded[0], model):
                return self._loaded[1]
            self._unload()
        started = time.monotonic()
        engine = self._engine_factory(model)
        self.totals[model_name].load_seconds += time.monotonic() - started
        self._loaded = (model, engine)
        return engine

    def _unload(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded[1].close()

    def _count(self, model_name: str, result: DrawResult, *, new_prompt: bool) -> None:
        total = self.totals[model_name]
        reused_decode = result.reused_tokens - (0 if new_prompt else result.prompt_tokens)
        total.prompt_tokens += result.prompt_tokens if new_prompt else 0
        total.decode_tokens += result.decode_tokens - reused_decode
        total.reused_tokens += result.reused_tokens


def most_samples(samples: int, max_tokens: int) -> int:
    """Return the samples of one engine call: ``samples``, fewer if each may be long."""
    return min(samples, max(FEWEST_A_CALL, TOKENS_A_CALL // max(1, max_tokens)))


def _result(
    samples: Sequence[StoredSample], drawn: Set[int], thinking: Thinking | None, *, repeats: int
) -> DrawResult:
    """Return the draw of one prompt.

    The samples numbered ``drawn`` were drawn here. The others were in the store.
    """
    prompt_tokens = samples[0].prompt_tokens
    reused = sum(sample.decode_tokens for sample in samples if sample.index not in drawn)
    return DrawResult(
        texts=tuple(remove_thinking(sample.text, thinking) for sample in samples) * repeats,
        prompt_tokens=prompt_tokens,
        decode_tokens=sum(sample.decode_tokens for sample in samples),
        reused_tokens=reused + (0 if drawn else prompt_tokens),
        truncated=any(sample.truncated for sample in samples),
        cut=sum(sample.finish_reason == "length" for sample in samples) * repeats,
    )


def _stored(
    key: str,
    indices: Sequence[int],
    completion: Completion,
    model_name: str,
    thinking: Thinking | None,
) -> list[StoredSample]:
    # A block of thinking that the prompt opened is opened in the stored reply too. A reply that is
    # cut short holds no other marker. The common markers are checked whatever the setting is now,
    # because the sample may be read under another setting.
    end = completion.prompt_end
    opening = opened_thinking(end, thinking) or opened_thinking(end, COMMON_THINKING)
    return [
        StoredSample(
            key=key,
            index=index,
            text=opening + sample.text,
            decode_tokens=sample.decode_tokens,
            finish_reason=sample.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            truncated=completion.truncated,
            model=model_name,
        )
        for index, sample in zip(indices, completion.samples, strict=True)
    ]


def _same_engine(a: ModelConfig, b: ModelConfig) -> bool:
    # These fields come with each request, or matter only after it.
    plain: dict[str, Any] = {
        "name": "",
        "prompt_style": "chat",
        "template_args": {},
        "thinking": None,
    }
    return dataclasses.replace(a, **plain) == dataclasses.replace(b, **plain)


def _next_call(
    parts: Sequence[Sequence[str]],
    samples: Mapping[str, Sequence[StoredSample]],
    k: int,
    size: int,
) -> dict[str, range]:
    """Return the next ``size`` missing samples: their indices by key.

    There are fewer at the end of the own part and at the end of all parts.
    """
    calls: dict[str, range] = {}
    room = size
    for number, part in enumerate(parts):
        for key in part:
            there = len(samples[key])
            if there < k and room > 0:
                calls[key] = range(there, min(k, there + room))
                room -= len(calls[key])
        if calls and number == 0:
            break  # peers in step have finished their parts when the own part is done
    return calls
