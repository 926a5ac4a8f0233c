"""Engine options that would do nothing are refused at launch.

Options from which a user expects other samples, and which change none, would only give the same
samples another address. A run of an earlier version goes on with the options that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agenttts.errors import UserError, located
from agenttts.inference.base import EngineName
from agenttts.inference.sampling_options import OPTION, read_sampling

_DECIDED_BY_THE_RUN: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "the temperature of a stage is its task's (in a task in YAML, temperature "
        "of the stage), and the temperature of agent is agent.temperature",
        **dict.fromkeys(
            ("max_new_tokens", "max_tokens", "max_length"),
            "a sample has at most decode_tokens of its stage: set that",
        ),
        "do_sample": "samples are drawn if the temperature of the stage is above 0",
        **dict.fromkeys(
            ("eos_token_id", "stop_token_ids"),
            "vLLM reads the end tokens from the model's generation_config.json, or from the "
            "directory that the option generation_config names: correct them there",
        ),
    }
)
_WITHOUT_EFFECT: Mapping[str, tuple[tuple[object, ...] | None, str]] = MappingProxyType(
    {
        "seed": (
            None,
            "the engine's seed changes no sample, because each sample has a seed of its own, made "
            "from search.seed; set search.seed, and leave this out",
        ),
        "generation_config": (
            ("auto", "vllm"),
            "auto and vllm change no sample, because samples are drawn without the defaults of the "
            "model's generation_config.json, and its end tokens always count; leave it out, and "
            f"set sampling parameters in {OPTION}, such as {{top_k: 20}}",
        ),
        "enable_lora": (
            (True,),
            "it changes no sample, because no request names an adapter; merge the adapter into its "
            "base (peft: merge_and_unload, save_pretrained), or serve both (vllm serve BASE "
            "--enable-lora) and use engine: endpoint",
        ),
        "skip_tokenizer_init": (
            (True,),
            "prompts are encoded with the model's tokenizer; leave it out",
        ),
        "runner": (
            ("pooling", "draft"),
            "such a model draws no samples; valid: auto or generate",
        ),
        "convert": (
            ("embed", "classify"),
            "such a model draws no samples; valid: auto or none",
        ),
    }
)
"""Options with the values (None: all) that change no sample, or with which none can be drawn."""


def check_effective(engine: EngineName, options: Mapping[str, object]) -> None:
    """Check that a model's options do what they seem to do.

    It is for launches only: a run of an earlier version goes on with the options that it has.

    Raises:
        UserError: An option would change no sample, sets what the run decides, or holds a secret.
            The error has the option's name.
    """
    if engine != "vllm":
        return
    for name, (values, reason) in _WITHOUT_EFFECT.items():
        value = options.get(name)
        if value is not None and (values is None or value in values):
            raise UserError(reason, at=(name,))
    if isinstance(options.get("hf_token"), str):
        raise UserError(
            "a key does not belong in a spec, which is a plain file that the run copies; export it "
            "as HF_TOKEN, and leave this out",
            at=("hf_token",),
        )
    given: Any = options.get(OPTION)
    if given is None:
        return
    with located(OPTION):
        for name in given if isinstance(given, Mapping) else ():
            if given[name] is not None and name in _DECIDED_BY_THE_RUN:
                reason = _DECIDED_BY_THE_RUN[name]
                raise UserError(f"it would change no sample: {reason}", at=(name,))
        read = read_sampling(given)
        drafted = options.get("speculative_config") or options.get("spec_model")
        if read.min_p and drafted:
            raise UserError(
                "vLLM takes no min_p for a model with a draft model (speculative decoding); leave "
                "one of them out",
                at=("min_p",),
            )
