"""What scontrol says of partitions against what a profile asks of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.slurm.partitions import Partition, judge_partitions, read_partitions

# Slurm 22.05 and a form with another order and a key that is not known.
ANSWER = """\
PartitionName=cpu AllowGroups=ALL AllocNodes=ALL Default=YES DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP TotalNodes=4 TRES=cpu=32,mem=128G
a banner of the site
PartitionName=short State=UP New=1 MaxTime=04:00:00 MaxNodes=1 Default=NO TotalNodes=2 AllocNodes=login[1-2]
PartitionName=odd MaxTime=next-week State=DRAIN MaxNodes=0 TotalNodes=1

PartitionName=long MaxTime=7-00:00:00 State=UP TotalNodes=9
"""
KNOWN = read_partitions(ANSWER)


def test_reading_the_partitions():
    assert {
        "cpu": Partition("cpu", True, None, None, "UP", "4"),
        "short": Partition("short", False, 240, 1, "UP", "2", "login[1-2]"),
        "odd": Partition("odd", False, None, 0, "DRAIN", "1"),
        "long": Partition("long", False, 7 * 24 * 60, None, "UP", "9"),
    } == KNOWN


@pytest.mark.parametrize(
    ("named", "time", "verdicts", "part"),
    [
        (None, "30-00", [True], "cpu (the default): 4 nodes, no time limit"),
        ("short", "04:00:00", [True], "MaxTime 04:00:00"),
        ("short", "04:00:01", [False], "lets jobs run for 04:00:00 (MaxTime) and trial.time is 04:00:01"),
        ("short", "2-00:00:00", [False], "they would never start"),
        ("long", "10080", [True], "MaxTime 7-00:00:00"),
        ("odd", "10", [False], "odd is DRAIN"),
        ("gpus", "10", [False], "there is no partition 'gpus' (there are: cpu, short, odd, long)"),
        ("long,gpus", "10", [False], "no partition 'gpus'"),
        # Slurm takes the partition of several where a job starts first.
        ("short,long", "1-00", [None, True], "jobs go to the other"),
        ("short,odd", "1-00", [False, False], "they would never start"),
    ],
)  # fmt: skip
def test_a_section_of_a_profile(named, time, verdicts, part):
    checks = judge_partitions("trial", named, time, KNOWN)
    assert [check.ok for check in checks] == verdicts
    assert part in " ".join(check.detail for check in checks)
    assert all(check.fix for check in checks if check.ok is False)


def test_a_cluster_without_a_default_partition():
    [check] = judge_partitions("controller", None, "10", {"a": Partition("a")})
    assert (check.ok, "has no default" in check.detail) == (False, True)
    assert "set controller.partition" in (check.fix or "")
    [check] = judge_partitions("controller", None, "10", {})
    assert "there are: none" in (check.fix or "")


@given(st.text(alphabet="PartitionName=MaxTime UNLIMITED:-\n0123456789xé", max_size=200))
def test_any_answer_is_read(answer):
    for partition in read_partitions(answer).values():
        judge_partitions("trial", partition.name or None, "10", {partition.name: partition})
