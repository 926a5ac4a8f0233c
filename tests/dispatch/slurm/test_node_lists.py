"""Lists of nodes in a profile: ranges, files, and what a request avoids besides."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.profile import JobResources, Profile, load_profile
from agenttts.dispatch.slurm.node_lists import (
    common_nodes,
    excluded,
    names_of_file,
    node_names,
    request_lists,
)
from agenttts.dispatch.slurm.request import JobNeeds, sbatch_options
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.errors import UserError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu7", ["gpu7"]),
        ("n[1-3,7],gpu-a.b", ["n1", "n2", "n3", "n7", "gpu-a.b"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
        ("n[1]-ib,n1-ib", ["n1-ib"]),
    ],
)
def test_names(text, names):
    assert node_names(text) == names


@pytest.mark.parametrize("text", ["", ",", "n[1-", "n[]", "n[a]", "n[3-1]", "n[1-999999999]", "n[0-9][0-9999][0-9999]", "n 1"])  # fmt: skip
def test_what_is_no_list(text):
    with pytest.raises(ValueError, match="valid|more than"):
        node_names(text)


@given(st.text(alphabet="n01-9[],.", max_size=20))
def test_any_text_is_a_list_or_none(text):
    try:
        names = node_names(text)
    except ValueError:
        return
    assert names
    assert all(name and not set(name) & set("[],") for name in names)


@given(st.integers(0, 400), st.integers(0, 60), st.sampled_from([1, 2, 3]))
def test_a_range_has_every_number(first, more, width):
    names = node_names(f"n[{first:0{width}}-{first + more:0{width}}]")
    assert names == [f"n{number:0{width}}" for number in range(first, first + more + 1)]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("gpu7\ngpu8\n", "gpu7,gpu8"),
        ("# broken since May\n\ngpu7 # fans\r\nn[1-3,5], gpu8\n", "gpu7,n[1-3,5],gpu8"),
    ],
)
def test_a_file_of_nodes(text, listed):
    assert names_of_file(text) == listed


@pytest.mark.parametrize("text", ["", "# nothing\n", "/other/file\n", "a b\x00", "n[1-"])
def test_a_file_of_something_else(text):
    with pytest.raises(ValueError, match="valid"):
        names_of_file(text)


@pytest.mark.parametrize(
    ("exclude", "nodelist", "avoided", "expected"),
    [
        (None, None, (), (None, None)),
        ("bad[1-2]", None, ("gpu7",), ("bad[1-2],gpu7", None)),
        (None, "gpu7", ("gpu7",), (None, "gpu7")),
        (None, "gpu7", ("gpu8",), ("gpu8", "gpu7")),
        (None, "gpu[7-9]", ("gpu7",), ("gpu7", "gpu8,gpu9")),
        (None, "gpu[7-9]", ("n1",), ("n1", "gpu[7-9]")),
        ("bad", "gpu[7-8]", ("gpu7", "gpu8"), ("bad", "gpu[7-8]")),
        ("/home/u/nodes.txt", None, ("gpu7",), ("/home/u/nodes.txt", None)),
        (None, "/home/u/nodes.txt", ("gpu7",), ("gpu7", "/home/u/nodes.txt")),
    ],
)
def test_what_a_request_avoids_besides(exclude, nodelist, avoided, expected):
    assert request_lists(exclude, nodelist, avoided) == expected
    needs = JobNeeds("n", "c", 1, 60, exclude=avoided)
    options = sbatch_options(JobResources(exclude=exclude, nodelist=nodelist), needs)
    assert (options.get("exclude"), options.get("nodelist")) == expected


NODES = st.lists(st.sampled_from(["n1", "n2", "n3", "n4"]), max_size=4, unique=True)


@given(NODES, NODES, NODES)
def test_no_request_contradicts_itself(exclude, nodelist, avoided):
    nodelist = [name for name in nodelist if name not in exclude]
    own, asked = ",".join(exclude) or None, ",".join(nodelist) or None
    now_excluded, now_asked = request_lists(own, asked, avoided)
    assert common_nodes(now_excluded, now_asked) == []
    assert (now_asked is None) == (asked is None)
    assert set(exclude) <= set((now_excluded or "").split(","))
    waiting = excluded(own, asked, avoided)
    assert common_nodes(waiting, asked) == []


def profile(tmp_path, **trial: object):
    path = tmp_path / "big.yaml"
    path.write_text(yaml.safe_dump({"kind": "slurm", "trial": trial}))
    return load_profile(str(path), [])


def test_a_profile_s_file_of_nodes_is_read_at_launch(tmp_path):
    (tmp_path / "bad.txt").write_text("gpu7\nn[1-2]\n")
    for name in ("./bad.txt", f"{tmp_path}/bad.txt"):
        assert profile(tmp_path, exclude=name).trial.exclude == "gpu7,n[1-2]"
        assert profile(tmp_path, nodelist=name).trial.nodelist == "gpu7,n[1-2]"
    assert profile(tmp_path, exclude="gpu9").trial.exclude == "gpu9"


@pytest.mark.parametrize(
    ("trial", "part"),
    [
        ({"exclude": "./absent.txt"}, r"trial.exclude: .*absent.txt is not a valid list of nodes: .*no such list of nodes"),
        ({"nodelist": "./other.txt"}, r"trial.nodelist: .*other.txt is not a valid list of nodes: 'what is this'|other.txt is not a valid list of nodes"),
        ({"exclude": "n[1-3],gpu7", "nodelist": "gpu[6-7]"}, r"trial: exclude and nodelist both name gpu7"),
        ({"exclude": "n[1-"}, r"trial.exclude: "),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_are_refused(tmp_path, trial, part):
    (tmp_path / "other.txt").write_text("what;is;this\n")
    with pytest.raises(UserError, match=part):
        profile(tmp_path, **trial)


def test_waiting_jobs_are_not_kept_off_the_node_that_they_ask_for(fake, tmp_path):
    record = tmp_path / "record"
    fake("squeue", "echo '7_0|PENDING|Priority|x'")
    fake("scontrol", f'echo "$@" >> {record}')

    def avoid(**trial: object) -> str:
        record.unlink(missing_ok=True)
        own = Profile(kind="slurm", trial=JobResources(time="10", **trial))
        SlurmScheduler(own, tmp_path / "jobs").avoid(["7_0"], ["gpu7", "n1"])
        return record.read_text() if record.exists() else ""

    assert avoid(exclude="bad") == "update JobId=7_0 ExcNodeList=bad,gpu7,n1\n"
    assert avoid(nodelist="gpu[7-8]") == "update JobId=7_0 ExcNodeList=n1\n"
    assert avoid(exclude="/home/u/nodes.txt") == "", "scontrol takes no file"
