"""The container's command line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from agenttts.dispatch.apptainer import (
    Container,
    check_bindable,
    check_links,
    check_runtime,
    container_env,
    exec_command,
    in_container,
    link_targets,
    with_scratch,
)
from agenttts.errors import MissingRequirement, UserError


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
    assert words[-7:] == ["/images/vllm.sif", "env", "HOME=/tmp/home", "python", "-m", "agenttts.trial", "/runs/a/trials/t0/trial.json"]  # fmt: skip


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


@pytest.mark.parametrize(
    ("setup", "enough"),
    [
        (["module load no-such-runtime/1.4"], True),
        (["source /etc/profile", "command -v no-such-runtime"], True),
        (["module load cuda"], False),
        ([], False),
    ],
)
def test_a_runtime_that_only_nodes_have_is_named_by_a_setup_line(setup, enough):
    container = Container(image=Path("/none.sif"), runtime="no-such-runtime")
    if enough:
        check_runtime(container, setup)
        return
    with pytest.raises(MissingRequirement, match="setup, e.g. 'command -v no-such-runtime'"):
        check_runtime(container, setup)


@pytest.fixture
def snapshot(tmp_path):
    """A model as the hub's cache keeps it: files that are links to ``blobs``, one of them by
    way of another disk.
    """
    hub, disk = tmp_path / "hub", tmp_path / "disk"
    place = hub / "snapshots" / "abc"
    (place / "sub").mkdir(parents=True)
    (hub / "blobs").mkdir()
    disk.mkdir()
    (hub / "blobs" / "1").write_text("{}")
    (disk / "weights").write_text("w")
    (hub / "blobs" / "2").symlink_to(disk / "weights")
    (place / "config.json").symlink_to("../../blobs/1")
    (place / "sub" / "model.safetensors").symlink_to("../../../blobs/2")
    (place / "inside.json").symlink_to("config.json")
    (place / "broken").symlink_to("nowhere")
    return place


def test_the_targets_of_links_are_bound_too(snapshot, tmp_path):
    assert sorted(link_targets(snapshot)) == [tmp_path / "disk", tmp_path / "hub" / "blobs"]
    words = exec_command(Container(Path("/i.sif")), ("true",), read_only=[snapshot], writable=[])
    binds = {after for word, after in pairwise(words) if word == "--bind"}
    assert {f"{place}:{place}:ro" for place in (snapshot, tmp_path / "disk", tmp_path / "hub/blobs")} <= binds  # fmt: skip


def test_a_linked_directory_is_followed_and_a_circle_ends(tmp_path):
    model, other = tmp_path / "model", tmp_path / "other"
    model.mkdir()
    other.mkdir()
    (tmp_path / "third").write_text("x")
    (other / "weights").symlink_to(tmp_path / "third")
    (other / "back").symlink_to(model)
    (model / "part").symlink_to(other)
    assert set(link_targets(model)) == {other, tmp_path}
    assert link_targets(tmp_path / "absent") == []


def test_a_file_that_is_a_link_is_bound_with_what_it_leads_to(tmp_path):
    (tmp_path / "disk").write_text("w")
    (tmp_path / "blob").symlink_to("disk")
    model = tmp_path / "run" / "model.gguf"
    model.parent.mkdir()
    model.symlink_to("../blob")
    assert link_targets(model) == [tmp_path / "blob", tmp_path / "disk"]
    words = exec_command(Container(Path("/i.sif")), ("true",), read_only=[model], writable=[model.parent])  # fmt: skip
    binds = {after for word, after in pairwise(words) if word == "--bind"}
    assert {f"{tmp_path}/blob:{tmp_path}/blob:ro", f"{tmp_path}/disk:{tmp_path}/disk:ro"} <= binds


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_path_that_bind_would_cut_is_refused(tmp_path, name):
    with pytest.raises(
        UserError, match=rf"models.m.path: {tmp_path}/{name} contains a (colon|comma)"
    ):
        check_bindable(tmp_path / name, ("models", "m", "path"))
    (tmp_path / name).touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").symlink_to(tmp_path / name / "weights")
    check_links(tmp_path / "model", ("models", "m", "path"))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").touch()
    with pytest.raises(UserError, match=rf"models.m.path: {tmp_path}/{name} contains a"):
        check_links(tmp_path / "model", ("models", "m", "path"))
    for bound in ({"read_only": [tmp_path / name], "writable": []}, {"read_only": [], "writable": [tmp_path / name]}):  # fmt: skip
        with pytest.raises(UserError, match="cannot be bound"):
            exec_command(Container(Path("/i.sif")), ("true",), **bound)


def test_a_command_for_a_container_names_the_scratch_directory():
    words = exec_command(Container(Path("/i.sif")), ("true",), read_only=[], writable=[])
    assert in_container(words)
    assert not in_container(("python", "-m", "agenttts.trial"))
    given = with_scratch(words, Path("/tmp/job 1"))
    assert "/tmp/job 1:/tmp" in given
    assert not in_container(given)
