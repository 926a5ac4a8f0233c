"""Lists of nodes in a profile: ranges, files, and what a request avoids besides."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.profile import JobResources, Profile, load_profile
from agenttts.dispatch.slurm.cluster_nodes import nodes_besides, nodes_in_partitions
from agenttts.dispatch.slurm.node_lists import (
    common_nodes,
    compressed,
    names_of_file,
    node_names,
    request_lists,
)
from agenttts.dispatch.slurm.request import JobNeeds, sbatch_options
from agenttts.dispatch.slurm.scheduler import SlurmScheduler
from agenttts.errors import MissingRequirement, UserError


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


CLUSTER = ("gpu7", "gpu8", "gpu9", "gpu10", "n1", "n2", "n3", "bad", "login-a")


@pytest.mark.parametrize(
    ("exclude", "nodelist", "avoided", "expected"),
    [
        (None, None, (), (None, None)),
        ("bad[1-2]", None, ("gpu7",), ("bad[1-2],gpu7", None)),
        (None, "gpu7", ("gpu7",), (None, "gpu7")),
        (None, "gpu7", ("gpu8",), ("gpu8", "gpu7")),
        (None, "gpu[7-9]", (), ("bad,login-a,gpu10,n[1-3]", None)),
        (None, "gpu[7-9]", ("gpu7",), ("bad,login-a,gpu7,gpu10,n[1-3]", None)),
        (None, "gpu[7-9]", ("n1", "gone"), ("bad,login-a,gpu10,n[1-3]", None)),
        ("bad,n[2-3]", "gpu[7-8]", ("gpu7", "gpu8"), ("bad,n[2-3],login-a,gpu9,gpu10,n1", None)),
        (None, "gpu7,gone", ("gpu7",), ("bad,login-a,gpu[8-9],gpu10,n[1-3]", None)),
        ("bad", "bad-[1-2]", ("n1",), ("bad,n1", "bad-[1-2]")),
        (None, ",".join(CLUSTER), ("n2",), ("n2", None)),
        (None, ",".join(CLUSTER), (), (None, None)),
        ("/home/u/nodes.txt", None, ("gpu7",), ("/home/u/nodes.txt", None)),
        (None, "/home/u/nodes.txt", ("gpu7",), ("gpu7", "/home/u/nodes.txt")),
    ],
)
def test_what_a_request_excludes_and_asks_for(exclude, nodelist, avoided, expected):
    """Jobs take one node, so several allowed nodes are the exclusion of all others."""
    assert request_lists(exclude, nodelist, avoided, CLUSTER) == expected
    needs = JobNeeds("n", "c", 1, 60, exclude=avoided)
    options = sbatch_options(JobResources(exclude=exclude, nodelist=nodelist), needs, CLUSTER)
    assert (options.get("exclude"), options.get("nodelist")) == expected


NODES = st.lists(st.sampled_from(["n1", "n2", "n3", "n4"]), max_size=4, unique=True)


@given(NODES, NODES, NODES)
def test_no_request_contradicts_itself(exclude, nodelist, avoided):
    """A job may start on what the profile allows, and on avoided nodes only if no others are."""
    cluster = ["n1", "n2", "n3", "n4", "n5"]
    nodelist = [name for name in nodelist if name not in exclude]
    own, asked = ",".join(exclude) or None, ",".join(nodelist) or None
    now_excluded, now_asked = request_lists(own, asked, avoided, cluster)
    assert common_nodes(now_excluded, now_asked) == []
    assert now_asked is None or len(node_names(now_asked)) == 1
    out = set(node_names(now_excluded)) if now_excluded else set()
    usable = set(node_names(now_asked) if now_asked else cluster) - out
    allowed = set(nodelist or cluster) - set(exclude)
    assert usable == ((allowed - set(avoided)) or (allowed if nodelist else set()))


@given(st.lists(st.from_regex(r"[a-z]?[0-9.]{0,3}[a-z-]?[0-9]{0,11}", fullmatch=True).filter(bool), min_size=1, unique=True))  # fmt: skip
def test_a_compressed_list_names_the_same_nodes(names):
    assert sorted(node_names(",".join(compressed(names)))) == sorted(names)


def test_a_long_list_is_short_where_it_can_be():
    names = [f"nid{number:06}" for number in range(1, 10_001) if number not in (7, 8, 500)]
    assert compressed(names) == ["nid[000001-000006,000009-000499,000501-010000]"]


PARTITIONS = (
    "PartitionName=gpu AllocNodes=ALL MaxNodes=9 Nodes=gpu[7-9] State=UP TotalNodes=3\n"
    "PartitionName=cpu Nodes=n[1-4],gpu9 State=UP\nPartitionName=new Nodes=(null) State=UP"
)


def test_the_nodes_of_all_partitions():
    assert nodes_in_partitions(PARTITIONS) == ["gpu7", "gpu8", "gpu9", "n1", "n2", "n3", "n4"]


def test_nodes_are_asked_for_only_where_several_are_allowed(fake):
    fake("scontrol", "exit 1")
    for resources in ({}, {"nodelist": "gpu7"}, {"exclude": "gpu[7-8]"}):
        assert nodes_besides(JobResources(**resources), all_known=True) == []
    with pytest.raises(QueueUnavailable):
        nodes_besides(JobResources(nodelist="gpu[7-8]"))


def test_a_node_that_the_cluster_has_lost_ends_no_run_but_is_named_at_launch(fake):
    fake("scontrol", f'echo "{PARTITIONS}"')
    assert "gpu7" in nodes_besides(JobResources(nodelist="gpu[6-7]"))
    with pytest.raises(
        MissingRequirement, match=r"nodelist names gpu6, and no partition .* has it"
    ):
        nodes_besides(JobResources(nodelist="gpu[6-7]"), all_known=True)
    with pytest.raises(MissingRequirement, match="nodelist names gpu1, gpu2, .* has them"):
        nodes_besides(JobResources(nodelist="gpu[1-2]"))


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
    fake("scontrol", f'case "$*" in *partition*) echo "{PARTITIONS}";; *) echo "$@" >> {record};; esac')  # fmt: skip

    def avoid(**trial: object) -> str:
        record.unlink(missing_ok=True)
        own = Profile(kind="slurm", trial=JobResources(time="10", **trial))
        SlurmScheduler(own, tmp_path / "jobs").avoid(["7_0"], ["gpu7", "n1"])
        return record.read_text() if record.exists() else ""

    assert avoid(exclude="bad") == "update JobId=7_0 ExcNodeList=bad,gpu7,n1\n"
    assert avoid(nodelist="gpu7") == "update JobId=7_0 ExcNodeList=n1\n"
    assert avoid(nodelist="gpu[7-8]") == "update JobId=7_0 ExcNodeList=gpu[7,9],n[1-4]\n"
    assert avoid(exclude="/home/u/nodes.txt") == "", "scontrol takes no file"
