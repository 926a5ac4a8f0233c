"""Options of engines that load weights, declared without importing engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field, create_model

from agenttts.spec.engine_options import MODEL_KEYS, READABLE_NUMBERS, EngineOptions

_READABLE_FORMS = "also as 8k (8,000), 25.6k or 8K (8,192)"
_LENGTHS = f"a whole number of 1 or more, {_READABLE_FORMS}, or auto"


def _check_length(tokens: int | None) -> int | None:
    if tokens == 0:  # -1 is auto
        raise ValueError(f"0 is not valid; valid: {_LENGTHS}")
    return tokens


_RANGES: Mapping[str, Any] = MappingProxyType(
    {
        "gpu_memory_utilization": Annotated[
            float | None, Field(gt=0, le=1, description="a number above 0, up to 1")
        ],
        **dict.fromkeys(
            ("cpu_offload_gb", "mm_processor_cache_gb"),
            Annotated[float | None, Field(ge=0, description="a number of 0 or more")],
        ),
        **dict.fromkeys(
            ("block_size", "max_num_seqs"),
            Annotated[int | None, Field(ge=1, description="a whole number of 1 or more")],
        ),
        **dict.fromkeys(
            READABLE_NUMBERS,
            Annotated[
                int | None,
                Field(ge=1, description=f"a whole number of 1 or more, {_READABLE_FORMS}"),
            ],
        ),
        **dict.fromkeys(
            ("kv_cache_memory_bytes", "max_num_queued_tokens"),
            Annotated[
                int | None,
                Field(ge=0, description=f"a whole number of 0 or more, {_READABLE_FORMS}"),
            ],
        ),
        "max_model_len": Annotated[
            int | None,
            Field(ge=-1, description=_LENGTHS),
            AfterValidator(_check_length),
        ],
    }
)
"""Numbers that are checked before a job waits for its GPUs, with the ranges of vLLM 0.32, which
`vllm_options.txt` is of."""


class TransformersOptions(EngineOptions):
    """The options of the engine ``transformers``."""

    batch_size: Annotated[int, Field(ge=1, description="a whole number of 1 or more")] = 32
    """Rows at once."""
    max_model_len: Annotated[int | None, Field(ge=1, description="a whole number of 1 or more")] = (
        None
    )
    """Tokens of the context; None: as the model's configuration says."""
    trust_remote_code: Annotated[bool, Field(description="true or false")] = False
    """Whether code that comes with the model may run."""
    # These go to AutoModelForCausalLM.from_pretrained.
    attn_implementation: Any = None
    """Passed to the library as it is."""
    device_map: Any = None
    """Passed to the library as it is."""
    dtype: Any = None
    """Passed to the library as it is."""
    max_memory: Any = None
    """Passed to the library as it is."""
    subfolder: Any = None
    """Passed to the library as it is."""
    use_safetensors: Any = None
    """Passed to the library as it is."""
    variant: Any = None
    """Passed to the library as it is."""

    def for_library(self) -> dict[str, Any]:
        """Return the given options that go to the library as they are."""
        own = {"batch_size", "max_model_len", "trust_remote_code"}
        given = self.model_dump(exclude_unset=True, exclude=own)
        if isinstance(self.max_memory, Mapping):
            # The numbers of GPUs are texts in the documents of a run, which are JSON.
            given["max_memory"] = {
                int(k) if str(k).isdecimal() else k: v for k, v in self.max_memory.items()
            }
        return given


CHECKED_TYPES: Mapping[str, type] = MappingProxyType({"bool": bool, "int": int, "float": float})
"""The types of options that are checked, by their names in a file of options.

Values that pydantic makes one of the type are valid, such as 1 for true: vLLM's are its models.
"""
_OF_TYPE: Mapping[str, Any] = MappingProxyType(
    {
        "": Any,
        "bool": Annotated[bool | None, Field(strict=False, description="true or false")],
        "int": Annotated[int | None, Field(strict=False, description="a whole number")],
        "float": Annotated[float | None, Field(strict=False, description="a number")],
    }
)


@cache
def named_options(file: Path) -> type[EngineOptions]:
    """Return options with the names in a file, one a line, most with a type.

    Those without a type are not checked. `_RANGES` come before the types.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    listed = dict(line.partition(" ")[::2] for line in lines if line and line[0] != "#")
    fields: dict[str, Any] = {
        name: (_RANGES.get(name, _OF_TYPE[kind]), None)
        for name, kind in listed.items()
        if name not in MODEL_KEYS
    }
    return create_model(
        "NamedOptions",
        __base__=EngineOptions,
        __doc__=f"{file.name} in the package's folder {file.parent.name}, or the "
        "documentation of the engine's arguments",
        **fields,
    )
