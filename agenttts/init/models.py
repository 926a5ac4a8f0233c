"""The models of a drafted spec: the user's, or stand-ins that cost nothing to try."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agenttts.dispatch.sizing.model_facts import params_by_files
from agenttts.errors import UserError
from agenttts.init.answers import AnswerForm
from agenttts.init.fields import Data, asked
from agenttts.replies import lacks_chat_template
from agenttts.tasks.loading.answers import texts_of_named_answer

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?!\w)", re.IGNORECASE)
"""A nominal size in a model's name: 7B, 0.5b, 135M."""
_DECIMAL_POINT = re.compile(r"(?<![^-])([01])_(?=\d{1,2}b(?![^\W_]))", re.IGNORECASE)
"""A size with a line for its point, as in Qwen-1_8B. After another digit it may end a version."""
_PARAMS = re.compile(r"(\d+(?:\.\d+)?)([bm]|e\d{1,2})?", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_MOST_RULES = 500
"""The most examples whose right answers are in a stand-in's script."""
_WRONG = 4
"""The most wrong replies of a stand-in to one example."""
STAND_INS = {"small": (3e9, 0.4), "large": (14e9, 0.8)}
"""Nominal parameters, and the share of right replies, of the stand-ins."""


@dataclass(frozen=True)
class ModelDraft:
    """A model: its name, what the spec says of it, and where its size is from.

    ``script`` is the content of the file of a stand-in; None for a real model. ``is_base`` means
    that it has no chat template.
    """

    name: str
    path: str
    params: float
    why: str
    script: str | None = None
    is_base: bool = False


def user_models(given: Sequence[str]) -> list[ModelDraft]:
    """Return the models of ``--model NAME=PATH[:PARAMS]``.

    Raises:
        UserError: One is malformed, does not exist, or its size is not known.
    """
    models = [_model(text) for text in given]
    for text, model in zip(given, models, strict=True):
        if not model.params:
            raise UserError(
                f"--model {text}: the number of parameters is 0 ({model.why}); valid is one above "
                f"0, e.g. --model {model.name}={model.path}:7B"
            )
    models = [replace(model, is_base=lacks_chat_template(Path(model.path))) for model in models]
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--model: '{twice}' is given twice; each model needs a name of its own")
    return sorted(models, key=lambda model: model.params)


def stand_ins(data: Data, form: AnswerForm, folder: str) -> list[ModelDraft]:
    """Return two scripted models, which give the right answers now and then.

    Args:
        data: The data file.
        form: How answers are treated.
        folder: Where their scripts are, as in the spec.
    """
    return [
        ModelDraft(
            name,
            f"{folder}/{name}.json",
            params,
            f"a stand-in: {right:.0%} of its replies are right",
            _script(data, form, right),
        )
        for name, (params, right) in STAND_INS.items()
    ]


def _model(text: str) -> ModelDraft:
    name, separator, place = text.partition("=")
    if not (separator and _NAME.fullmatch(name) and place):
        raise UserError(
            f"--model {text}: valid is NAME=PATH, with a model's directory or hub id, e.g. "
            "qwen-7b=/models/Qwen2.5-7B-Instruct"
        )
    path, params = place, None
    before, colon, size = place.rpartition(":")
    if colon and _PARAMS.fullmatch(size) and not Path(place).exists():
        path, params = before, _number(size)
    local = Path(path).expanduser()
    if local.exists():
        path = str(local.absolute())
    elif not _HUB_ID.fullmatch(path) or path.startswith("."):
        raise UserError(
            f"--model {text}: {path} does not exist; valid: a model's directory, or a hub id such "
            "as Qwen/Qwen2.5-7B-Instruct"
        )
    if params is not None:
        return ModelDraft(name, path, params, "as given")
    for what, where in (("its path", _called(Path(path))), ("its name", name)):
        found = _SIZE.search(re.sub(r"[_/-]", " ", _DECIMAL_POINT.sub(r"\1.", where)))
        if found is not None:
            return ModelDraft(name, path, _number(found[0]), f"from {what}")
    size_on_disk = _from_weights(local)
    if size_on_disk is None:
        raise UserError(
            f"--model {text}: the number of parameters is not known, neither from the name nor "
            f"from weights in {path}; add it: --model {name}={path}:7B"
        )
    return ModelDraft(name, path, size_on_disk, "from the size of the weights")


def _called(path: Path) -> str:
    """Return what a model's directory is called; the hub's cache calls it by a hash."""
    model = path.parent.parent.name
    in_cache = path.parent.name == "snapshots" and model.startswith("models--")
    return model.rpartition("--")[2] if in_cache else path.name


def _number(size: str) -> float:
    match = _PARAMS.fullmatch(size)
    assert match is not None
    unit = (match[2] or "").lower()
    if unit.startswith("e"):
        return float(size)
    return float(match[1]) * {"b": 1e9, "m": 1e6, "": 1.0}[unit]


def _from_weights(directory: Path) -> float | None:
    """Return the parameters of weights on disk, to two digits; None: not known."""
    found = params_by_files(directory)
    return None if found is None else float(f"{found:.1e}")


def _script(data: Data, form: AnswerForm, right: float) -> str:
    rows = data.values[:_MOST_RULES]
    replies = [_reply(row[data.fields.answer], form) for row in rows]
    rules: list[dict[str, Any]] = []
    # A question may be the beginning of another one.
    questions = [asked(row[data.fields.question]) for row in rows]
    order = sorted(range(len(rows)), key=lambda n: -sum(map(len, questions[n])))
    for number in order:
        others = [r for r in dict.fromkeys(replies[number:] + replies) if r != replies[number]]
        # Several wrong replies, so that a vote over more samples finds the right one.
        wrong = others[:_WRONG] or ["unknown"]
        weight = round((1 - right) / len(wrong), 3)
        rules.append(
            {
                "contains": [*questions[number], form.instruction],
                "replies": [
                    {"text": replies[number], "weight": right},
                    *({"text": text, "weight": weight} for text in wrong),
                ],
            }
        )
    # Of the last stage's candidates, a model's fusion keeps the right one.
    rules += [
        {
            "contains": [*questions[number], f"- {replies[number]}"],
            "replies": [{"text": replies[number]}],
        }
        for number in order
        if form.fuse == "model"
    ]
    return json.dumps({"rules": rules, "default": "I do not know."}, ensure_ascii=False, indent=1)


def _reply(answer: Any, form: AnswerForm) -> str:
    """Return what a model would write that gives a right answer."""
    if isinstance(answer, list):
        if form.parse == "list":
            if any(isinstance(item, dict) for item in answer):
                return json.dumps(answer, ensure_ascii=False)
            return "\n".join(_reply(item, form) for item in answer)
        answer = answer[0]
    named = texts_of_named_answer(answer)
    text = named[0] if named else answer if isinstance(answer, str) else json.dumps(answer)
    return f"The answer is {text}" if form.parse == "number" else str(text).strip()
