"""Models downloaded from the Hugging Face hub: their place in the local cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agenttts.errors import KeyPath
from agenttts.files.access import check_readable

MAIN = "main"


_SHOWS_A_MODEL = ("config.json", "params.json", "*.gguf", "*.safetensors")
"""Patterns of files; a downloaded model has at least one of them.

They are Hugging Face's configuration, Mistral's own, or weights that need neither.
"""
_ANY_FILE = ("*",)
_ORG_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_DRAFT = "speculative_config"
# Draft models without weights, by vLLM's names (0.32), and methods whose model is not a hub id.
_NO_DRAFT = ("ngram", "[ngram]", "ngram_gpu", "suffix", "custom_class")


def hub_cache() -> Path:
    """Return the hub's cache directory.

    ``HF_HUB_CACHE`` (earlier ``HUGGINGFACE_HUB_CACHE``) or ``HF_HOME`` names it.
    """
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if cache := os.environ.get(name):
            return _expanded(cache)
    home = os.environ.get("HF_HOME") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    )
    return _expanded(home) / "hub"


def find_snapshot(model_id: str, revision: str | None, *, weights: bool = True) -> Path | None:
    """Return the directory of a downloaded revision; None if there is none.

    Source: the layout that huggingface_hub documents: ``models--ORG--NAME`` with ``refs`` and
    ``snapshots``.

    Args:
        model_id: The hub id.
        revision: A branch, a tag or a commit; None for ``main``.
        weights: Whether it has to be a model. If not, a tokenizer or a configuration will do.

    Raises:
        PermissionError: A part of the cache is closed to this user.
    """
    folder = hub_cache() / f"models--{model_id.replace('/', '--')}"
    name = revision or MAIN
    try:
        commit = (folder / "refs" / name).read_text(encoding="ascii").strip()
    except PermissionError:
        raise
    except (OSError, ValueError):
        commit = name  # a commit is its own name
    snapshot = folder / "snapshots" / commit
    try:
        check_readable(snapshot)  # `glob` would find nothing in a directory that is closed
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    signs = _SHOWS_A_MODEL if weights else _ANY_FILE
    shown = any(file.exists() for sign in signs for file in snapshot.glob(sign))
    return snapshot if shown else None


def with_places(
    options: Mapping[str, Any],
    revision: str | None,
    place: Callable[[str, str | None, KeyPath], str],
) -> dict[str, Any]:
    """Return engine options with the hub ids among them replaced.

    Args:
        options: The engine's options.
        revision: The revision of the model itself, which vLLM also takes for the tokenizer.
        place: Called with a hub id, its revision, and its keys in the options; returns what
            replaces the id.
    """
    found = dict(options)

    def replace(name: str, of: str | None) -> None:
        found[name] = place(options[name], of, (name,))

    if _text(options.get("tokenizer")):
        replace("tokenizer", _text(options.get("tokenizer_revision")) or revision)
    if _text(options.get("hf_config_path")):
        replace("hf_config_path", revision)
    if _ORG_NAME.fullmatch(str(options.get("generation_config"))):
        replace("generation_config", revision)
    if _is_draft(_text(options.get("spec_model")), options.get("spec_method")):
        replace("spec_model", None)
    draft = options.get(_DRAFT)
    if isinstance(draft, Mapping):
        model, method = _text(draft.get("model")), draft.get("method", options.get("spec_method"))
        if model is not None and _is_draft(model, method):
            found[_DRAFT] = {
                **draft,
                "model": place(model, _text(draft.get("revision")), (_DRAFT, "model")),
            }
    return found


def _is_draft(model: str | None, method: Any) -> bool:
    return model is not None and not {model, str(method)} & set(_NO_DRAFT)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _expanded(place: str) -> Path:
    """Return a path of the environment with variables and ``~`` replaced.

    huggingface_hub does the same.
    """
    return Path(os.path.expandvars(place)).expanduser()


def download_command(model_id: str, revision: str | None) -> str:
    """Return the command that downloads a model into the hub's cache."""
    return f"hf download {model_id}{f' --revision {revision}' if revision else ''}"
