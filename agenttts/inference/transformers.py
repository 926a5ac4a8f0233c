"""The transformers engine, for models or machines that vLLM does not support.

It is several times slower than vLLM.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.errors import located
from agenttts.inference.base import (
    Completion,
    EngineError,
    Finished,
    ModelConfig,
    OnFinished,
    Request,
    Sample,
    SamplingParams,
)
from agenttts.inference.beats import Beat
from agenttts.inference.compiled_code import compiles_kernels, use_executable_caches
from agenttts.inference.failure_kind import failure_kind
from agenttts.inference.model_files import stated_context
from agenttts.inference.option_models import TransformersOptions
from agenttts.inference.tokenization import encode_request
from agenttts.spec.strict import read_options


class TransformersEngine:
    """Runs a model with Hugging Face transformers, on a GPU (CUDA) or the CPU.

    It uses CUDA when there is a GPU.

    This engine does not use the sampling of transformers, which draws a whole batch from one global
    generator. Here each row (sample) has its own generator, seeded with the sample's seed. It gives
    one vector of Gumbel noise per step. The argmax of log-probabilities / temperature + noise is an
    exact draw (the Gumbel-max trick). So a sample depends only on its prompt and seed, and not on
    the other rows of the batch, up to the rounding of batched matrix products.

    Options: `TransformersOptions`. With ``gpus`` > 1 the layers are spread over the GPUs
    (``device_map="auto"``).

    Raises:
        EngineError: The model cannot be loaded.
    """

    reports_progress = True

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._beat = Beat(config.name)
        self._model: Any = None
        self._tokenizer: Any = None
        try:
            with located("options"):
                given = read_options(TransformersOptions, config.options, "engine transformers")
            self._rows = given.batch_size
            shared = {
                "revision": config.revision,
                "trust_remote_code": given.trust_remote_code,
            }
            options = {"dtype": "auto", **given.for_library()}
            own_context = self._load(shared, options, config.gpus)
            self._context: int | None = given.max_model_len or own_context
        except Exception as error:
            self.close()
            raise _engine_error(config, "loaded", error) from error

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return one completion per request, in order.

        Raises:
            EngineError: The model cannot be run.
        """
        if self._model is None:
            raise EngineError(f"the engine of model '{self._config.name}' is closed")
        prompts = [
            encode_request(self._tokenizer, self._config, request, self._context)
            for request in requests
        ]
        rows = [
            _Row(
                position,
                sample,
                prompt.tokens,
                seed,
                request.params,
                request.stop,
                request.keep_special,
            )
            for position, (request, prompt) in enumerate(zip(requests, prompts, strict=True))
            for sample, seed in enumerate(request.seeds)
        ]
        # Rows of similar length go together, because padding is computed too.
        rows.sort(key=lambda row: (repr((row.params, row.stop)), len(row.tokens)))
        drawn: dict[tuple[int, int], Sample] = {}
        try:
            for batch in _batches(rows, self._rows):
                for row, sample in zip(batch, self._draw(batch), strict=True):
                    drawn[row.request, row.sample] = sample
                    if on_finished is not None:
                        completion = prompts[row.request].completion([sample])
                        on_finished(Finished(row.request, (row.sample,), completion))
        except Exception as error:
            raise _engine_error(self._config, "run", error) from error
        return [
            prompt.completion(drawn[position, sample] for sample in range(len(request.seeds)))
            for position, (request, prompt) in enumerate(zip(requests, prompts, strict=True))
        ]

    def close(self) -> None:
        """Release the model's memory."""
        if self._model is None:
            return
        self._model = self._tokenizer = None
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, shared: dict[str, Any], options: dict[str, Any], gpus: int) -> int | None:
        """Load tokenizer and model.

        Returns:
            The model's context in tokens, if its config states it.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self._torch = torch
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            _check_compiled_code(self._config)
        if gpus > 1 and device == "cuda":
            options.setdefault("device_map", "auto")
        self._tokenizer = AutoTokenizer.from_pretrained(self._config.path, **shared)
        model: Any = AutoModelForCausalLM.from_pretrained(self._config.path, **shared, **options)
        self._model = (model if "device_map" in options else model.to(device)).eval()
        # The end tokens are the model's. Its sampling defaults (top_k and the like) are not used,
        # because the request did not ask for them.
        ends = self._model.generation_config.eos_token_id
        if ends is None:
            ends = self._tokenizer.eos_token_id
        self._ends: list[int] = (
            [] if ends is None else list(ends) if isinstance(ends, list) else [ends]
        )
        pad = self._tokenizer.pad_token_id
        self._pad: int = pad if pad is not None else self._ends[0] if self._ends else 0
        self._model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=self._ends or None, pad_token_id=self._pad
        )
        return stated_context(model.config.to_dict())

    def _draw(self, rows: Sequence[_Row]) -> list[Sample]:
        """Draw one batch: rows of equal parameters and stop strings."""
        torch, params, stop = self._torch, rows[0].params, rows[0].stop
        width = max(len(row.tokens) for row in rows)
        # Padding is on the left, so that every row's next token is at the same position.
        ids = torch.full((len(rows), width), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, width - len(row.tokens) :] = torch.tensor(row.tokens)
            mask[number, width - len(row.tokens) :] = 1
        device = self._model.device
        stops = _Stops(torch, self._tokenizer, stop, width, len(rows))
        processors: list[Any] = [_Beating(self._beat)]
        if params.temperature > 0:
            processors.append(_Gumbel(torch, [row.seed for row in rows], params))
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=params.max_tokens,
                logits_processor=processors,
                stopping_criteria=[stops] if stop else [],
            )
        new = output[:, width:].tolist()
        return [
            self._sample(tokens, length, row)
            for tokens, length, row in zip(new, stops.lengths, rows, strict=True)
        ]

    def _sample(self, tokens: list[int], stopped: int | None, row: _Row) -> Sample:
        """Return the sample of a row, without padding after its end."""
        ended = next((i + 1 for i, token in enumerate(tokens) if token in self._ends), None)
        length = min(x for x in (ended, stopped, len(tokens)) if x is not None)
        if row.keep_special:  # all but the end token
            said = tokens[: length - 1 if ended == length else length]
            text = self._tokenizer.decode(said, skip_special_tokens=False)
        else:
            text = self._tokenizer.decode(tokens[:length], skip_special_tokens=True)
        cuts = [place for s in row.stop if (place := text.find(s)) >= 0]
        done = ended is not None or stopped is not None
        return Sample(text[: min(cuts)] if cuts else text, length, "stop" if done else "length")


def import_libraries() -> None:
    """Import what every model needs, without initialising a GPU."""
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401


@dataclass(frozen=True)
class _Row:
    """One sample to draw: sample ``sample`` of request ``request``."""

    request: int
    sample: int
    tokens: list[int]
    seed: int
    params: SamplingParams
    stop: tuple[str, ...]
    keep_special: bool


class _Beating:
    """Logits processor that reports every step and changes nothing."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._beat()
        return scores


class _Gumbel:
    """Logits processor that adds each row's own Gumbel noise.

    The greedy choice after it is then a draw.
    """

    def __init__(self, torch: Any, seeds: Sequence[int], params: SamplingParams) -> None:
        self._torch = torch
        self._params = params
        # The generators are on the CPU whatever the model runs on, so that the same seed gives the
        # same noise everywhere.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        torch = self._torch
        scores = scores.float() / self._params.temperature
        if self._params.top_p < 1:
            scores = _nucleus(torch, scores, self._params.top_p)
        noise = torch.empty(scores.shape, dtype=torch.float32)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)  # -log of an exponential variable is Gumbel
        return scores - noise.to(scores.device).log()


def _nucleus(torch: Any, scores: Any, top_p: float) -> Any:
    """Return the scores of the smallest set of tokens that reaches ``top_p``.

    The scores of all other tokens are minus infinity.
    """
    ordered, places = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill(before > top_p, float("-inf"))
    return torch.empty_like(scores).scatter_(-1, places, ordered)


class _Stops:
    """Stopping criterion: a row is done once its new text holds a stop string.

    ``lengths`` are tokens, by row.
    """

    def __init__(
        self, torch: Any, tokenizer: Any, stop: tuple[str, ...], width: int, rows: int
    ) -> None:
        self._torch = torch
        self._tokenizer = tokenizer
        self._stop = stop
        self._width = width
        # A stop string that was absent one step ago ends in the newest token. So only the tail has
        # to be read.
        self._tail = max((len(s.encode()) for s in stop), default=0) + 4
        self.lengths: list[int | None] = [None] * rows

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        new = input_ids[:, self._width :]
        tails = self._tokenizer.batch_decode(new[:, -self._tail :], skip_special_tokens=True)
        for row, text in enumerate(tails):
            if self.lengths[row] is None and any(s in text for s in self._stop):
                self.lengths[row] = new.shape[1]
        done = [length is not None for length in self.lengths]
        return self._torch.tensor(done, device=input_ids.device)


def _batches(rows: Sequence[_Row], size: int) -> list[list[_Row]]:
    """Divide rows into batches of at most ``size`` rows.

    The rows of a batch are consecutive, and have equal parameters and stop strings.
    """
    batches: list[list[_Row]] = []
    for row in rows:
        last = batches[-1] if batches else []
        if last and len(last) < size and (last[0].params, last[0].stop) == (row.params, row.stop):
            last.append(row)
        else:
            batches.append([row])
    return batches


def _check_compiled_code(config: ModelConfig) -> None:
    """Check, before the model is loaded, that the kernels that it needs can be loaded.

    Raises:
        EngineError: They cannot on this node.
    """
    closed = use_executable_caches()
    if closed is not None and compiles_kernels(config.path):
        raise EngineError(
            f"model '{config.name}' ({config.path}) needs kernels that are compiled on the node, "
            f"and {closed} is mounted noexec, as is every other directory for them; TMPDIR chooses "
            "another place",
            kind="INFRA_FAILED",
        )


def _engine_error(config: ModelConfig, what: str, error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    text = f"{type(error).__name__}: {error}"
    return EngineError(
        f"model '{config.name}' ({config.path}) could not be {what} by transformers: {text}",
        kind=failure_kind(error),
    )
