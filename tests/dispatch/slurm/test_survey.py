"""What Slurm's commands tell of a cluster, in the forms that they have."""

from __future__ import annotations

import grp
import os
import socket

import pytest

from agenttts.dispatch.slurm.survey import (
    Nodes,
    cluster_name,
    read_associations,
    read_gres,
    read_nodes,
    survey,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(null)", (0, "", ())),
        ("gpu:4", (4, "", ())),
        ("gpu", (1, "", ())),
        ("gpu:a100:4(S:0-1)", (4, "a100", ())),
        ("gpu:a100_80:8(S:0,2-3),nvme:1", (8, "a100_80", ())),
        ("craynetwork:4,gpu:nvidia_h100_80gb_hbm3:4", (4, "nvidia_h100_80gb_hbm3", ())),
        ("gpu:h100:2,gpu:1g.10gb:7", (2, "h100", ("1g.10gb",))),
        ("gpu:v100:1,gpu:a100:3", (3, "a100", ("v100",))),
        ("gpu:2080ti:8(S:0-1)", (8, "2080ti", ())),
        ("gpu:3090:8", (8, "3090", ())),
        ("gpu:a100:no_consume:4", (4, "a100", ())),
        ("gpu:rtx3090", (1, "rtx3090", ())),
        ("gpu:1g.10gb:7", (7, "1g.10gb", ())),
        ("gpu:a100:3,gpu:a100_1g.5gb:7", (3, "a100", ("a100_1g.5gb",))),
        ("gpu:nvidia_h100_80gb_hbm3_1g.10gb:14,gpu:nvidia_h100_80gb_hbm3_3g.40gb:4", (14, "nvidia_h100_80gb_hbm3_1g.10gb", ("nvidia_h100_80gb_hbm3_3g.40gb",))),
        ("shard:8,lscratch:100", (0, "", ())),
        ("gpu:a100_4g.20gb:4,gpu:a100_3g.20gb:2", (4, "a100_4g.20gb", ("a100_3g.20gb",))),
        ("gpu:2(S:0),gpu:l4:1", (2, "", ("l4",))),
        ("gpu:no_consume:4", (4, "", ())),
    ],
)  # fmt: skip
def test_gpus_of_a_node(text, found):
    assert read_gres(text) == found


def test_nodes_of_partitions():
    answer = """\
a banner of the site
gpu|128|515000|24|gpu:a100:4(S:0-3)|a100,ib
cpu|64+|256000+|100|(null)|(null)
cpu|64|256000|10|(null)|(null)|3/4/3/10
odd|n/a|?|1|(null)|(null)
"""
    assert read_nodes(answer) == (
        Nodes("gpu", 24, 128, 515000, 4, "a100", "a100,ib"),
        Nodes("cpu", 100, 64, 256000),
        Nodes("cpu", 10, 64, 256000, out=3),
    )


def test_accounts_and_qos():
    answer = "proj1|normal,long\nproj2|normal\n|x\nnot a row\nproj1|high\n"
    assert read_associations(answer) == (("proj1", "proj2"), ("normal", "long", "high"))
    assert read_associations("") == ((), ())


def test_a_cluster_without_accounting_and_one_that_does_not_answer(fake):
    fake("scontrol", 'case "$*" in *partition*) echo PartitionName=all State=UP;; *) echo "ClusterName = alpha";; esac')  # fmt: skip
    # Without --all, sinfo leaves hidden partitions out, which scontrol --all shows.
    fake("sinfo", """case "$*" in *--all*) echo 'all|2|1000|1|(null)|(null)';; esac""")
    fake("sacctmgr", "echo 'You are not running a supported accounting_storage plugin' >&2; exit 1")
    found = survey()
    assert (found.name, list(found.partitions), found.nodes[0].cpus) == ("alpha", ["all"], 2)
    assert found.host == socket.gethostname().partition(".")[0]
    assert found.groups is None or grp.getgrgid(os.getegid()).gr_name.lower() in found.groups
    assert (found.accounts, found.problems) == ((), ("sacctmgr does not answer, so accounts are not known",))  # fmt: skip
    fake("scontrol", "echo 'scontrol: error: no configuration source' >&2; exit 1")
    assert cluster_name() is None
