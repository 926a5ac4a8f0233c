"""Options of engines that load weights, declared without importing engines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from agenttts.spec.engine_options import MODEL_KEYS, EngineOptions


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
        return self.model_dump(exclude_unset=True, exclude=own)


@cache
def named_options(file: Path) -> type[EngineOptions]:
    """Return options with the names in a file, one a line, and values of any type."""
    lines = file.read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and line[0] != "#" and line not in MODEL_KEYS]
    fields: dict[str, Any] = dict.fromkeys(names, (Any, None))
    return create_model(
        "NamedOptions",
        __base__=EngineOptions,
        __doc__=f"{file.name} in the package's folder {file.parent.name}, or the "
        "documentation of the engine's arguments",
        **fields,
    )
