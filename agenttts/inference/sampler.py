"""Draw samples: read stored samples, and generate the missing ones with an engine.

For a trial, the sampler looks into the store before every engine call, because another trial may
have stored the same samples.
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
    ServerSilent,
    cut_key,
    keeps_special,
    render,
    sample_key,
    sample_seed,
)
from agenttts.inference.context import Context, context_of
from agenttts.inference.draw_counts import DrawCounter, DrawWatcher, WantedPrompts
from agenttts.inference.endpoint_options import most_a_call
from agenttts.inference.engine_child import LIBRARIES, SpareEngine
from agenttts.inference.engine_pool import EnginePool, same_engine
from agenttts.inference.engine_process import create_engine
from agenttts.inference.engine_use import EngineObserver, ModelDraw
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.inference.store import SampleStore, StoredSample, Usable
from agenttts.replies import COMMON_THINKING, Thinking, opened_thinking, remove_thinking

SAMPLES_A_CALL = 2048
"""The most samples of one engine call: enough to fill vLLM's batch."""
TOKENS_A_CALL = 4 << 20
"""The most tokens of one engine call, so that calls with long replies do not take too long."""
FEWEST_A_CALL = 512
"""Samples that a call may have in spite of `TOKENS_A_CALL`.

It is twice the number that vLLM runs at a time by default.
"""
STORE_SECONDS = 10.0
"""Seconds between writes of finished samples during an engine call.

A killed job loses the samples that were finished since the last write. Each write makes a file, and
many files make look-ups slow.
"""

VISIBLE_WITHIN_S = 90.0
"""How long `Sampler.await_stored` waits for a file that was written on another node."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class DrawResult:
    """The k samples of one prompt.

    Attributes:
        texts: The samples without the model's thinking.
        prompt_tokens: Tokens of the prompt, counted once.
        decode_tokens: Tokens of the k samples. At temperature 0 they are those of one sample.
        reused_tokens: Tokens of the samples that were not drawn for this result, but found in the
            store or drawn for an equal prompt. The prompt's tokens are included if no sample was
            drawn, or if they count as computed for an equal prompt of the same call.
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
    """A request for samples 0..k-1 of each prompt, from one model.

    If other processes need the same samples, ``partition`` is the share that this process draws
    first. ``trial`` is the name of the trial; it is used only in reports of progress.
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

    The wall seconds of a call of `Sampler.draw_together` are divided among its requests by the
    tokens computed for each. ``load_seconds`` and ``generate_seconds`` are this request's share.
    Engine starts count for the first request for which tokens were computed.
    """

    results: list[DrawResult]
    load_seconds: float = 0.0
    generate_seconds: float = 0.0
    engine_starts: int = 0


@dataclass
class _Wanted:
    """The samples that the requests of one call need.

    Each mapping is by sample key.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    """How many samples are needed: the most that any request needs."""
    requests: dict[str, Request] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)
    """The key of the samples if the prompt is cut, for the prompts where that is another key."""
    models: dict[str, str] = field(default_factory=dict)
    """The name of the model that is stored with the samples."""
    own: list[str] = field(default_factory=list)
    """The sample keys of this process's share, in the order to draw them."""
    others: list[list[str]] = field(default_factory=list)
    """The sample keys of each other process's share."""

    @property
    def shares(self) -> list[list[str]]:
        return [self.own, *self.others]


@dataclass
class ModelTotals:
    """Tokens and wall seconds of a model.

    ``prompt_tokens`` and ``decode_tokens`` do not include reused tokens. (Those of `DrawResult`
    do.)
    """

    prompt_tokens: int = 0
    decode_tokens: int = 0
    reused_tokens: int = 0
    load_seconds: float = 0.0
    generate_seconds: float = 0.0


class Sampler:
    """Draws samples of several models.

    A model's engine starts when a sample is missing from the store, or when `load` or `generate`
    is called. It ends when the engine of another model starts. With ``keep_engines`` it stays as
    long as memory allows (`agenttts.inference.engine_pool`). ``totals`` has each model's tokens and
    seconds, by name.

    Args:
        store: The sample store.
        models: The models, by name.
        run_seed: The run's seed, which is part of sample keys.
        engine_factory: Starts an engine.
        samples_a_call: The most samples of one engine call.
        keep_engines: Whether engines stay loaded.
        observer: Is told of engine starts and engine calls.
        watcher: Is told of the progress of a draw.
        store_seconds: Seconds between writes of finished samples.
        spare: The process from which ``engine_factory`` may make an engine.
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
        self._contexts: dict[str, Context] = {}
        self._engines = EnginePool(
            engine_factory, keep_engines, observer=self._observer, spare=spare
        )

    def draw_together(self, requests: Sequence[DrawRequest]) -> list[Drawn]:
        """Draw the samples of several requests together, in few engine calls.

        The requests are for models of one engine (`shares_engine`). A sample that several prompts
        need is drawn once. It counts as drawn for the first of them, and as reused for the others.
        The tokens of equal prompts count as computed for the first one that draws a sample.
        At temperature 0 all samples are equal, so one is drawn and repeated.

        Raises:
            EngineError: The model cannot be loaded or run.
        """
        keys, wanted = self._wanted(requests)
        samples = self._stored(self._store.lookup, wanted.numbers, wanted)
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
        read: set[str] = set()
        results = [
            self._results(request, of_request, samples, drawn, read)
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

        So only the requests that the engine cannot serve fail. If kept engines were loaded before
        the call, a request that fails alone is tried once more without them, unless its model is
        known not to load without them either, or is on a server.

        Returns:
            For each request, the result or the error.
        """
        model = self._models[requests[0].model]
        on_server = model.engine == "endpoint"
        kept = self._engines.keeps and self._engines.any_loaded and not on_server
        try:
            return list(self.draw_together(requests))
        except EngineError as error:
            # The next call finds what this one has stored. The engine's state is unknown.
            self._store.flush()
            self._engines.drop(model)
            if len(requests) == 1 and (not kept or self._engines.fails_alone(model)):
                return [error]
        if len(requests) == 1:
            self._engines.close()
        gone: EngineError | None = None
        found: list[Drawn | EngineError] = []
        for request in requests:
            # A server that is gone or hangs is waited for once, and not for every request.
            asks = on_server and self.lacks_samples(request)
            if asks and gone is None:
                gone = self._start_problem(requests[0].model)
            if asks and gone is not None:
                found.append(gone)
                continue
            found += self.draw_each([request])
            if isinstance(found[-1], ServerSilent):
                gone = found[-1]
        return found

    def _start_problem(self, model_name: str) -> EngineError | None:
        """Return why a model's engine cannot be started; None if it is loaded."""
        try:
            self._engine_for_trials(model_name)
        except EngineError as error:
            return error
        return None

    def await_stored(self, requests: Sequence[DrawRequest]) -> None:
        """Wait until samples that another process has drawn are visible.

        On NFS a new file may be visible only after a minute. Samples that are not visible after
        `VISIBLE_WITHIN_S` are drawn again by the next call.

        Args:
            requests: The requests that need the samples. Their models share one engine.
        """
        if not requests:
            return
        deadline = time.monotonic() + VISIBLE_WITHIN_S
        _, wanted = self._wanted(requests)
        samples = self._stored(self._store.lookup, wanted.numbers, wanted)
        while time.monotonic() < deadline and any(
            len(samples[key]) < number for key, number in wanted.numbers.items()
        ):
            time.sleep(_LOOK_S)
            self._take_new(samples, wanted)

    def forget_failures(self) -> None:
        """Forget which models could not be loaded, so that loading them is tried again."""
        self._engines.forget_failures()

    def add_models(self, models: Mapping[str, ModelConfig]) -> None:
        """Add models that may be drawn from."""
        self._models |= models
        self._contexts.clear()
        for name in models:
            self.totals.setdefault(name, ModelTotals())

    def expect(self, model_names: Iterable[str]) -> None:
        """Set which models may be needed from now on; engines of others are not kept."""
        self._engines.expect([self._models[name] for name in model_names])

    def start_ahead(self, model_name: str | None) -> None:
        """Set the model that will probably need an engine after the next draw.

        Its start can then be prepared. None: no further start is expected.
        """
        self._engines.start_ahead(None if model_name is None else self._models[model_name])

    def lacks_samples(self, request: DrawRequest) -> bool:
        """Return whether a draw needs samples that are not stored."""
        _, wanted = self._wanted([request])
        found = self._stored(self._store.lookup, wanted.numbers, wanted)
        return any(len(found[key]) < number for key, number in wanted.numbers.items())

    def imports_libraries(self, model_name: str) -> bool:
        """Return whether an engine start of the model imports slow libraries."""
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
        """Load and wake a model's engine, if it is not loaded and awake.

        Raises:
            EngineError: The model cannot be loaded.
        """
        self._engine_uncounted(model)

    def generate(self, model: ModelConfig, requests: Sequence[Request]) -> list[Completion]:
        """Generate samples without looking into the store or adding to it.

        ``model`` may be a model that this sampler does not know. The observer is told the seconds
        of the call, but not the tokens, because these are for no trial.

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
        """Store what was drawn and end the engines; may be called twice."""
        self._store.flush()
        self._engines.close()

    def _wanted(self, requests: Sequence[DrawRequest]) -> tuple[list[list[str]], _Wanted]:
        """Return the sample keys of each request's prompts, and all that is needed."""
        wanted = _Wanted()
        keys = []
        for request in requests:
            if request.k < 1:
                raise ValueError(f"k is {request.k}; valid: 1 or more")
            if not self.shares_engine(requests[0].model, request.model):
                raise ValueError(f"{requests[0].model} and {request.model} need two engines")
            model, context = self._models[request.model], self._context(request.model).exact
            of_request = []
            new = []
            for prompt in request.prompts:
                content, stop = render(prompt, model.prompt_style)
                key = sample_key(model, content, request.params, self._run_seed, stop)
                of_request.append(key)
                wanted.numbers[key] = max(wanted.numbers.get(key, 0), _distinct(request))
                if key not in wanted.requests:
                    cut = cut_key(model, context, content, request.params, self._run_seed, stop)
                    if cut is not None:
                        wanted.cut[key] = cut
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
        """Draw the missing samples, store them, and add them to ``samples``.

        Returns:
            For each sample key, the indices of the samples that were drawn here.
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
            self._take_new(samples, wanted)
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
            call: For each request of the engine call, the sample key and the indices.
            samples: The samples so far; new ones are added.
            counter: Counts the new samples.
            finished: The finished samples of one request.
        """
        key, indices = call[finished.request]
        name = wanted.models[key]
        drawn = [indices[place] for place in finished.places]
        thinking = self._models[name].thinking
        place = wanted.cut.get(key, key) if finished.completion.truncated else key
        for sample in _as_stored(place, drawn, finished.completion, name, thinking):
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
        """Make one engine call.

        Args:
            engine: The engine.
            model_name: The model.
            calls: For each sample key, the indices to draw.
            wanted: What the requests need.
            take: Called with finished samples during the call.
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
        except BaseException:  # also when the job is stopped, because GPU time was used
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
        read: set[str],
    ) -> list[DrawResult]:
        """Return the results of one request.

        Its samples in ``drawn`` count as drawn for this request. They are removed from ``drawn``,
        so that they count as reused for later requests. ``read`` has the keys whose prompt counts
        as computed for an earlier request; the keys that count for this one are added.
        """
        distinct = _distinct(request)
        thinking = self._models[request.model].thinking
        results = []
        for key in keys:
            here = {index for index in drawn.get(key, ()) if index < distinct}
            if here:
                drawn[key] -= here
            found = [samples[key][index] for index in range(distinct)]
            new = bool(here) and key not in read
            if new:
                read.add(key)
            repeats = request.k // distinct
            result = _result(found, here, thinking, new_prompt=new, repeats=repeats)
            self._count(request.model, result, new_prompt=new)
            results.append(result)
        return results

    def _seconds_of(self, requests: Sequence[DrawRequest]) -> tuple[float, float]:
        """Return the seconds of loading and of generating so far, for these models."""
        totals = [self.totals[name] for name in dict.fromkeys(r.model for r in requests)]
        return sum(t.load_seconds for t in totals), sum(t.generate_seconds for t in totals)

    def _take_new(self, samples: dict[str, dict[int, StoredSample]], wanted: _Wanted) -> None:
        """Add the samples that others stored since the last lookup."""
        numbers = wanted.numbers
        missing = {key: numbers[key] for key, found in samples.items() if len(found) < numbers[key]}
        new = self._stored(self._store.lookup_new, missing, wanted)
        for key, found in new.items():
            samples[key] = found | samples[key]

    def _stored(
        self,
        lookup: Callable[[Mapping[str, int], Usable], dict[str, dict[int, StoredSample]]],
        numbers: Mapping[str, int],
        wanted: _Wanted,
    ) -> dict[str, dict[int, StoredSample]]:
        """Return the stored samples that equal what the engine here would draw.

        Those of prompts that are cut for its context are among them.

        Args:
            lookup: A method of the store.
            numbers: How many samples are looked for, by key.
            wanted: What the requests need.
        """
        cut = {wanted.cut[key]: key for key in numbers if key in wanted.cut}
        contexts = {name: self._context(name) for name in set(wanted.models.values())}

        def usable(sample: StoredSample) -> bool:
            key = cut.get(sample.key, sample.key)
            length = sample.prompt_tokens + wanted.requests[key].params.max_tokens
            return contexts[wanted.models[key]].gives(length, cut=sample.truncated)

        found = lookup({**numbers, **{of: numbers[key] for of, key in cut.items()}}, usable)
        for of, key in cut.items():
            found[key] = found.pop(of, {}) | found.get(key, {})
        return found

    def _context(self, model_name: str) -> Context:
        if model_name not in self._contexts:
            self._contexts[model_name] = context_of(self._models[model_name])
        return self._contexts[model_name]

    def _engine_for_trials(self, model_name: str) -> Engine:
        """Return a model's loaded engine, and count the seconds of loading in ``totals``."""
        started = time.monotonic()
        try:
            return self._engines.get(self._models[model_name])
        finally:
            seconds = time.monotonic() - started
            self.totals[model_name].load_seconds += seconds
            self._observer.loaded(seconds)

    def _engine_uncounted(self, model: ModelConfig) -> Engine:
        """Return a model's loaded engine, without counting in ``totals``."""
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
    """Return the most samples of an engine call, fewer if replies may be long."""
    return min(samples, max(FEWEST_A_CALL, TOKENS_A_CALL // max(1, max_tokens)))


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


def _distinct(request: DrawRequest) -> int:
    """Return how many samples of a prompt are drawn: one at temperature 0, else k."""
    return request.k if request.params.temperature > 0 else 1


def _result(
    samples: Sequence[StoredSample],
    drawn: Set[int],
    thinking: Thinking | None,
    *,
    new_prompt: bool,
    repeats: int,
) -> DrawResult:
    """Return the result of one prompt.

    Args:
        samples: Its samples.
        drawn: The indices of the samples that were drawn for this result.
        thinking: The markers of the model's thinking.
        new_prompt: Whether the prompt's tokens count as computed for this result.
        repeats: How often the samples are repeated in the result.
    """
    prompt_tokens = samples[0].prompt_tokens
    reused = sum(sample.decode_tokens for sample in samples if sample.index not in drawn)
    return DrawResult(
        texts=tuple(remove_thinking(sample.text, thinking) for sample in samples) * repeats,
        prompt_tokens=prompt_tokens,
        decode_tokens=sum(sample.decode_tokens for sample in samples),
        reused_tokens=reused + (0 if new_prompt else prompt_tokens),
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
    # If the prompt ends with the opening marker of thinking, the marker is stored at the beginning
    # of the sample. Such a sample may be cut within its thinking, and then has no other marker. The
    # common markers are also looked for, because a run with another setting may read the sample.
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
    """Return the indices of the next samples to draw, by sample key.

    These are missing samples, at most ``size``. If samples of the own share are missing, only these
    are returned.
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
            break  # other processes may draw their shares during this call
    return calls
