"""Draft a cluster's profile from what Slurm tells of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.check import Check
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.sizing.mig import mig_memory
from agenttts.dispatch.slurm.partitions import Partition, with_parents
from agenttts.dispatch.slurm.survey import Nodes, Survey
from agenttts.dispatch.slurm.tried_request import request_check
from agenttts.errors import cli_command, counted
from agenttts.spec.strict import load_strict

_NOT_FOR_SEARCHES = re.compile(
    r"debug|test|devel|(^|[-_])dev|inter|preempt|scaveng|urgent|express|viz|visual|transfer|maint",
    re.IGNORECASE,
)
"""Names of partitions that are probably for other work. Others are preferred."""
_TRIAL_MINUTES = 4 * 60
_CONTROLLER_MINUTES = 2 * 24 * 60
_MEMORY_SHARE = 0.95
_MOST_CPUS = 8
_MOST_RUNNING = 8
# `none` is not tried: sbatch would accept the request, but where Slurm hands out GPUs, the job
# would get no GPU.
_FORMS = ("gpus-per-node", "gres", "gpus")
_NO_MEMORY = ["  # no mem: sbatch refuses a request with it and accepts one without"]
_SHOWN = 8
# Nominal memory in GB by type of GPU. If a type is sold in several sizes, Slurm's name does not
# tell which one it is. Source: the data sheets of NVIDIA.
_MEMORY_GB = {
    "a10": (24,),
    "a10g": (24,),
    "a100": (40, 80),
    "a30": (24,),
    "a40": (48,),
    "a6000": (48,),
    "b200": (180,),
    "gh200": (96, 144),
    "h100": (80,),
    "h200": (141,),
    "l4": (24,),
    "l40": (48,),
    "l40s": (48,),
    "p100": (16,),
    "t4": (16,),
    "v100": (16, 32),
}
# The memory of the host's processor, which NVML adds to the name of a GH200 ("GH200 480GB").
_HOST_GB = (120, 240, 480)
_IMAGES = (Path("agenttts.sif"), Path.home() / "agenttts.sif")

Try = Callable[[str, Profile, JobResources, int], Check]


@dataclass(frozen=True)
class Section:
    """A section of the profile: the partition that was chosen, and why."""

    partition: Partition | None
    why: str
    account: str | None = None


def slurm_profile(name: str, found: Survey, attempt: Try = request_check) -> tuple[str, list[str]]:
    """Return the text of a profile with comments, and what the user should check.

    Args:
        name: The profile's name.
        found: What Slurm tells.
        attempt: Tries a request (`agenttts.dispatch.slurm.tried_request.request_check`).
    """
    gpu_nodes = _gpu_nodes(found)
    trial = _trial_section(found, gpu_nodes)
    nodes = _nodes_of(trial, gpu_nodes or found.nodes)
    controller = _controller_section(found, trial)
    gpus = nodes.gpus if nodes is not None else 0

    def tried(form: str, bare: frozenset[str]) -> _Tried:
        text = _text(name, found, controller, trial, nodes, form, bare, [])
        profile = load_strict(Profile, text, "the drafted profile")
        return _Tried(
            form,
            bare,
            attempt("controller", profile, profile.controller, 0),
            attempt("trial", profile, profile.trial, gpus),
        )

    forms = _FORMS if gpus else _FORMS[:1]
    best = _best_form(forms, lambda form: tried(form, frozenset()))
    if best.refused:  # some clusters refuse every request that names memory
        bare = _best_form(forms, lambda form: tried(form, best.refused))
        best = max(best, bare, key=_Tried.rank)  # the first of equals
    checks = (best.controller, best.trial)
    remarks = [check.detail for check in checks]
    to_check = [f"{check.what}: {check.detail}" for check in checks if check.ok is False]
    to_check += [
        f"{what}: sbatch refuses the request with memory and accepts it without; check that the "
        "cluster's default is enough"
        for what in sorted(best.bare - best.refused)
    ]
    if _where(controller.partition, trial.partition):
        to_check.append(
            "the controller is drafted as a process of this host (controller.where: here), because "
            "jobs cannot submit trials; ask whether long processes are allowed here"
        )
    to_check += _closed_notes(found, controller, trial)
    to_check += _whole_node_notes(found, controller, trial, nodes)
    to_check += list(found.problems)
    if not gpu_nodes:
        to_check.append(
            "sinfo shows no GPUs in any partition; if nodes have some that Slurm does not hand "
            "out, set trial.partition, gpu_request: none, gpus_per_node and gpu_memory_gb in the "
            "profile"
        )
    elif _least_memory(found, nodes)[0] is None:
        to_check.append(
            "gpu_memory_gb is not known; set it in the profile, so that models are sized"
        )
    if nodes is not None and nodes.gpus and not nodes.gpu_type and _other_types(found, nodes):
        to_check.append(
            f"most GPUs of the partition {nodes.partition} have no type, and jobs may get one of "
            f"another type: {', '.join(_other_types(found, nodes))}; choose nodes with constraint "
            "or nodelist in the profile"
        )
    text = _text(name, found, controller, trial, nodes, best.form, best.bare, remarks)
    return text, to_check


@dataclass(frozen=True)
class _Tried:
    """A draft that Slurm was asked about.

    ``bare`` are the sections that name no memory.
    """

    form: str
    bare: frozenset[str]
    controller: Check
    trial: Check

    @property
    def refused(self) -> frozenset[str]:
        checks = {"controller": self.controller, "trial": self.trial}
        return frozenset(what for what, check in checks.items() if check.ok is False)

    def rank(self) -> tuple[bool, bool, bool]:
        return (self.trial.ok is True, self.trial.ok is None, self.controller.ok is not False)


def _best_form(forms: Sequence[str], attempt: Callable[[str], _Tried]) -> _Tried:
    """Return the draft with the first form of a GPU request that Slurm accepts.

    If Slurm accepts none, the best draft is returned.
    """
    drafts: list[_Tried] = []
    for form in forms:
        drafts.append(attempt(form))
        if drafts[-1].trial.ok:
            break
    return max(drafts, key=_Tried.rank)


def _gpu_nodes(found: Survey) -> tuple[Nodes, ...]:
    return tuple(nodes for nodes in found.nodes if nodes.gpus)


def _trial_section(found: Survey, gpu_nodes: Sequence[Nodes]) -> Section:
    """Choose the partition of trials: one with GPUs, if possible one that is open.

    Of several, it is the one with the most GPUs, not counting nodes that are down. Whole GPUs go
    before MIG devices.
    """
    if not gpu_nodes:
        chosen = _best(found, list(found.partitions.values()), lambda p: (0,))
        return Section(chosen, "no partition shows GPUs", _account(found, chosen))

    def size(partition: Partition) -> int:
        return sum(n.gpus * n.count for n in gpu_nodes if n.partition == partition.name)

    def gpus(partition: Partition) -> str:
        return counted(size(partition), "GPU")

    def fit(partition: Partition) -> tuple[int, ...]:
        mine = [n for n in gpu_nodes if n.partition == partition.name]
        whole = [n for n in mine if mig_memory(n.gpu_type) is None]
        up = sum(n.gpus * n.usable for n in whole or mine)
        return (up > 0, bool(whole), up, size(partition))

    offers = [p for p in found.partitions.values() if size(p)]
    chosen = _best(found, offers, fit)
    rest = sorted((p for p in offers if p != chosen), key=size, reverse=True)
    kinds = {p.name: ", whole nodes" if _gives_whole_nodes(found, p) else "" for p in rest}
    others = ", ".join(f"{p.name} ({gpus(p)}{kinds[p.name]})" for p in rest[:_SHOWN])
    why = gpus(chosen) if chosen else "GPUs"
    return Section(chosen, f"{why}; others: {others or 'none'}", _account(found, chosen))


def _controller_section(found: Survey, trial: Section) -> Section:
    """Choose the partition of the controller: without GPUs, if one is open.

    Shared nodes go before whole ones, then long time limits before short ones.
    """
    with_gpus = {nodes.partition for nodes in found.nodes if nodes.gpus}
    plain = [p for p in found.partitions.values() if p.name not in with_gpus]

    def fit(partition: Partition) -> tuple[int, ...]:
        limit = partition.max_minutes
        minutes = _CONTROLLER_MINUTES if limit is None else min(limit, _CONTROLLER_MINUTES)
        return (not _all_out(found, partition), not _gives_whole_nodes(found, partition), minutes)

    chosen = _best(found, plain, fit)
    is_open = chosen is not None and _is_open(found, chosen)
    others = trial.partition is not None and _is_open(found, trial.partition)
    if chosen is None or (others and not is_open):
        return Section(trial.partition, "no partition without GPUs is open", trial.account)
    return Section(chosen, "has no GPUs; the controller needs none", _account(found, chosen))


def _best(
    found: Survey, offers: Sequence[Partition], size: Callable[[Partition], tuple[int, ...]]
) -> Partition | None:
    def rank(partition: Partition) -> tuple[bool, bool, bool, tuple[int, ...], bool]:
        return (
            _is_open(found, partition),
            not partition.hidden,
            _NOT_FOR_SEARCHES.search(partition.name) is None,
            size(partition),
            partition.default,
        )

    return max(offers, key=rank) if offers else None


def _all_out(found: Survey, partition: Partition) -> bool:
    """Return whether all nodes of a partition are down, drained or the like."""
    nodes = [n for n in found.nodes if n.partition == partition.name]
    return bool(nodes) and not any(n.usable for n in nodes)


def _gives_whole_nodes(found: Survey, partition: Partition) -> bool:
    return partition.whole_nodes or found.select_type == "select/linear"


def _whole_node_notes(
    found: Survey, controller: Section, trial: Section, nodes: Nodes | None
) -> list[str]:
    """Return notes for the user if jobs get whole nodes that they do not need."""
    notes = []
    if (
        controller.partition is not None
        and _gives_whole_nodes(found, controller.partition)
        and not _where(controller.partition, trial.partition)
    ):
        notes.append(
            f"the partition {controller.partition.name} gives the controller a whole node; with "
            "controller.where: here it is a process of this host"
        )
    if (
        trial.partition is not None
        and _gives_whole_nodes(found, trial.partition)
        and nodes is not None
        and nodes.gpus > 1
    ):
        notes.append(
            f"the partition {trial.partition.name} gives each job a whole node: a job may be "
            f"charged all {nodes.gpus} GPUs, but the run's report counts only those that its "
            f"models use; set gpus: {nodes.gpus} for the models, or "
            "choose a partition of shared nodes"
        )
    return notes


def _closed_notes(found: Survey, controller: Section, trial: Section) -> list[str]:
    """Return notes for the user if a drafted partition may take no jobs of the user."""
    drafted = {"trial": trial.partition}
    if not _where(controller.partition, trial.partition):
        drafted["controller"] = controller.partition
    notes = []
    for partition in {p.name: p for p in drafted.values() if p is not None}.values():
        keys = " and ".join(f"{what}.partition" for what, p in drafted.items() if p == partition)
        name, why = partition.name, _why_closed(found, partition)
        if why:
            notes.append(f"{keys}: no open partition was found; {name} {why}")
        if _all_out(found, partition):
            notes.append(
                f"{keys}: all nodes of {name} are down or drained, and jobs would wait "
                "('sinfo -R' says why)"
            )
    return notes


def _is_open(found: Survey, partition: Partition) -> bool:
    """Return whether the user's jobs may run in a partition, as far as it is known."""
    return not _why_closed(found, partition)


def _why_closed(found: Survey, partition: Partition) -> str:
    """Return why the user's jobs may not run in a partition; '' if no reason is known."""
    if partition.state != "UP":
        return f"is {partition.state}"
    if partition.max_nodes == 0:
        return "runs no jobs (MaxNodes=0)"
    if partition.min_nodes > 1:
        return f"takes only jobs of {partition.min_nodes} or more nodes (MinNodes)"
    if partition.root_only:
        return "takes only jobs of root (RootOnly)"
    if not (found.host is None or partition.takes_jobs_from(found.host)):
        return f"takes only jobs that are submitted on {partition.submit_nodes} (AllocNodes)"
    if partition.reserved:
        return "takes only jobs with a reservation (ReqResv)"
    groups = partition.groups is None or found.groups is None or partition.groups & found.groups
    if not groups:
        return "takes no jobs of your groups (AllowGroups)"
    accounts = bool(_accounts(found, partition)) if found.accounts else partition.accounts is None
    if not accounts:
        return "takes no jobs of your accounts (AllowAccounts, DenyAccounts)"
    qos = bool(_qos(found, partition)) if found.qos else partition.qos is None
    return "" if qos else "takes no jobs of your QOS (AllowQos, DenyQos)"


def _accounts(found: Survey, partition: Partition) -> list[str]:
    """Return the user's accounts that a partition takes, the default one first."""
    names = sorted(found.accounts, key=lambda name: name != found.default_account)
    if partition.accounts is not None:
        return [
            name
            for name in names
            if not partition.accounts.isdisjoint(with_parents(name.lower(), found.parents))
        ]
    return [name for name in names if name.lower() not in partition.denied_accounts]


def _qos(found: Survey, partition: Partition) -> list[str]:
    """Return the user's QOS that a partition takes."""
    if partition.qos is not None:
        return [name for name in found.qos if name.lower() in partition.qos]
    return [name for name in found.qos if name.lower() not in partition.denied_qos]


def _account(found: Survey, partition: Partition | None) -> str | None:
    allowed = _accounts(found, partition) if partition is not None else list(found.accounts)
    return next(iter(allowed or found.accounts), None)


def _nodes_of(section: Section, nodes: Sequence[Nodes]) -> Nodes | None:
    """Return the kind of nodes with the most GPUs in all, in a section's partition.

    Without GPUs it is the most frequent kind. Whole GPUs go before MIG devices, and nodes that are
    down count only if all nodes are down.
    """
    if section.partition is None:
        return None
    name = section.partition.name
    offers = [n for n in nodes if n.partition == name]
    return max(
        offers,
        key=lambda n: (
            n.usable > 0,
            mig_memory(n.gpu_type) is None,
            n.gpus * (n.usable or n.count) or n.usable or n.count,
        ),
        default=None,
    )


def _text(
    name: str,
    found: Survey,
    controller: Section,
    trial: Section,
    nodes: Nodes | None,
    form: str,
    bare: frozenset[str],
    remarks: Sequence[str],
) -> str:
    gpus = nodes.gpus if nodes is not None else 0
    lines = [
        f"# The profile {name}, as 'agenttts-hpc init' drafted it from Slurm's answers on a login "
        "node.",
        f"# Check it: {cli_command('doctor', '--cluster', name, '--submit')}. All keys: "
        "slurm/README.md.",
        *(f"# sbatch --test-only: {remark}" for remark in dict.fromkeys(map(_one_line, remarks))),
        "kind: slurm",
        "",
        "controller:              # the light job that runs the search",
        *_where(controller.partition, trial.partition),
        *_placed(found, controller),
        f"  time: {_time(_limited(controller, _CONTROLLER_MINUTES))}"
        "       # near the limit it requeues itself and goes on",
        *(_NO_MEMORY if "controller" in bare else ["  mem: 2G"]),
        "",
        "trial:                   # a job that evaluates trials",
        *_placed(found, trial),
        f"  time: {_time(_limited(trial, _TRIAL_MINUTES))}         # "
        f"{_limit_of(trial)}; shorter jobs may start sooner",
        *_size_lines(found, nodes, form, "trial" in bare),
        "",
        f"gpus_per_node: {gpus}         # sinfo: {_described(nodes)}",
        *_memory_lines(found, nodes),
        f"max_running: {_running(found, trial, gpus)}           # jobs at a time; check what your "
        "account may use",
        "",
        *_container_lines(),
    ]
    return "\n".join(lines) + "\n"


def _where(controller: Partition | None, trial: Partition | None) -> list[str]:
    """Return the line for a controller whose nodes may not submit trials."""
    nodes = controller.node_list if controller is not None else ""
    if trial is None or trial.takes_jobs_from(nodes):
        return []
    return [
        f"  where: here            # {trial.name} accepts only jobs that are submitted on "
        f"{trial.submit_nodes} (AllocNodes); the other keys are not used"
    ]


def _placed(found: Survey, section: Section) -> list[str]:
    partition = section.partition
    if partition is None:
        return ["  # partition: NAME      # scontrol shows none; set it"]
    lines = [f"  partition: {_quoted(partition.name)}   # {section.why}"]
    if _gives_whole_nodes(found, partition):
        lines.append("  # each job gets a whole node")
    if partition.hidden:
        lines.append("  # a hidden partition: sinfo --all shows it")
    if not _is_open(found, partition):
        lines.append(
            f"  # it may not take your jobs, as it {_why_closed(found, partition)}: "
            f"scontrol show partition {partition.name}"
        )
    if section.account is not None:
        others = [name for name in found.accounts if name != section.account]
        more = f"; others: {', '.join(others[:_SHOWN])}" if others else ""
        which = "your default" if section.account == found.default_account else "sacctmgr"
        lines.append(f"  account: {_quoted(section.account)}   # {which}{more}")
    allowed = _qos(found, partition)
    if partition.qos is not None and allowed:
        more = f"; others: {', '.join(allowed[1:_SHOWN])}" if allowed[1:] else ""
        lines.append(f"  qos: {_quoted(allowed[0])}   # the partition takes only some QOS{more}")
    elif len(found.qos) > 1:
        lines.append(f"  # qos: NAME            # sacctmgr: {', '.join(found.qos[:_SHOWN])}")
    return lines


def _size_lines(found: Survey, nodes: Nodes | None, form: str, bare: bool) -> list[str]:
    if nodes is None:
        return ["  cpus: 1"]
    share = max(1, nodes.gpus)
    cpus = max(1, min(_MOST_CPUS, nodes.cpus // share))
    what = "per GPU; " if nodes.gpus else ""
    lines = [f"  cpus: {cpus}                # {what}a node has {nodes.cpus}"]
    memory = int(nodes.memory_mb * _MEMORY_SHARE / share / 1024)
    if bare:
        lines += _NO_MEMORY
    elif memory < 1:
        lines.append("  # mem_per_gpu: 64G     # sinfo does not tell the memory of a node")
    elif nodes.gpus:
        lines.append(
            f"  mem_per_gpu: {memory}G       # its share of the {nodes.memory_mb} MB of a node; "
            "needed: 1.2 times the weights"
        )
    else:
        lines.append(f"  mem: {min(memory, 64)}G")
    if not nodes.gpus:
        return [*lines, "  # gpu_request: none  # if nodes have GPUs that sinfo does not show"]
    why = "the first that was not refused" if form != _FORMS[0] else "the default"
    lines.append(f"  gpu_request: {form}   # {why}; or {', '.join(f for f in _FORMS if f != form)}")
    others = ", ".join(_other_types(found, nodes))
    if others and nodes.gpu_type:
        lines.append(f"  gpu_type: {_quoted(nodes.gpu_type)}   # the partition also has: {others}")
    elif others:
        lines.append(
            f"  # gpu_type: NAME     # most GPUs have no type; the partition also has: {others}"
        )
    elif nodes.gpu_type:
        lines.append(f"  # gpu_type: {nodes.gpu_type}   # the only type of the partition")
    if nodes.features:
        lines.append(f"  # constraint: NAME     # features of the nodes: {nodes.features[:80]}")
    return lines


def _other_types(found: Survey, nodes: Nodes) -> list[str]:
    """Return the other types of GPU that a request without a type may get."""
    types = {
        kind
        for n in found.nodes
        if n.partition == nodes.partition and n.gpus
        for kind in (n.gpu_type, *n.other_types)
    }
    return sorted(kind or "(no type)" for kind in types if kind != nodes.gpu_type)


def _memory_lines(found: Survey, nodes: Nodes | None) -> list[str]:
    if nodes is None or not nodes.gpus:
        return []
    memory, why = _least_memory(found, nodes)
    if memory is None:
        return [f"# gpu_memory_gb: 80      # {why}; if set, models get GPUs by their size"]
    return [f"gpu_memory_gb: {memory}        # {why}"]


def _least_memory(found: Survey, nodes: Nodes | None) -> tuple[int | None, str]:
    """Return the least memory in GB of GPUs that a request may get, and its source.

    GPUs of one type may differ by their nodes' features, e.g. A100 with 40 and with 80 GB.
    """
    memory, why = _memory_gb(nodes)
    if nodes is None or memory is None:
        return memory, why
    alike = [
        other
        for other in found.nodes
        if other.partition == nodes.partition and other.gpus and other.gpu_type == nodes.gpu_type
    ]
    sizes = {size for other in alike if (size := _memory_gb(other)[0]) is not None}
    if len(sizes) < 2:
        return memory, why
    both = " and ".join(map(str, sorted(sizes)))
    return (
        min(sizes),
        f"the partition has {nodes.gpu_type} with {both} GB, by the nodes' features; "
        "trial.constraint can choose the larger ones",
    )


def _memory_gb(nodes: Nodes | None) -> tuple[int | None, str]:
    """Return the memory of a GPU in GB, and where it is from."""
    if nodes is None:
        return None, "no GPUs"
    device = mig_memory(nodes.gpu_type)
    if device is not None:
        return device, f"of one MIG device {nodes.gpu_type}, by its name"
    kind = nodes.gpu_type.lower()
    known = next((_MEMORY_GB[w] for w in re.split(r"[^a-z0-9]+", kind) if w in _MEMORY_GB), None)
    if known is None:  # the features are not read: they may tell the node's memory
        said = [int(text) for text in re.findall(r"(?<![a-z0-9])(\d{2,3})gb?(?![a-z0-9])", kind)]
    else:
        said = [size for size in _sizes_of_type(kind, known) if size not in _HOST_GB]
        said = said or [size for size in _in_gb(nodes.features.lower()) if size in known]
    if said:
        return said[0], f"from the name of the GPUs or the nodes' features ({nodes.gpu_type})"
    if known is None:
        called = f"calls the GPUs '{nodes.gpu_type}'" if kind else "gives the GPUs no type"
        return None, f"Slurm {called}, which does not tell their memory"
    if len(known) > 1:
        both = " and ".join(map(str, known))
        return known[0], f"{nodes.gpu_type} is sold with {both} GB: check 'nvidia-smi' on a node"
    return known[0], f"of one {nodes.gpu_type}, by its data sheet"


def _in_gb(text: str) -> list[int]:
    """Return the numbers of GB in a text, as in ``gpu80g`` or ``a100-80gb``."""
    return [int(number) for number in re.findall(r"(\d{2,3})gb?(?![a-z0-9])", text)]


def _sizes_of_type(kind: str, known: Sequence[int]) -> list[int]:
    """Return the memory in GB that the name of a GPU's type may give.

    Some sites order sizes that no data sheet has (A100 with 64 GB). A number without a unit, as in
    ``a100_80``, counts if it is a known size.
    """
    bare = [int(word) for word in re.split(r"[^a-z0-9]+", kind) if word.isdecimal()]
    near = range(min(known) // 2, 2 * max(known))
    return [n for n in _in_gb(kind) if n in near] + [n for n in bare if n in known]


def _container_lines() -> list[str]:
    runtime = next((name for name in ("apptainer", "singularity") if shutil.which(name)), None)
    image = next((str(path.absolute()) for path in _IMAGES if path.is_file()), None)
    lines = ["setup: []                # shell lines before each job"]
    if runtime is None:
        lines = [
            "# No apptainer or singularity is on PATH; perhaps setup: [module load apptainer]",
            "setup: []                # shell lines before each job",
        ]
    return [
        *lines,
        "# login_shell: true      # where 'module' is defined only in login shells",
        "container:",
        f"  runtime: {runtime or 'apptainer'}"
        f"     # {'on PATH here' if runtime else 'the usual one'}; none: trials run on this Python",
        f"  image: {_quoted(image or '$HOME/agenttts.sif')}   # "
        + (
            "found"
            if image
            else "build it in a checkout: "
            "agenttts-hpc image build Apptainer.def --output ~/agenttts.sif"
        ),
        "  nv: true",
    ]


def _running(found: Survey, trial: Section, gpus: int) -> int:
    if trial.partition is None or not gpus:
        return _MOST_RUNNING
    name = trial.partition.name
    total = sum(n.gpus * n.count for n in found.nodes if n.partition == name)
    return max(1, min(_MOST_RUNNING, total))


def _limited(section: Section, minutes: int) -> int:
    limit = section.partition.max_minutes if section.partition is not None else None
    return minutes if limit is None else min(limit, minutes)


def _limit_of(section: Section) -> str:
    limit = section.partition.max_minutes if section.partition is not None else None
    return "the partition has no limit" if limit is None else f"the limit is {_time(limit)}"


def _described(nodes: Nodes | None) -> str:
    if nodes is None:
        return "no nodes"
    gpus = counted(nodes.gpus, f"{nodes.gpu_type} GPU" if nodes.gpu_type else "GPU")
    out = f" ({nodes.out} down or drained)" if nodes.out else ""
    return f"{counted(nodes.count, 'node')}{out} with {gpus}, {counted(nodes.cpus, 'CPU')}"


def _time(minutes: int) -> str:
    days, rest = divmod(minutes, 24 * 60)
    text = f"{rest // 60:02}:{rest % 60:02}:00"
    return f"{days}-{text}" if days else f'"{text}"'


def _quoted(text: str) -> str:
    """Return a text as a value in YAML.

    In the text fields of a profile every scalar is read as text, except ``null``, so it gets
    quotes.
    """
    plain = re.fullmatch(r"[A-Za-z_/$][\w./$,-]*", text) and text.lower() != "null"
    return text if plain else f"'{text}'"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
