"""Sampling parameters in vLLM's engine options.

vLLM's ``override_generation_config`` holds defaults for requests that do not set a parameter. Here
every request sets the parameters that the run decides. The defaults for the other ones are put into
each request (`agenttts.inference.vllm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from agenttts.errors import UserError
from agenttts.inference.base import EngineName
from agenttts.spec.section import Section
from agenttts.spec.strict import read_options

OPTION = "override_generation_config"
_Penalty = Annotated[float | None, Field(ge=-2, le=2, description="a number from -2 to 2")]


class SamplingOptions(Section):
    """The parameters that ``override_generation_config`` may set.

    Null leaves one as it is. Their ranges are those of vLLM 0.32 (``SamplingParams``).
    """

    top_k: Annotated[
        int | None, Field(ge=-1, description="a whole number; -1 and 0 keep all tokens")
    ] = None
    """The number of most likely tokens that a draw is from."""
    top_p: Annotated[float | None, Field(gt=0, le=1, description="above 0, up to 1")] = None
    """The probability of the most likely tokens that a draw is from."""
    min_p: Annotated[float | None, Field(ge=0, le=1, description="from 0 to 1")] = None
    """The least probability of a token, as a share of that of the most likely one."""
    repetition_penalty: Annotated[float | None, Field(gt=0, description="a number above 0")] = None
    """Above 1: tokens of the prompt and the sample become less likely."""
    presence_penalty: _Penalty = None
    """Above 0: tokens of the sample become less likely."""
    frequency_penalty: _Penalty = None
    """Above 0: tokens of the sample become less likely, by how often they occur."""
    attn_temperature_tuning: Annotated[bool | None, Field(description="true or false")] = None
    """Llama 4 only: scale its attention at long positions. It is no sampling parameter."""


def sampling_of(engine: EngineName, options: Mapping[str, object]) -> dict[str, Any]:
    """Return the sampling parameters that a model's options add to every sample.

    What is not valid is left out: a launch refuses it (`read_sampling`).
    """
    given = options.get(OPTION) if engine == "vllm" else None
    if not isinstance(given, Mapping):
        return {}
    names = set(SamplingOptions.model_fields) - {"attn_temperature_tuning"}
    return {
        name: value
        for name, value in _with_floats(given).items()
        if name in names and value is not None
    }


def read_sampling(given: object) -> SamplingOptions:
    """Return the value of ``override_generation_config``, checked.

    Raises:
        UserError: It is not valid.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"{given!r} is not valid; valid: a mapping, such as {{top_k: 20}}", at=())
    return read_options(SamplingOptions, _with_floats(given), OPTION)


def _with_floats(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of which 1 and 1.0 are the same, except for ``top_k``."""
    return {n: float(v) if type(v) is int and n != "top_k" else v for n, v in given.items()}
