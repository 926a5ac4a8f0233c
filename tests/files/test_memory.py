"""How much memory a program may still take."""

from __future__ import annotations

import psutil
import pytest

from agenttts.files.memory import MEMORY_VARIABLE, available_memory, gpu_memory, job_memory

MB = 1 << 20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write a control group's limit and use under a root of its own; the root."""

    def make(limit: str, used: int) -> object:
        from pathlib import Path

        own = next(
            line.split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.split(":", 2)[1] == "" or "memory" in line.split(":", 2)[1].split(",")
        )
        for folder in (tmp_path / own.lstrip("/"), tmp_path / "memory" / own.lstrip("/")):
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in (("max", limit), ("current", str(used))):
                (folder / f"memory.{name}").write_text(f"{text}\n")
        return tmp_path

    return make


def test_no_more_than_the_machine_has(tmp_path):
    assert 0 < available_memory(tmp_path) <= psutil.virtual_memory().total


def test_a_control_group_s_limit_counts(groups):
    assert available_memory(groups(str(100 * MB), 60 * MB)) == 40 * MB
    assert available_memory(groups(str(100 * MB), 160 * MB)) == 0
    assert available_memory(groups("max", 60 * MB)) > 100 * MB


def test_a_job_s_limit_counts_beside_what_its_processes_take(tmp_path, monkeypatch):
    monkeypatch.setenv(MEMORY_VARIABLE, "100000")
    left = available_memory(tmp_path)
    assert left < 100_000 * MB - psutil.Process().memory_info().rss / 2
    monkeypatch.setenv(MEMORY_VARIABLE, "1")
    assert available_memory(tmp_path) == 0
    monkeypatch.setenv(MEMORY_VARIABLE, "odd")
    assert available_memory(tmp_path) > 0


@pytest.mark.parametrize(
    ("environment", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, "4096"),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "4"}, "4000"),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_CPU": "1000"}, None),
        ({}, None),
    ],
)
def test_slurm_s_words_for_the_memory_of_a_job(environment, megabytes):
    assert job_memory(environment).get(MEMORY_VARIABLE) == megabytes


@pytest.mark.parametrize(
    ("says", "code", "expected"),
    [
        (
            "40000, 536, Disabled\n30000, 10536, [N/A]\n",
            0,
            [(40000 * MB, 40536 * MB), (30000 * MB, 40536 * MB)],
        ),
        ("[N/A], [N/A], Enabled\n", 0, []),
        ("42000, 39000, Enabled\n", 0, []),
        ("No devices were found\n", 0, []),
        ("1, 2, Disabled\n", 9, []),
        ("", 0, []),
    ],
)
def test_the_memory_of_gpus(nvidia_smi, says, code, expected):
    nvidia_smi(says, code)
    assert gpu_memory() == expected


def test_the_memory_of_gpus_is_that_of_this_job_s(nvidia_smi, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    nvidia_smi("1, 2, Disabled\n")
    (tmp_path / "bin" / "nvidia-smi").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    assert gpu_memory() == []
    assert (tmp_path / "asked").read_text().endswith(" -i 2,3\n")


def test_without_nvidia_smi_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_memory() == []
