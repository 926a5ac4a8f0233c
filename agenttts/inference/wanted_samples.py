"""The samples that a draw needs: which are stored, and which an engine draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agenttts.inference.base import (
    Completion,
    Finished,
    ModelConfig,
    Request,
    cut_key,
    keeps_special,
    render,
    sample_key,
    sample_seed,
)
from agenttts.inference.context import Context
from agenttts.inference.draws import DrawRequest
from agenttts.inference.store import SampleStore, StoredSample, Usable
from agenttts.replies import KNOWN_THINKING, Thinking, opened_thinking


@dataclass(frozen=True)
class EngineCall:
    """What one engine call is asked: a request for each sample key, in one order.

    Attributes:
        keys: The sample keys.
        indices: The indices of the samples to draw.
        names: The names of the models that are stored with the samples.
        requests: The requests; their seeds are those of ``indices``.
    """

    keys: list[str] = field(default_factory=list)
    indices: list[list[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)


class WantedSamples:
    """The samples that some requests need, found by their sample keys.

    Args:
        requests: The requests. Their models share one engine.
        models: The models, by name.
        contexts: The contexts of the requests' models, by name.
        run_seed: The run's seed, which is part of sample keys.
        store: The sample store.

    Attributes:
        keys: For each request, the sample keys of its prompts.
        samples: By sample key, the samples that are there, by their indices.
    """

    def __init__(
        self,
        requests: Sequence[DrawRequest],
        models: Mapping[str, ModelConfig],
        contexts: Mapping[str, Context],
        run_seed: int,
        store: SampleStore,
    ) -> None:
        self.keys: list[list[str]] = []
        self._models = models
        self._contexts = contexts
        self._run_seed = run_seed
        self._store = store
        # By sample key: how many samples are needed (the most that any request needs), what an
        # engine is asked, and the name of the model that is stored with the samples.
        self._numbers: dict[str, int] = {}
        self._requests: dict[str, Request] = {}
        self._names: dict[str, str] = {}
        # For prompts whose samples have another key when the prompt is cut: that key.
        self._cut: dict[str, str] = {}
        # The sample keys of this process's share in the order to draw them, and those of each other
        # process's share.
        self._own: list[str] = []
        self._others: list[list[str]] = []
        for request in requests:
            self._add_request(request)
        self.samples = self._stored(store.lookup, self._numbers)

    def _add_request(self, request: DrawRequest) -> None:
        model, context = self._models[request.model], self._contexts[request.model].exact
        keys, new = [], []
        for prompt in request.prompts:
            content, stop = render(prompt, model.prompt_style)
            key = sample_key(model, content, request.params, self._run_seed, stop)
            keys.append(key)
            self._numbers[key] = max(self._numbers.get(key, 0), request.distinct)
            if key in self._requests:
                continue
            cut = cut_key(model, context, content, request.params, self._run_seed, stop)
            if cut is not None:
                self._cut[key] = cut
            new.append(key)
            self._names[key] = request.model
            self._requests[key] = Request(
                content,
                request.params,
                (),
                stop,
                model.template_args,
                keeps_special(model),
            )
        own, *others = request.partition.shares(new)
        self._own += own
        self._others += others
        self.keys.append(keys)

    @property
    def missing(self) -> int:
        """How many samples are not there."""
        return sum(number - len(self.samples[key]) for key, number in self._numbers.items())

    def take_stored(self) -> None:
        """Add the samples that others have stored since the last lookup."""
        numbers = self._numbers
        missing = {
            key: numbers[key] for key, found in self.samples.items() if len(found) < numbers[key]
        }
        for key, found in self._stored(self._store.lookup_new, missing).items():
            self.samples[key] = found | self.samples[key]

    def next_call(self, size: int) -> EngineCall | None:
        """Return the next engine call; None if no sample is missing.

        It asks for missing samples, at most ``size``. If samples of the own share are missing, it
        asks for these only, because other processes may draw their shares meanwhile.
        """
        call = EngineCall()
        room = size
        for number, share in enumerate([self._own, *self._others]):
            for key in share:
                wanted, found = self._numbers[key], self.samples[key]
                if room > 0 and len(found) < wanted:
                    missing = [index for index in range(wanted) if index not in found][:room]
                    room -= len(missing)
                    seeds = tuple(sample_seed(key, index) for index in missing)
                    call.keys.append(key)
                    call.indices.append(missing)
                    call.names.append(self._names[key])
                    call.requests.append(dataclasses.replace(self._requests[key], seeds=seeds))
            if call.keys and number == 0:
                break
        return call if call.keys else None

    def add_finished(self, call: EngineCall, finished: Finished) -> list[StoredSample]:
        """Give the samples that a call has finished to the store; return the new ones."""
        number = finished.request
        key, name, completion = call.keys[number], call.names[number], finished.completion
        indices = [call.indices[number][place] for place in finished.places]
        place = self._cut.get(key, key) if completion.truncated else key
        thinking = self._models[name].thinking
        new = []
        for sample in _as_stored(place, indices, completion, name, thinking):
            if sample.index not in self.samples[key]:
                self._store.add(sample)
                self.samples[key][sample.index] = sample
                new.append(sample)
        return new

    def _stored(
        self,
        lookup: Callable[[Mapping[str, int], Usable], dict[str, dict[int, StoredSample]]],
        numbers: Mapping[str, int],
    ) -> dict[str, dict[int, StoredSample]]:
        """Return the stored samples that equal what the engine here would draw.

        This includes samples of prompts that were cut for the engine's context.

        Args:
            lookup: A method of the store.
            numbers: How many samples are looked for, by key.
        """
        cut = {self._cut[key]: key for key in numbers if key in self._cut}

        def usable(sample: StoredSample) -> bool:
            key = cut.get(sample.key, sample.key)
            length = sample.prompt_tokens + self._requests[key].params.max_tokens
            return self._contexts[self._names[key]].gives(length, cut=sample.truncated)

        found = lookup({**numbers, **{of: numbers[key] for of, key in cut.items()}}, usable)
        for of, key in cut.items():
            found[key] = found.pop(of, {}) | found.get(key, {})
        return found


def _as_stored(
    key: str,
    indices: Sequence[int],
    completion: Completion,
    model_name: str,
    thinking: Thinking | None,
) -> list[StoredSample]:
    # If the prompt ends with the opening marker of thinking, the marker is stored at the beginning
    # of the sample. Such a sample may be cut within its thinking, and then has no other marker. The
    # markers of all models are also looked for, because a run with another setting may read the
    # sample.
    end = completion.prompt_end
    opening = opened_thinking(end, thinking) or opened_thinking(end, KNOWN_THINKING)
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
