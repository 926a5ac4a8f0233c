"""Draw samples: read stored samples, and generate the missing ones with an engine.

When it draws for a trial, the sampler looks into the store before every engine call, because
another trial may have stored the same samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from agenttts.inference.base import (
    Completion,
    Engine,
    EngineError,
    Finished,
    ModelConfig,
    Request,
    ServerSilent,
)
from agenttts.inference.context import Context, context_of
from agenttts.inference.draw_counts import DrawCounter, DrawWatcher, WantedPrompts
from agenttts.inference.draws import Drawn, DrawRequest, DrawResult, result_of
from agenttts.inference.endpoint_options import most_a_call
from agenttts.inference.engine_child import LIBRARIES, SpareEngine
from agenttts.inference.engine_pool import EnginePool, same_engine
from agenttts.inference.engine_process import create_engine
from agenttts.inference.engine_use import EngineObserver, model_draws
from agenttts.inference.store import SampleStore, StoredSample
from agenttts.inference.wanted_samples import EngineCall, WantedSamples

SAMPLES_A_CALL = 2048
"""The most samples of one engine call: enough to fill vLLM's batch."""
TOKENS_A_CALL = 4 << 20
"""The most tokens of one engine call, so that calls with long replies do not take too long."""
FEWEST_A_CALL = 512
"""Samples that a call may have even if they exceed `TOKENS_A_CALL`.

This is twice the number of samples that vLLM runs at a time by default.
"""
STORE_SECONDS = 10.0
"""Seconds between writes of finished samples during an engine call.

A killed job loses the samples that were finished after the last write. But each write makes a file,
and many files make look-ups slow.
"""

VISIBLE_WITHIN_S = 90.0
"""How long `Sampler.await_stored` waits for a file that was written on another node."""
_LOOK_S = 1.0


@dataclass
class ModelTotals:
    """Tokens and wall seconds of a model.

    ``prompt_tokens`` and ``decode_tokens`` do not include reused tokens. (The fields of
    `DrawResult` with these names include them.)
    """

    prompt_tokens: int = 0
    decode_tokens: int = 0
    reused_tokens: int = 0
    load_seconds: float = 0.0
    generate_seconds: float = 0.0


ENDS_IN_A_ROW = 2
"""Requests at which an engine's process ends before others are not tried any more."""


class Sampler:
    """Draws samples of several models.

    A model's engine starts when a sample is missing from the store, or when `load` or `generate`
    is called. An engine ends when the engine of another model starts. With ``keep_engines``,
    engines stay loaded as long as memory allows (`agenttts.inference.engine_pool`). ``totals`` has
    the tokens and seconds of each model, by the model's name.

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
        spare: The spare process from which ``engine_factory`` may make an engine.
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
        need is drawn once. The sample counts as drawn for the first of these prompts, and as reused
        for the other ones. If prompts are equal, their tokens count as computed only for the first
        of them that draws a sample. At temperature 0, all samples of a prompt are equal, so one
        sample is drawn and repeated.

        Raises:
            EngineError: The model cannot be loaded or run.
        """
        wanted = self._wanted(requests)
        before, starts = self._seconds_of(requests), self._engines.starts
        counter = DrawCounter(
            self._watcher,
            {
                request.trial: WantedPrompts(keys, request.distinct)
                for request, keys in zip(requests, wanted.keys, strict=True)
            },
            wanted.samples,
        )
        counter.tell()
        drawn = self._draw_missing(requests, wanted, counter)
        counter.tell()
        seconds = [after - b for after, b in zip(self._seconds_of(requests), before, strict=True)]
        read: set[str] = set()
        results = [
            self._results(request, keys, wanted.samples, drawn, read)
            for request, keys in zip(requests, wanted.keys, strict=True)
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
        the call, a request that fails alone is tried once more without these engines. There is no
        second try if the model is on a server, or if the model is known not to load even then.

        If the engine's process ends at `ENDS_IN_A_ROW` requests in a row that are drawn one by one,
        the others that need it are not tried, because each try would be a start. Their error is
        INFRA_FAILED: nothing shows that they would fail. If the model cannot even be loaded, all
        have the error of the load.

        Returns:
            For each request, the result or the error.
        """
        model = self._models[requests[0].model]
        on_server = model.engine == "endpoint"
        kept = self._engines.keeps and self._engines.any_loaded and not on_server
        try:
            return list(self.draw_together(requests))
        except EngineError as error:
            # The next call finds the samples that this call has stored. The engine's state is
            # unknown.
            self._store.flush()
            self._engines.drop(model)
            if len(requests) == 1 and (not kept or self._engines.fails_alone(model)):
                return [error]
        if len(requests) == 1:
            self._engines.close()
        gone: EngineError | None = None
        ends = 0
        found: list[Drawn | EngineError] = []
        for request in requests:
            # If a server is gone or hangs, only one request waits for it, and not every request.
            asks = (on_server or gone is not None) and self.lacks_samples(request)
            if asks and gone is None:
                gone = self._start_problem(requests[0].model)
            if asks and gone is not None:
                found.append(gone)
                continue
            [drawn] = self.draw_each([request])
            found.append(drawn)
            if isinstance(drawn, ServerSilent):
                gone = drawn
            if isinstance(drawn, Drawn):
                ends = 0
            elif drawn.ended:
                ends += 1
                if ends == ENDS_IN_A_ROW and not self._engines.fails_alone(model):
                    gone = _untried(drawn)
        return found

    def _start_problem(self, model_name: str) -> EngineError | None:
        """Start a model's engine; return why this failed, or None if it is loaded."""
        try:
            self._engine_for_trials(model_name)
        except EngineError as error:
            return error
        return None

    def await_stored(self, requests: Sequence[DrawRequest]) -> None:
        """Wait until samples that another process has drawn are visible.

        On NFS a new file may be visible only after a minute. Samples that are not visible after
        `VISIBLE_WITHIN_S` are drawn again by the next `draw_together`.

        Args:
            requests: The requests that need the samples. Their models share one engine.
        """
        if not requests:
            return
        deadline = time.monotonic() + VISIBLE_WITHIN_S
        wanted = self._wanted(requests)
        while wanted.missing and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            wanted.take_stored()

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
        """Set which models may be needed from now on; only their engines are kept."""
        self._engines.expect([self._models[name] for name in model_names])

    def start_ahead(self, model_name: str | None) -> None:
        """Set the model that will probably need an engine after the next draw.

        The start of this engine can then be prepared. None: no further start is expected.
        """
        self._engines.start_ahead(None if model_name is None else self._models[model_name])

    def lacks_samples(self, request: DrawRequest) -> bool:
        """Return whether a draw needs samples that are not stored."""
        return self._wanted([request]).missing > 0

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
        of the call, but not the tokens, because the tokens count for no trial.

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

    def _wanted(self, requests: Sequence[DrawRequest]) -> WantedSamples:
        """Return the samples that the requests need, including the stored ones."""
        for request in requests:
            if request.k < 1:
                raise ValueError(f"k is {request.k}; valid: 1 or more")
            if not self.shares_engine(requests[0].model, request.model):
                raise ValueError(f"{requests[0].model} and {request.model} need two engines")
        contexts = {request.model: self._context(request.model) for request in requests}
        return WantedSamples(requests, self._models, contexts, self._run_seed, self._store)

    def _draw_missing(
        self, requests: Sequence[DrawRequest], wanted: WantedSamples, counter: DrawCounter
    ) -> dict[str, set[int]]:
        """Draw the missing samples, store them, and add them to ``wanted``.

        Returns:
            For each sample key, the indices of the samples that were drawn here.
        """
        drawn: dict[str, set[int]] = {}
        missing = wanted.missing
        if not missing:
            return drawn
        model_name = requests[0].model
        tokens = max(request.params.max_tokens for request in requests)
        engine = self._engine_for_trials(model_name)
        most = most_samples(self._samples_a_call, tokens)
        most = min(most, most_a_call(self._models[model_name], most))
        size = min(request.partition.call_size(missing, most) for request in requests)
        while True:
            wanted.take_stored()
            call = wanted.next_call(size)
            if call is None:
                return drawn
            take = partial(_take_finished, wanted, call, counter)
            counter.engine_call()
            with self._store.flushed_regularly(self._store_seconds):
                completions = self._call(engine, model_name, call, take)
                for position, completion in enumerate(completions):
                    take(Finished(position, tuple(range(len(completion.samples))), completion))
            for key, indices in zip(call.keys, call.indices, strict=True):
                drawn.setdefault(key, set()).update(indices)

    def _call(
        self,
        engine: Engine,
        model_name: str,
        call: EngineCall,
        take: Callable[[Finished], None],
    ) -> list[Completion]:
        """Make one engine call; ``take`` is given finished samples during the call."""
        started = time.monotonic()
        try:
            completions = engine.generate(call.requests, take)
        except BaseException:  # also when the job is stopped, because GPU time was used
            self._observer.called((), time.monotonic() - started)
            raise
        seconds = time.monotonic() - started
        self.totals[model_name].generate_seconds += seconds
        self._observer.called(model_draws(call.names, completions, seconds), seconds)
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

        The request's samples in ``drawn`` count as drawn for this request. They are removed from
        ``drawn``, so that they count as reused for later requests. ``read`` has the keys whose
        prompt counts as computed for an earlier request. The keys whose prompt counts as computed
        for this request are added to ``read``.
        """
        distinct = request.distinct
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
            result = result_of(found, here, thinking, new_prompt=new, repeats=repeats)
            self._count(request.model, result, new_prompt=new)
            results.append(result)
        return results

    def _seconds_of(self, requests: Sequence[DrawRequest]) -> tuple[float, float]:
        """Return the seconds of loading and of generating so far, for these models."""
        totals = [self.totals[name] for name in dict.fromkeys(r.model for r in requests)]
        return sum(t.load_seconds for t in totals), sum(t.generate_seconds for t in totals)

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
    """Return the most samples of an engine call; long replies lower this number."""
    return min(samples, max(FEWEST_A_CALL, TOKENS_A_CALL // max(1, max_tokens)))


def _take_finished(
    wanted: WantedSamples, call: EngineCall, counter: DrawCounter, finished: Finished
) -> None:
    """Store the samples that the engine has finished, and count the new ones."""
    for sample in wanted.add_finished(call, finished):
        counter.add(sample.decode_tokens)


def _untried(error: EngineError) -> EngineError:
    """Return the error of a request that is not tried, as others ended the engine."""
    text = f"not tried, because its engine ended {ENDS_IN_A_ROW} times in a row: {error}"
    return EngineError(text, kind="INFRA_FAILED", ended=True)
