"""Cluster profiles: ``slurm/NAME.yaml``, written once for each cluster."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from agenttts.dispatch.attempts import MAX_PREEMPTIONS
from agenttts.dispatch.slurm import node_lists
from agenttts.dispatch.slurm import sbatch_options as sbatch_syntax
from agenttts.dispatch.slurm import syntax as slurm_syntax
from agenttts.dispatch.slurm.syntax import minutes
from agenttts.errors import KeyPath, UserError, valid_names
from agenttts.spec.load import read_text
from agenttts.spec.model import JobSpec
from agenttts.spec.paths import check_characters, expanded, is_there
from agenttts.spec.section import Section
from agenttts.spec.strict import load_strict, load_with_source

log = logging.getLogger(__name__)

LINGER_SECONDS = 600.0
"""Default of `Profile.linger_seconds` with ``trials_per_job: auto``."""
_MOST_RUNNING = 10_000
"""Bound of `Profile.max_running`: plans and forecasts have an object for each job."""
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# NAME=VALUE and NAME:-VALUE anywhere in a line of a shell or of options. The pattern does not
# consume the value, because the value may hold another assignment, as in A=${B:-x}.
_ASSIGNED = re.compile(
    r"""(?<![\w$.-])(?P<name>[A-Za-z_]\w*)(?:[+:]?=(?!=)|:-)"""
    r"""(?=\$?'(?P<literal>[^']+)'|"(?P<quoted>[^"]+)"|(?P<bare>[^\s;&|)}'",]+))"""
)
# --OPTION VALUE and --OPTION=VALUE of a secret. `--key` alone is not matched, because it has other
# meanings (sort, curl). A path as the value is not matched, because it is not the secret itself.
_OPTION = re.compile(
    r"""(?<![\w$.-])--(?P<name>(?:[\w-]*[_-])?(?:(?:api|access|auth|secret)[_-]?key|token|secret|password))"""
    r"""(?:=|\s+)(?!['"]?[-/~.<|&;>])"""
    r"""(?=\$?'(?P<literal>[^']+)'|"(?P<quoted>[^"]+)"|(?P<bare>[^\s;&|)}'"]+))""",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\$\w+|\$\{[^}]*\}|\$\(.*\)|`.*`")


class JobResources(Section):
    """What one kind of job requests from Slurm.

    A field without a value is left to the cluster.
    """

    partition: str | None = None
    """The partition, or several partitions with commas between them."""
    account: str | None = None
    """The account that is charged."""
    qos: str | None = None
    """The quality of service."""
    time: str = "04:00:00"
    """Time limit in Slurm's format.

    Valid: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS.
    """
    mem: str | None = None
    """Memory of a job, e.g. ``32G``.

    If ``mem_per_gpu`` is set, jobs with GPUs request ``mem_per_gpu`` instead.
    """
    mem_per_gpu: str | None = None
    """Memory for each GPU of a job, e.g. ``64G``; a job without GPUs requests ``mem``."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPUs of the job. If a trial takes several GPUs, this is the number of CPUs per GPU."""
    constraint: str | None = None
    """Features that nodes must have."""
    reservation: str | None = None
    """The reservation to use."""
    exclude: str | None = None
    """Nodes that jobs must not run on.

    A value with a slash is the path of a file with the nodes, which is read at launch.
    """
    nodelist: str | None = None
    """The nodes that jobs may run on, or a file with these nodes. Each job takes one node."""
    wckey: str | None = None
    """The workload key, for clusters that require one."""
    gpu_request: Literal["gpus-per-node", "gres", "gpus", "none"] = "gpus-per-node"
    """The form of a GPU request.

    The forms are ``--gpus-per-node=N``, ``--gres=gpu:N`` and ``--gpus=N``. With ``none``, a job
    requests no GPUs. This is for clusters where Slurm does not hand out the GPUs of the nodes.
    Set the option ``exclusive`` in ``sbatch`` then, or use a partition of whole nodes.
    """
    gpu_type: str | None = None
    """The one type of GPUs to request, e.g. ``a100`` for ``--gpus-per-node=a100:N``."""
    requeue: bool = True
    """Whether Slurm may requeue a job, e.g. after a preemption or a loss of its node.

    If False, the controller submits another job.
    """
    sbatch: dict[str, str] = {}
    """Other sbatch options, by their long names without dashes.

    Example: ``{mail-type: FAIL, exclusive: true}``.
    """

    def memory_text(self, gpus: int) -> str | None:
        """Return the memory of a job with ``gpus`` GPUs, in Slurm's format.

        With GPUs and ``mem_per_gpu``, the memory is ``mem_per_gpu`` times ``gpus``, else ``mem``.
        None: the profile does not say.
        """
        if gpus and self.mem_per_gpu:
            return slurm_syntax.memory_times(self.mem_per_gpu, gpus)
        return self.mem

    def memory_for(self, gpus: int) -> tuple[str, int] | None:
        """Return the memory of a job with ``gpus`` GPUs, as text and in bytes.

        None: the profile does not say, or the job requests all memory of a node.
        """
        text = self.memory_text(gpus)
        size = slurm_syntax.memory_bytes(text) if text else None
        return None if text is None or size is None else (text, size)

    @field_validator("time")
    @classmethod
    def _check_time(cls, value: str) -> str:
        slurm_syntax.minutes(value)
        return value

    @field_validator("mem", "mem_per_gpu")
    @classmethod
    def _check_memory(cls, value: str | None) -> str | None:
        return None if value is None else slurm_syntax.memory(value)

    @field_validator("gpu_type")
    @classmethod
    def _check_gpu_type(cls, value: str | None) -> str | None:
        return None if value is None else slurm_syntax.gpu_type(value)

    @field_validator("partition", "account", "qos", "reservation", "wckey")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        return None if value is None else slurm_syntax.name(value)

    @field_validator("exclude", "nodelist")
    @classmethod
    def _check_nodes(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not node_lists.is_file(value):
            node_lists.node_names(value)
        return slurm_syntax.nodes(value)

    @field_validator("constraint")
    @classmethod
    def _check_constraint(cls, value: str | None) -> str | None:
        return None if value is None else slurm_syntax.constraint(value)

    @field_validator("sbatch", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Turn numbers and truth values of a profile made in Python into text."""
        if not isinstance(value, dict):
            return value
        return {k: str(v).lower() if isinstance(v, (int, float)) else v for k, v in value.items()}

    @field_validator("sbatch")
    @classmethod
    def _check_sbatch(cls, value: dict[str, str]) -> dict[str, str]:
        for part in value.get("export", "").split(","):
            name, separator, _ = part.partition("=")
            if separator and _looks_secret(name):
                raise ValueError(
                    f"'export' gives {name.strip()} a value, and its name looks like that of a "
                    f"secret; profiles and runs are plain files, so write only the name "
                    f"{name.strip()} in 'export', and set the variable in the shell that launches"
                )
        return sbatch_syntax.check_options(value)


class ControllerResources(JobResources):
    """Where the controller runs, and what its job requests from Slurm."""

    where: Literal["job", "here"] = "job"
    """Where the controller runs: in a job, or as a process of the host that launches.

    ``here`` is for clusters whose compute nodes cannot submit jobs, or that have no queue for a
    light job of several days. With ``here``, the other keys of this section are checked but not
    used.
    """


class ContainerDefaults(Section):
    """The container runtime of the cluster, and what every trial's container gets."""

    runtime: Literal["apptainer", "singularity", "none"] = "apptainer"
    """``none``: trials run with the Python of the launch, which all nodes must see."""
    image: str | None = None
    """The image of the trials."""
    binds: list[str] = []
    """``HOST[:CONTAINER[:ro]]`` binds of every trial."""
    nv: bool = True
    """Pass the NVIDIA driver in (``--nv``)."""
    options: list[str] = []
    """Further options of ``exec``, e.g. ``["--fakeroot"]``."""

    @field_validator("options")
    @classmethod
    def _check_options(cls, value: list[str]) -> list[str]:
        _check_no_secrets([*value, " ".join(value)])  # an option's value may be the next item
        return value


class Profile(Section):
    """Everything that differs from one cluster to the next."""

    kind: Literal["local", "slurm", "in_process"]
    """The scheduler.

    - ``slurm``: jobs of a cluster
    - ``local``: processes of this machine
    - ``in_process``: threads of the launching process, for debugging and notebooks
      (`agenttts.dispatch.in_process`)
    """
    controller: ControllerResources = Field(
        default_factory=lambda: ControllerResources(time="2-00:00:00", mem="2G")
    )
    """The controller's job."""
    trial: JobResources = Field(default_factory=JobResources)
    """The jobs of trials."""
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of one GPU in GB (1e9 bytes); the number of GPUs of a model is computed from it."""
    gpus_per_node: Annotated[int, Field(ge=0, le=1024)] = 8
    """The most GPUs of one trial. Without Slurm, this is the number of GPUs of this machine."""
    max_running: Annotated[int, Field(ge=1, le=_MOST_RUNNING)] = 8
    """The most jobs of trials that run at a time; a job may evaluate several trials.

    With ``linger_seconds: 0``, jobs are submitted as one array for each number of GPUs, and the
    limit holds for each array. So several arrays together may run more jobs than this.
    """
    trials_per_job: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """The most trials that one job evaluates side by side.

    A job loads a model once in a stage for all its trials, and draws their common samples once.
    With ``auto``, the controller decides by the expected costs (`agenttts.loop.assignment`).
    """
    linger_seconds: Annotated[float, Field(ge=0)] | None = None
    """Seconds without a keep-alive sign after which a job without trials ends.

    Until then the job waits for further trials, with its engines loaded. The controller may end it
    earlier, to save GPU time. 0: a job ends with its trials. None: 600 with ``trials_per_job:
    auto``, else 0.
    """
    throttle: Annotated[int, Field(ge=1, le=_MOST_RUNNING)] | None = Field(
        default=None, exclude=True
    )
    """The old name of ``max_running``; still read, with a warning."""
    max_pending: Annotated[int, Field(ge=1)] = 1000
    """The most jobs of trials in the queue, waiting and running.

    The cluster's limits on arrays and its limits on submitted jobs hold as well.
    """
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """The most starts of a trial that fails by faults of the machine (INFRA_FAILED).

    A fault of the trial itself is final at once. If other trials of the job may have caused a fault
    of either kind, the trial is tried again in a job of its own, where its starts are counted anew.
    Preemptions and time limits are counted by ``max_preemptions`` and ``max_timeouts``.
    """
    max_timeouts: Annotated[int, Field(ge=0)] = 1
    """How often a trial that reached its time limit is continued from its stored samples."""
    grace_seconds: Annotated[int, Field(ge=5)] = 60
    """Seconds before the time limit at which a job stops its trials, to store samples."""
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between two looks of the controller at the queue and the files of trials.

    While a served model starts, the controller looks at least every 2 s. While it waits for a
    worker's answer, it looks for the answer at least every second, but at the queue no more often
    than usual.
    """
    setup: list[str] = []
    """Shell lines that run on the node before the job, e.g. ``module load apptainer``.

    If a line fails, the job ends, and the error names the line. No line may hold a secret. A line
    may read a secret from a file: ``export HF_TOKEN=$(cat FILE)``.
    """
    login_shell: bool = False
    """Whether batch files run in a login shell (``#!/bin/bash -l``).

    Some clusters define ``module`` only in login shells.
    """
    never_patience_minutes: Annotated[float, Field(ge=0)] = 30.0
    """Minutes after which a job is cancelled if it cannot start without help.

    Examples are a held job, or a job that exceeds a limit. The cancelled job counts as an attempt.
    """
    env: dict[str, str] = {}
    """Environment of the trials (inside the container)."""
    cache: str | None = None
    """Directory for what engines compile at their start; all nodes must see it.

    None: a folder ``cache`` beside the samples; without a container, the engines' usual places,
    such as ``~/.cache/vllm``. Variables of ``env`` that name such places (VLLM_CACHE_ROOT) win.
    """
    container: ContainerDefaults | None = None
    """The containers of trials.

    None: trials run on the host's Python, unless the spec names an image or binds.
    """
    start_minutes: Annotated[float, Field(gt=0)] = 30.0
    """Minutes that the start of one engine may take before the attempt is ended.

    The first time that this limit or ``stall_minutes`` ends an attempt of a trial, the trial is
    tried again (INFRA_FAILED). At the second such end, the trial has failed (TIMEOUT). If the log
    shows a fault of the machine, each such end counts as INFRA_FAILED.
    """
    stall_minutes: Annotated[float, Field(gt=0)] = 30.0
    """Minutes without progress after which an attempt is ended.

    What follows is the same as for ``start_minutes``. Neither limit counts time in which Slurm
    suspends the job.
    `agenttts.dispatch.node.limits` says what counts as progress.
    """
    max_preemptions: Annotated[int, Field(ge=0)] = MAX_PREEMPTIONS
    """How often a trial is started again after a preemption."""
    retry_pauses: list[Annotated[float, Field(ge=0)]] = [0.0, 30.0, 120.0, 600.0]
    """Seconds to wait after a trial's first failure, its second, ...

    The last value also holds for all later failures.
    """
    settle_seconds: Annotated[float, Field(ge=0)] | None = None
    """Seconds that the controller waits for a result to be visible after its job has ended.

    None: 120 on Slurm, else 0.
    """

    @property
    def stays_for(self) -> float:
        """``linger_seconds``, or its default."""
        if self.linger_seconds is not None:
            return self.linger_seconds
        return LINGER_SECONDS if self.trials_per_job == "auto" else 0.0

    @property
    def trial_seconds(self) -> float:
        """Seconds that a trial's job may use: its time limit minus ``grace_seconds``."""
        return minutes(self.trial.time) * 60.0 - self.grace_seconds

    @property
    def in_containers(self) -> bool:
        """Whether the profile runs trials in containers, whatever the spec says."""
        return self.container is not None and self.container.runtime != "none"

    @field_validator("setup")
    @classmethod
    def _check_setup(cls, value: list[str]) -> list[str]:
        for line in value:
            if "\0" in line:
                raise ValueError(f"{line!r} holds a zero byte; valid: shell lines")
        _check_no_secrets(value)
        return value

    @field_validator("env")
    @classmethod
    def _check_env(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _VARIABLE_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a valid name of a variable; valid: letters, digits and _, "
                    "and no digit at the beginning"
                )
            if "\0" in text:
                raise ValueError(f"the value of {name} holds a zero byte; valid: a text")
            _check_not_secret(name)
        return value

    @model_validator(mode="after")
    def _rename_throttle(self) -> Profile:
        if self.throttle is None:
            return self
        if "max_running" in self.model_fields_set:
            raise ValueError(
                "throttle is the old name of max_running, and both are given; remove throttle"
            )
        log.warning(
            "the profile's key throttle is called max_running now; rename it: 'max_running: %d'",
            self.throttle,
        )
        # The model is frozen after validation, and this is still validation.
        self.__dict__.update(max_running=self.throttle, throttle=None)
        self.model_fields_set.add("max_running")
        self.model_fields_set.discard("throttle")
        return self

    @model_validator(mode="after")
    def _grace_within_limit(self) -> Profile:
        # A signal at the very start of a job would kill it, because no handler is installed yet.
        for what in ("controller", "trial"):
            limit = minutes(getattr(self, what).time) * 60
            if self.grace_seconds >= limit:
                raise ValueError(
                    f"grace_seconds ({self.grace_seconds} s) must be less than the time limit of "
                    f"a {what} job ({limit} s); lower grace_seconds or raise {what}.time"
                )
        return self


def _looks_secret(name: str) -> bool:
    """Return whether a variable has the name of a secret, which no file may contain."""
    return bool(re.search(r"(KEY|TOKEN|SECRET|PASSWORD)$", name.strip().upper()))


def _check_not_secret(name: str) -> None:
    """Raise ValueError if a variable may be a secret by its name."""
    if _looks_secret(name):
        raise ValueError(
            f"'{name}' looks like the name of a secret, and profiles and runs are plain "
            "files; remove it here and export it in the shell that launches (for trials in "
            f"containers as APPTAINERENV_{name}); a variable that a model's "
            "api_key_env names is passed on automatically"
        )


def _check_no_secrets(lines: Sequence[str]) -> None:
    """Raise ValueError if shell lines or options hold the value of a secret.

    A reference to a secret is allowed, e.g. ``HF_TOKEN=$(cat ~/.token)`` or ``HF_TOKEN=$OTHER``.
    """
    for line in lines:
        for found in chain(_ASSIGNED.finditer(line), _OPTION.finditer(line)):
            if found["literal"]:  # inside single quotes, $X is expanded only by eval and bash -c
                written = _REFERENCE.sub("", found["literal"])
            else:
                value = found["quoted"] or found["bare"]
                written = "" if "$" in value or "`" in value else value
            if written and found.re is _ASSIGNED:
                _check_not_secret(found["name"])
            elif written:
                raise ValueError(
                    f"'--{found['name']}' has a value, and its name looks like that of a secret; "
                    "profiles and runs are plain files, so let the line read the value from a "
                    f'file or a variable, e.g. --{found["name"]}="$(cat FILE)"'
                )


# Profiles that need no file.
BUILT_IN = {
    "local": "{kind: local, max_running: 1, gpus_per_node: 0, poll_seconds: 0.3}",
    "in_process": "{kind: in_process, max_running: 1, gpus_per_node: 0, poll_seconds: 0.02}",
}


def runs_in_container(spec: JobSpec, profile: Profile) -> bool:
    """Return whether trials of a spec run in a container under a profile.

    The image need not exist. If the profile has a section ``container``, its runtime alone decides.
    If not, trials run in a container if the spec names an image or binds.
    """
    if profile.container is not None:
        return profile.in_containers
    return spec.container.image is not None or bool(spec.container.binds)


def load_profile(cluster: str, folders: Sequence[Path]) -> Profile:
    """Return a profile, given its name or the path of its file.

    The profile NAME is ``slurm/NAME.yaml`` in the first of ``folders`` that has this file.
    ``local`` and ``in_process`` always exist.

    Raises:
        UserError: There is no such profile. The message lists the existing profiles.
    """
    if is_profile_file(cluster):
        path = Path(cluster).expanduser()
        return _read(path)
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / "slurm").glob("*.yaml")):
            found.setdefault(path.stem, path)
    if cluster in found:
        return _read(found[cluster])
    if cluster in BUILT_IN:
        return load_strict(Profile, BUILT_IN[cluster], f"the built-in profile '{cluster}'")
    looked = ", ".join(str(folder / "slurm") for folder in folders)
    raise UserError(
        f"unknown profile '{cluster}'; "
        f"{valid_names(cluster, sorted({*found, *BUILT_IN}))} "
        f"(looked in {looked}; write your own from slurm/template.yaml, or name a file)",
        at=("cluster",),
    )


def is_profile_file(cluster: str) -> bool:
    """Return whether ``cluster`` is the path of a profile, and not a name."""
    return cluster.endswith((".yaml", ".yml")) or "/" in cluster


def profile_name(cluster: str) -> str:
    """Return the name of a profile, or the absolute path of its file."""
    return str(Path(cluster).expanduser().absolute()) if is_profile_file(cluster) else cluster


def frozen_profile(path: Path) -> Profile:
    """Return the profile of a run; its paths are absolute already."""
    return load_strict(Profile, read_text(path, "cluster profile"), str(path))


def _read(path: Path) -> Profile:
    """Return the profile in a file.

    Its paths are made absolute. The path of a node file is replaced by the nodes in the file.
    """
    profile, source = load_with_source(Profile, read_text(path, "cluster profile"), str(path))
    folder = path.absolute().parent
    check_characters(str(folder), "cluster: the profile's folder")
    with source.located():
        container = profile.container
        if container is not None:
            image = container.image
            changes = {
                "image": _anchored(image, folder, ("container", "image")) if image else None,
                "binds": [
                    _anchored_bind(bind, folder, ("container", "binds", number))
                    for number, bind in enumerate(container.binds)
                ],
            }
            container = container.model_copy(update=changes)
        cache = _anchored(profile.cache, folder, ("cache",)) if profile.cache else None
        sections = {
            what: _with_nodes(getattr(profile, what), folder, what)
            for what in ("controller", "trial")
        }
    return profile.model_copy(update={"container": container, "cache": cache, **sections})


def _anchored(value: str, folder: Path, key: KeyPath) -> str:
    """Return a path of a profile as an absolute path, with variables replaced.

    A relative path is looked for in the profile's folder, then in the current directory. If it is
    in neither, it counts as a path in the profile's folder.
    """
    text = (
        value if is_there(Path(value)) else expanded(value, key)
    )  # a file's name may contain a dollar sign
    if text.startswith("/"):
        return text
    places = [Path(os.path.normpath(base / text)) for base in (folder, Path.cwd())]
    return str(next((place for place in places if is_there(place)), places[0]))


def _anchored_bind(bind: str, folder: Path, key: KeyPath) -> str:
    """Return ``HOST[:CONTAINER[:OPTIONS]]`` with HOST as in `_anchored`."""
    host, separator, rest = bind.partition(":")
    if not is_there(Path(host)):
        host, separator, rest = expanded(bind, key).partition(":")
    return _anchored(host, folder, key) + separator + rest if host else bind


def _with_nodes(resources: JobResources, folder: Path, what: str) -> JobResources:
    """Return a section of the profile with each node file replaced by its nodes."""
    changes = {}
    for name in ("exclude", "nodelist"):
        value = getattr(resources, name)
        if not node_lists.is_file(value):
            continue
        file = Path(_anchored(value, folder, (what, name)))
        try:
            changes[name] = node_lists.names_of_file(read_text(file, "list of nodes"))
        except (UserError, ValueError) as error:
            raise UserError(
                f"{file} is not a valid list of nodes: {error}; valid: a file of names and ranges, "
                "or the list itself, e.g. n[1-4,7],gpu9",
                at=(what, name),
            ) from None
    resources = resources.model_copy(update=changes)
    both = node_lists.common_nodes(resources.exclude, resources.nodelist)
    if both:
        raise UserError(
            f"exclude and nodelist both name {', '.join(both[:5])}, which Slurm refuses; "
            "remove them from one of the two",
            at=(what,),
        )
    return resources


def describe(resources: JobResources) -> dict[str, Any]:
    """Return what a kind of job requests, for plans.

    A field is left out if its value is the default of the section's class. ``time`` and ``cpus``
    are always included. A default that `Profile` itself sets for a section is included too, e.g.
    the memory of the controller.
    """
    fields = type(resources).model_fields
    return {
        name: value
        for name, value in resources.model_dump().items()
        if value != fields[name].default or name in ("time", "cpus")
    }
