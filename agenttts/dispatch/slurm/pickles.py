"""The pickled functions of submitted jobs.

Each is in a file that exists before the job does. So the file is named after the submission and not
after the job's id.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.slurm.batch_script import MARK

_WITHDRAWN = (
    "the controller gave up this job, because sbatch did not answer when it was submitted; "
    "nothing is run"
)


@dataclass(frozen=True)
class Pickles:
    """The files of one submission in ``folder``: ``NAME.0.pkl``, ``NAME.1.pkl``, ..."""

    folder: Path
    name: str

    def file(self, number: int) -> Path:
        """Return the file of what one of the jobs runs."""
        return self.folder / f"{self.name}.{number}.pkl"

    def withdraw(self, number: int) -> None:
        """Make a job that may appear later end as soon as it starts.

        A job that runs already continues.
        """
        if self.file(number).exists():  # else sbatch has refused it
            self._withdrawn(number).touch()

    def link_lines(self, number: int | None) -> list[str]:
        """Return a batch file's lines that link a pickle to the name submitit looks for.

        That name has the job's id. A requeued job finds the pickle that its checkpoint has written
        in place of the link.

        Args:
            number: The job's number; None in an array, whose elements are numbered from 0.
        """
        folder = shlex.quote(str(self.folder))
        if number is None:
            job, place = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}", "${SLURM_ARRAY_TASK_ID}"
        else:
            job, place = "${SLURM_JOB_ID}", str(number)
        name = f"{shlex.quote(self.name)}.{place}"
        return [
            f"agenttts_name={name} agenttts_link={folder}/{job}_submitted.pkl",
            f'if [ -e {folder}/"$agenttts_name.withdrawn" ]; then',
            f"  printf '{MARK}%s\\n' {shlex.quote(_WITHDRAWN)} >&2",
            "  exit 0",
            "fi",
            '[ -e "$agenttts_link" ] || ln -s "$agenttts_name.pkl" "$agenttts_link"',
        ]

    def _withdrawn(self, number: int) -> Path:
        return self.folder / f"{self.name}.{number}.withdrawn"
