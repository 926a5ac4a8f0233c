"""The container's command line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from agenttts.dispatch.apptainer import Container, check_runtime, container_env, exec_command
from agenttts.errors import MissingRequirement


def command(**changes) -> list[str]:
    container = Container(image=Path("/images/vllm.sif"), **changes)
    return list(
        exec_command(
            container,
            ("python", "-m", "agenttts.trial", "/runs/a/trials/t0/trial.json"),
            read_only=[Path("/models/big"), Path("/runs/a/model"), Path("/models")],
            writable=[Path("/runs/a"), Path("/runs/a/samples"), Path("/shared")],
        )
    )


def test_it_is_clean_bound_and_ends_with_the_command():
    words = command()
    assert words[:2] == ["apptainer", "--quiet"]
    assert "--containall" in words
    assert "--nv" in words
    assert words[-5:] == ["/images/vllm.sif", "python", "-m", "agenttts.trial", "/runs/a/trials/t0/trial.json"]  # fmt: skip


def test_directories_are_bound_once_and_only_the_runs_are_writable():
    words = command(binds=("/data:/data:ro",))
    binds = [after for word, after in pairwise(words) if word == "--bind"]
    assert binds == ["{scratch}:/tmp", "/shared:/shared", "/runs/a:/runs/a", "/models:/models:ro", "/data:/data:ro"]  # fmt: skip


def test_singularity_and_no_gpu():
    words = command(runtime="singularity", nv=False)
    assert words[0] == "singularity"
    assert "--nv" not in words


def test_variables_reach_the_container_under_either_runtime():
    env = container_env({"HF_HUB_OFFLINE": "1"})
    assert env == {"APPTAINERENV_HF_HUB_OFFLINE": "1", "SINGULARITYENV_HF_HUB_OFFLINE": "1"}


def test_a_runtime_that_is_not_there_says_how_to_get_it():
    with pytest.raises(MissingRequirement, match=r"not on this machine's PATH.*module load"):
        check_runtime(Container(image=Path("/none.sif"), runtime="no-such-runtime"))
