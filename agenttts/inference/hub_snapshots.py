"""Models that were downloaded from the Hugging Face hub: where its cache keeps them on this machine."""

from __future__ import annotations

import os
from pathlib import Path

MAIN = "main"


def hub_cache() -> Path:
    """The hub's cache directory, as ``HF_HUB_CACHE`` or ``HF_HOME`` say."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface")  # fmt: skip
    return Path(home) / "hub"


def find_snapshot(model_id: str, revision: str | None) -> Path | None:
    """The directory of a downloaded revision (a branch, a tag or a commit; None: ``main``); None where there is none.

    Source: the layout that huggingface_hub documents: ``models--ORG--NAME`` with ``refs`` and ``snapshots``.
    """
    folder = hub_cache() / f"models--{model_id.replace('/', '--')}"
    name = revision or MAIN
    try:
        commit = (folder / "refs" / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = name  # a commit is its own name
    snapshot = folder / "snapshots" / commit
    return snapshot if (snapshot / "config.json").exists() else None


def download_command(model_id: str, revision: str | None) -> str:
    """The command that downloads a model into the hub's cache."""
    return f"hf download {model_id}{f' --revision {revision}' if revision else ''}"
