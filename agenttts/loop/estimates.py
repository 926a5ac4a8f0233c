"""Estimates of engine starts and generation, from sizes and the run's records.

Pure functions. `start_seconds` and `Throughput` know only a model's size and a GPU's data sheet.
`Estimates` corrects them by what the run has measured so far.

**Assumptions.** The time of a generation step is a roofline (Williams et al., 2009). It is the
longer of two times: reading all weights, and ``2 x parameters x batch`` FLOPs. The
rates are fixed shares of the GPU's memory bandwidth and of its dense 16-bit rate. The time to read
the KV caches and a fixed overhead are added. The time of a prompt depends on its FLOPs alone. An
engine start consists of imports, reading the weights, compiling or reading compiled code, and
capturing CUDA graphs. The shares and constants are those of vLLM 0.26 on one H100
(``benchmarks/gpu/README.md``). For other GPUs and versions, an estimate may be wrong by a factor of
two until the run has records.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.loop.list_cost import ModelCost, StageWork, TrialWork
from agenttts.space import Allocation


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet.

    Args:
        bandwidth: Bytes that it reads from its memory in a second.
        flops: Dense 16-bit floating-point operations a second.
    """

    bandwidth: float
    flops: float

    def part(self, share: float) -> Gpu:
        """Return a MIG device that has this share of the GPU."""
        return Gpu(self.bandwidth * share, self.flops * share)


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "gb200": Gpu(8.0e12, 2500e12),
        "b200": Gpu(8.0e12, 2250e12),
        "gh200": Gpu(4.0e12, 989e12),
        "h200": Gpu(4.8e12, 989e12),
        "h100": Gpu(3.35e12, 989e12),
        "a100": Gpu(2.0e12, 312e12),
        "l40s": Gpu(0.864e12, 362e12),
        "l40": Gpu(0.864e12, 181e12),
        "a40": Gpu(0.696e12, 150e12),
        "a30": Gpu(0.933e12, 165e12),
        "a10g": Gpu(0.6e12, 70e12),
        "a10": Gpu(0.6e12, 125e12),
        "l4": Gpu(0.3e12, 121e12),
        "v100s": Gpu(1.134e12, 130e12),
        "v100": Gpu(0.9e12, 125e12),
        "mi300x": Gpu(5.3e12, 1307e12),
    }
)
"""Bandwidth and dense BF16 rate (V100: FP16) in NVIDIA's and AMD's data sheets.

They are those of the SXM form if a GPU has several forms, and of the A100 with 80 GB.
"""
UNKNOWN_GPU = GPUS["a100"]
"""Assumed if the profile names none of `GPUS`."""
CPU = Gpu(4.0e10, 5.0e11)
"""Assumed of the CPUs of a job without GPUs: memory of two channels, and four cores."""

_BANDWIDTH_SHARE = 0.8
_FLOPS_SHARE = 0.685
"""Shares of the data sheet's rates that vLLM reaches.

Measured with a 7B model on an H100: 161 tokens/s of one request, and 44,600 prompt tokens/s
(``benchmarks/gpu/README.md``).
"""
_QUANTISED_FLOPS_SHARE = 0.5
"""As `_FLOPS_SHARE`, for weights of fewer than 12 bits (assumed, not measured).

Such weights are expanded to 16 bits before each multiplication.
"""
_STEP_SECONDS = 0.5e-3
_SEQUENCE_SECONDS = 8e-6
"""Seconds that a step takes outside the model: in all, and for each sequence.

Fitted to the tokens/s of a 7B model at 1 to 256 requests on an H100.
"""
_PARALLEL_SHARE = 0.8
"""Rate of a tensor-parallel engine, as a share of the sum of its GPUs (assumed)."""
_MOST_SEQUENCES = 256
"""Requests that vLLM runs at a time by default (``max_num_seqs``)."""

_IMPORT_SECONDS = 32.0
_GRAPH_SECONDS = 4.0
"""Seconds to import vLLM in two processes, and to capture CUDA graphs."""
_COMPILE_SECONDS_A_LAYER = 0.57
_CACHED_SECONDS_A_LAYER = 0.11
"""Seconds to compile a layer, or to read its compiled code: 14 to 18 s and 3 s for 28 layers."""
_PARALLEL_START_SECONDS = 10.0
"""Additional seconds of a tensor-parallel start (assumed: processes and NCCL)."""
LOCAL_READ_RATE = 3.0e9
"""Bytes of weights read in a second from a local disk or the page cache (H100 host, 3.1 GB in 1 s).
"""
SHARED_READ_RATE = 0.75e9
"""As `LOCAL_READ_RATE`, from a parallel file system.

From published starts on Lustre: 151 s (41 GB, AWQ) and 256 s (141 GB).
"""

_NODE_MEMORY_RATE = 1.1e9
"""Bytes a second that an engine's first sleep copies to the node's memory.

Measured: 13 to 16 s for 15.2 GB, 2.0 s for 3.1 GB. The first sleep also pins the memory.
"""
_WAKE_RATE = 30e9
"""As `_NODE_MEMORY_RATE`, for later sleeps and waking: 0.3 to 0.6 s for 15.2 GB."""

_BEFORE_NAME = r"(?:gpus?|nvidia|tesla|amd|dgx|hgx)?(?:\d{1,2}x?)?"
"""What the word of a GPU's name may begin with."""
_AFTER_NAME = r"(?:\d{2,3}g)?(?![0-9])"
"""What may follow the name: the memory, and no other number."""

_LATEST = 15
"""Number of a model's latest records that are used."""


def find_gpu(name: str) -> str | None:
    """Return the GPU that a text (a ``gres``, a partition) names, as in `GPUS`.

    A word of the text is the name. Before it the word may have a maker or a number of GPUs, and
    after it letters (``gpuA100x4``, ``4xh100``). A part of another word is not a name: neither
    ``l4`` of ``small4`` nor ``a100`` of ``a1000``.
    """
    return next(
        (
            known
            for known in sorted(GPUS, key=len, reverse=True)
            if re.search(rf"(?<![a-z0-9]){_BEFORE_NAME}{known}{_AFTER_NAME}", name.lower())
        ),
        None,
    )


@dataclass(frozen=True)
class Throughput:
    """A model on a kind of GPU: the seconds of a call, by the roofline."""

    size: ModelSize
    gpu: Gpu = UNKNOWN_GPU

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prompt tokens that it reads in a second."""
        return self._flops / (2.0 * self.size.params)

    def step_seconds(self, sequences: float, context: float) -> float:
        """Return the seconds of one token for each of ``sequences`` sequences.

        Args:
            sequences: Sequences of the batch.
            context: Mean tokens of their contexts.
        """
        bandwidth = self.gpu.bandwidth * _BANDWIDTH_SHARE * self._parallel
        weights = self.size.bytes / bandwidth
        compute = 2.0 * self.size.params * sequences / self._flops
        caches = sequences * context * self.size.cache_bytes / bandwidth
        return max(weights, compute) + caches + _STEP_SECONDS + sequences * _SEQUENCE_SECONDS

    def tokens_per_second(self, sequences: float, context: float) -> float:
        """Return the tokens generated in a second, without the reading of prompts.

        Args:
            sequences: Sequences of the call; at most vLLM's default number run at a time.
            context: Mean tokens of their contexts.
        """
        at_once = max(1.0, min(sequences, _MOST_SEQUENCES))
        return at_once / self.step_seconds(at_once, context)

    def call_seconds(
        self, prompt_tokens: float, decode_tokens: float, sequences: float, context: float
    ) -> float:
        """Return the seconds of a call.

        Args:
            prompt_tokens: Tokens of its distinct prompts.
            decode_tokens: Tokens that it generates.
            sequences: As for `tokens_per_second`.
            context: As for `tokens_per_second`.
        """
        return prompt_tokens / self.prompt_tokens_per_second + decode_tokens / (
            self.tokens_per_second(sequences, context)
        )

    @property
    def _parallel(self) -> float:
        gpus = max(self.size.gpus, 1)
        return gpus * (_PARALLEL_SHARE if gpus > 1 else 1.0)

    @property
    def _flops(self) -> float:
        quantised = self.size.bytes < 1.5 * self.size.params
        share = _QUANTISED_FLOPS_SHARE if quantised else _FLOPS_SHARE
        return self.gpu.flops * share * self._parallel


def start_seconds(
    size: ModelSize, *, compiled: bool = False, read_rate: float = SHARED_READ_RATE
) -> float:
    """Return the seconds of an engine start.

    Args:
        size: The model.
        compiled: Whether its compiled code is in a cache.
        read_rate: Bytes of weights that are read in a second.
    """
    if not size.loads:
        return 0.0
    layer = _CACHED_SECONDS_A_LAYER if compiled else _COMPILE_SECONDS_A_LAYER
    parallel = _PARALLEL_START_SECONDS if size.gpus > 1 else 0.0
    reading = size.bytes / read_rate
    return _IMPORT_SECONDS + _GRAPH_SECONDS + layer * size.depth + reading + parallel


@dataclass(frozen=True)
class StartRecord:
    """A measured engine start: the model and its seconds."""

    model: str
    seconds: float


@dataclass(frozen=True)
class DrawRecord:
    """What was measured of drawing samples from a model.

    Args:
        model: The model.
        prompt_tokens: Prompt tokens computed.
        decode_tokens: Tokens generated.
        seconds: Wall seconds of generating.
        sequences: Samples of a call.
        context: Mean tokens of a context.
    """

    model: str
    prompt_tokens: float
    decode_tokens: float
    seconds: float
    sequences: float = _MOST_SEQUENCES
    context: float = 1024.0


@dataclass(frozen=True)
class Estimates:
    """What the run's models cost, by their sizes and the run's records so far.

    The estimate from sizes is multiplied by a correction. Each record has a ratio, measured /
    estimated. The overall ratio is the median of 1 and of each model's median ratio. A model's
    correction is the median of the overall ratio and of the ratios of its last 15 records.
    (Medians and means are taken of the ratios' logarithms.)

    With one record, the correction is therefore the mean of the overall ratio and the record's
    ratio. With three, the records outweigh the overall ratio. A model without records has the
    overall ratio, because a slow file system slows all starts.

    Args:
        sizes: The models' sizes, by name.
        gpu: The kind of GPU.
        read_rate: Bytes of weights that are read in a second.
        compiled: Whether compiled code is kept between jobs, so that only a model's first start
            compiles.
        starts: The engine starts so far, in order.
        draws: The draws so far, in order.
        sequences: Samples of a call, for the rates of `model_cost`.
        context: Mean tokens of a context, for these rates.
    """

    sizes: Mapping[str, ModelSize]
    gpu: Gpu = UNKNOWN_GPU
    read_rate: float = SHARED_READ_RATE
    compiled: bool = False
    starts: Sequence[StartRecord] = ()
    draws: Sequence[DrawRecord] = ()
    sequences: float = _MOST_SEQUENCES
    context: float = 1024.0

    def start_seconds(self, model: str) -> float:
        """Return the expected seconds of the model's next engine start."""
        return self._expected_start(model) * self._correction(model, self._start_ratios())

    def speed(self, model: str) -> float:
        """Return the ratio of the draws' measured seconds to the roofline's estimate."""
        return self._correction(model, self._draw_ratios())

    def model_cost(self, model: str) -> ModelCost:
        """Return the model's cost for the assignment of trials."""
        size = self.sizes[model]
        rates = self._throughput(model)
        slower = self.speed(model)
        change = size.bytes / size.gpus if size.gpus else 0.0
        return ModelCost(
            start_seconds=self.start_seconds(model),
            tokens_per_second=rates.tokens_per_second(self.sequences, self.context) / slower,
            prompt_tokens_per_second=rates.prompt_tokens_per_second / slower,
            gpus=size.gpus,
            asleep_gb=size.kept_bytes / 1e9,
            wake_seconds=change / _WAKE_RATE,
            first_sleep_seconds=change / _NODE_MEMORY_RATE,
            sleep_seconds=change / _WAKE_RATE,
        )

    def model_costs(self) -> dict[str, ModelCost]:
        """Return the costs of all models, by name."""
        return {model: self.model_cost(model) for model in self.sizes}

    def _throughput(self, model: str) -> Throughput:
        size = self.sizes[model]
        if not size.loads:
            return Throughput(size, UNKNOWN_GPU)  # of a server's model, nothing is known
        return Throughput(size, self.gpu if size.gpus else CPU)

    def _expected_start(self, model: str, earlier: int | None = None) -> float:
        """Return the seconds of an engine start, estimated from the model's size.

        ``earlier`` is the number of starts before it; None: all so far.
        """
        if earlier is None:
            earlier = sum(record.model == model for record in self.starts)
        return start_seconds(
            self.sizes[model], compiled=self.compiled and earlier > 0, read_rate=self.read_rate
        )

    def _start_ratios(self) -> list[tuple[str, float]]:
        counts: dict[str, int] = {}
        ratios = []
        for record in self.starts:
            if record.model in self.sizes and record.seconds > 0:
                earlier = counts.get(record.model, 0)
                counts[record.model] = earlier + 1
                expected = self._expected_start(record.model, earlier)
                if expected > 0:
                    ratios.append((record.model, record.seconds / expected))
        return ratios

    def _draw_ratios(self) -> list[tuple[str, float]]:
        ratios = []
        for record in self.draws:
            if record.model in self.sizes and record.seconds > 0:
                expected = self._throughput(record.model).call_seconds(
                    record.prompt_tokens, record.decode_tokens, record.sequences, record.context
                )
                if expected > 0:
                    ratios.append((record.model, record.seconds / expected))
        return ratios

    @staticmethod
    def _correction(model: str, ratios: Sequence[tuple[str, float]]) -> float:
        own: dict[str, list[float]] = {}
        for name, ratio in ratios:
            own.setdefault(name, []).append(math.log(ratio))
        # One value per model, so that a model with many records does not dominate.
        together = statistics.median(
            [0.0, *(statistics.median(values[-_LATEST:]) for values in own.values())]
        )
        return math.exp(statistics.median([together, *own.get(model, [])[-_LATEST:]]))


def expected_wait(waits: Iterable[float], default: float) -> float:
    """Return the expected wait of a job in the queue.

    Args:
        waits: The seconds that the run's jobs have waited so far, in order.
        default: The expected wait without any of these. It counts as one more wait.
    """
    return statistics.median([default, *list(waits)[-_LATEST:]])


@dataclass(frozen=True)
class ExamplesPart:
    """Examples of a trial of which the same samples are stored.

    Args:
        count: Number of the examples.
        stored: Samples of each prompt that are in the store, by group (`stored_samples`).
    """

    count: int
    stored: Mapping[str, int] = field(default_factory=dict)


def trial_work(
    trial: str,
    allocation: Allocation,
    tokens: Mapping[str, tuple[float, float]],
    examples: Sequence[ExamplesPart],
    *,
    named: str = "",
    fused: Mapping[str, float] | None = None,
    alone: bool = False,
    gpus: Mapping[str, int] | None = None,
) -> TrialWork:
    """Return what a trial has to draw.

    Args:
        trial: The trial's name.
        allocation: Its allocation.
        tokens: Tokens of a prompt and of a sample, by stage.
        examples: The examples that it is evaluated on, in parts.
        named: Names these examples. Trials on others share no samples with it.
        fused: Tokens that a fusing call generates, by stage. It has only the stages whose samples a
            further call of the model fuses. Such a call reads the prompt and all samples.
        alone: Whether it must run alone.
        gpus: By model, the fewest GPUs of a worker that may evaluate its stages, even if no sample
            is missing.
    """
    stages = []
    for choice, group in zip(allocation.choices, sample_groups(allocation), strict=True):
        prompt, decode = tokens[choice.stage]
        lacking = [
            (part.count, missing)
            for part in examples
            if (missing := choice.samples - part.stored.get(group, 0)) > 0
        ]
        lacked = sum(count for count, _ in lacking)
        fuses = choice.samples > 1 and choice.stage in (fused or {})
        stages.append(
            StageWork(
                choice.model,
                f"{group}{named}",
                prompt_tokens=lacked * prompt,
                decode_tokens=decode * sum(count * missing for count, missing in lacking),
                own_prompt_tokens=lacked * (prompt + decode * choice.samples) if fuses else 0.0,
                own_decode_tokens=lacked * (fused or {})[choice.stage] if fuses else 0.0,
                least_gpus=(gpus or {}).get(choice.model, 0),
            )
        )
    return TrialWork(trial, tuple(stages), alone)


def stored_samples(finished: Iterable[Allocation]) -> dict[str, int]:
    """Return how many samples of each prompt the trials have stored, by group.

    Args:
        finished: The allocations of its completed trials, on the same examples.
    """
    found: dict[str, int] = {}
    for allocation in finished:
        for choice, group in zip(allocation.choices, sample_groups(allocation), strict=True):
            found[group] = max(found.get(group, 0), choice.samples)
    return found


def sample_groups(allocation: Allocation) -> tuple[str, ...]:
    """Return the name of the group of samples of each stage, in order.

    Trials share samples of a stage if their groups are equal: the earlier choices and the model.
    """
    groups = []
    before = ""
    for choice in allocation.choices:
        groups.append(f"{before}{choice.stage}={choice.model}")
        before += f"{choice} "
    return tuple(groups)
