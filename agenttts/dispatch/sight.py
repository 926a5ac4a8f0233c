"""What the job can see of a trial's progress from outside: its phase, its log, the sample store, processor time."""

from __future__ import annotations

from pathlib import Path

from agenttts.dispatch.proc import cpu_seconds
from agenttts.dispatch.trial_log import LOG_FILE, log_size
from agenttts.dispatch.watch import Sight
from agenttts.errors import AgentTTSError
from agenttts.trial.phase import read_phase
from agenttts.trial.spec import SPEC_FILE, TrialSpec


class TrialSight:
    """Looks at the trial in ``directory``, whose command runs as process ``pid``."""

    def __init__(self, directory: Path, pid: int, *, on_gpu: bool) -> None:
        self._directory = directory
        self._pid = pid
        self._on_gpu = on_gpu
        self._store = _sample_store(directory)

    def take(self) -> Sight:
        """What is to be seen now."""
        return Sight(
            phase=read_phase(self._directory),
            log_bytes=log_size(self._directory / LOG_FILE),
            store_changed_ns=_changed(self._store) if self._store else 0,
            # A hang in a GPU's communication keeps a processor busy: no progress there.
            cpu_seconds=None if self._on_gpu else cpu_seconds(self._pid),
        )


def _sample_store(directory: Path) -> Path | None:
    try:
        return Path(TrialSpec.read(directory / SPEC_FILE).samples)
    except AgentTTSError:  # the trial itself says what is wrong with its spec
        return None


def _changed(directory: Path) -> int:
    """When a file was last added, 0 where there is no directory."""
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return 0
