"""Make the record of a run from a checked plan.

The record holds the values that are resolved once, at launch.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from agenttts import __version__
from agenttts.images.build import digest
from agenttts.launch.plan import Plan
from agenttts.run.record import SCHEMA_NUMBER, AgentRecord, RunRecord
from agenttts.serving.served_model import agent_thinking, served_fields, task_description_of

_SAMPLES = Path("samples")
_CACHE = "cache"


def run_record(plan: Plan) -> RunRecord:
    """Return the record of a new run of a plan, with a token of its own.

    Its examples are not frozen yet.
    """
    spec = plan.spec
    samples = Path(spec.samples).absolute() if spec.samples else _SAMPLES
    cache = Path(plan.profile.cache).absolute() if plan.profile.cache else samples.parent / _CACHE
    return RunRecord(
        schema_number=SCHEMA_NUMBER,
        token=secrets.token_hex(4),
        version=__version__,
        models=plan.models,
        container=plan.container,
        image_sha256=digest(plan.container.image) if plan.container else None,
        compile_cache=cache if plan.container else None,
        samples=samples,
        agent=None
        if spec.agent == "none"
        else AgentRecord(
            gpus=plan.agent_need.gpus if plan.agent_need else None,
            thinking=agent_thinking(spec),
            fields=served_fields(spec),
            task_description=task_description_of(plan.task, len(plan.examples)),
        ),
        skip_bad=spec.task.skip_bad,
        data=tuple(plan.data.sources.values()),
        examples={},
    )
