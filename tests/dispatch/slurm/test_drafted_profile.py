"""Profiles drafted from what Slurm tells: the partitions, accounts and sizes that are chosen."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from agenttts.dispatch.check import Check
from agenttts.dispatch.profile import Profile
from agenttts.dispatch.slurm.drafted_profile import slurm_profile
from agenttts.dispatch.slurm.partitions import read_partitions
from agenttts.dispatch.slurm.survey import Survey, read_nodes
from agenttts.spec import load_strict

# Shaped after answers of Slurm 22.05 and 24.05.
PARTITIONS = """\
PartitionName=standard Default=YES MaxTime=3-00:00:00 State=UP TotalNodes=100
PartitionName=a100 Default=NO MaxTime=1-00:00:00 State=UP TotalNodes=24 AllowAccounts=proj2
PartitionName=h100 Default=NO MaxTime=1-00:00:00 State=UP TotalNodes=8 AllowAccounts=others
PartitionName=gpu_debug Default=NO MaxTime=00:30:00 State=UP TotalNodes=64
PartitionName=gpu_down Default=NO MaxTime=UNLIMITED State=DOWN TotalNodes=64
"""
NODES = """\
standard|128|256000|100|(null)|(null)
a100|64|515000|24|gpu:a100:4(S:0-3)|a100_80gb,ib
h100|96|1000000|8|gpu:h100:4|(null)
gpu_debug|64|515000|64|gpu:a100:4|(null)
gpu_down|64|515000|64|gpu:a100:8|(null)
"""


def cluster(nodes: str = NODES, partitions: str = PARTITIONS, accounts: tuple[str, ...] = ("proj1", "proj2")) -> Survey:  # fmt: skip
    return Survey("alpha", "select/cons_tres", read_partitions(partitions), read_nodes(nodes), accounts, accounts[0] if accounts else "", ("normal", "long"))  # fmt: skip


def accepted(what: str, profile: Profile, resources: object, gpus: int) -> Check:
    return Check(f"{what} request", True, f"sbatch accepts it ({gpus} GPUs)")


def drafted(found: Survey, attempt=accepted) -> tuple[Profile, str, list[str]]:
    text, to_check = slurm_profile("alpha", found, attempt)
    return load_strict(Profile, text, "x"), text, to_check


def test_a_cluster_with_several_partitions():
    profile, text, to_check = drafted(cluster())
    assert (profile.trial.partition, profile.trial.account, profile.trial.time) == ("a100", "proj2", "04:00:00")  # fmt: skip
    assert (profile.controller.partition, profile.controller.account, profile.controller.time) == ("standard", "proj1", "2-00:00:00")  # fmt: skip
    assert (profile.gpus_per_node, profile.gpu_memory_gb, profile.trial.cpus) == (4, 80, 8)
    assert (profile.trial.mem_per_gpu, profile.trial.gpu_request) == ("119G", "gpus-per-node")
    assert to_check == []
    assert "96 GPUs; others: " in text
    assert "sbatch accepts it (4 GPUs)" in text


def test_every_value_says_where_it_is_from():
    _, text, _ = drafted(cluster())
    bare = [line for line in text.splitlines() if re.match(r"\s*(partition|account|gpu\w*|mem_per_gpu|cpus|image):", line) and "#" not in line]  # fmt: skip
    assert bare == []


def test_the_form_of_the_gpu_request_is_the_first_that_sbatch_accepts():
    def attempt(what, profile, resources, gpus):
        good = what == "controller" or resources.gpu_request == "gres"
        return Check(what, good, "accepted" if good else "refused: Invalid GRES")

    profile, text, to_check = drafted(cluster(), attempt)
    assert (profile.trial.gpu_request, to_check) == ("gres", [])
    assert "the first that was not refused" in text


@pytest.mark.parametrize("refused", [{"controller", "trial"}, {"trial"}, {"controller"}])
def test_memory_is_left_out_where_sbatch_accepts_only_requests_without(refused):
    def attempt(what, profile, resources, gpus):
        named = resources.mem or resources.mem_per_gpu
        form = what == "controller" or resources.gpu_request == "gres"
        good = form and not (what in refused and named)
        return Check(what, good, "accepted" if good else "refused: no memory, please")

    profile, text, to_check = drafted(cluster(), attempt)
    assert (profile.controller.mem is None) == ("controller" in refused)
    assert (profile.trial.mem_per_gpu is None) == ("trial" in refused)
    assert profile.trial.gpu_request == "gres"
    assert text.count("no mem: sbatch refuses a request with it") == len(refused)
    assert [line.split(":")[0] for line in to_check] == sorted(refused)


def test_the_form_without_an_option_is_named_only_where_sinfo_shows_no_gpus():
    """Elsewhere sbatch would accept it, and jobs would get no GPU."""
    tried = []

    def attempt(what, profile, resources, gpus):
        tried.append(resources.gpu_request)
        return Check(what, False, "refused")

    profile, text, _ = drafted(cluster(), attempt)
    assert "none" not in {profile.trial.gpu_request, *tried}
    assert "gpu_request: none" not in text
    _, text, to_check = drafted(cluster("standard|72|237000|600|(null)|(null)"))
    assert "# gpu_request: none" in text
    assert any("set trial.partition, gpu_request: none, gpus_per_node" in line for line in to_check)


def test_a_refusal_of_every_form_is_told():
    profile, text, to_check = drafted(cluster(), lambda what, *rest: Check(what, False, "refused: no\nsuch account"))  # fmt: skip
    assert profile.trial.gpu_request == "gpus-per-node"
    assert to_check[:2] == ["controller: refused: no\nsuch account", "trial: refused: no\nsuch account"]  # fmt: skip
    assert "# sbatch --test-only: refused: no such account" in text


@pytest.mark.parametrize(
    ("gres", "features", "memory", "part"),
    [
        ("gpu:h100:4", "(null)", 80, "of one h100, by its data sheet"),
        ("gpu:a100:4", "(null)", 40, "a100 is sold with 40 and 80 GB: check 'nvidia-smi'"),
        ("gpu:a100:4", "ib,a100-80g", 80, "from the name of the GPUs or the nodes' features"),
        ("gpu:nvidia_a100_80gb_pcie:2", "(null)", 80, "from the name"),
        ("gpu:tesla:4", "(null)", None, "'tesla', which does not tell their memory"),
        ("gpu:a10g:4", "(null)", 24, "of one a10g, by its data sheet"),
        ("gpu:k10g:4", "(null)", None, "'k10g', which does not tell their memory"),
        ("gpu:2080ti:8", "(null)", None, "'2080ti', which does not tell their memory"),
        ("gpu:gpu_80gb:8", "(null)", 80, "from the name"),
        ("gpu:a100_1g.5gb:28", "a100,80g", 5, "of one MIG device a100_1g.5gb"),
        ("gpu:nvidia_h100_80gb_hbm3_1g.10gb:14", "(null)", 10, "of one MIG device"),
        ("gpu:a100_3g_20gb:8", "(null)", 20, "of one MIG device"),
        ("gpu:4", "mem_192gb", None, "does not tell"),
        ("gpu:a100_80:4", "(null)", 80, "from the name"),
        ("gpu:nvidia_a100-sxm4-64gb:4", "(null)", 64, "from the name"),
        ("gpu:nvidia_h100_nvl_94gb:4", "(null)", 94, "from the name"),
        ("gpu:nvidia_gh200_480gb:1", "(null)", 96, "is sold with 96 and 144 GB"),
        ("gpu:nvidia_gh200_144gb_hbm3e:1", "(null)", 144, "from the name"),
        ("gpu:a100:4", "disk_480gb", 40, "a100 is sold with 40 and 80 GB"),
    ],
)
def test_the_memory_of_a_gpu(gres, features, memory, part):
    nodes = f"a100|64|515000|24|{gres}|{features}"
    profile, text, to_check = drafted(cluster(nodes))
    assert (profile.gpu_memory_gb, part in text) == (memory, True)
    assert any("gpu_memory_gb is not known" in line for line in to_check) == (memory is None)


def test_one_type_of_gpu_with_two_sizes_of_memory():
    """A request may get the smaller one, whatever most nodes have."""
    nodes = "a100|64|515000|24|gpu:a100:4|a100_80gb\na100|64|515000|2|gpu:a100:8|a100_40gb"
    profile, text, _ = drafted(cluster(nodes))
    assert (profile.gpus_per_node, profile.gpu_memory_gb) == (4, 40)
    assert "a100 with 40 and 80 GB, by the nodes' features; trial.constraint" in text


UP_AND_DOWN = """\
PartitionName=gpu MaxTime=1-0 State=UP
PartitionName=old MaxTime=1-0 State=UP
PartitionName=cpu MaxTime=1-0 State=UP
PartitionName=long MaxTime=9-0 State=UP
"""


@pytest.mark.parametrize(
    ("states", "partition", "gpus", "says"),
    [
        (("0/8/0/8", "1/1/0/2", "4/4/0/8"), "gpu", 4, "8 nodes with 4 a100 GPUs"),
        (("0/0/8/8", "1/1/0/2", "1/1/6/8"), "gpu", 8, "2 nodes with 8 a100 GPUs"),
        (("1/0/7/8", "1/1/0/2", "4/4/0/8"), "old", 4, "8 nodes with 4 v100 GPUs"),
        (("0/0/8/8", "0/0/2/2", "1/0/7/8"), "old", 4, "8 nodes (7 down or drained) with 4"),
        (("0/0/8/8", "0/0/2/2", "0/0/8/8"), "gpu", 4, "8 nodes (8 down or drained) with 4"),
        (("", "", ""), "gpu", 4, "8 nodes with 4 a100 GPUs"),
    ],
)
def test_nodes_that_are_down_do_not_count(states, partition, gpus, says):
    """Jobs would wait for them, for weeks where a partition is worn out."""
    small, large, other = states
    nodes = f"""\
gpu|64|515000|8|gpu:a100:4|(null)|{small}
gpu|64|515000|2|gpu:a100:8|(null)|{large}
old|64|515000|8|gpu:v100:4|(null)|{other}
cpu|64|256000|9|(null)|(null)|1/8/0/9
long|64|256000|9|(null)|(null)|0/0/9/9
"""
    profile, text, to_check = drafted(cluster(nodes, UP_AND_DOWN))
    assert (profile.trial.partition, profile.gpus_per_node) == (partition, gpus)
    assert says in text
    assert profile.controller.partition == "cpu"
    assert any("all nodes of gpu are down" in line for line in to_check) == (other == "0/0/8/8")


def test_two_types_of_gpu_in_a_partition():
    nodes = "a100|64|515000|24|gpu:a100:4|(null)\na100|64|515000|2|gpu:v100:4|(null)"
    profile, text, _ = drafted(cluster(nodes))
    assert profile.trial.gpu_type == "a100"
    assert "the partition also has: v100" in text


@pytest.mark.parametrize(
    ("gres", "gpu_type", "gpus", "memory", "other"),
    [
        ("gpu:h100:3(S:0-1),gpu:1g.10gb:7(S:0)", "h100", 3, 80, "1g.10gb"),
        ("gpu:a100_4g.20gb:4,gpu:a100_3g.20gb:2", "a100_4g.20gb", 4, 20, "a100_3g.20gb"),
        ("gpu:v100:1,gpu:l40s:3", "l40s", 3, 48, "v100"),
    ],
)
def test_two_types_of_gpu_in_a_node(gres, gpu_type, gpus, memory, other):
    """A request without a type may get a device of the other one."""
    profile, text, _ = drafted(cluster(f"a100|64|515000|24|{gres}|(null)"))
    assert (profile.trial.gpu_type, profile.gpus_per_node, profile.gpu_memory_gb) == (gpu_type, gpus, memory)  # fmt: skip
    assert f"the partition also has: {other}" in text


def test_gpus_without_a_type_beside_typed_ones():
    nodes = "a100|64|515000|24|gpu:4|(null)\na100|64|515000|2|gpu:v100:4,gpu:1g.10gb:7|(null)"
    profile, text, to_check = drafted(cluster(nodes))
    assert profile.trial.gpu_type is None
    assert "the partition also has: 1g.10gb, v100" in text
    assert any("have no type, and jobs may get one of another type: 1g.10gb, v100" in line for line in to_check)  # fmt: skip
    _, _, to_check = drafted(cluster(nodes.splitlines()[0]))
    assert not any("no type" in line for line in to_check)


def test_whole_gpus_go_before_mig_devices():
    """In another partition, and on other nodes of the same one."""
    partitions = "PartitionName=mig MaxTime=1-0 State=UP\nPartitionName=gpu MaxTime=1-0 State=UP"
    nodes = "mig|64|515000|10|gpu:a100_1g.5gb:28|(null)\ngpu|64|515000|9|gpu:a100:4|(null)"
    profile, _, _ = drafted(cluster(nodes, partitions))
    assert (profile.trial.partition, profile.gpus_per_node, profile.gpu_memory_gb) == ("gpu", 4, 40)
    profile, _, _ = drafted(cluster(nodes.replace("mig|", "gpu|"), partitions))
    assert (profile.trial.gpu_type, profile.gpus_per_node) == ("a100", 4)
    profile, _, _ = drafted(cluster(nodes.splitlines()[0], partitions))
    assert (profile.trial.partition, profile.gpus_per_node, profile.gpu_memory_gb) == ("mig", 28, 5)


@pytest.mark.parametrize(
    ("closed", "accounts"),
    [
        ("AllowGroups=physics,chem AllowAccounts=ALL", ("proj1",)),
        ("AllowGroups=ALL AllowAccounts=others", ("proj1",)),
        ("AllowGroups=ALL AllowAccounts=others", ()),
        ("DenyAccounts=proj1", ("proj1",)),
        ("AllowAccounts=ALL AllowQos=owners", ("proj1",)),
        ("AllowAccounts=ALL AllowQos=ALL DenyQos=normal,long", ("proj1",)),
        ("AllowAccounts=ALL AllowQos=ALL RootOnly=YES", ("proj1",)),
        ("AllowAccounts=ALL AllowQos=ALL AllocNodes=login[1-3],oodtest", ("proj1",)),
    ],
)
def test_a_partition_for_others_is_drafted_only_if_there_is_no_open_one(closed, accounts):
    partitions = f"PartitionName=big MaxTime=1-0 State=UP {closed}\nPartitionName=gpu AllowGroups=ALL AllowQos=ALL MaxTime=1-0 State=UP"  # fmt: skip
    nodes = "big|64|515000|90|gpu:a100:4|(null)\ngpu|64|515000|9|gpu:a100:4|(null)"
    found = replace(cluster(nodes, partitions, accounts), groups=frozenset({"staff", "me"}), host="login4")  # fmt: skip
    profile, text, _ = drafted(found)
    assert (profile.trial.partition, "it may not take" in text) == ("gpu", False)
    profile, text, _ = drafted(replace(found, partitions=read_partitions(partitions.splitlines()[0])))  # fmt: skip
    assert (profile.trial.partition, "it may not take" in text) == ("big", True)


@pytest.mark.parametrize(
    ("limits", "account", "qos"),
    [
        ("AllowGroups=physics,Staff", "proj1", None),
        ("AllowAccounts=dept DenyAccounts=proj1", "proj1", None),
        ("AllowQos=gpu,LONG", "proj1", "long"),
        ("RootOnly=NO Hidden=NO AllocNodes=login[1-3]", "proj1", None),
    ],
)
def test_a_partition_that_takes_the_user_is_open(limits, account, qos):
    partitions = f"PartitionName=big MaxTime=1-0 State=UP {limits}\nPartitionName=gpu MaxTime=1-0 State=UP"  # fmt: skip
    nodes = "big|64|515000|90|gpu:a100:4|(null)\ngpu|64|515000|9|gpu:a100:4|(null)"
    profile, text, _ = drafted(replace(cluster(nodes, partitions, ("proj1",)), groups=frozenset({"staff"}), parents={"proj1": "dept"}, host="login2"))  # fmt: skip
    trial = profile.trial
    assert (trial.partition, trial.account, trial.qos) == ("big", account, qos)
    assert "it may not take" not in text


@pytest.mark.parametrize(
    ("cpu", "gpu", "partition", "notes"),
    [
        ("State=UP", "State=UP", "cpu", []),
        ("State=DOWN", "State=UP", "gpu", []),
        ("State=UP RootOnly=YES", "State=UP", "gpu", []),
        ("State=UP", "State=DRAIN", "cpu", ["trial.partition: no open partition was found; gpu is DRAIN"]),
        ("State=INACTIVE", "State=DOWN", "cpu", ["trial.partition: no open partition was found; gpu is DOWN", "controller.partition: no open partition was found; cpu is INACTIVE"]),
    ],
)  # fmt: skip
def test_a_closed_partition_is_drafted_only_if_none_is_open_and_that_is_said(cpu, gpu, partition, notes):  # fmt: skip
    partitions = f"PartitionName=cpu MaxTime=9-0 {cpu}\nPartitionName=gpu MaxTime=1-0 {gpu}"
    nodes = "cpu|2|9000|1|(null)|(null)\ngpu|64|515000|9|gpu:a100:4|(null)"
    profile, text, to_check = drafted(cluster(nodes, partitions))
    assert (profile.controller.partition, profile.trial.partition) == (partition, "gpu")
    assert to_check == notes
    assert text.count("it may not take your jobs") == len(notes)


def test_a_hidden_partition_comes_last():
    """It has GPUs, which only sinfo --all shows, and no time limit."""
    partitions = "PartitionName=cpu Default=YES MaxTime=1-0 State=UP\nPartitionName=gpu MaxTime=1-0 State=UP\nPartitionName=gpu-root Hidden=YES MaxTime=UNLIMITED State=UP"  # fmt: skip
    nodes = "cpu|64|256000|10|(null)|(null)\ngpu|64|512000|10|gpu:a100:4|(null)\ngpu-root|64|512000|90|gpu:a100:4|(null)"  # fmt: skip
    profile, text, _ = drafted(cluster(nodes, partitions))
    assert (profile.controller.partition, profile.trial.partition) == ("cpu", "gpu")
    assert "hidden" not in text
    profile, text, _ = drafted(cluster(nodes.replace("cpu", "gpu-2"), partitions.splitlines()[2]))
    assert (profile.controller.partition, "sinfo --all shows it" in text) == ("gpu-root", True)


@pytest.mark.parametrize(
    ("submit_nodes", "nodes", "where"),
    [
        ("ALL", "n[1-4]", "job"),
        ("login[1-3],n[1-99]", "n[1-4]", "job"),
        ("login[1-3],n[1-3]", "n[1-4]", "here"),
        ("login[1-3]", "n1", "here"),
        ("login[1-3]", "(null)", "here"),
        ("?", "n1", "job"),
    ],
)
def test_a_controller_whose_nodes_may_not_submit_trials_is_drafted_here(submit_nodes, nodes, where):
    partitions = f"PartitionName=cpu MaxTime=9-0 State=UP Nodes={nodes}\nPartitionName=gpu AllocNodes={submit_nodes} MaxTime=1-0 State=UP"  # fmt: skip
    profile, _, to_check = drafted(cluster("gpu|64|515000|9|gpu:a100:4|(null)", partitions))
    assert (profile.controller.partition, profile.controller.where) == ("cpu", where)
    assert any("controller.where: here" in line for line in to_check) == (where == "here")


# LUMI's shape: partitions of whole nodes and of shared ones, for nodes with and without GPUs.
WHOLE = """\
PartitionName=standard MaxTime=2-0 {0} State=UP
PartitionName=small MaxTime=12:00:00 {1} State=UP
PartitionName=standard-g MaxTime=2-0 {0} State=UP
PartitionName=small-g MaxTime=3-0 {1} State=UP
"""
WHOLE_NODES = """\
standard|256|229376|1000|(null)|(null)
small|256|229376|300|(null)|(null)
standard-g|128|491520|2000|gpu:a100:4|(null)
small-g|128|491520|800|gpu:a100:4|(null)
"""


@pytest.mark.parametrize(
    ("whole", "shared"),
    [
        ("ExclusiveUser=NO OverSubscribe=EXCLUSIVE", "ExclusiveUser=YES OverSubscribe=NO"),
        ("Exclusive=NODE OverSubscribe=NO", "Exclusive=USER OverSubscribe=FORCE:1"),
        ("Exclusive=TOPO OverSubscribe=NO", "Exclusive=NO OverSubscribe=YES:4"),
    ],
)
def test_partitions_that_give_whole_nodes(whole, shared):
    """The controller gets a shared one, though its limit is shorter; for trials it is said."""
    profile, text, to_check = drafted(cluster(WHOLE_NODES, WHOLE.format(whole, shared)))
    assert (profile.controller.partition, profile.controller.time) == ("small", "12:00:00")
    assert profile.trial.partition == "standard-g"
    assert "others: small-g (3200 GPUs)" in text
    assert text.count("# each job gets a whole node") == 1
    [note] = [line for line in to_check if "whole node" in line]
    assert "standard-g gives each job a whole node: a job may be charged all 4 GPUs" in note
    # Both are small-g: it shares its nodes.
    _, text, to_check = drafted(cluster(WHOLE_NODES, WHOLE.format(whole, shared).splitlines()[3]))
    assert "whole" not in text + " ".join(to_check)


@pytest.mark.parametrize(
    ("select", "nodes", "notes"),
    [
        ("select/cons_tres", "cpu|2|9000|1|(null)|(null)\ngpu|2|9000|1|gpu:a100:4|(null)", 0),
        ("select/linear", "cpu|2|9000|1|(null)|(null)\ngpu|2|9000|1|gpu:a100:4|(null)", 2),
        ("select/linear", "cpu|2|9000|1|(null)|(null)\ngpu|2|9000|1|gpu:gh200:1|(null)", 1),
    ],
)
def test_a_cluster_that_gives_whole_nodes_everywhere(select, nodes, notes):
    """The controller's is said; for trials only where a node has more than one GPU."""
    partitions = "PartitionName=cpu MaxTime=1-0 State=UP\nPartitionName=gpu MaxTime=1-0 State=UP"
    _, _, to_check = drafted(replace(cluster(nodes, partitions), select_type=select))
    found = [line for line in to_check if "whole node" in line]
    assert len(found) == notes
    assert any("gives the controller a whole node; with controller.where: here" in line for line in found) == bool(notes)  # fmt: skip


def test_no_accounting_and_no_gpus():
    profile, text, to_check = drafted(cluster("standard|2|1|1|(null)|(null)", accounts=()))
    assert (profile.trial.account, profile.gpus_per_node, profile.trial.partition) == (None, 0, "standard")  # fmt: skip
    assert profile.trial.mem is None, "RealMemory=1 is what slurm.conf has where nobody set it"
    assert any("sinfo shows no GPUs" in line for line in to_check)
    assert "gpu_memory_gb" not in text
    assert "# a node has 2" in text, "not per GPU"


def test_a_short_limit_and_a_name_that_looks_like_a_number():
    partitions = "PartitionName=0700 Default=YES MaxTime=00:30:00 State=UP TotalNodes=1"
    profile, _, _ = drafted(cluster("0700|8|64000|1|gpu:l4:1|(null)", partitions, ("123",)))
    assert (profile.trial.partition, profile.trial.account) == ("0700", "123")
    assert (profile.trial.time, profile.controller.time) == ("00:30:00", "00:30:00")


@pytest.mark.parametrize("name", ["null", "NULL", "no", "1e5"])
def test_a_name_that_yaml_reads_as_another_value_is_kept(name):
    partitions = f"PartitionName={name} Default=YES MaxTime=1-0 State=UP TotalNodes=1"
    found = cluster(f"{name}|8|64000|1|(null)|(null)", partitions, (name, "b"))
    for section in (drafted(found)[0].controller, drafted(found)[0].trial):
        assert (section.partition, section.account) == (name, name)


def test_nothing_is_known():
    profile, text, _ = drafted(cluster("", "", ()))
    assert (profile.kind, profile.trial.partition) == ("slurm", None)
    assert "# partition: NAME" in text


def test_from_the_command_line(cli, fake, tmp_path):
    """With commands in place of Slurm's; then doctor finds nothing wrong with what was written."""
    partitions = "\n".join(f"echo '{line}'" for line in PARTITIONS.splitlines())
    nodes = "\n".join(f"echo '{line}'" for line in NODES.splitlines())
    fake("scontrol", f'case "$*" in *partition*) {partitions};; *) echo "ClusterName = alpha";; esac')  # fmt: skip
    fake("sinfo", f'case "$*" in *--version*) echo slurm 24.05;; *) {nodes};; esac')
    fake("sacctmgr", 'case "$*" in *parentname*) ;; *assoc*) echo "proj2|normal";; *) echo proj2;; esac')  # fmt: skip
    fake("apptainer", "echo apptainer version 1.4.5")
    for name in ("sbatch", "squeue", "scancel"):
        fake(name, "echo slurm 24.05")
    (tmp_path / "agenttts.sif").write_text("an image")
    done = cli("init", "--cluster", "alpha")
    assert (done.returncode, "wrote slurm/alpha.yaml" in done.stdout) == (0, True), done.stderr
    assert str(tmp_path / "agenttts.sif") in (tmp_path / "slurm" / "alpha.yaml").read_text()
    done = cli("doctor", "--cluster", "alpha")
    assert done.returncode == 0, done.stdout
