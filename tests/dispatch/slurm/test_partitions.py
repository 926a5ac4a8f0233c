"""What scontrol says of partitions against what a profile asks of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.profile import JobResources
from agenttts.dispatch.slurm.partitions import (
    Partition,
    judge_partitions,
    read_parents,
    read_partitions,
)

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
        ("short", "04:00:01", [False], "trial.time is 04:00:01, and the limit of short is 04:00:00 (MaxTime)"),
        ("short", "2-00:00:00", [False], "jobs would never start"),
        ("long", "10080", [True], "MaxTime 7-00:00:00"),
        ("odd", "10", [False], "odd is DRAIN"),
        ("gpus", "10", [False], "partition 'gpus' does not exist; valid: cpu, short, odd, long"),
        ("long,gpus", "10", [False], "partition 'gpus' does not exist"),
        # Slurm takes the partition of several where a job starts first.
        ("short,long", "1-00", [None, True], "jobs run in another of the named partitions"),
        ("short,odd", "1-00", [False, False], "jobs would never start"),
    ],
)  # fmt: skip
def test_a_section_of_a_profile(named, time, verdicts, part):
    checks = judge_partitions("trial", JobResources(partition=named, time=time), KNOWN)
    assert [check.ok for check in checks] == verdicts
    assert part in " ".join(check.detail for check in checks)
    assert all(check.fix for check in checks if check.ok is False)


def test_a_cluster_without_a_default_partition():
    [check] = judge_partitions("controller", JobResources(time="10"), {"a": Partition("a")})
    assert (check.ok, "has no default" in check.detail) == (False, True)
    assert "set controller.partition" in (check.fix or "")
    [check] = judge_partitions("controller", JobResources(time="10"), {})
    assert "valid: none" in (check.fix or "")


# Partitions as Slurm 22.05 to 25.05 list who may use them.
GUARDED = read_partitions("""\
PartitionName=proj AllowGroups=ALL AllowAccounts=Proj1,proj2 AllowQos=ALL MaxTime=UNLIMITED MinNodes=0 State=UP TotalNodes=2
PartitionName=not AllowGroups=ALL DenyAccounts=guests,trial DenyQos=debug AllowQos=ALL MaxTime=UNLIMITED MinNodes=1 State=UP TotalNodes=2
PartitionName=fast AllowAccounts=ALL AllowQos=high,normal MaxTime=UNLIMITED State=UP TotalNodes=2 ReqResv=NO
PartitionName=wide AllowAccounts=ALL AllowQos=ALL MaxTime=UNLIMITED MinNodes=4 State=UP TotalNodes=8
PartitionName=class AllowAccounts=ALL AllowQos=ALL MaxTime=UNLIMITED State=UP TotalNodes=8 ReqResv=YES
PartitionName=open Default=YES AllowAccounts=ALL AllowQos=ALL QoS=N/A MaxTime=UNLIMITED State=UP TotalNodes=8
""")
PARENTS = read_parents(
    "root|\nproj1|root\nProj1-sub|proj1\nsub-sub|proj1-sub\nother|root\na banner\n"
)


@pytest.mark.parametrize(
    ("asked", "verdicts", "part"),
    [
        ({"partition": "proj", "account": "proj1"}, [True], "2 nodes"),
        ({"partition": "proj", "account": "PROJ2"}, [True], "2 nodes"),
        ({"partition": "proj", "account": "sub-sub"}, [True], "2 nodes"),
        ({"partition": "proj", "account": "other,proj1"}, [True], "2 nodes"),
        ({"partition": "proj", "account": "other"}, [False], "accepts only jobs of the accounts proj1, proj2, and the profile's account is other"),
        ({"partition": "proj"}, [True], "the profile does not name the account"),
        ({"partition": "not", "account": "guests"}, [False], "does not accept jobs of the accounts guests, trial"),
        ({"partition": "not", "account": "other"}, [True], "2 nodes"),
        ({"partition": "not"}, [True], "2 nodes"),
        ({"partition": "not", "qos": "debug"}, [False], "does not accept jobs of the QOS debug"),
        ({"partition": "fast", "qos": "High"}, [True], "2 nodes"),
        ({"partition": "fast", "qos": "low"}, [False], "accepts only jobs of the QOS high, normal"),
        ({"partition": "fast"}, [True], "jobs use your default"),
        ({"partition": "wide"}, [False], "accepts only jobs of 4 or more nodes (MinNodes)"),
        ({"partition": "class"}, [False], "only jobs with a reservation"),
        ({"partition": "class", "reservation": "lesson"}, [True], "8 nodes"),
        ({"partition": "proj,open", "account": "other"}, [None, True], "jobs run in another of the named partitions"),
        ({"account": "anything", "qos": "anything"}, [True], "open (the default)"),
    ],
)  # fmt: skip
def test_who_may_use_a_partition(asked, verdicts, part):
    checks = judge_partitions("trial", JobResources(time="10", **asked), GUARDED, PARENTS)
    assert [check.ok for check in checks] == verdicts
    assert part in " ".join(check.detail for check in checks)
    assert all("trial." in (check.fix or "") for check in checks if check.ok is False)


def test_an_account_whose_place_is_not_known_is_not_refused():
    asked = JobResources(partition="proj", account="other")
    for parents in (None, {}, {"proj1": "root"}):
        [check] = judge_partitions("trial", asked, GUARDED, parents)
        assert check.ok
        assert "an account below one of them is accepted too" in check.detail


@pytest.mark.parametrize(
    ("limits", "ok", "part"),
    [
        ("RootOnly=YES", False, "accepts only jobs of root (RootOnly)"),
        ("RootOnly=NO Hidden=YES", True, "p: 1 node, "),
        ("AllocNodes=login[1-2]", True, "p: 1 node, "),
        ("AllocNodes=ALL", True, "p: 1 node, "),
        ("OverSubscribe=EXCLUSIVE", True, "; it gives each job a whole node"),
        ("Exclusive=TOPO OverSubscribe=NO", True, "; it gives each job a whole node"),
        ("AllocNodes=login1,n[1-9]", False, "submitted on login1,n[1-9] (AllocNodes), and this is login2"),
    ],
)  # fmt: skip
def test_who_may_submit_to_a_partition(limits, ok, part, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    known = read_partitions(f"PartitionName=p {limits} State=UP TotalNodes=1")
    asked = JobResources(partition="p", time="10")
    [check] = judge_partitions("trial", asked, known, host="login2")
    assert (check.ok, bool(check.fix)) == (ok, not ok)
    assert part in check.detail


ACCOUNTS = st.lists(st.sampled_from("abcdef"), max_size=3, unique=True)


@given(ACCOUNTS, ACCOUNTS, st.sampled_from("abcdef"), st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("abcdef")))  # fmt: skip
def test_an_account_is_refused_only_where_it_and_those_above_are_not_listed(allowed, denied, account, parents):  # fmt: skip
    lists = f"AllowAccounts={','.join(allowed) or 'ALL'} DenyAccounts={','.join(denied)}"
    known = read_partitions(f"PartitionName=p {lists} State=UP TotalNodes=1")
    parents.setdefault(account, "root")
    [check] = judge_partitions("trial", JobResources(partition="p", time="10", account=account), known, parents)  # fmt: skip
    above = {account}
    while not above >= (more := {parents[a] for a in above if a in parents}):
        above |= more
    assert check.ok == (bool(above & set(allowed)) if allowed else account not in denied)


@given(
    st.text(
        alphabet="PartitionName=MaxTime MinNodes=AllowAccounts DenyQos UNLIMITED:-\n0123456789xé",
        max_size=200,
    )
)
def test_any_answer_is_read(answer):
    for partition in read_partitions(answer).values():
        resources = JobResources.model_construct(partition=partition.name or None, time="10")
        judge_partitions("trial", resources, {partition.name: partition})
