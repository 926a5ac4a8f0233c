"""Which stored samples an engine would draw with its context.

A prompt loses tokens from its middle if prompt and ``max_tokens`` together exceed the context
(`agenttts.inference.tokenization.fit`). It then has exactly the context less ``max_tokens``, so a
stored sample tells the context that it was drawn with. Prompts that fit are the same with any
context.

The context of an engine is not always known before it is loaded. So samples of cut prompts have an
address of their own if it is known (`agenttts.inference.base.cut_key`). Otherwise it is the model's
own context, and their address is that of the other samples.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.files.documents import read_object
from agenttts.inference.base import CONTEXT_OPTION, EngineName, ModelConfig
from agenttts.inference.model_files import LENGTH_KEYS, ropes, with_language_part
from agenttts.inference.vllm import cpu_context, is_cpu_build

# Options of vLLM with which config.json does not tell the context.
_OTHER_CONTEXT = ("hf_overrides", "hf_config_path", "config_format", "disable_sliding_window")
_PLAIN_ROPES = {"default", "linear", "dynamic", "llama3", "yarn", "mrope"}
_TRAINED = "original_max_position_embeddings"


@dataclass(frozen=True)
class Context:
    """An engine's context in tokens, as far as it is known without loading the engine.

    It is between ``least`` and ``most`` (None: not known).
    """

    least: int = 0
    most: int | None = None

    @property
    def exact(self) -> int | None:
        """The context; None if it is not known exactly."""
        return self.least if self.least == self.most else None

    def gives(self, length: int, *, cut: bool) -> bool:
        """Return whether the engine would draw a stored sample.

        Args:
            length: Tokens of its prompt, and the most tokens of its reply.
            cut: Whether its prompt was cut for the context that it was drawn with.
        """
        if self.most is not None and length > self.most:
            return False
        return not cut or length >= self.least


def context_of(model: ModelConfig, *, cpu: bool | None = None) -> Context:
    """Return the context that a model's engine will have here.

    A server cuts prompts by its own rules, so nothing is known of its context.

    Args:
        model: The model.
        cpu: Whether vLLM runs on the CPU; None: as it is installed.
    """
    given = model.options.get(CONTEXT_OPTION)
    if model.engine == "endpoint":
        return Context()
    if type(given) is int and given > 0:
        return Context(given, given)
    if model.engine == "scripted":
        return Context(sys.maxsize)  # it cuts no prompt
    if given is not None:  # vLLM sees how much memory there is
        return Context()
    on_cpu = model.engine == "vllm" and (is_cpu_build() if cpu is None else cpu)
    if on_cpu and CONTEXT_OPTION not in model.options:  # a null is passed on to vLLM
        own = cpu_context(model)
        return Context() if own is None else Context(own, own)
    if any(name in model.options for name in _OTHER_CONTEXT):
        return Context()
    return Context(min(_lengths(read_object(Path(model.path) / "config.json")), default=0))


def only_cuts(engine: EngineName, path: str, options: Mapping[str, object]) -> bool:
    """Return whether the context changes only samples of prompts that are cut.

    vLLM computes other positions or attention for some models with a long context (0.32:
    `Phi3LongRoPEScaledRotaryEmbedding`, Llama 4). False where that is not known.
    """
    given = options.get(CONTEXT_OPTION)
    if engine == "endpoint" or (given is not None and not (type(given) is int and given > 0)):
        return False
    if engine != "vllm":
        return True
    config = with_language_part(read_object(Path(path) / "config.json"))
    kinds = {kind for kind, _ in ropes(config)}
    known = config and not any(name in options for name in _OTHER_CONTEXT)
    return bool(known) and kinds <= _PLAIN_ROPES and "llama4" not in str(config.get("model_type"))


def _lengths(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield all lengths that a model's config states.

    Versions of vLLM differ in which one is the context. None takes less than the least.
    """
    merged = with_language_part(config)
    for part in (merged, *(rope for _, rope in ropes(merged))):
        for value in map(part.get, (*LENGTH_KEYS, _TRAINED)):
            if type(value) is int and value > 0:
                yield value
