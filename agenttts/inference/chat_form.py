"""Find the form of chat messages in which a model's template writes all of them.

A template may refuse a message or leave it out without an error. Templates of some models (Phi-3)
write no system message. Those of many multimodal models (LLaVA) write no text that is not in a list
of parts. Each form is tried with marker texts, because a template may trim real ones.

Nothing here imports transformers: a launch tries the template of a model's directory as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from agenttts.endpoint import without_system
from agenttts.files.documents import read_object
from agenttts.inference.base import PROMPT_END, PromptStyle

ChatForm = Literal["plain", "merged", "parts", "merged parts"]
"""How messages are given to a template.

- ``plain``: as they are.
- ``merged``: the system's text is at the head of the first user turn.
- ``parts``: each content is a list with one part, its text.
"""
_FORMS: tuple[ChatForm, ...] = ("plain", "merged", "parts", "merged parts")
Messages = list[dict[str, Any]]
Render = Callable[[Messages], str]
"""Writes messages by a template; raises if the template refuses them."""
# A part that is written as Python or JSON: the template takes a content for a text.
_WRITTEN_PART = re.compile(r"""['"]text['"]\\?\s*:""")


TEMPLATE_DAY = datetime(2024, 7, 26)
"""The day that templates write as today's (Llama 3.2, gpt-oss, SmolLM3).

With the day of the draw, samples of one address would be of several prompts. It is the day that the
templates of Llama 3.1 and 3.3 write.
"""


def day_values(template: object) -> dict[str, Any]:
    """Return the values with which a chat template writes `TEMPLATE_DAY` as today.

    They are empty for a template that asks for no day.
    """
    asks = "strftime_now" in str(template)
    return {"strftime_now": TEMPLATE_DAY.strftime} if asks else {}


class MessageLeftOut(Exception):
    """A template writes the messages without one of them, in every form."""

    def __init__(self, role: str) -> None:
        super().__init__(f"the {role} message")
        self.role = role


def find_form(render: Render, roles: Sequence[str]) -> ChatForm | None:
    """Return the first form in which a template writes all messages.

    Args:
        render: The template.
        roles: The roles of the messages.

    Returns:
        None if the template refuses them in every form.

    Raises:
        MessageLeftOut: The template leaves out a message.
    """
    left_out: str | None = None
    for form in _FORMS:
        missing = _missing(render, roles, form)
        if missing == "":
            return form
        left_out = left_out or missing
    if left_out:
        raise MessageLeftOut(left_out)
    return None


def changed_form(render: Render, roles: Sequence[str]) -> str:
    """Return the form for a template that silently leaves out a message.

    It is empty if a template writes all messages, or refuses the system message: such prompts are
    given as they always were.

    Raises:
        MessageLeftOut: The template leaves out a message in every form.
    """
    form = find_form(render, roles)
    refused = _missing(render, roles, "plain") is None
    before: ChatForm = "merged" if refused else "plain"
    return "" if form is None or form == before else form


def prompt_end(render: Render, roles: Sequence[str]) -> str:
    """Return the last characters (`PROMPT_END`) that a template writes before a reply.

    They are empty if the template refuses the messages.
    """
    try:
        return render([{"role": role, "content": "text"} for role in roles])[-PROMPT_END:]
    except Exception:  # a template may raise anything
        return ""


def shaped(messages: Sequence[Mapping[str, str]], form: str) -> Messages:
    """Return messages in a form (`ChatForm`); without a system message none is merged."""
    found: Messages = [dict(message) for message in messages]
    if form.startswith("merged"):
        found = without_system([dict(message) for message in messages]) or found
    if form.endswith("parts"):
        found = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in found]
    return found


def roles_of(style: PromptStyle) -> tuple[str, ...]:
    """Return the roles of the messages of a chat in a prompt style."""
    shot = ("user", "assistant") if style == "few_shot_chat" else ()
    return ("system", *shot, "user")


def template_in(directory: Path) -> str | None:
    """Return the chat template of a model's directory; None if there is none.

    The template of a multimodal model may be in ``chat_template.json``. It belongs to the processor
    there, and a tokenizer does not read it.
    """
    file = directory / "chat_template.jinja"
    try:
        if file.is_file():  # reading a named pipe would not end
            return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = read_object(directory / name).get("chat_template")
        if isinstance(found, list):  # several templates with names
            named = {part.get("name"): part.get("template") for part in found if _is_object(part)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


def renderer(directory: Path, template_args: Mapping[str, object]) -> Render | None:
    """Return the chat template of a model's directory as transformers would apply it.

    None if the directory has none, or one that cannot be read here.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = template_in(directory)
    if text is None:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals.update(day_values(text))
    try:
        # The tag marks what a training counts as the model's; it changes no text.
        template = environment.from_string(_GENERATION_TAG.sub("", text))
    except TemplateError:
        return None
    known = {
        name: token["content"] if _is_object(token) and "content" in token else token
        for name, token in read_object(directory / "tokenizer_config.json").items()
        if name.endswith("_token") and token is not None
    }

    def render(messages: Messages) -> str:
        values = {"tools": None, "documents": None, "add_generation_prompt": True}
        return template.render(messages=messages, **{**values, **known, **template_args})

    return render


_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def _missing(render: Render, roles: Sequence[str], form: ChatForm) -> str | None:
    """Return the role of the first message that a template leaves out; empty for none.

    None: the template refuses the messages.
    """
    texts = [f"marker{number}of{len(roles)}" for number in range(len(roles))]
    probe = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    try:
        written = render(shaped(probe, form))
    except Exception:  # a template may raise anything
        return None
    if form.endswith("parts") and _WRITTEN_PART.search(written):
        return None
    lost = (role for role, text in zip(roles, texts, strict=True) if text not in written)
    return next(lost, "")


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
