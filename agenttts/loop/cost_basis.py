"""What the estimates of a search's cost start from: models, stages and profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.profile import Profile, runs_in_container
from agenttts.dispatch.sizing.mig import mig_slices
from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.loop.estimates import (
    CPU,
    GPUS,
    LOCAL_READ_RATE,
    SHARED_READ_RATE,
    UNKNOWN_GPU,
    DrawRecord,
    Estimates,
    Gpu,
    StartRecord,
    find_gpu,
)
from agenttts.loop.worker_lists import ResourceClass
from agenttts.spec import JobSpec

QUEUE_SECONDS = 120.0
"""Wait in the queue of a cluster, assumed before the first job of the run has started."""
_BOOT_SECONDS: Mapping[bool, float] = {True: 12.0, False: 3.0}
"""Seconds from a job's start to its first engine start, in containers and without (measured on
Slurm with a directory image, 2026-11)."""
_NODE_GB_PER_GPU = 32.0
"""Memory of a job for each GPU, assumed where the profile does not say."""
_SLICES: Mapping[str, int] = {"a30": 4}
_MOST_SLICES = 7
"""Compute slices of a GPU that is split into MIG devices: seven, four of an A30.

Source: NVIDIA's MIG user guide. A device is assumed to have as large a share of the bandwidth,
which NVIDIA divides into eighths.
"""
_OTHER_GB = 8.0
"""Memory of a job that engines which wait cannot have: the program, and the engine that works."""


@dataclass(frozen=True)
class CostBasis:
    """What the estimates of a search's cost start from.

    Args:
        profile: The profile.
        sizes: The models' sizes, by name.
        tokens: By stage, tokens of a prompt and of a sample.
        compiled: Whether compiled code is kept between jobs.
        queued: Whether jobs wait in the queue of a cluster.
        boot_seconds: Seconds from a job's start to its first engine start.
    """

    profile: Profile
    sizes: Mapping[str, ModelSize]
    tokens: Mapping[str, tuple[float, float]]
    compiled: bool
    queued: bool
    boot_seconds: float

    @classmethod
    def of(
        cls,
        spec: JobSpec,
        profile: Profile,
        scheduler: Scheduler,
        sizes: Mapping[str, ModelSize],
        *,
        compiled: bool,
    ) -> CostBasis:
        """Return the basis of a spec's search under a profile, on its scheduler."""
        tokens = {
            name: (float(stage.prompt_tokens), float(stage.decode_tokens))
            for name, stage in spec.stages.items()
        }
        boxed = runs_in_container(spec, profile)
        boot = 0.0 if scheduler.runs_in_this_process else _BOOT_SECONDS[boxed]
        return cls(profile, sizes, tokens, compiled, scheduler.has_nodes, boot)

    def estimates(
        self,
        starts: Sequence[StartRecord] = (),
        draws: Sequence[DrawRecord] = (),
        *,
        read_rate: float | None = None,
    ) -> Estimates:
        """Return the estimates, corrected by records.

        Args:
            starts: Engine starts so far.
            draws: Draws so far.
            read_rate: Bytes of weights read in a second; None: the rate of a shared file system on
                a cluster, else of a local disk.
        """
        if read_rate is None:
            read_rate = SHARED_READ_RATE if self.queued else LOCAL_READ_RATE
        return Estimates(
            self.sizes,
            self.gpu,
            read_rate=read_rate,
            compiled=self.compiled,
            starts=starts,
            draws=draws,
        )

    @property
    def gpus(self) -> dict[str, int]:
        """The GPUs of each model's engine."""
        return {name: size.gpus for name, size in self.sizes.items()}

    def classes(self, most: int, queue_seconds: float) -> list[ResourceClass]:
        """Return the workers that may be started, ``most`` in all."""
        return [
            ResourceClass(
                f"{gpus} GPUs",
                gpus,
                most,
                queue_seconds=queue_seconds,
                start_seconds=self.boot_seconds,
                time_limit=self.time_limit,
                sleep_gb=self.sleep_gb(gpus),
            )
            for gpus in sorted({size.gpus for size in self.sizes.values()})
        ]

    @property
    def time_limit(self) -> float:
        """Seconds that a job may use: its time limit without the grace before its end."""
        return self.profile.trial_seconds

    def sleep_gb(self, gpus: int) -> float:
        """Return the memory, in GB, that a job has for engines beside the one that works."""
        asked = self.profile.trial.memory_for(gpus)
        if asked is not None:
            memory = asked[1] / 1e9
        elif self.queued:
            memory = _NODE_GB_PER_GPU * max(gpus, 1)
        else:
            memory = psutil.virtual_memory().total / 1e9 / self.profile.max_running
        return max(0.0, memory - _OTHER_GB)

    @property
    def gpu_text(self) -> str:
        """The kind of GPU that jobs get, in words."""
        name, (slices, of) = self._gpu_name, self._slices
        whole = name.upper() if name else "A100 (the profile names no known GPU)"
        return whole if slices == of else f"MIG device, {slices}/{of} of one {whole}"

    @property
    def gpu(self) -> Gpu:
        """The kind of GPU that jobs get; assumed if the profile does not name one."""
        if self.profile.gpus_per_node == 0:
            return CPU
        slices, of = self._slices
        return (GPUS[self._gpu_name] if self._gpu_name else UNKNOWN_GPU).part(slices / of)

    @property
    def _gpu_name(self) -> str | None:
        """The whole GPU that the profile names; None if it names none that is known."""
        return next((gpu for name in self._named if (gpu := find_gpu(name))), None)

    @property
    def _slices(self) -> tuple[int, int]:
        """The slices of a device and of its GPU; equal if it is no MIG device."""
        of = _SLICES.get(self._gpu_name or "", _MOST_SLICES)
        return next((min(n, of) for name in self._named if (n := mig_slices(name))), of), of

    @property
    def _named(self) -> list[str]:
        trial = self.profile.trial
        return [name for name in (trial.gpu_type, trial.constraint, trial.partition) if name]
