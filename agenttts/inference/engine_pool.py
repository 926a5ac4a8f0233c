"""Keep engines loaded while memory allows, so that models are loaded rarely.

Models that share GPUs take turns: an engine that can sleep gives up the GPU's memory and keeps its
weights in the memory of the host, from where it is back within a second (vLLM's sleep mode, level
1). Engines without GPUs stay as they are beside each other. Where memory does not suffice, on the
host or on a GPU, the engine that was used longest ago is closed.

While an engine works, the process of the next one may import its libraries.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agenttts.files.memory import available_memory, gpu_memory
from agenttts.files.processes import usable_cpus
from agenttts.inference.base import (
    Engine,
    EngineError,
    EngineName,
    ModelConfig,
    put_to_sleep,
    wake,
)
from agenttts.inference.engine_child import SpareEngine
from agenttts.inference.engine_use import EngineObserver
from agenttts.inference.engines import ENGINES
from agenttts.inference.model_files import weight_files
from agenttts.inference.placement import GPU_SHARE, UNUSED_GPU

log = logging.getLogger(__name__)

MOST_ASLEEP = 2
"""The most engines asleep at a time, if their GPUs have the memory for them.

Each keeps 1.0 to 2.4 GB of its GPU (vLLM 0.26 on an H100, 1.5B and 7B models, measured 2026-11).
A start beside them fails unless vLLM's whole share of the memory is free."""
KEPT_ASLEEP_BYTES = 1 << 30
"""The memory of its GPU that an engine keeps asleep at least, and does not take when it wakes."""
GPU_SECONDS = 60.0
"""Seconds to wait for memory of a GPU that other programs hold."""
_LOOK_SECONDS = 2.0
CONTEXT_BYTES = 512 << 20
"""Memory that CUDA takes of a GPU for an engine before vLLM looks how much is free (estimated)."""
PROCESS_BYTES = 2 << 30
"""Memory of an engine's process beside weights and cache: libraries, buffers (torch on a CPU).

A spare process of vLLM holds 0.6 GB of it (vLLM 0.32 on a CPU, measured 2026-11)."""
CPUS_TO_WORK_BESIDE = 2
"""Cores from which libraries are imported ahead while an engine on GPUs works.

Beside an engine on the CPU they never are: its threads wait for each other, so that on two cores it
took twice the CPU time, and drawing and the next start together 83 s in place of 57 s (vLLM 0.32,
measured 2026-11, `benchmarks/cost/spare.py`)."""
CPUS_TO_LOAD_BESIDE = 4
"""Cores from which they are imported while a model is loaded, which is work of a core, too."""
LOADED_FACTOR = 1.3
"""Memory of loaded weights by their size on disk; more than 1 for buffers while they are loaded."""
CACHE_BYTES = 512 << 20
"""Memory of the cache of keys and values, as vLLM's CPU profile sets it (`inference.vllm`)."""


class EnginePool:
    """The engines of one process.

    An engine that could not be loaded is not loaded again. One that could not be loaded beside
    others is loaded again when there are none. Without ``expect``, every engine may be needed
    again. ``starts`` counts the engines that were started.

    Args:
        factory: Makes the engine of a model, with its model loaded.
        keep: Whether engines are kept; else there is one at a time.
        available: Returns the bytes of the host's memory that may still be taken.
        observer: Is told of starts, wakes and the engines that are loaded.
        spare: The process from which ``factory`` may make an engine.
        cpus: The cores that the engines may use; default: those of this process.
        gpu_memory: Returns the free bytes and all bytes of each GPU; empty if that is not known.
    """

    def __init__(
        self,
        factory: Callable[[ModelConfig], Engine],
        keep: bool = True,
        available: Callable[[], int] = available_memory,
        observer: EngineObserver | None = None,
        spare: SpareEngine | None = None,
        cpus: int | None = None,
        gpu_memory: Callable[[], list[tuple[int, int]]] = gpu_memory,
    ) -> None:
        self._factory = factory
        self._keep = keep
        self._available = available
        self._observer = observer or EngineObserver()
        self._spare = spare or SpareEngine()
        self._cpus = usable_cpus() if cpus is None else cpus
        self._gpu_memory = gpu_memory
        self._next: ModelConfig | None = None
        self._expected: list[ModelConfig] | None = None
        self.starts = 0
        self._loaded: list[_Loaded] = []  # the one used last is the last
        self._failed: list[_Failure] = []
        # Whether an engine did not start beside others that were kept.
        self._crowded = False

    def is_loaded(self, model: ModelConfig) -> bool:
        """Return whether a call of the model needs no loading."""
        return self._find(model) is not None

    def is_awake(self, model: ModelConfig) -> bool:
        """Return whether a call of the model needs neither loading nor waking."""
        found = self._find(model)
        return found is not None and not found.asleep

    def expect(self, models: list[ModelConfig]) -> None:
        """Set the models that may be needed from now on.

        Engines of other models are not kept.
        """
        self._expected = models

    def start_ahead(self, model: ModelConfig | None) -> None:
        """Set the model whose engine will be started after that of the next `get`.

        If that engine uses GPUs, the spare process begins to import the libraries of this model's
        engine while it works, and with `CPUS_TO_LOAD_BESIDE` cores or more already while it is
        loaded. Memory for both has to be available. None: no further start is expected.
        """
        self._next = model

    def get(self, model: ModelConfig) -> Engine:
        """Return the model's engine, loaded and awake.

        Raises:
            EngineError: The model cannot be loaded, or other programs hold its GPUs' memory.
        """
        found = self._find(model)
        if found is not None and found.asleep and not self._wakes(found):
            found = None
        if found is None:
            for failure in self._failed:
                if same_engine(failure.model, model) and (failure.alone or self._loaded):
                    raise failure.error
            found = self._load(model)
        self._loaded.remove(found)
        self._loaded.append(found)
        self._tell_kept()
        self._start_spare(found.model)
        return found.engine

    @property
    def keeps(self) -> bool:
        """Whether engines are kept."""
        return self._keep

    @property
    def any_loaded(self) -> bool:
        """Whether an engine is loaded."""
        return bool(self._loaded)

    def fails_alone(self, model: ModelConfig) -> bool:
        """Return whether the model could not be loaded though no other engine was loaded."""
        return any(failure.alone and same_engine(failure.model, model) for failure in self._failed)

    def forget_failures(self) -> None:
        """Let models be loaded again that could not be loaded."""
        self._failed.clear()

    def _wakes(self, found: _Loaded) -> bool:
        """Wake an engine; if that fails, close it and return False."""
        self._free_gpus(found, found.model, -KEPT_ASLEEP_BYTES)
        began = time.monotonic()
        try:
            wake(found.engine)
        except EngineError as error:
            log.warning("%s; the engine is closed, and its model is loaded again", error)
            self._close(found)
            return False
        found.asleep = False
        self._observer.woken(found.model.name, time.monotonic() - began)
        return True

    def drop(self, model: ModelConfig) -> None:
        """Close the model's engine, whose state is not known."""
        found = self._find(model)
        if found is not None:
            self._close(found)

    def close(self) -> None:
        """Close all engines and the spare process; may be called twice."""
        self._spare.close()
        while self._loaded:
            self._close(self._loaded[-1])

    def _load(self, model: ModelConfig) -> _Loaded:
        for other in [other for other in self._loaded if not self._is_kept(other.model)]:
            self._close(other)
        if model.gpus:
            self._free_gpus(None, model, CONTEXT_BYTES)
        else:
            self._free_memory(host_bytes(model), model.engine)
        if self._next_fits(model, PROCESS_BYTES, CPUS_TO_LOAD_BESIDE):
            self._spare.start_after(self._next.engine if self._next else "")
        try:
            self._await_gpus(model)
            began = time.monotonic()
            engine = self._factory(self._that_sleeps(model))
        except EngineError as error:
            if error.kind != "OOM" or not self._loaded:
                self._note_failure(model, error)
                raise
            # The engines that are kept take the memory: without them it may suffice.
            log.warning("%s; the other engines are closed, and it is loaded again", error)
            self._crowded = True
            self.close()
            return self._load(model)
        self.starts += 1
        self._observer.started(model.name, time.monotonic() - began)
        found = _Loaded(model, engine)
        self._loaded.append(found)
        return found

    def _note_failure(self, model: ModelConfig, error: EngineError) -> None:
        if error.kind != "INFRA_FAILED":  # a server, for example, may answer the next time
            self._failed.append(_Failure(model, error, alone=not self._loaded))

    def _free_gpus(self, needed: _Loaded | None, model: ModelConfig, more: int) -> None:
        """Put engines on GPUs, except ``needed``, to sleep; close those that cannot.

        Of those asleep, the least recently used are closed until the GPUs' memory suffices.

        Args:
            needed: The engine that will be woken.
            model: The model of the engine that will be woken or started.
            more: Bytes that it takes of each GPU beside its share of the memory.
        """
        for other in [o for o in self._loaded if o is not needed and o.model.gpus and not o.asleep]:
            other.asleep = host_bytes(other.model) <= self._available() and _sleeps(other.engine)
            if not other.asleep:
                self._close(other)
        asleep = [other for other in self._loaded if other.asleep and other is not needed]
        for other in asleep[:-MOST_ASLEEP]:
            self._close(other)
        for other in asleep[-MOST_ASLEEP:]:
            if self._has_room(model, more):
                break
            self._close(other)

    def _await_gpus(self, model: ModelConfig) -> None:
        """Wait while other programs hold memory of the GPUs that an engine needs.

        A program that has ended may hold it for a while. vLLM would import its libraries, look once
        and give up, or not even come so far on a GPU that is full.

        Raises:
            EngineError: They still hold it; the kind is OOM.
        """
        deadline = time.monotonic() + GPU_SECONDS
        while (held := self._held_memory(model)) is not None:
            if time.monotonic() > deadline:
                raise EngineError(f"model '{model.name}': {held}", kind="OOM")
            time.sleep(_LOOK_SECONDS)

    def _held_memory(self, model: ModelConfig) -> str | None:
        """Return in words which memory of an engine's GPUs is held; None if none is."""
        others = any(other.model.gpus for other in self._loaded)
        if model.engine != "vllm" or not model.gpus or others:
            return None
        share: Any = model.options.get("gpu_memory_utilization") or GPU_SHARE
        for number, (free, size) in enumerate(self._gpu_memory()[: model.gpus]):
            if free < min(share, UNUSED_GPU) * size:
                return (
                    f"free memory on device cuda:{number} ({free / 2**30:.2f}/{size / 2**30:.2f} "
                    f"GiB) is less than desired GPU memory utilization ({share}), for "
                    f"{GPU_SECONDS:g} s"
                )
        return None

    def _has_room(self, model: ModelConfig, more: int) -> bool:
        """Return whether an engine's share and ``more`` bytes are free on its GPUs.

        Where that is not known, as of MIG devices, it is so until an engine did not start beside
        others: each change of models would begin with a start that vLLM refuses.
        """
        if model.engine != "vllm":
            return True
        share: Any = model.options.get("gpu_memory_utilization") or GPU_SHARE
        memory = self._gpu_memory()[: model.gpus]
        if not memory:
            return not self._crowded
        return all(free >= share * size + more for free, size in memory)

    def _free_memory(self, needed: int, engine: EngineName) -> None:
        """Make that memory available for an engine of a kind.

        A spare process that is not for it ends first, then engines, the least recently used first.
        """
        if self._spare.engine == engine:
            needed -= self._spare.resident()  # it is a part of what is needed
        elif self._available() < needed:
            self._spare.close()
        while self._loaded and self._available() < needed:
            self._close(self._loaded[0])

    def _start_spare(self, current: ModelConfig) -> None:
        """Start the spare process for the next model beside the current engine."""
        self._spare.start_after("")
        if self._next is not None and self._next_fits(current, 0, CPUS_TO_WORK_BESIDE):
            self._spare.start(self._next.engine)
        self._next = None

    def _next_fits(self, current: ModelConfig, memory: int, cpus: int) -> bool:
        """Return whether the next model's engine is to be begun beside the current one.

        Args:
            current: The current engine's model.
            memory: The host's memory that the current engine has yet to take.
            cpus: The fewest cores.
        """
        if self._next is None or self._find(self._next) is not None:
            return False
        if not current.gpus or self._cpus < cpus:
            return False
        memory += PROCESS_BYTES if self._next.gpus else host_bytes(self._next)
        return memory <= self._available() + self._spare.resident()

    def _is_kept(self, model: ModelConfig) -> bool:
        """Return whether a model may be needed again while another one is loaded."""
        if not self._keep or self._expected is None:
            return self._keep
        return any(same_engine(model, other) for other in self._expected)

    def _that_sleeps(self, model: ModelConfig) -> ModelConfig:
        """Return the model's configuration, with vLLM's sleep mode if it may be used.

        A user's own settings stay.
        """
        if not (self._keep and model.gpus and model.engine == "vllm"):
            return model
        options = {"enable_sleep_mode": True, **model.options}
        if options["enable_sleep_mode"]:
            options.setdefault("gpu_memory_utilization", GPU_SHARE)
        return dataclasses.replace(model, options=options)

    def _find(self, model: ModelConfig) -> _Loaded | None:
        return next((found for found in self._loaded if same_engine(found.model, model)), None)

    def _close(self, loaded: _Loaded) -> None:
        self._loaded.remove(loaded)
        self._tell_kept()
        loaded.engine.close()

    def _tell_kept(self) -> None:
        """Tell the observer which engines are loaded."""
        last = self._loaded[-1] if self._loaded else None
        awake = None if last is None or last.asleep else last.model.name
        others = [loaded.model.name for loaded in self._loaded]
        self._observer.kept(awake, others if awake is None else others[:-1])


def _sleeps(engine: Engine) -> bool:
    """Put an engine to sleep; return False if it cannot or if that fails."""
    try:
        return put_to_sleep(engine)
    except EngineError as error:
        log.warning("%s; the engine is closed", error)
        return False


@dataclasses.dataclass(eq=False)
class _Loaded:
    """An engine that is loaded."""

    model: ModelConfig
    engine: Engine
    asleep: bool = False


@dataclasses.dataclass(frozen=True)
class _Failure:
    """A model that could not be loaded; ``alone``: no other engine was loaded then."""

    model: ModelConfig
    error: EngineError
    alone: bool


def same_engine(a: ModelConfig, b: ModelConfig) -> bool:
    """Return whether one engine serves two models."""
    # These fields come with each request, or matter only after it.
    plain: dict[str, Any] = {
        "name": "",
        "prompt_style": "chat",
        "template_args": {},
        "thinking": None,
    }
    return dataclasses.replace(a, **plain) == dataclasses.replace(b, **plain)


def host_bytes(model: ModelConfig) -> int:
    """Return an engine's memory on the host, when loaded without GPUs or asleep.

    It follows from the sizes of the weight files. It is 0 for an engine that loads no weights.
    """
    if model.engine == "endpoint" or not ENGINES[model.engine].own_process:
        return 0
    place = Path(model.path)
    copy = weight_files(place, str(model.options.get("load_format") or ""))
    files = copy.files if copy else [place] if place.is_file() else place.glob("*.gguf")
    weights = sum(file.stat().st_size for file in files)
    return engine_bytes(weights)


def engine_bytes(weights: float) -> int:
    """Return an engine's memory on the host, from its weights' bytes on disk."""
    return int(weights * LOADED_FACTOR) + CACHE_BYTES + PROCESS_BYTES
