"""Models downloaded from the Hugging Face hub: their place in the local cache."""

from __future__ import annotations

import os
from pathlib import Path

MAIN = "main"


_SHOWS_A_MODEL = ("config.json", "params.json", "*.gguf", "*.safetensors")
"""Patterns of files; a downloaded model has at least one of them.

They are Hugging Face's configuration, Mistral's own, or weights that need neither.
"""


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


def find_snapshot(model_id: str, revision: str | None) -> Path | None:
    """Return the directory of a downloaded revision; None if there is none.

    Source: the layout that huggingface_hub documents: ``models--ORG--NAME`` with ``refs`` and
    ``snapshots``.

    Args:
        model_id: The hub id.
        revision: A branch, a tag or a commit; None for ``main``.
    """
    folder = hub_cache() / f"models--{model_id.replace('/', '--')}"
    name = revision or MAIN
    try:
        commit = (folder / "refs" / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = name  # a commit is its own name
    snapshot = folder / "snapshots" / commit
    shown = any(file.exists() for sign in _SHOWS_A_MODEL for file in snapshot.glob(sign))
    return snapshot if shown else None


def _expanded(place: str) -> Path:
    """Return a path of the environment with variables and ``~`` replaced.

    huggingface_hub does the same.
    """
    return Path(os.path.expandvars(place)).expanduser()


def download_command(model_id: str, revision: str | None) -> str:
    """Return the command that downloads a model into the hub's cache."""
    return f"hf download {model_id}{f' --revision {revision}' if revision else ''}"
