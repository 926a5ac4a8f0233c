"""Where the time of a run's jobs went: pure functions of what the jobs recorded.

Each second of a job on its node is in exactly one part of `CostSeconds` other than ``queue``. Times
are wall seconds of jobs. A job of two GPUs takes two GPU-seconds a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from agenttts.tables.documents import Document
from agenttts.tables.forecast import Forecast


@dataclass(frozen=True)
class CostSeconds:
    """Seconds by what they were used for.

    Attributes:
        queue: Waiting for a node, before each start of a job; not part of a job's time.
        start: From the job's start until its program began: checks of the node, the container.
        load: Loading engines, until they were ready.
        generate: In engine calls.
        idle: No trial to evaluate: waiting for a list, and ending.
        other: The rest, such as the task's own code.
        lost: In attempts that ended by preemption or a failure of the node or the cluster. It
            counts in none of the other parts. Samples that such an attempt stored are reused, so
            this is the most that was lost.
    """

    queue: float = 0.0
    start: float = 0.0
    load: float = 0.0
    generate: float = 0.0
    idle: float = 0.0
    other: float = 0.0
    lost: float = 0.0

    @property
    def used(self) -> float:
        """All seconds on a node, i.e. all parts but ``queue``."""
        return self.start + self.load + self.generate + self.idle + self.other + self.lost

    def __add__(self, more: CostSeconds) -> CostSeconds:
        return CostSeconds(*(getattr(self, p) + getattr(more, p) for p in PARTS))

    def times(self, factor: float) -> CostSeconds:
        """Return each part multiplied."""
        return CostSeconds(*(getattr(self, part) * factor for part in PARTS))


PARTS: tuple[str, ...] = tuple(part.name for part in fields(CostSeconds))


@dataclass(frozen=True)
class MeasuredStart:
    """What was measured of one start of a job.

    Attributes:
        job: The name of the job's directory: the worker's name or, for a job of a single trial,
            the trial's.
        job_id: The id under which the scheduler knows the job.
        node: Its node.
        gpus: Its GPUs.
        attempts: Number of attempts at trials that it began.
        queue: Seconds that it waited; None if that is not known.
        seconds: Its wall seconds.
        busy: The part of ``seconds`` with a trial that had not ended.
        idle: The part of ``seconds`` in which no trial was open, after the first had begun.
        lost: The part of ``busy`` that was spent in attempts that the cluster ended.
        program_after: Seconds from its start until its program began. While the job runs without
            its program: until now. None if the job is over and its program left no record.
        load: Seconds of loading engines, as the program says.
        generate: Seconds of engine calls, as the program says.
        engines: The model and the seconds of each engine start.
        tokens: Prompt and generated tokens that were computed, by model.
        decode: Generated tokens that were computed, by model.
        model_seconds: Seconds of engine calls by model.
        span: From when to when it ran; None if that is not known.
    """

    job: str
    job_id: str
    node: str
    gpus: int
    attempts: int
    queue: float | None
    seconds: float
    busy: float
    idle: float
    lost: float
    program_after: float | None = None
    load: float = 0.0
    generate: float = 0.0
    engines: Sequence[tuple[str, float]] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    decode: Mapping[str, int] = field(default_factory=dict)
    model_seconds: Mapping[str, float] = field(default_factory=dict)
    span: tuple[datetime, datetime] | None = None

    @property
    def parts(self) -> CostSeconds:
        """Its seconds by part; their sum is ``seconds`` (`CostSeconds.used`).

        The records do not separate what the program did in lost attempts from what it did in the
        others. So each part is reduced by the lost share of the time with trials.
        """
        total = max(0.0, self.seconds)
        idle = min(max(0.0, self.idle), total)
        busy = min(max(0.0, self.busy), total - idle)
        before = total - idle - busy
        lost = min(max(0.0, self.lost), busy)
        start = load = generate = 0.0
        if self.program_after is not None:
            start = min(max(0.0, self.program_after - before), busy)
            load = min(self.load, busy - start)
            generate = min(self.generate, busy - start - load)
        kept = (busy - lost) / busy if busy else 0.0
        return CostSeconds(
            queue=max(0.0, self.queue or 0.0),
            start=before + start * kept,
            load=load * kept,
            generate=generate * kept,
            idle=idle,
            other=(busy - start - load - generate) * kept,
            lost=lost,
        )


@dataclass(frozen=True)
class JobCost:
    """What one job used, over all of its starts.

    Attributes:
        job: The name of the job's directory: the worker's name or, for a job of a single trial,
            the trial's.
        job_ids: Its ids; several if a trial with a job of its own was started again in a further
            job.
        nodes: The nodes of its starts.
        gpus: Its GPUs.
        starts: Number of its starts.
        attempts: Number of attempts at trials.
        engine_starts: Number of engines that were started.
        seconds: Its seconds by part.
        gpu_seconds: Its GPU-seconds by part.
        tokens_computed: Prompt and generated tokens.
    """

    job: str
    job_ids: tuple[str, ...]
    nodes: tuple[str, ...]
    gpus: int
    starts: int
    attempts: int
    engine_starts: int
    seconds: CostSeconds
    gpu_seconds: CostSeconds
    tokens_computed: int


def job_costs(starts: Iterable[MeasuredStart]) -> list[JobCost]:
    """Return what each job used, in order of first appearance."""
    by_job: dict[str, list[MeasuredStart]] = {}
    for start in starts:
        by_job.setdefault(start.job, []).append(start)
    return [
        JobCost(
            job=job,
            job_ids=tuple(dict.fromkeys(s.job_id for s in found)),
            nodes=tuple(dict.fromkeys(s.node for s in found)),
            gpus=max(s.gpus for s in found),
            starts=len(found),
            attempts=sum(s.attempts for s in found),
            engine_starts=sum(len(s.engines) for s in found),
            seconds=_sum(s.parts for s in found),
            gpu_seconds=_sum(s.parts.times(s.gpus) for s in found),
            tokens_computed=sum(sum(s.tokens.values()) for s in found),
        )
        for job, found in by_job.items()
    ]


@dataclass(frozen=True)
class TrialTokens:
    """The generated tokens of a trial with a result, reused ones included.

    Attributes:
        gpus: The GPUs that it needs.
        models: The model of each stage, in order.
        decode: Its generated tokens by model.
    """

    gpus: int
    models: Sequence[str]
    decode: Mapping[str, int]


@dataclass(frozen=True)
class AloneCost:
    """What the trials would have taken with a job for each trial; an estimate.

    Attributes:
        trials: Number of trials that it is about: those with a result.
        engine_starts: Number of engine starts.
        seconds: Wall seconds of all jobs.
        gpu_seconds: Their GPU-seconds.
    """

    trials: int
    engine_starts: int
    seconds: float
    gpu_seconds: float


ALONE_ASSUMPTIONS = (
    "each trial with a result has a job of its own; the job takes the mean time until a program "
    "begins, plus an equal part of the time of the task's own code; it starts an engine for "
    "the trial's first model and at each change of model between stages, at the mean seconds of "
    "the run's starts of this model; it generates all of the trial's tokens, at the model's "
    "measured seconds per generated token; the measured calls were for "
    "several trials at once, and the smaller calls of a single trial take more seconds per token, "
    "so the estimate is probably too low"
)


def cost_alone(starts: Sequence[MeasuredStart], trials: Sequence[TrialTokens]) -> AloneCost | None:
    """Estimate what the trials would have taken with a job for each trial.

    A trial takes the mean time until a job's program begins, an engine start for its first model
    and for each change of model from one stage to the next, its own tokens, and an equal part of
    the time of the task's own code. No sample is shared or reused. Time in queues, idle time and
    lost time are left out. Calls of a shared job have larger batches, so a trial by itself needs
    more seconds per token than this, and the estimate is probably too low. Only calls of a single
    trial could show by how much.

    Returns:
        The estimate; None if there are no trials, or no engine start or call was measured.
    """
    engines: dict[str, list[float]] = {}
    for model, seconds in (engine for start in starts for engine in start.engines):
        engines.setdefault(model, []).append(seconds)
    decode = _by_model(start.decode for start in starts)
    seconds_of = _by_model(start.model_seconds for start in starts)
    if not trials or not engines or not sum(decode.values()):
        return None
    started = [start for start in starts if start.program_after is not None]
    job_start = sum(max(0.0, s.program_after or 0.0) for s in started) / max(1, len(started))
    other = sum(start.parts.other for start in starts) / len(trials)
    every_start = [seconds for found in engines.values() for seconds in found]
    every_rate = sum(seconds_of.values()) / sum(decode.values())
    rates = {m: seconds_of.get(m, 0.0) / tokens for m, tokens in decode.items() if tokens}
    count, total, gpu_total = 0, 0.0, 0.0
    for trial in trials:
        used = [model for model in trial.models if trial.decode.get(model)]
        needed = [model for i, model in enumerate(used) if i == 0 or used[i - 1] != model]
        count += len(needed)
        loading = sum(_mean(engines.get(model, every_start)) for model in needed)
        generating = sum(n * rates.get(model, every_rate) for model, n in trial.decode.items())
        seconds = job_start + loading + generating + other
        total += seconds
        gpu_total += seconds * trial.gpus
    return AloneCost(len(trials), count, total, gpu_total)


@dataclass(frozen=True)
class ServedCost:
    """What the jobs of a run's served model used (`agenttts.serving`).

    Attributes:
        seconds: Wall seconds of these jobs.
        gpu_seconds: GPU-seconds of these jobs.
        queue: Seconds that these jobs waited before they started, as far as this is recorded.
    """

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    queue: float = 0.0


@dataclass(frozen=True)
class RunCost:
    """What a run used.

    Attributes:
        jobs: What each job of its trials used.
        tokens_reused: Tokens of its trials that were not computed again.
        alone: What the trials would have taken with a job for each trial; None if that cannot be
            estimated.
        forecast: What was expected at launch; None in a run of an older version.
        served: What its served model used, which is not in ``jobs``.
        spans: Begin and end of each start of a job, of trials and of the served model, as far as
            they are known.
    """

    jobs: Sequence[JobCost]
    tokens_reused: int
    alone: AloneCost | None = None
    forecast: Forecast | None = None
    served: ServedCost = ServedCost()
    spans: Sequence[tuple[datetime, datetime]] = ()

    @property
    def engine_starts(self) -> int:
        """Number of engines that were started."""
        return sum(job.engine_starts for job in self.jobs)

    @property
    def tokens_computed(self) -> int:
        """Prompt and generated tokens that engines computed, for failed attempts too."""
        return sum(job.tokens_computed for job in self.jobs)

    @property
    def seconds(self) -> CostSeconds:
        """Wall seconds of the trials' jobs."""
        return _sum(job.seconds for job in self.jobs)

    @property
    def gpu_seconds(self) -> CostSeconds:
        """GPU-seconds of the trials' jobs."""
        return _sum(job.gpu_seconds for job in self.jobs)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of all jobs, with those of the served model."""
        return (self.gpu_seconds.used + self.served.gpu_seconds) / 3600

    def share(self, part: str) -> float | None:
        """Return a part's share of the GPU-seconds, or of the seconds if no job has GPUs.

        It is None if no time was used.
        """
        of = self.gpu_seconds if self.gpu_seconds.used else self.seconds
        return float(getattr(of, part)) / of.used if of.used else None

    def document(self) -> dict[str, Any]:
        """Return the values of a `CostDocument`."""
        return {
            "engine_starts": self.engine_starts,
            "gpu_seconds": _rounded(self.gpu_seconds.used),
            "seconds": _parts(self.seconds),
            "gpu_seconds_by": _by_part(self.gpu_seconds),
            "tokens": {"computed": self.tokens_computed, "reused": self.tokens_reused},
            "served": {
                "seconds": _rounded(self.served.seconds),
                "gpu_seconds": _rounded(self.served.gpu_seconds),
                "queue": _rounded(self.served.queue),
            },
        }

    def jobs_document(self) -> list[dict[str, Any]]:
        """Return the values of a `JobCostDocument` for each job."""
        return [
            {
                "job": job.job,
                "job_ids": list(job.job_ids),
                "nodes": list(job.nodes),
                "gpus": job.gpus,
                "starts": job.starts,
                "attempts": job.attempts,
                "engine_starts": job.engine_starts,
                "gpu_seconds": _rounded(job.gpu_seconds.used),
                "seconds": _parts(job.seconds),
                "tokens_computed": job.tokens_computed,
            }
            for job in self.jobs
        ]

    def alone_document(self) -> dict[str, Any] | None:
        """Return the values of an `AloneDocument`; None if there is no estimate."""
        if self.alone is None:
            return None
        seconds = {k: _rounded(v) for k, v in asdict(self.alone).items() if k.endswith("seconds")}
        counts = {"trials": self.alone.trials, "engine_starts": self.alone.engine_starts}
        return {**counts, **seconds, "assumptions": ALONE_ASSUMPTIONS}

    def forecast_document(self) -> dict[str, Any] | None:
        """Return the values of a `ForecastDocument`; None if nothing was expected."""
        return None if self.forecast is None else asdict(self.forecast)


class UsedDocument(Document):
    """GPU-seconds by what they were used for; see `SecondsDocument`."""

    start: float
    load: float
    generate: float
    idle: float
    other: float
    lost: float


class SecondsDocument(UsedDocument):
    """Wall seconds of jobs by what they were used for.

    All parts but ``queue`` add up to the time of the jobs on their nodes.

    Attributes:
        queue: Waiting for a node.
        start: Until the program began: checks of the node, the container.
        load: Loading engines, until they were ready.
        generate: In engine calls.
        idle: No trial to evaluate.
        other: The rest, such as the task's own code.
        lost: In attempts that ended by preemption or a failure of the node or the cluster.
    """

    queue: float


class TokensDocument(Document):
    """Tokens that engines computed, and those taken from the sample store."""

    computed: int
    reused: int


class ServedCostDocument(Document):
    """What the jobs of a served model used.

    Attributes:
        seconds: Their wall seconds.
        gpu_seconds: Their GPU-seconds.
        queue: Seconds that they waited before they started.
    """

    seconds: float
    gpu_seconds: float
    queue: float


class CostDocument(Document):
    """What a run used so far.

    Attributes:
        engine_starts: Number of engines that were started.
        gpu_seconds: GPU-seconds of the trials' jobs.
        seconds: Wall seconds of the trials' jobs.
        gpu_seconds_by: ``gpu_seconds`` by part.
        tokens: Tokens computed and reused.
        served: What the jobs of the served model used. The other values do not include it.
    """

    engine_starts: int
    gpu_seconds: float
    seconds: SecondsDocument
    gpu_seconds_by: UsedDocument
    tokens: TokensDocument
    served: ServedCostDocument


class JobCostDocument(Document):
    """What one job used, over all of its starts.

    Attributes:
        job: The worker's name or, for a job of a single trial, the trial's.
        job_ids: Its ids in the queue.
        nodes: The nodes that it ran on.
        gpus: Its GPUs.
        starts: Number of its starts.
        attempts: Number of attempts at trials.
        engine_starts: Number of engines that were started.
        gpu_seconds: Its GPU-seconds.
        seconds: Its wall seconds.
        tokens_computed: Prompt and generated tokens that its engines computed.
    """

    job: str
    job_ids: list[str]
    nodes: list[str]
    gpus: int
    starts: int
    attempts: int
    engine_starts: int
    gpu_seconds: float
    seconds: SecondsDocument
    tokens_computed: int


class AloneDocument(Document):
    """What the trials would have taken with a job for each trial; an estimate.

    Attributes:
        trials: Number of trials that it is about.
        engine_starts: Number of engine starts.
        seconds: Wall seconds of all jobs.
        gpu_seconds: Their GPU-seconds.
        assumptions: What is assumed.
    """

    trials: int
    engine_starts: int
    seconds: float
    gpu_seconds: float
    assumptions: str


def _sum(parts: Iterable[CostSeconds]) -> CostSeconds:
    return sum(parts, start=CostSeconds())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _by_model(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for table in tables:
        for model, value in table.items():
            total[model] = total.get(model, 0) + value
    return total


def _parts(seconds: CostSeconds) -> dict[str, float]:
    return {part: _rounded(value) for part, value in asdict(seconds).items()}


def _by_part(seconds: CostSeconds) -> dict[str, float]:
    return {part: value for part, value in _parts(seconds).items() if part != "queue"}


def _rounded(value: float) -> float:
    return round(value, 3)
