"""Drivers and GPUs against the CUDA that an image was built for."""

from __future__ import annotations

import pytest

from agenttts.doctor.probe_checks import driver_check
from agenttts.images.cuda import Gpu, driver_facts, driver_problem, memory_problem, read_gpus

H100 = Gpu("580.95.05", "NVIDIA H100 80GB HBM3", 81559.0, 9.0)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("580.95.05, NVIDIA H100 80GB HBM3, 81559, 9.0\n", [H100]),
        ("535.161.08, NVIDIA A100-SXM4-40GB, [N/A], 8.0\n", [Gpu("535.161.08", "NVIDIA A100-SXM4-40GB", None, 8.0)]),
        ("a banner\n\n580.95.05, NVIDIA H100 80GB HBM3, 81559, 9.0\r\n", [H100]),
        ("No devices were found\n", []),
        ("", []),
    ],
)  # fmt: skip
def test_reading_nvidia_smi(answer, expected):
    assert read_gpus(answer) == expected


@pytest.mark.parametrize(
    ("says", "code", "found"),
    [
        ("580.95.05, NVIDIA H100 80GB HBM3, 81559, 9.0\n", 0, [H100]),
        ("580.95.05, NVIDIA H100 80GB HBM3, 81559, 9.0\n", 9, []),
    ],
)
def test_asking_nvidia_smi(nvidia_smi, says, code, found):
    nvidia_smi(says, code)
    assert driver_facts(20) == found


def test_an_old_driver_that_does_not_know_the_capability_is_seen(nvidia_smi, tmp_path):
    nvidia_smi("")
    script = tmp_path / "bin" / "nvidia-smi"
    script.write_text(
        '#!/bin/sh\ncase $1 in *compute_cap*) echo "Field is not a valid field to query"; exit 2;; esac\n'
        "echo 470.57.02, Tesla V100-SXM2-32GB, 32510\n"
    )
    assert driver_facts(20) == [Gpu("470.57.02", "Tesla V100-SXM2-32GB", 32510.0, None)]


@pytest.mark.parametrize(
    ("driver", "capability", "cuda", "problem"),
    [
        ("580.65.06", 9.0, "13.0", None),
        ("580", 7.5, "13.1", None),
        ("590.1", None, "13.0", None),
        ("575.57.08", 9.0, "13.0", "the driver is 575.57.08, but CUDA 13.0 needs 580 or newer"),
        ("535.161.08", 8.0, "12.9", None),
        ("520.61.05", 8.0, "12.4", "needs 525 or newer"),
        ("1525.1", 8.0, "12.4", None),
        ("99.1", 8.0, "11.8", "needs 450 or newer"),
        ("590.1", 7.0, "13.0", "has compute capability 7.0, but CUDA 13.0 needs 7.5 or higher"),
        ("100.1", 3.0, "14.0", None),  # a CUDA that is not known yet is not judged
        ("100.1", 3.0, "", None),
    ],
)
def test_a_driver_and_a_gpu_against_a_cuda(driver, capability, cuda, problem):
    found = driver_problem([Gpu(driver, "GPU", 1.0, capability)], cuda)
    assert found is None if problem is None else problem in found[0]


def test_one_gpu_of_several_that_does_not_do_is_found():
    old = Gpu("580.95.05", "Tesla V100", 16384.0, 7.0)
    assert "Tesla V100" in driver_problem([H100, old], "13.0")[0]
    assert "17 GB, but the profile's gpu_memory_gb is 80" in memory_problem([H100, old], 80)[0]


@pytest.mark.parametrize(
    ("listed_mib", "said_gb", "fits"),
    [(81559, 80, True), (40960, 80, False), (23028, 24, True), (24576, 24, True), (None, 80, True), (40960, None, True)],
)  # fmt: skip
def test_memory_as_sold_and_as_listed(listed_mib, said_gb, fits):
    found = memory_problem([Gpu("580", "GPU", listed_mib, 9.0)], said_gb)
    assert (found is None) is fits


@pytest.mark.parametrize(
    ("gpus", "cuda", "ok"),
    [([H100], "13.0", True), ([H100], None, None), ([Gpu("470.1", "A100", None, 8.0)], "12.8", False)],
)  # fmt: skip
def test_the_check_of_a_driver(gpus, cuda, ok):
    check = driver_check(gpus, cuda, "the image")
    assert check is not None
    assert check.ok is ok
    assert (check.fix is not None) is (ok is False)


def test_no_gpu_no_check():
    assert driver_check([], "13.0", "the image") is None
