"""What the options of all engines that run a model have in common."""

from __future__ import annotations

import difflib

from agenttts.errors import valid_names
from agenttts.spec.section import Options

MODEL_KEYS = {"model": "path", "revision": "revision"}
"""Options that an engine sets itself from the model's other keys."""
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
