"""The test cluster: several Slurm nodes on this machine, started by ``slurm/test-cluster.sh``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
TESTCLUSTER = ROOT / "slurm" / "testcluster.yaml"
# Programs without which there is no cluster.
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged", "apptainer")


@dataclass(frozen=True)
class Cluster:
    """A running test cluster. ``env`` is the environment of a login shell on it."""

    directory: Path
    env: dict[str, str]

    def run(self, *command: object, timeout: float = 60) -> str:
        """Run a command of the cluster, and return its standard output."""
        done = subprocess.run(
            [str(part) for part in command], env={**os.environ, **self.env},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def queue(self) -> list[dict[str, str]]:
        """The user's jobs in squeue, one entry per array element."""
        text = self.run("squeue", "--me", "-h", "-r", "-o", "%i|%P|%j|%T|%b|%k")
        keys = ("job", "partition", "name", "state", "gres", "comment")
        return [dict(zip(keys, line.split("|"), strict=True)) for line in text.splitlines()]

    def accounted(self, jobs: Sequence[str], *fields: str) -> list[list[str]]:
        """The fields of sacct for each distinct job, once sacct has its end for every one.

        slurmctld sends its records to slurmdbd on its own time, so a job that has ended may have no
        row yet.
        """
        jobs = list(dict.fromkeys(jobs))
        asked = ["sacct", "-n", "-P", "-X", "-o", ",".join([*fields, "End"]), "-j", ",".join(jobs)]

        def rows() -> list[list[str]]:
            found = [line.split("|") for line in self.run(*asked).splitlines()]
            ended = [row for row in found if row[-1] not in ("", "None", "Unknown")]
            return ended if len(ended) == len(jobs) else []

        return [
            row[:-1]
            for row in until(rows, f"the end of jobs {', '.join(jobs)} in sacct", seconds=300)
        ]

    def silent(self, folder: Path) -> dict[str, str]:
        """The environment in which a launch learns nothing from Slurm before it submits.

        ``sbatch --test-only`` and ``scontrol show partition`` say nothing, as on a cluster that is
        changed after the launch. All else is the real Slurm.

        Args:
            folder: For the programs; made if it is missing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = self.env.get("PATH", os.environ["PATH"])
        for command, asked in (("sbatch", "--test-only"), ("scontrol", "show partition")):
            real, program = shutil.which(command, path=path), folder / command
            program.write_text(
                f'#!/bin/sh\ncase "$*" in *"{asked}"*) exit 0;; esac\nexec {real} "$@"\n'
            )
            program.chmod(0o755)
        return {**self.env, "PATH": f"{folder}:{path}"}

    def script(self, *arguments: object) -> None:
        """Run ``slurm/test-cluster.sh`` with these arguments."""
        cluster_script(*arguments)


def cluster_script(*arguments: object) -> None:
    """Run ``slurm/test-cluster.sh`` with these arguments."""
    done = subprocess.run(
        [ROOT / "slurm" / "test-cluster.sh", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
