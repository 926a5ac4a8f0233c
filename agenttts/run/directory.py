"""The directory of a run, which holds all of its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.profile import Profile, frozen_profile
from agenttts.errors import AgentTTSError, MissingRequirement, UserError
from agenttts.run.record import RUN_FILE, RunRecord, read_record
from agenttts.spec import JobSpec, load_spec
from agenttts.tables.schema import FINALIST_SOURCE, TEST_SOURCE

SCHEDULER_LOGS = "slurm"
"""The folder of a run that jobs are submitted from, directly or one folder down."""


class RunGone(MissingRequirement):
    """The directory of a run was removed, moved or replaced while it was in use."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"the run directory {path} {problem} while it was in use",
            fix="restore it, or continue at its new path: 'agenttts-hpc resume PATH'",
        )


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run.

    Only `agenttts.launch` and `agenttts.loop` write outside ``trials/`` and ``samples/``.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def profile_file(self) -> Path:
        """The profile as it was at launch, or as a later command has corrected it.

        Later edits of ``slurm/`` do not change a run that exists.
        """
        return self.path / "profile.yaml"

    @property
    def record_file(self) -> Path:
        """What launch resolved: models, container, directories, data, and the run's id."""
        return self.path / RUN_FILE

    @property
    def examples_file(self) -> Path:
        """The examples, frozen at launch.

        Compute nodes therefore need neither the data file nor a hub.
        """
        return self.path / "examples.jsonl"

    @property
    def task_source(self) -> Path:
        """The source of a user's own task, frozen at launch; trials import it from here."""
        return self.path / "task"

    @property
    def journal_file(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def lock_file(self) -> Path:
        """The file that the run's controller locks while it runs."""
        return self.path / "controller.lock"

    @property
    def sign_file(self) -> Path:
        """The file whose time is the last sign of life of a controller."""
        return self.path / "controller.sign"

    @property
    def command_lock_file(self) -> Path:
        """The file that a launch, resume or cancel of the run locks while it works."""
        return self.path / "command.lock"

    @property
    def agent(self) -> Path:
        """The served model's own folder: its settings, its address, its log."""
        return self.path / "agent"

    @property
    def transcript_file(self) -> Path:
        """The transcript: every prompt to the language model, every reply and its outcome."""
        return self.path / "agent.jsonl"

    @property
    def finalist_examples_file(self) -> Path:
        """The examples of the comparison of the best allocations, frozen at launch."""
        return self.path / "finalist_examples.jsonl"

    @property
    def test_examples_file(self) -> Path:
        """The held-out examples of the final test, frozen at launch."""
        return self.path / "test_examples.jsonl"

    def examples_of(self, source: str) -> Path:
        """Return the frozen examples that trials of a source are scored on."""
        files = {
            FINALIST_SOURCE: self.finalist_examples_file,
            TEST_SOURCE: self.test_examples_file,
        }
        return files.get(source, self.examples_file)

    @property
    def trials_file(self) -> Path:
        return self.path / "trials.parquet"

    @property
    def report(self) -> Path:
        """The report as page and document, written when the run ends."""
        return self.path / "report"

    def check_not_own(self, option: str, place: Path) -> None:
        """Check that a file written for the user replaces none of the run's.

        Its report may be replaced.

        Raises:
            UserError: It would.
        """
        within = place.resolve().is_relative_to
        if place.exists() and within(self.path.resolve()) and not within(self.report.resolve()):
            raise UserError(
                f"{option} {place}: is in the run's own directory, where no file is replaced; "
                "name another one"
            )

    @property
    def controller_file(self) -> Path:
        """The last start of the controller: its token, its job, and any cancel."""
        return self.path / "controller.json"

    @property
    def finish_file(self) -> Path:
        """The user's request to propose no more trials; missing without one."""
        return self.path / "finish.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def scheduler_logs(self) -> Path:
        """The folder of submitit: batch files, pickles and logs of every job."""
        return self.path / SCHEDULER_LOGS

    def trial(self, trial: str) -> Path:
        """Return the directory of a trial."""
        return self.path / "trials" / trial

    @property
    def workers(self) -> Path:
        """The directory of the workers' directories."""
        return self.path / "workers"

    def worker(self, worker: str) -> Path:
        """Return the directory of a job that evaluates several trials or several lists."""
        return self.workers / worker

    def read(self) -> Run:
        """Return the run with its spec, its profile and its record."""
        return Run(self, self.spec(), self.profile(), self.record())

    def spec(self) -> JobSpec:
        """Return the resolved spec that the run was launched with."""
        return load_spec(self.spec_file)

    def record(self) -> RunRecord:
        """Return the contents of `record_file`."""
        return read_record(self.record_file)

    def known_record(self) -> RunRecord | None:
        """Return what `record` does; None if it cannot be read.

        The run is of an older version, or the file is damaged, which other readers report.
        """
        try:
            return self.record()
        except UserError:
            return None

    def profile(self) -> Profile:
        """Return the profile that the run was launched with."""
        return frozen_profile(self.profile_file)

    def problem(self, token: str | None = None) -> str | None:
        """Return why the run is no longer here; None while it is.

        Args:
            token: The run's unique id, if it is known.

        Raises:
            OSError: The file system does not say whether the run is here.
        """
        try:
            next(self.path.iterdir(), None)
        except (FileNotFoundError, NotADirectoryError):
            return "was removed or moved"
        record = self.known_record()
        replaced = record is not None and token not in (None, record.token)
        return "was replaced by another run" if replaced else None

    @property
    def exists(self) -> bool:
        """Whether a run was created here.

        The spec is the last of the files that are written when a run is made.
        """
        return self.spec_file.exists()


@dataclass(frozen=True)
class Run:
    """A run and what was frozen at its launch.

    Attributes:
        directory: The paths of its files.
        spec: The resolved spec that it was launched with.
        profile: The profile that it was launched with.
        record: What launch resolved.
    """

    directory: RunDirectory
    spec: JobSpec
    profile: Profile
    record: RunRecord

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prefixes of the batch tokens of its jobs; new jobs have the first."""
        return self.record.tokens(self.name)

    @property
    def samples(self) -> Path:
        """The directory of the sample store."""
        return self.directory.path / self.record.samples

    @property
    def cache(self) -> CompileCache | None:
        """Where its jobs keep compiled code."""
        return self.record.cache(self.directory.path)


@contextmanager
def in_use(*runs: RunDirectory) -> Iterator[None]:
    """Use runs; an error becomes `RunGone` if the directory of a run is gone."""
    try:
        yield
    except (AgentTTSError, OSError) as error:
        for run in runs:
            problem = None
            with suppress(OSError):  # the original error says what is wrong with the file system
                problem = run.problem()
            if problem is not None:
                raise RunGone(run.path, problem) from error
        raise
