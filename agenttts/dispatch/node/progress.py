"""What the job sees of a trial's progress from outside.

It sees the trial's phase, its log, the sample store and processor time.
"""

from __future__ import annotations

import re
from pathlib import Path

from agenttts.dispatch.node.limits import Sight
from agenttts.dispatch.node.trial_log import LOG_FILE, log_size
from agenttts.errors import AgentTTSError
from agenttts.files.processes import cpu_seconds
from agenttts.inference.shard_names import trial_writer
from agenttts.trial.phase import read_phase
from agenttts.trial.spec import SPEC_FILE, TrialSpec


class TrialSight:
    """Looks at a job's program, which runs as process ``pid``.

    Args:
        directory: Where its log and its notes of phases are.
        pid: The process.
        on_gpu: Whether it uses GPUs.
        first_trial: The directory of its first trial, after which its shards of the sample store
            are named.
    """

    def __init__(self, directory: Path, pid: int, *, on_gpu: bool, first_trial: Path) -> None:
        self._directory = directory
        self._pid = pid
        self._on_gpu = on_gpu
        self._store = _Shards.of_trial(first_trial)

    def take(self) -> Sight:
        """Return what is to be seen now."""
        return Sight(
            phase=read_phase(self._directory),
            log_bytes=log_size(self._directory / LOG_FILE),
            store_changed_ns=self._store.changed_ns() if self._store else 0,
            # On GPUs, processor time does not show progress: a hang in their communication keeps a
            # processor busy.
            cpu_seconds=None if self._on_gpu else cpu_seconds(self._pid),
        )


class _Shards:
    """The shards of a sample store that one trial writes.

    Other trials write into the same directory.
    """

    def __init__(self, directory: Path, prefix: str) -> None:
        self._directory = directory
        self._own = re.compile(rf"{re.escape(prefix)}\d+-.*\.parquet")
        self._looked_at = self._changed = 0
        self._seen: set[str] = set()

    @classmethod
    def of_trial(cls, directory: Path) -> _Shards | None:
        try:
            spec = TrialSpec.read(directory / SPEC_FILE)
        except AgentTTSError:  # the trial itself reports what is wrong with its spec
            return None
        return cls(Path(spec.samples), trial_writer(spec.run, spec.trial))

    def changed_ns(self) -> int:
        """Return when a new shard of this trial was last seen, in nanoseconds.

        It is the directory's time of change at that look; 0 if there was no new shard.
        """
        try:
            moment = self._directory.stat().st_mtime_ns
            if moment == self._looked_at:
                return self._changed
            names = {path.name for path in self._directory.iterdir()}
        except OSError:
            return self._changed
        self._looked_at = moment
        names = {name for name in names if self._own.fullmatch(name)}
        if not names <= self._seen:
            self._seen |= names
            self._changed = moment
        return self._changed
