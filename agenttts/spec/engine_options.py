"""What the options of all engines that run a model have in common."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from agenttts.errors import valid_names
from agenttts.spec.section import Options

MODEL_KEYS = {"model": "path", "revision": "revision"}
"""Options that an engine sets itself from the model's other keys."""
READABLE_NUMBERS = (
    "kv_cache_memory_bytes",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_queued_tokens",
    "max_num_scheduled_tokens",
    "safetensors_prefetch_block_size",
)
"""The options of vLLM 0.32 whose flags take numbers such as 8k."""
_READABLE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)([kmgtKMGT]?)\s*", re.ASCII)
_THOUSAND = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SHOWN = 5
_LONG_LIST = 30


class EngineOptions(Options):
    """Base of the options of engines that run a model.

    A value of type ``Any`` goes to a library, which checks it when the engine loads.
    """

    @classmethod
    def valid_keys(cls, unknown: str) -> str:
        if unknown in MODEL_KEYS:
            return f"it is set by the model's own key '{MODEL_KEYS[unknown]}': move it there"
        if len(cls.model_fields) <= _LONG_LIST:
            return valid_names(unknown, cls.model_fields)
        near = difflib.get_close_matches(unknown, cls.model_fields, n=_SHOWN, cutoff=0.5)
        nearest = f"the nearest of its {len(cls.model_fields)}: {', '.join(near)}"
        return f"{nearest if near else 'nothing is near'} (all of them: {cls.__doc__})"


def from_command_line(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of vLLM with the forms of its command line as values.

    The forms are numbers such as ``8k`` (8,000), ``8K`` (8,192) and ``25.6k`` (of
    `READABLE_NUMBERS`), ``auto`` (of ``max_model_len``) and JSON objects. vLLM's Python interface
    takes none of them.
    Source: vLLM 0.32, ``human_readable_int_or_auto`` and ``_compute_kwargs``.

    Raises:
        ValueError: A text in braces is not JSON.
    """
    return {
        name: _from_command_line(name, value) if isinstance(value, str) else value
        for name, value in options.items()
    }


def _from_command_line(name: str, text: str) -> Any:
    if name in READABLE_NUMBERS and (found := _READABLE.fullmatch(text)):
        number, suffix = found.groups()
        if "." not in number or suffix.islower():
            base = 1024 if suffix.isupper() else 1000
            return int(float(number) * base ** _THOUSAND[suffix.lower()])
    if name == "max_model_len" and text.strip().lower() in ("-1", "auto"):
        return -1
    if re.fullmatch(r"\s*\{.*\}\s*", text, re.DOTALL):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"the text of {name} is not JSON ({error}); valid: a mapping, such as "
                f"{name}: {{KEY: VALUE}}, or its JSON"
            ) from None
    return text
