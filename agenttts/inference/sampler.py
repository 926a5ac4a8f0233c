"""Draw samples: read stored samples, and generate the missing ones with an engine.

The sampler looks into the store before every engine call, because other trials may have drawn the
same samples meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

from agenttts.inference.base import (
    Completion,
    Engine,
    EngineError,
    Finished,
    ModelConfig,
    Prompt,
    Request,
    SamplingParams,
    keeps_special,
    render,
    sample_key,
    sample_seed,
)
from agenttts.inference.draw_counts import DrawCounter, DrawWatcher, WantedPrompts
from agenttts.inference.endpoint_options import most_a_call
from agenttts.inference.engine_child import LIBRARIES, SpareEngine
from agenttts.inference.engine_pool import EnginePool, same_engine
from agenttts.inference.engine_process import create_engine
from agenttts.inference.engine_use import EngineObserver, ModelDraw
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.inference.store import SampleStore, StoredSample
from agenttts.replies import COMMON_THINKING, Thinking, opened_thinking, remove_thinking

SAMPLES_A_CALL = 2048
"""Samples of one engine call; they fill vLLM's batch.

Before the next call, the sampler looks for samples that others have stored.
"""
TOKENS_A_CALL = 4 << 20
"""The most tokens of one engine call; keeps calls short for models that write long replies."""
FEWEST_A_CALL = 512
"""A call may have this many samples even if they are long.

It is twice the number that vLLM runs at a time by default.
"""
STORE_SECONDS = 10.0
"""Seconds after which finished samples are stored while their engine call goes on.

A killed job loses at most the samples of these seconds, and those that were not finished. Each
write makes one file, so a shorter interval would make more files and slower look-ups.
"""

VISIBLE_WITHIN_S = 90.0
"""Seconds after which a file that was written on another node counts as missing."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class DrawResult:
    """The k samples of one prompt.

    Attributes:
        texts: The samples without the model's thinking. The store keeps the whole text.
        prompt_tokens: Tokens of the prompt, counted once.
        decode_tokens: Tokens of all k samples. At temperature 0 one sample is drawn and counted.
        reused_tokens: Tokens of prompt and samples that were not computed for this result. The
            samples are from the store or from an equal prompt of the same draw. The prompt's
            tokens are included if no sample was drawn.
        truncated: Whether the prompt was shortened for the model's context.
        cut: Number of samples that ended at ``max_tokens``.
    """

    texts: tuple[str, ...]
    prompt_tokens: int
    decode_tokens: int
    reused_tokens: int
    truncated: bool
    cut: int = 0

    @property
    def new_tokens(self) -> int:
        """The tokens that were computed for this result."""
        return self.prompt_tokens + self.decode_tokens - self.reused_tokens


@dataclass(frozen=True)
class DrawRequest:
    """Samples 0..k-1 of each prompt, of one model.

    ``partition`` is the share of the missing samples that this process draws first if others draw
    from the same prompts. ``trial`` is the name of the trial that needs the samples; it is used
    only in reports of progress.
    """

    model: str
    prompts: Sequence[Prompt]
    params: SamplingParams
    k: int
    partition: SamplePartition = ALONE
    trial: str = ""


@dataclass(frozen=True)
class Drawn:
    """The result of a `DrawRequest`: one `DrawResult` per prompt, in order.

    ``load_seconds`` and ``generate_seconds`` are the request's share of the wall seconds that the
    call took. The shares of the requests of one call add up to the whole. ``engine_starts`` counts
    the engines that were started. A start is counted for the first request that needed the engine.
    """

    results: list[DrawResult]
    load_seconds: float = 0.0
    generate_seconds: float = 0.0
    engine_starts: int = 0


@dataclass
class _Wanted:
    """The samples that the requests of one call need, by key."""

    numbers: dict[str, int] = field(default_factory=dict)
    """The number of samples: the maximum over the requests."""
    requests: dict[str, Request] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    """The name of the model under which a sample is stored."""
    own: list[str] = field(default_factory=list)
    """The keys of this process's shares, in the order to draw them."""
    others: list[list[str]] = field(default_factory=list)
    """The shares of other processes."""

    @property
    def shares(self) -> list[list[str]]:
        return [self.own, *self.others]


@dataclass
class ModelTotals:
    """What was computed on a model: tokens and wall seconds.

    ``prompt_tokens`` and ``decode_tokens`` do not include reused tokens, unlike in `DrawResult`.
    """

    prompt_tokens: int = 0
    decode_tokens: int = 0
    reused_tokens: int = 0
    load_seconds: float = 0.0
    generate_seconds: float = 0.0


class Sampler:
    """Draws samples of any of ``models``.

    A model's engine starts when the first sample is missing from the store. It ends when the engine
    of another model must start. With ``keep_engines`` it stays while memory allows
    (`agenttts.inference.engine_pool`). One engine works at a time. ``totals`` counts by model name.
    ``observer`` gets engine starts and engine calls, ``watcher`` the progress of a draw. ``spare``
    is the process from which ``engine_factory`` may make an engine.
    `close` ends the engines and stores what was drawn.
    """

    def __init__(
        self,
        store: SampleStore,
        models: Mapping[str, ModelConfig],
        run_seed: int,
        engine_factory: Callable[[ModelConfig], Engine] = create_engine,
        samples_a_call: int = SAMPLES_A_CALL,
        *,
        keep_engines: bool = False,
        observer: EngineObserver | None = None,
        watcher: DrawWatcher | None = None,
        store_seconds: float = STORE_SECONDS,
        spare: SpareEngine | None = None,
    ) -> None:
        self.totals: dict[str, ModelTotals] = {name: ModelTotals() for name in models}
        self._store = store
        self._models = dict(models)
        self._run_seed = run_seed
        self._samples_a_call = samples_a_call
        self._store_seconds = store_seconds
        self._observer = observer or EngineObserver()
        self._watcher = watcher
        self._engines = EnginePool(
            engine_factory, keep_engines, observer=self._observer, spare=spare
        )

    def draw_together(self, requests: Sequence[DrawRequest]) -> list[Drawn]:
        """Draw the union of several requests' samples in as few calls as possible.

        The requests are for models of one engine (`shares_engine`). Equal prompts are drawn once,
        within a request and between requests. A sample counts as drawn for the first request that
        needs it, and as reused for the others. At temperature 0 all samples are equal, so one is
        drawn and repeated.

        Raises:
            EngineError: The model cannot be loaded or run.
        """
        keys, wanted = self._wanted(requests)
        samples = self._store.lookup(wanted.numbers)
        before, starts = self._seconds_of(requests), self._engines.starts
        counter = DrawCounter(
            self._watcher,
            {
                request.trial: WantedPrompts(of_request, _distinct(request))
                for request, of_request in zip(requests, keys, strict=True)
            },
            samples,
        )
        counter.tell()
        drawn = self._draw_missing(requests, wanted, samples, counter)
        counter.tell()
        seconds = [after - b for after, b in zip(self._seconds_of(requests), before, strict=True)]
        results = [
            self._results(request, of_request, samples, drawn)
            for request, of_request in zip(requests, keys, strict=True)
        ]
        new = [sum(result.new_tokens for result in found) for found in results]
        load, generate = seconds
        total = sum(new)
        shares = [tokens / total if total else 0.0 for tokens in new]
        first = next((number for number, tokens in enumerate(new) if tokens), 0)
        return [
            Drawn(
                found,
                load_seconds=load * share,
                generate_seconds=generate * share,
                engine_starts=self._engines.starts - starts if number == first else 0,
            )
            for number, (found, share) in enumerate(zip(results, shares, strict=True))
        ]

    def draw_each(self, requests: Sequence[DrawRequest]) -> list[Drawn | EngineError]:
        """Draw several requests together; if that fails, draw them one by one.

        So a request that the engine cannot serve does not make the others fail. A model whose
        engine could not be loaded is not loaded again. If kept engines were loaded before the call,
        a single request that fails is tried once more after all engines have ended.
        """
        kept = self._engines.keeps and self._engines.any_loaded
        try:
            return list(self.draw_together(requests))
        except EngineError as error:
            # What the call has stored is found again. The engine ends because its state is unknown.
            self._store.flush()
            self._engines.drop(self._models[requests[0].model])
            if len(requests) == 1 and not kept:
                return [error]
        if len(requests) == 1:
            self._engines.close()
        return [found for request in requests for found in self.draw_each([request])]

    def await_stored(self, requests: Sequence[DrawRequest]) -> None:
        """Wait until samples that another process has drawn are visible.

        NFS may show a new file of a directory up to a minute later. Samples that are not visible
        within 90 s count as missing, and are drawn again.

        Args:
            requests: The draws that need the samples. Their models share one engine.
        """
        if not requests:
            return
        deadline = time.monotonic() + VISIBLE_WITHIN_S
        _, wanted = self._wanted(requests)
        samples = self._store.lookup(wanted.numbers)
        while time.monotonic() < deadline and any(
            len(samples[key]) < number for key, number in wanted.numbers.items()
        ):
            time.sleep(_LOOK_S)
            self._take_new(samples, wanted.numbers)

    def forget_failures(self) -> None:
        """Forget which models could not be loaded, so that loading them is tried again."""
        self._engines.forget_failures()

    def add_models(self, models: Mapping[str, ModelConfig]) -> None:
        """Add models that may be drawn from."""
        self._models |= models
        for name in models:
            self.totals.setdefault(name, ModelTotals())

    def expect(self, model_names: Iterable[str]) -> None:
        """Set the models that may be needed from now on; other engines are not kept."""
        self._engines.expect([self._models[name] for name in model_names])

    def start_ahead(self, model_name: str | None) -> None:
        """Set the model whose engine is started after that of the next draw.

        None: no further start is expected.
        """
        self._engines.start_ahead(None if model_name is None else self._models[model_name])

    def lacks_samples(self, request: DrawRequest) -> bool:
        """Return whether a draw needs samples that are not stored."""
        _, wanted = self._wanted([request])
        found = self._store.lookup(wanted.numbers)
        return any(len(found[key]) < number for key, number in wanted.numbers.items())

    def imports_libraries(self, model_name: str) -> bool:
        """Return whether an engine start of the model first imports libraries for seconds."""
        return self._models[model_name].engine in LIBRARIES

    def shares_engine(self, a: str, b: str) -> bool:
        """Return whether two models, by name, are served by one engine."""
        return same_engine(self._models[a], self._models[b])

    def is_awake(self, model_name: str) -> bool:
        """Return whether the model's engine is loaded and awake."""
        return self._engines.is_awake(self._models[model_name])

    def is_loaded(self, model_name: str) -> bool:
        """Return whether the model's engine is loaded; it may be asleep."""
        return self._engines.is_loaded(self._models[model_name])

    def load(self, model: ModelConfig) -> None:
        """Have a model's engine loaded and awake.

        Raises:
            EngineError: The model cannot be loaded.
        """
        self._engine_uncounted(model)

    def generate(self, model: ModelConfig, requests: Sequence[Request]) -> list[Completion]:
        """Generate samples that are not stored.

        ``model`` need not be one of this sampler's models. The observer gets the seconds of the
        call and no draws, because no trial asked for them.

        Raises:
            EngineError: The model cannot be loaded or run.
        """
        engine = self._engine_uncounted(model)
        started = time.monotonic()
        try:
            return engine.generate(requests)
        except EngineError:
            self._engines.drop(model)  # its state is unknown
            raise
        finally:
            self._observer.called((), time.monotonic() - started)

    def close(self) -> None:
        """Store what was drawn and end the engine; may be called twice."""
        self._store.flush()
        self._engines.close()

    def _wanted(self, requests: Sequence[DrawRequest]) -> tuple[list[list[str]], _Wanted]:
        """Return the keys of each request's prompts, and all that the requests need."""
        wanted = _Wanted()
        keys = []
        for request in requests:
            if request.k < 1:
                raise ValueError(f"k is {request.k}; valid: 1 or more")
            if not self.shares_engine(requests[0].model, request.model):
                raise ValueError(f"{requests[0].model} and {request.model} need two engines")
            model = self._models[request.model]
            of_request = []
            new = []
            for prompt in request.prompts:
                content, stop = render(prompt, model.prompt_style)
                key = sample_key(model, content, request.params, self._run_seed, stop)
                of_request.append(key)
                wanted.numbers[key] = max(wanted.numbers.get(key, 0), _distinct(request))
                if key not in wanted.requests:
                    new.append(key)
                    wanted.models[key] = request.model
                    wanted.requests[key] = Request(
                        content,
                        request.params,
                        (),
                        stop,
                        model.template_args,
                        keeps_special(model),
                    )
            first, *others = request.partition.shares(new)
            wanted.own += first
            wanted.others += others
            keys.append(of_request)
        return keys, wanted

    def _draw_missing(
        self,
        requests: Sequence[DrawRequest],
        wanted: _Wanted,
        samples: dict[str, dict[int, StoredSample]],
        counter: DrawCounter,
    ) -> dict[str, set[int]]:
        """Add the missing ones to ``samples``, and store them while the engine works.

        Returns:
            The indices that were drawn here, by key.
        """
        drawn: dict[str, set[int]] = {}
        missing = sum(number - len(samples[key]) for key, number in wanted.numbers.items())
        if not missing:
            return drawn
        model_name = requests[0].model
        tokens = max(request.params.max_tokens for request in requests)
        engine = self._engine_for_trials(model_name)
        most = most_samples(self._samples_a_call, tokens)
        most = min(most, most_a_call(self._models[model_name], most))
        size = min(request.partition.call_size(missing, most) for request in requests)
        while True:
            self._take_new(samples, wanted.numbers)
            calls = _next_call(wanted.shares, samples, wanted.numbers, size)
            if not calls:
                return drawn
            take = partial(self._store_finished, wanted, list(calls.items()), samples, counter)
            counter.engine_call()
            with self._store.flushed_regularly(self._store_seconds):
                completions = self._call(engine, model_name, calls, wanted, take)
                for position, completion in enumerate(completions):
                    take(Finished(position, tuple(range(len(completion.samples))), completion))
            for key, indices in calls.items():
                drawn.setdefault(key, set()).update(indices)

    def _store_finished(
        self,
        wanted: _Wanted,
        call: Sequence[tuple[str, Sequence[int]]],
        samples: dict[str, dict[int, StoredSample]],
        counter: DrawCounter,
        finished: Finished,
    ) -> None:
        """Store samples that the engine has finished, if they are new.

        Args:
            wanted: What the requests need.
            call: The keys and indices that the call draws.
            samples: Gets the samples.
            counter: Counts them.
            finished: The samples.
        """
        key, indices = call[finished.request]
        name = wanted.models[key]
        drawn = [indices[place] for place in finished.places]
        thinking = self._models[name].thinking
        for sample in _as_stored(key, drawn, finished.completion, name, thinking):
            if sample.index not in samples[key]:
                self._store.add(sample)
                samples[key][sample.index] = sample
                counter.add(sample.decode_tokens)

    def _call(
        self,
        engine: Engine,
        model_name: str,
        calls: Mapping[str, Sequence[int]],
        wanted: _Wanted,
        take: Callable[[Finished], None],
    ) -> list[Completion]:
        """Have the engine draw samples.

        Args:
            engine: The engine.
            model_name: The model.
            calls: The indices to draw, by key.
            wanted: What the requests need.
            take: Called with each part of the call.
        """
        requests = [
            dataclasses.replace(
                wanted.requests[key], seeds=tuple(sample_seed(key, index) for index in indices)
            )
            for key, indices in calls.items()
        ]
        started = time.monotonic()
        try:
            completions = engine.generate(requests, take)
        except BaseException:  # also when the job is stopped: the GPU time was used
            self._observer.called((), time.monotonic() - started)
            raise
        seconds = time.monotonic() - started
        self.totals[model_name].generate_seconds += seconds
        names = [wanted.models[key] for key in calls]
        self._observer.called(model_draws(names, completions, seconds), seconds)
        return completions

    def _results(
        self,
        request: DrawRequest,
        keys: Sequence[str],
        samples: Mapping[str, Mapping[int, StoredSample]],
        drawn: dict[str, set[int]],
    ) -> list[DrawResult]:
        """Return the results of one request.

        Its samples that are in ``drawn`` count as drawn for it, and are removed there.
        """
        distinct = _distinct(request)
        thinking = self._models[request.model].thinking
        results = []
        for key in keys:
            here = {index for index in drawn.get(key, ()) if index < distinct}
            if here:  # the next equal prompt reuses all of it
                drawn[key] -= here
            found = [samples[key][index] for index in range(distinct)]
            result = _result(found, here, thinking, repeats=request.k // distinct)
            self._count(request.model, result, new_prompt=bool(here))
            results.append(result)
        return results

    def _seconds_of(self, requests: Sequence[DrawRequest]) -> tuple[float, float]:
        """Return the seconds of loading and of generating so far of the requests' models."""
        totals = [self.totals[name] for name in dict.fromkeys(r.model for r in requests)]
        return sum(t.load_seconds for t in totals), sum(t.generate_seconds for t in totals)

    def _take_new(
        self, samples: dict[str, dict[int, StoredSample]], wanted: Mapping[str, int]
    ) -> None:
        """Add the samples that others stored since the last lookup."""
        new = self._store.lookup_new(
            {key: wanted[key] for key, found in samples.items() if len(found) < wanted[key]}
        )
        for key, found in new.items():
            samples[key] = found | samples[key]

    def _engine_for_trials(self, model_name: str) -> Engine:
        """Return a model's loaded engine; ``totals`` counts the seconds of loading it."""
        started = time.monotonic()
        try:
            return self._engines.get(self._models[model_name])
        finally:
            seconds = time.monotonic() - started
            self.totals[model_name].load_seconds += seconds
            self._observer.loaded(seconds)

    def _engine_uncounted(self, model: ModelConfig) -> Engine:
        """Return the loaded engine of a model, which need not be one of this sampler's."""
        started = time.monotonic()
        try:
            return self._engines.get(model)
        finally:
            self._observer.loaded(time.monotonic() - started)

    def _count(self, model_name: str, result: DrawResult, *, new_prompt: bool) -> None:
        total = self.totals[model_name]
        reused_decode = result.reused_tokens - (0 if new_prompt else result.prompt_tokens)
        total.prompt_tokens += result.prompt_tokens if new_prompt else 0
        total.decode_tokens += result.decode_tokens - reused_decode
        total.reused_tokens += result.reused_tokens


def most_samples(samples: int, max_tokens: int) -> int:
    """Return the samples of one engine call: ``samples``, fewer if each may be long."""
    return min(samples, max(FEWEST_A_CALL, TOKENS_A_CALL // max(1, max_tokens)))


def model_draws(
    names: Sequence[str], completions: Sequence[Completion], seconds: float
) -> list[ModelDraw]:
    """Return what an engine call computed, by model.

    Args:
        names: The name of the model of each completion.
        completions: What the engine returned.
        seconds: The wall seconds of the call, which are divided by tokens.
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


def _distinct(request: DrawRequest) -> int:
    """Return how many samples of a prompt differ: at temperature 0 all are equal."""
    return request.k if request.params.temperature > 0 else 1


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


def _as_stored(
    key: str,
    indices: Sequence[int],
    completion: Completion,
    model_name: str,
    thinking: Thinking | None,
) -> list[StoredSample]:
    # If the prompt ends with the opening marker of thinking, the stored reply begins with it. A
    # reply that is cut short would otherwise have no marker. The common markers are looked for
    # under every setting, because the sample may be read under another setting.
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


def _next_call(
    shares: Sequence[Sequence[str]],
    samples: Mapping[str, Mapping[int, StoredSample]],
    wanted: Mapping[str, int],
    size: int,
) -> dict[str, list[int]]:
    """Return the indices of the next ``size`` missing samples, by key.

    There may be fewer: a call never mixes this process's own share with the shares of others, and
    at the end little is left.
    """
    calls: dict[str, list[int]] = {}
    room = size
    for number, share in enumerate(shares):
        for key in share:
            if room > 0 and len(samples[key]) < wanted[key]:
                missing = [index for index in range(wanted[key]) if index not in samples[key]]
                calls[key] = missing[:room]
                room -= len(calls[key])
        if calls and number == 0:
            break  # the other processes may draw from their shares during this call
    return calls
