"""What a plan is, for users: the output of ``launch --dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from agenttts import search
from agenttts.dispatch.profile import describe
from agenttts.launch.clean import Cleaning
from agenttts.launch.document import CleanDocument, ExtensionPlanDocument, PlanDocument
from agenttts.launch.extension import ExtensionPlan
from agenttts.launch.plan import Plan
from agenttts.loop.search_end import RIVALS
from agenttts.replies import COMMON_THINKING
from agenttts.spec import JobSpec, ScriptedAgent
from agenttts.tables.documents import printed


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as `PlanDocument`, the output of ``launch --dry-run --json``."""
    return printed(PlanDocument, _described(plan))


def describe_extension(planned: ExtensionPlan) -> dict[str, Any]:
    """Return an extension as `ExtensionPlanDocument`, of ``extend --dry-run --json``."""
    extension = planned.extension
    return printed(
        ExtensionPlanDocument,
        {
            **_described(planned.plan),
            "changes": extension.changes,
            "trials": planned.searched,
        },
    )


def describe_cleanings(cleanings: Sequence[Cleaning], *, removed: bool) -> dict[str, Any]:
    """Return what is removed of runs, as `CleanDocument` (``clean --json``)."""
    runs = [
        {
            "run": cleaning.run.name,
            "path": str(cleaning.run.path),
            "parts": [
                {"what": p.name, "files": p.files, "bytes": p.bytes, "without": p.without}
                for p in cleaning.parts
            ],
            "kept": list(cleaning.kept),
            "bytes": sum(part.bytes for part in cleaning.parts),
        }
        for cleaning in cleanings
    ]
    return printed(CleanDocument, {"runs": runs, "removed": removed})


def _after(spec: JobSpec) -> int:
    """Return how many trials may follow the search, of what it recommends."""
    if spec.search.examples is not None:
        return 1 + RIVALS
    return int(spec.search.stored)


def _described(plan: Plan) -> dict[str, Any]:
    experiment, spec, examples = plan.experiment, plan.experiment.spec, plan.examples
    profile, task, space = experiment.profile, experiment.task, experiment.space
    searcher = search.create_for(spec)
    trials = searcher.initial_batch + spec.search.iterations * spec.search.batch_size
    return {
        "run": spec.name,
        "path": str(experiment.path),
        "new_results": not experiment.results.exists(),
        "cluster": {
            "name": spec.cluster,
            "kind": profile.kind,
            "nodes": plan.nodes,
        },
        "task": {
            "name": spec.task.name,
            "main_metric": task.main_metric,
            "examples": len(examples.searched) or spec.task.examples,
            "skip_bad": spec.task.skip_bad,
            "data": examples.report.to_json(),
        },
        "search": {
            "method": spec.search.method,
            "seed": spec.search.seed,
            "seed_role": search.seed_role(searcher, llm=spec.agent != "none"),
            "budget": space.budget,
            "least_budget": space.least_budget,
            "initial_trials": searcher.initial_batch,
            "first": [str(allocation) for allocation in searcher.first],
            "iterations": spec.search.iterations,
            "batch_size": spec.search.batch_size,
            "trials_at_most": trials,
            "examples": spec.search.examples and spec.search.examples.model_dump(),
            "recommended": _after(spec),
            "finalists": None
            if examples.finalists is None or spec.search.finalists is None
            else {
                "examples": len(examples.finalists),
                "allocations": spec.search.finalists.top,
            },
            "test": None
            if examples.test is None or spec.search.test_split is None
            else {
                "examples": len(examples.test),
                "allocations": spec.search.test_split.top,
            },
        },
        "agent": _describe_agent(plan),
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
                        "samples_within_budget": stage.affordable_samples(model.name, space.budget),
                        "gpus": plan.needs[model.name].gpus,
                    }
                    for model in stage.models
                ],
            }
            for stage in space.stages
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
                "template_args": spec.models[name].template_args,
                "weights": facts.weights,
            }
            for name, facts in plan.facts.items()
        },
        "resources": {
            "controller": describe(profile.controller),
            "trial": describe(profile.trial),
            "max_running": profile.max_running,
            "gpus": {name: need.reasoning for name, need in plan.needs.items()},
        },
        "forecast": None if plan.forecast is None else asdict(plan.forecast),
        "container": None
        if experiment.container is None
        else {"runtime": experiment.container.runtime, "image": str(experiment.container.image)},
        "problems": [{"what": problem.what, "fix": problem.fix} for problem in plan.problems],
    }


def _describe_agent(plan: Plan) -> dict[str, Any] | None:
    agent = plan.experiment.spec.agent
    if agent == "none":
        return None
    model = agent.replies if isinstance(agent, ScriptedAgent) else agent.model
    described = {"kind": agent.kind, "model": model, "max_calls": agent.max_calls}
    if plan.agent_need is not None:
        described |= {"gpus": plan.agent_need.gpus, "why": plan.agent_need.reasoning}
    return described
