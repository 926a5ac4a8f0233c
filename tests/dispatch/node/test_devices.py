"""The GPUs granted to a job: whether they answer, and their numbers inside a container."""

from __future__ import annotations

import pytest

from agenttts.dispatch.apptainer import granted_devices
from agenttts.dispatch.node.devices import device_problem, engine_devices, numbered_devices
from agenttts.dispatch.profile import Profile
from agenttts.doctor.report import _gpus

LISTED = "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA H100 (UUID: GPU-bbbb-2)\n"
MIG = "GPU 0: NVIDIA A100 (UUID: GPU-aaaa-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-cccc-3)\n"
TWO_MIG = MIG + "  MIG 1g.10gb Device 1: (UUID: MIG-dddd-4)\n"


@pytest.mark.parametrize(
    ("says", "code", "granted", "gpus", "expected"),
    [
        (LISTED, 0, "0,1", 2, None),
        (LISTED, 0, "GPU-aaaa-1", 1, None),
        (LISTED, 0, "GPU-dddd-4", 1, "does not list the granted device GPU-dddd-4"),
        (LISTED, 0, "0,1,2,3", 4, "the job needs 4 GPUs, and nvidia-smi -L lists 2"),
        ("No devices found.\n", 0, "", 1, "the job needs 1 GPU, and nvidia-smi -L lists 0"),
        (LISTED, 0, "1", 2, "the job needs 2 GPUs, and CUDA_VISIBLE_DEVICES lists 1 ('1')"),
        (LISTED, 0, "", 1, "CUDA_VISIBLE_DEVICES lists 0 ('')"),
        (MIG, 0, "MIG-cccc-3", 1, None),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9, "0", 1, "exit status 9: NVIDIA-SMI has failed"),
        ("GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\nUnable to determine the device handle for gpu 0000:3B:00.0: Unknown Error\n", 0, "0,1", 2, "Unknown Error"),
        ("anything\n", 1, "", 0, None),
    ],
)  # fmt: skip
def test_the_gpus_granted_must_answer(nvidia_smi, says, code, granted, gpus, expected):
    nvidia_smi(says, code)
    found = device_problem(gpus, {"CUDA_VISIBLE_DEVICES": granted}, deadline=20)
    assert found is None if expected is None else expected in found


def test_a_machine_without_the_program_is_not_asked(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert device_problem(4, {}) is None
    assert engine_devices({"CUDA_VISIBLE_DEVICES": "MIG-cccc-3"}) == "MIG-cccc-3"


@pytest.mark.parametrize(
    ("says", "granted", "inside"),
    [
        (MIG, "MIG-cccc-3", "0"),
        (TWO_MIG, "MIG-cccc-3,MIG-dddd-4", "0,1"),
        (
            TWO_MIG,
            "MIG-dddd-4",
            "MIG-dddd-4",
        ),  # another job's device can be seen, and may be number 0
        (MIG, "MIG-GPU-aaaa-1/1/0", "MIG-GPU-aaaa-1/1/0"),
        (LISTED, "GPU-bbbb-2,GPU-aaaa-1", "0,1"),
        (LISTED, "GPU-bbbb-2", "GPU-bbbb-2"),
        (LISTED, "2,3", "2,3"),
        (LISTED, "", ""),
        ("no answer\n", "MIG-cccc-3", "MIG-cccc-3"),
    ],
)
def test_devices_that_are_all_a_job_can_see_get_numbers(nvidia_smi, says, granted, inside):
    nvidia_smi(says)
    assert engine_devices({"CUDA_VISIBLE_DEVICES": granted}, deadline=20) == inside


def test_an_engine_is_given_the_numbers(nvidia_smi, monkeypatch):
    nvidia_smi(MIG)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc-3")
    assert granted_devices()["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert granted_devices() == {}


@pytest.mark.parametrize(
    ("says", "code", "expected"),
    [
        ("GPU 0: NVIDIA A100 (UUID: GPU-a)\n  MIG 1g.5gb     Device  0: (UUID: MIG-b)\n  MIG 1g.5gb     Device  1: (UUID: MIG-c)\n", 0, "1 found, in 2 MIG devices, the profile uses 4"),
        ("GPU 0: NVIDIA A100 (UUID: GPU-a)\nGPU 1: NVIDIA A100 (UUID: GPU-b)\n", 0, "2 found, the profile uses 4"),
        ("No devices found.\n", 0, "0 found, the profile uses 4"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nMake sure that it runs.\n", 9, "nvidia-smi -L failed with exit status 9: NVIDIA-SMI has failed"),
    ],
)  # fmt: skip
def test_doctor_counts_gpus_and_not_lines(nvidia_smi, says, code, expected):
    nvidia_smi(says, code)
    assert _gpus(Profile(kind="local", gpus_per_node=4)).startswith(expected)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [("2,3", [2, 3]), ("3,1,3", [3, 1]), ("", []), ("-1", []), ("0,GPU-aaaa-1", []), ("²", [])],
)
def test_gpus_that_are_listed_by_numbers(value, numbers):
    assert numbered_devices({"CUDA_VISIBLE_DEVICES": value}) == numbers
    assert numbered_devices({}) == []


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("GPU-bbbb-2", [1]),
        ("GPU-bbbb-2,GPU-aaaa-1", [1, 0]),
        ("GPU-bb", [1]),  # CUDA takes the beginning, too
        ("GPU-", []),
        ("GPU-cccc-3", []),
        ("GPU-aaaa-1,1", []),
        ("MIG-cccc-3", []),
    ],
)
def test_gpus_that_are_listed_by_uuids(nvidia_smi, value, numbers):
    """On a shared machine, trials would get the first GPUs, which are perhaps somebody else's."""
    nvidia_smi(LISTED)
    assert numbered_devices({"CUDA_VISIBLE_DEVICES": value}) == numbers
