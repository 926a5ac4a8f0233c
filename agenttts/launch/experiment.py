"""An experiment: a job spec with everything that it names.

The functions here replace what a spec names by what was found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agenttts.dispatch.apptainer import Container
from agenttts.dispatch.base import Scheduler
from agenttts.dispatch.profile import Profile, runs_in_container
from agenttts.errors import KeyPath, Unavailable, UserError, valid_names
from agenttts.inference.hub_snapshots import (
    download_command,
    find_snapshot,
    hub_cache,
    with_places,
)
from agenttts.inference.model_files import check_model_files
from agenttts.launch.problems import Problems
from agenttts.space import SearchSpace
from agenttts.spec import JobSpec, ServeAgent
from agenttts.tasks.base import Task

# Options of engines that name a model or a part of one, and which part has to be there.
PLACES = {
    "tokenizer": "tokenizer",
    "spec_model": "draft",
    "speculative_config.model": "draft",
    "speculative_config.tokenizer": "tokenizer",
}


@dataclass(frozen=True)
class Experiment:
    """A spec and what it names, which all checks of a launch look at.

    Attributes:
        spec: The spec, with its stages in the task's order and all names resolved.
        results: The results directory.
        profile: The profile, completed from this shell's environment.
        scheduler: The profile's scheduler.
        task: The task.
        space: The search space.
        container: The container of the trials; None for the host's Python.
    """

    spec: JobSpec
    results: Path
    profile: Profile
    scheduler: Scheduler
    task: Task
    space: SearchSpace
    container: Container | None = None

    @property
    def path(self) -> Path:
        """The directory of the run that the experiment becomes."""
        return self.results.absolute() / self.spec.name

    @property
    def in_container(self) -> bool:
        """Whether the trials run in a container, its image found or not."""
        return runs_in_container(self.spec, self.profile)


def ordered(spec: JobSpec, task: Task) -> JobSpec:
    """Return the spec with its stages in the task's order.

    Raises:
        UserError: The stages are not the task's.
    """
    names = [stage.name for stage in task.stages]
    for stage in spec.stages:
        if stage not in names:
            raise UserError(
                f"task '{task.name}' has no such stage; {valid_names(stage, names)}",
                at=("stages", stage),
            )
    missing = [name for name in names if name not in spec.stages]
    if missing:
        raise UserError(
            f"task '{task.name}' also needs {', '.join(missing)}; valid: "
            f"{', '.join(names)}, all of them",
            at=("stages",),
        )
    return spec.model_copy(update={"stages": {name: spec.stages[name] for name in names}})


def with_knowledge(spec: JobSpec, results: Path) -> JobSpec:
    """Return the spec with runs in ``knowledge`` replaced by their directories.

    Names of finished runs are looked up under the results directory.
    """
    sources = spec.search.options.get("knowledge")
    if not isinstance(sources, list):
        return spec
    found = []
    for source in sources:
        run = results.absolute() / str(source)
        inside = isinstance(source, str) and not Path(source).exists() and run.is_dir()
        found.append(str(run) if inside else source)
    options = {**spec.search.options, "knowledge": found}
    return spec.model_copy(update={"search": spec.search.model_copy(update={"options": options})})


def with_snapshots(experiment: Experiment, problems: Problems) -> Experiment:
    """Return the experiment with hub ids replaced by their downloaded snapshots.

    A snapshot is a directory. The ids are those of models, and those in the options of engines
    (tokenizers, draft models). If trials reach no hub (in a container, on compute nodes), what was
    not downloaded is unavailable.
    """
    spec = experiment.spec
    snapshots = _Snapshots(experiment.scheduler.has_nodes or experiment.in_container, problems)
    models = {}
    for name, model in spec.models.items():
        if model.engine not in ("scripted", "endpoint"):
            section = ("models", name)
            path = snapshots.place(model.path, model.revision, (*section, "path"))
            of_option = partial(snapshots.place_of_option, section)
            options = with_places(model.options, model.revision, of_option)
            model = model.model_copy(update={"path": path, "options": options})
        models[name] = model
    agent = spec.agent
    if isinstance(agent, ServeAgent):
        known = spec.models.get(agent.model)
        path = agent.model if known else snapshots.place(agent.model, None, ("agent", "model"))
        revision = known.revision if known else None
        of_option = partial(snapshots.place_of_option, ("agent",))
        options = with_places(agent.options, revision, of_option)
        agent = agent.model_copy(update={"model": path, "options": options})
    return replace(experiment, spec=spec.model_copy(update={"models": models, "agent": agent}))


@dataclass(frozen=True)
class _Snapshots:
    """The downloaded snapshots that replace hub ids.

    Attributes:
        offline: Whether trials reach no hub.
        problems: Takes what was not downloaded.
    """

    offline: bool
    problems: Problems

    def place_of_option(
        self, section: KeyPath, path: str, revision: str | None, option: KeyPath
    ) -> str:
        """Return what replaces a hub id among the engine's options of a section."""
        what = PLACES.get(".".join(map(str, option)), "configuration")
        return self.place(path, revision, (*section, "options", *option), what)

    def place(self, path: str, revision: str | None, at: KeyPath, what: str = "model") -> str:
        """Return the directory that replaces a hub id; ``path`` if there is none.

        Args:
            path: A hub id, or an absolute path, which stays as it is.
            revision: A revision of the hub id.
            at: The keys of ``path`` in the spec.
            what: The part of a model that it is.
        """
        if Path(path).is_absolute():
            return path
        weights = what in ("model", "draft")
        try:
            found = find_snapshot(path, revision, weights=weights)
        except OSError as error:
            with self.problems.here():
                raise Unavailable(
                    f"the {what} '{path}' is looked for in the hub's cache, and "
                    f"{error.filename} cannot be read ({error.strerror})",
                    fix="make it readable for you, or set HF_HUB_CACHE to a cache that is",
                    at=at,
                ) from None
            return path
        if weights and found is not None and not self.offline and not _whole(found, what):
            return path  # the engine fetches the rest
        if found is None and self.offline:
            with self.problems.here():
                raise Unavailable(
                    f"the {what} '{path}' is not a directory and is not in the hub's cache "
                    f"{hub_cache()}, and trials cannot download it",
                    fix=f"run '{download_command(path, revision)}' here, with HF_HOME on a file "
                    "system that the compute nodes see, or give the directory",
                    at=at,
                )
        return str(found or path)


def with_container(experiment: Experiment, problems: Problems) -> Experiment:
    """Return the experiment with the container of its trials.

    Its spec then names the container's image.
    """
    spec, container = experiment.spec, None
    with problems.here():
        container = container_of(spec, experiment.profile)
    if container is None:
        return experiment
    # Frozen with the values found now: the controller's environment may expand the profile's
    # variables differently.
    frozen = spec.container.model_copy(update={"image": str(container.image)})
    spec = spec.model_copy(update={"container": frozen})
    return replace(experiment, spec=spec, container=container)


def without_profile_image(spec: JobSpec, profile: Profile) -> JobSpec:
    """Return the spec without an image that `with_container` took from the profile."""
    given = profile.container.image if profile.container else None
    frozen = spec.container.image
    if given is None or frozen is None or _place(frozen) != _place(given):
        return spec
    own = spec.container.model_copy(update={"image": None})
    return spec.model_copy(update={"container": own})


def _place(image: str) -> Path:
    """Return where an image is, however the path of its folder is written.

    A spec that was read names the folder without links, a profile as its user wrote it.
    """
    path = Path(image).absolute()
    return path.parent.resolve() / path.name


def container_of(spec: JobSpec, profile: Profile) -> Container | None:
    """Return the container of the trials; None if they run on the host's Python."""
    defaults = profile.container
    if not runs_in_container(spec, profile):
        return None
    image = spec.container.image or (defaults.image if defaults else None)
    if image is None:
        raise Unavailable(
            "trials run in a container, but neither the profile nor the spec names the image",
            fix="set this key in the spec or the profile (build an image with 'agenttts-hpc "
            "image build')",
            at=("container", "image"),
        )
    return Container(
        image=Path(image).absolute(),
        runtime=defaults.runtime if defaults else "apptainer",
        nv=defaults.nv if defaults else True,
        binds=(*(defaults.binds if defaults else ()), *spec.container.binds),
        options=tuple(defaults.options) if defaults else (),
    )


def _whole(snapshot: Path, what: str) -> bool:
    try:
        check_model_files(snapshot, {}, what)
    except Unavailable:
        return False
    return True
