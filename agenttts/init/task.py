"""The text of a declarative task for a data file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttts.errors import UserError, counted
from agenttts.init.answers import (
    LETTERS,
    AnswerForm,
    next_multiple,
    tokens_of_nine_in_ten,
)
from agenttts.init.fields import Data, Fields
from agenttts.init.options import all_options
from agenttts.init.template_names import usable
from agenttts.init.yaml_text import block, comment, flow, scalar
from agenttts.spec import load_strict
from agenttts.spec.stage_names import BASELINE_KEY
from agenttts.tasks.declarative.document import Document, compiled

_LONG_CONTEXT_CHARACTERS = 400
"""From this mean length on, a stage of its own looks for what matters in the context."""
_PLAN_TOKENS = 192


@dataclass(frozen=True)
class StageDraft:
    """A stage of the task: its name, its keys in the file and its tokens.

    ``renamed`` is the name that it was to have, if a field of the data has that name.
    """

    name: str
    lines: tuple[str, ...]
    prompt_tokens: int
    decode_tokens: int
    renamed: str = ""


def stages_of(data: Data, form: AnswerForm, wanted: Sequence[str]) -> list[StageDraft]:
    """Return the stages of a task.

    The last one answers. Of those before it, the first selects from the context, if there is one,
    and the others plan.

    Args:
        data: The data file.
        form: How answers are treated.
        wanted: The names that the user gave; empty: one or two stages, by the data.

    Raises:
        UserError: A name cannot be a stage's.
    """
    names = list(wanted) or _usual_stages(data)
    for name in names:
        if not usable(name):
            raise UserError(
                f"--stages: '{name}' is not a valid name of a stage, because prompt templates use "
                "it as a name; valid: letters, digits and _, the first not a digit, and no word "
                "that means something else in Python or Jinja, such as 'not', 'true' or 'loop'"
            )
        if name == BASELINE_KEY:
            raise UserError(
                f"--stages: '{name}' is not a valid name of a stage, because it marks the baseline "
                "in a job spec; valid: any other name"
            )
    if len(set(names)) < len(names):
        raise UserError(f"--stages: each stage needs a name of its own, not {', '.join(names)}")
    free = _free_names(names, data.names)
    drafts: list[StageDraft] = []
    for position, name in enumerate(free):
        made = _stage(data, form, position, free)
        shown = "" if name == names[position] else names[position]
        drafts.append(StageDraft(name, made.lines, made.prompt_tokens, made.decode_tokens, shown))
    return drafts


def task_text(name: str, data: Data, form: AnswerForm, stages: Sequence[StageDraft]) -> str:
    """Return the file of a declarative task, with comments.

    It is read back before it is returned.
    """
    last = stages[-1].name
    # Others cannot be written in a template, and perhaps not in a comment.
    unused = ", ".join(name for name in data.unused if usable(name))
    more = f"Fields that it does not use: {unused}." if unused else ""
    lines = [
        *comment(
            f"The task of {data.path.name}, as 'agenttts-hpc init' drafted it from "
            f"{counted(data.total, 'record')}. Read the prompts, and change what does not fit: "
            f"docs/how-to/own-task.md says what such a file may hold. {more}"
        ),
        f"name: {scalar(name)}",
        f"description: {scalar(_description(data.fields))}",
        f"main_metric: {last}.{form.metric}   # what the search maximises",
        "stages:",
    ]
    for stage in stages:
        lines.append(f"  {stage.name}:")
        lines += [f"    {line}" if line else "" for line in stage.lines]
    text = "\n".join(lines) + "\n"
    load_strict(Document, text, "the drafted task")
    return text


def _usual_stages(data: Data) -> list[str]:
    context = data.fields.context
    if context is None:
        return ["answer"]
    lengths = [len(_as_text(row[context])) for row in data.values]
    several = all(isinstance(row[context], list) for row in data.values)
    long = sum(lengths) >= _LONG_CONTEXT_CHARACTERS * len(lengths)
    return ["retrieve", "answer"] if long or several else ["answer"]


def _free_names(names: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Return names of stages that no field of the data has.

    Templates use both names.
    """
    free: list[str] = []
    for name in names:
        found, number = name, 1
        while found in fields or found in free:
            found = f"{name}_stage" if number == 1 else f"{name}_stage{number}"
            number += 1
        free.append(found)
    return free


def _description(fields: Fields) -> str:
    helped = f" from the {fields.context}" if fields.context else ""
    chosen = " by choosing one of the options" if fields.options else ""
    return f"Answer the {fields.question}{helped}{chosen}."


def _stage(data: Data, form: AnswerForm, position: int, names: Sequence[str]) -> StageDraft:
    name, earlier = names[position], names[:position]
    if position == len(names) - 1:
        return _answering(data, form, name, earlier)
    if position == 0 and data.fields.context is not None:
        return _selecting(data, name)
    return _planning(data, name, earlier)


def _selecting(data: Data, name: str) -> StageDraft:
    fields = data.fields
    prompt = [*_shown(data, fields.context), *_question(data)]
    tokens = _prompt_tokens(data, prompt, {})
    decode = max(32, min(256, next_multiple(tokens // 4, 32)))
    return StageDraft(
        name,
        (
            "description: Select what the question needs from the context.",
            "system: >-",
            "  Copy the sentences that are needed to answer the question, one a line, and nothing "
            "else.",
            *block("prompt", prompt),
            "temperature: 0.7      # k samples differ only above 0",
            "parse: lines          # a sentence a line",
            "fuse: union           # of the sentences of all samples",
        ),
        tokens,
        decode,
    )


def _planning(data: Data, name: str, earlier: Sequence[str]) -> StageDraft:
    fields = data.fields
    shown = _shown(data, fields.context) if fields.context and not earlier else []
    prompt = [*shown, *_outputs(data, earlier), *_question(data)]
    return StageDraft(
        name,
        (
            "description: Plan how the question is to be answered.",
            "system: Write down, in a few short steps, how to answer the question.",
            *block("prompt", prompt),
            "temperature: 0.7      # k samples differ only above 0",
            "parse: text",
            *_fused_by_model(data, "Make one plan of these:"),
        ),
        _prompt_tokens(data, prompt, dict.fromkeys(earlier, "")) + _PLAN_TOKENS * len(earlier),
        _PLAN_TOKENS,
    )


def _answering(data: Data, form: AnswerForm, name: str, earlier: Sequence[str]) -> StageDraft:
    fields = data.fields
    whole_context = fields.context is not None and not earlier
    prompt = [
        *(_shown(data, fields.context) if whole_context else []),
        *_outputs(data, earlier),
        *_question(data),
        *_options(data, form),
    ]
    gold = fields.answer
    metrics = dict.fromkeys((form.metric, *form.more_metrics), gold)
    lines = [
        f"description: {scalar(_description(Fields(fields.question, gold, None, fields.options)))}",
        f"system: {scalar(f'Answer the question. {form.instruction}')}",
        *block("prompt", prompt),
        "temperature: 0.7      # k samples differ only above 0",
        *comment(f"{form.why}."),
        f"parse: {form.parse}",
    ]
    if form.choices:
        lines.append(f"choices: {flow(form.choices)}")
    if form.fuse == "model":
        lines += _fused_by_model(data, "Make one answer of these:")
    else:
        lines.append(f"fuse: {form.fuse}            # of k samples")
    lines.append(f"metrics: {flow(metrics)}   # metric: the field of the right answer")
    tokens = _prompt_tokens(data, prompt, dict.fromkeys(earlier, ""))
    return StageDraft(name, tuple(lines), tokens + _PLAN_TOKENS * len(earlier), form.decode_tokens)


def _fused_by_model(data: Data, request: str) -> list[str]:
    prompt = [
        *_question(data),
        request,
        "{% for candidate in candidates %}",
        "- {{ candidate }}",
        "{% endfor %}",
    ]
    return [
        "fuse:",
        "  model:              # texts cannot be counted: one more call of the stage's own model",
        *[f"    {line}" if line else "" for line in block("prompt", prompt)],
    ]


def _question(data: Data) -> list[str]:
    """Return the lines of a prompt that show the question."""
    name, form = data.fields.question, data.question_form
    if form == "text":
        return [f"Question: {{{{ {name} }}}}"]
    if form == "json":
        return [f"Question: {_text_or_json(name)}"]
    return [
        "Question:",
        f"{{% for message in {name} %}}",
        "{{ message['content'] }}",
        "{% endfor %}",
    ]


def _text_or_json(name: str) -> str:
    """Return what shows a field's texts as they are, and all else as JSON."""
    return f"{{{{ {name} if {name} is string else {name} | tojson }}}}"


def _outputs(data: Data, earlier: Sequence[str]) -> list[str]:
    """Return the lines of a prompt that show what earlier stages put out."""
    lines = []
    for position, name in enumerate(earlier):
        if position == 0 and data.fields.context is not None:
            lines += ["Facts:", f"{{% for fact in {name} %}}", "{{ fact }}", "{% endfor %}"]
        else:
            lines.append(f"Plan: {{{{ {name} }}}}")
    return lines


def _shown(data: Data, field: str | None) -> list[str]:
    """Return the lines of a prompt that show a context."""
    if field is None:
        return []
    values = [row[field] for row in data.values]
    if all(isinstance(value, str) for value in values):
        return [f"Context: {{{{ {field} }}}}"]
    if all(isinstance(v, list) and all(isinstance(x, str) for x in v) for v in values):
        return ["Context:", f"{{% for part in {field} %}}", "{{ part }}", "{% endfor %}"]
    if all(isinstance(v, list) and all(map(_is_paragraph, v)) for v in values):
        return [
            "Context:",
            f"{{% for title, sentences in {field} %}}",
            "{{ title }}: {{ sentences | join(' ') }}",
            "{% endfor %}",
        ]
    return [f"Context: {_text_or_json(field)}"]


def _is_paragraph(value: Any) -> bool:
    """Return whether a value is a title with its sentences, as in HotpotQA."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], list)
        and all(isinstance(sentence, str) for sentence in value[1])
    )


def _options(data: Data, form: AnswerForm) -> list[str]:
    """Return the lines of a prompt that show the options."""
    name = data.fields.options
    listed = None if name is None else all_options([row[name] for row in data.values])
    if listed is None:
        return []
    mark, text, among = "-", "option", name
    if listed[0].form == "columns":
        mark, among = f"{{{{ {name}['label'][loop.index0] }}}}.", f"{name}['text']"
    elif listed[0].form == "objects":
        mark, text = "{{ option['label'] }}.", "option['text']"
    elif form.lettered:
        mark = f"{{{{ '{LETTERS}'[loop.index0] }}}}."
    elif form.numbered_from is not None:
        mark = "{{ loop.index }}." if form.numbered_from else "{{ loop.index0 }}."
    return [
        "Options:",
        f"{{% for option in {among} %}}",
        f"{mark} {{{{ {text} }}}}",
        "{% endfor %}",
    ]


def _prompt_tokens(data: Data, prompt: Sequence[str], outputs: Mapping[str, str]) -> int:
    """Return the most tokens of nine in ten prompts, with the instruction, roughly."""
    template = compiled("\n".join(prompt))
    usual = tokens_of_nine_in_ten(template.render({**row, **outputs}) for row in data.values)
    return next_multiple(usual + 40, 32)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
