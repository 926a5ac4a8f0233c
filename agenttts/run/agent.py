"""The language model that a search asks, as launches and replays set it up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenttts import search, tasks
from agenttts.errors import UserError, dotted, located
from agenttts.inference.chat_form import (
    MessageLeftOut,
    Render,
    changed_form,
    prompt_end,
    renderer,
    roles_of,
)
from agenttts.replay.table import RecordedTable
from agenttts.replies import Thinking, opened_thinking
from agenttts.run.models import model_thinking, resolve_thinking
from agenttts.run.record import AgentRecord
from agenttts.run.search_files import search_file_digests
from agenttts.search.llm.connect import check_key, connect
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.spec import JobSpec, ServeAgent
from agenttts.spec.allocations import read_allocations
from agenttts.tasks.base import Task


def agent_record(
    spec: JobSpec, task: Task, examples: int, gpus: int | None, dtype: str | None
) -> AgentRecord | None:
    """Return what launch records of the model; None if the search asks none.

    Args:
        spec: The spec.
        task: Its task.
        examples: The number of examples of the search.
        gpus: GPUs of a model that the run serves itself.
        dtype: The data type of such a model.
    """
    if spec.agent == "none":
        return None
    thinking = agent_thinking(spec)
    return AgentRecord(
        gpus=gpus,
        thinking=thinking,
        opening=opening_of(spec, thinking),
        merges_system=merges_system(spec),
        fields=served_fields(spec, thinking),
        dtype=dtype,
        task_description=task_description_of(task, examples),
    )


def agent_thinking(spec: JobSpec) -> Thinking | None:
    """Return the markers around the thinking of the model that the search asks."""
    agent = spec.agent
    if agent == "none":
        return None
    if not isinstance(agent, ServeAgent):
        return resolve_thinking(agent.thinking, None)  # the model's files are elsewhere
    known = spec.models.get(agent.model)
    if known is not None and agent.thinking == "auto":
        return model_thinking(known)
    tokenizer = {**(known.options if known else {}), **agent.options}.get("tokenizer")
    place = tokenizer if isinstance(tokenizer, str) else None
    return resolve_thinking(agent.thinking, known.path if known else agent.model, place)


def opening_of(spec: JobSpec, thinking: Thinking | None) -> str:
    """Return what opens the thinking of a served model's replies in its prompts.

    Chat templates of some models open a block. A reply that is cut in it has no marker. The result
    is empty for other models, and if a server separates the thinking itself. ``thinking`` is the
    result of `agent_thinking`.
    """
    if not isinstance(spec.agent, ServeAgent):
        return ""
    template = _template(spec, spec.agent)
    if template is None or _served_options(spec, spec.agent).get("reasoning_parser"):
        return ""
    return opened_thinking(prompt_end(template, ("user",)), thinking)


def merges_system(spec: JobSpec) -> bool:
    """Return whether a served model's template leaves out a system message unsaid.

    vLLM's server writes messages in the other forms itself.
    """
    template = _template(spec, spec.agent) if isinstance(spec.agent, ServeAgent) else None
    try:
        form = "" if template is None else changed_form(template, roles_of("chat"))
    except MessageLeftOut:
        return False
    return form.startswith("merged")


def served_fields(spec: JobSpec, thinking: Thinking | None) -> dict[str, Any]:
    """Return the fields of requests to a served model that only vLLM has.

    OpenAI's interface does not have them. ``thinking`` is the result of `agent_thinking`.
    """
    if not isinstance(spec.agent, ServeAgent):
        return {}
    template_args = _template_args(spec, spec.agent)
    fields: dict[str, Any] = {"chat_template_kwargs": template_args} if template_args else {}
    if thinking is not None and thinking.special:
        fields["skip_special_tokens"] = False
    return fields


def _served_options(spec: JobSpec, agent: ServeAgent) -> dict[str, Any]:
    """Return the engine options of a served model."""
    known = spec.models.get(agent.model)
    return {**(known.options if known else {}), **agent.options}


def _template(spec: JobSpec, agent: ServeAgent) -> Render | None:
    """Return a served model's chat template; None if it is not here."""
    known = spec.models.get(agent.model)
    tokenizer = _served_options(spec, agent).get("tokenizer")
    path = known.path if known else agent.model
    place = Path(tokenizer if isinstance(tokenizer, str) else path)
    return renderer(place, _template_args(spec, agent)) if place.is_absolute() else None


def _template_args(spec: JobSpec, agent: ServeAgent) -> dict[str, Any]:
    """Return the arguments of a served model's chat template."""
    known = spec.models.get(agent.model)
    return {**(known.template_args if known else {}), **agent.template_args}


def task_description_of(task: Task, examples: int | None) -> TaskDescription:
    """Return what the model is told about the task."""
    return TaskDescription(
        task=task.name,
        description=str(getattr(task, "description", None) or ""),
        stages={s.name: str(getattr(s, "description", None) or "") for s in task.stages},
        main_metric=task.main_metric,
        examples=examples,
    )


def session_for_replay(
    spec: JobSpec,
    method: str,
    table: RecordedTable,
    out: Path | None,
    given: Mapping[str, Any],
    until: Mapping[str, float],
) -> LLMSession | None:
    """Return the language model of a replay.

    The transcript is ``OUT.agent.jsonl``. Replies that it has are used again.

    Args:
        spec: The job spec.
        method: The search method.
        table: The recorded results.
        out: The trace.
        given: What else decides the proposals, by its name in messages.
        until: As for `Transcript.keep_search`.

    Returns:
        The model; None if the method asks none or the spec names none.

    Raises:
        UserError: The model would have to be served first, or the transcript is another replay's,
            or cannot be read or written.
    """
    if search.SEARCHERS[method].asks_llm == "no" or spec.agent == "none":
        return None
    if isinstance(spec.agent, ServeAgent):
        raise UserError(
            "a replay cannot serve a model; start a server and name it with kind: endpoint, or "
            "set agent: none",
            at=("agent", "kind"),
        )
    with located("agent"):
        check_key(spec.agent)
    task_description = task_description_of(tasks.create_for(spec), spec.task.examples)
    path = out.with_name(f"{out.name}.agent.jsonl") if out else None
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        transcript = Transcript(path, go_on="run the same replay")
    except OSError as error:
        raise UserError(
            f"{path}: the replay records its questions to the language model and the replies here, "
            f"and the file cannot be opened for that: {error.strerror or error}; make it a "
            "writable file, or name another trace with --out"
        ) from None
    differing = transcript.keep_search(
        {"--searcher": method, **given, **_asked(spec, method, table, task_description)}, until
    )
    if differing:
        raise UserError(
            f"{path} is the transcript of another replay, whose proposals this one would count as "
            f"its own; different: {', '.join(differing)}; remove the file, or name another trace "
            "with --out"
        )
    return connect(spec.agent, task_description, transcript, thinking=agent_thinking(spec))


# What may change without another question or reply: limits of the calls, and the key.
_NOT_ASKED = {
    *("retries", "timeout_seconds", "max_calls", "max_total_tokens", "api_key_env"),
    "replies",  # the script itself counts, not its place
}


def _asked(
    spec: JobSpec, method: str, table: RecordedTable, task_description: TaskDescription
) -> dict[str, Any]:
    """Return what decides a replay's questions and replies, by its name in messages."""
    space = spec.space()
    options = search.options_for(spec, method)
    first = [str(allocation) for allocation in read_allocations(spec.search.first, space)]
    files = search_file_digests(spec, method)
    agent = {} if spec.agent == "none" else spec.agent.model_dump(mode="json", exclude=_NOT_ASKED)
    return {
        "the results of the table": table.digest,
        "the space or options in the spec": _digest(f"{space!r} {options!r}"),
        dotted(("search", "first")): _digest(repr(first)),
        "the description of the task": _digest(repr(task_description)),
        **{f"the content of {dotted(key)}": digest for key, digest in files.items()},
        # The values may be long, or private.
        **{dotted(("agent", name)): _digest(repr(value)) for name, value in agent.items()},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
