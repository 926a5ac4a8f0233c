"""Find the weight files of a model's directory, what it lacks, and the context.

Sources: Hugging Face's layout of checkpoints and of its cache, and the loaders of vLLM 0.32 and
transformers (which of several copies of the weights they read). The module looks at names, sizes
and indices. It reads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.errors import Unavailable, counted
from agenttts.files.access import check_readable, read_problem
from agenttts.files.documents import holds_object, read_object
from agenttts.inference.fingerprint import WEIGHT_SUFFIXES
from agenttts.inference.hub_snapshots import download_command

# The files of the weights in Mistral's own format.
_MISTRAL_COPY = re.compile(r"consolidated")
_NO_WEIGHTS = re.compile(r"^(adapter_|training_args|optimizer|scheduler|scaler|rng_state)")
# "model-00001-of-00004.safetensors": the number of the shard and the number of shards.
_NUMBERED = re.compile(r"(.+?)[-_.](\d+)-of-(\d+)(\.\w+)")
# vLLM's formats whose weights are files in the directory, with the suffixes that vLLM looks for.
_FORMATS = {
    **dict.fromkeys(("", "auto", "hf"), ("safetensors", "bin", "pt")),
    **dict.fromkeys(
        ("safetensors", "fastsafetensors", "instanttensor", "mistral"), ("safetensors",)
    ),
    "bitsandbytes": ("safetensors", "bin", "pt"),
    "npcache": ("bin",),
    "pt": ("pt",),
}
_CONFIGS = ("config.json", "params.json", "adapter_config.json")
_TOKENIZER = re.compile(r"token|vocab|spiece|sentencepiece|merges|tekken|bpe|\.model$", re.I)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LANGUAGE_PARTS = ("thinker_config", "text_config", "llm_config", "language_config")
OVER_ALL_LENGTHS = "model_max_length"
"""Cohere's models use it for a length that counts in place of all others, which are less."""
LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    OVER_ALL_LENGTHS,
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""The keys of a config that state the longest context, as vLLM 0.32 reads them."""
ROPE_KEYS = ("rope_scaling", "rope_parameters")
"""Two names of the same setting of a config."""
_MOST_SHARDS = 10_000
_SHOWN = 3


@dataclass(frozen=True)
class WeightFiles:
    """The files of one copy of a model's weights.

    ``absent`` are files that the index or the numbers of other files name, but that do not exist or
    are broken links. ``said`` is the size that the index states, in bytes.
    """

    files: tuple[Path, ...]
    absent: tuple[Path, ...] = ()
    said: float | None = None


def weight_files(directory: Path, load_format: str = "") -> WeightFiles | None:
    """Return the copy of the weights that an engine reads.

    None if the directory has no weights in a format known here.
    """
    for suffix in ("safetensors", "bin", "pt"):
        files = _top_files(directory, suffix)
        copies = [file for file in files if _MISTRAL_COPY.match(file.name)]
        others = [file for file in files if not _MISTRAL_COPY.match(file.name)]
        mistral_s = bool(copies) and (load_format == "mistral" or not others)
        chosen = copies if mistral_s else others
        if chosen:
            return _copy(directory, suffix, chosen, mistral_s=mistral_s)
    return None


def with_language_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's config with the values of a multimodal model's language part.

    They replace the others. A null in the part is ignored: a multimodal model's quantisation, for
    example, may be given outside of it.
    """
    merged = dict(config)
    for part in _language_parts(config):
        merged |= {key: value for key, value in part.items() if value is not None}
    return merged


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language part of a multimodal model's config.

    Of another model it is the whole config.
    """
    return [config, *_language_parts(config)][-1]


def _language_parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of a config down to its language part, which is the last."""
    for name in _LANGUAGE_PARTS:
        found = config.get(name)
        if isinstance(found, dict):
            yield found
            config = found


def ropes(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the kinds and parameters of a config's rotary embeddings.

    They are those of all layers, or by kind of layer.
    """
    for name in ROPE_KEYS:
        found = config.get(name)
        if isinstance(found, Mapping):
            parts = [part for part in found.values() if isinstance(part, Mapping)]
            for rope in parts or [found]:
                yield str(rope.get("rope_type") or rope.get("type") or "default"), rope


def stated_context(config: Mapping[str, Any]) -> int | None:
    """Return the context that a model's config states, in tokens; None without one.

    Of several lengths it is the least, except where one counts in place of all others. Scaled
    positions are left out (`agenttts.dispatch.sizing.context.longest_context`).
    """
    merged = with_language_part(config)
    values = {name: merged.get(name) for name in LENGTH_KEYS}
    stated = {name: value for name, value in values.items() if type(value) is int and value > 0}
    return stated.get(OVER_ALL_LENGTHS) or min(stated.values(), default=None)


def may_be_mistral(directory: Path, options: Mapping[str, Any]) -> bool:
    """Return whether vLLM may read a model's params.json instead of its config.json."""
    given = options.get("config_format")
    looks = given in (None, "auto") and holds_object(directory / "params.json")
    return looks or given == "mistral"


def check_model_files(place: Path, options: Mapping[str, Any], what: str = "model") -> None:
    """Check that a local place holds all that an engine loads.

    Args:
        place: A directory or a file.
        options: The engine's options.
        what: ``model``, ``draft`` or ``tokenizer``. A ``draft`` model needs no tokenizer.

    Raises:
        Unavailable: A file is missing that the engine needs.
    """
    check_there(place)
    try:
        _check_whole(place, options, what)
    except OSError as error:
        raise _unreadable(place, error) from None


def _check_whole(place: Path, options: Mapping[str, Any], what: str) -> None:
    check_readable(place)
    if place.is_file():
        absent = _absent_parts(place) if place.suffix == ".gguf" else []
        if absent:
            raise _incomplete(place.parent, f"lacks {_some(absent)}, parts of {place.name}")
        return
    _check_not_a_cache(place)
    lacks = _lacking_tokenizer(place) if what == "tokenizer" else _lacking(place, options, what)
    if lacks is not None:
        raise _incomplete(place, lacks)


def check_there(place: Path) -> None:
    """Check that a model's place exists and can be read, if it is an absolute path.

    Raises:
        Unavailable: It does not exist, or cannot be read.
    """
    problem = read_problem(place) if place.is_absolute() else None
    if isinstance(problem, FileNotFoundError):
        raise Unavailable(
            f"{place} does not exist",
            fix=(
                "give the directory of a downloaded model ('agenttts-hpc models DIR' prepares "
                "small models for a first try)"
            ),
            at=(),
        )
    if problem is not None:
        raise _unreadable(place, problem)


def _lacking(place: Path, options: Mapping[str, Any], what: str) -> str | None:
    """Return in words what the directory of a model lacks."""
    # Weights in any other format are random, streamed from elsewhere, or read by a user's own
    # loader.
    suffixes = _FORMATS.get(str(options.get("load_format") or ""))
    if suffixes is not None and not options.get("model_weights"):
        problem = _lacking_weights(place, suffixes)
        if problem is not None:
            return problem
    gguf = any(place.glob("*.gguf"))
    usual = (None, "auto", "hf", "mistral")
    configured = options.get("hf_config_path") or options.get("config_format") not in usual
    if not gguf and not configured:
        configs = [place / name for name in _CONFIGS if (place / name).is_file()]
        if not configs:
            return "has no config.json (nor Mistral's params.json)"
        for config in configs:
            check_readable(config)
        if not any(map(holds_object, configs)):
            return f"has a {configs[0].name} that holds no JSON object"
    tokenized = gguf or options.get("tokenizer") or options.get("skip_tokenizer_init") is True
    if what == "draft" or tokenized or (place / "adapter_config.json").is_file():
        return None
    return _lacking_tokenizer(place)


def _lacking_weights(place: Path, suffixes: tuple[str, ...]) -> str | None:
    """Return in words what a directory lacks of its weights.

    It lacks either all weights, or a part of every copy that an engine may choose.
    """
    for suffix in suffixes:
        files = _top_files(place, suffix)
        sides = [
            (True, [file for file in files if _MISTRAL_COPY.match(file.name)]),
            (False, [file for file in files if not _MISTRAL_COPY.match(file.name)]),
        ]
        copies = [_copy(place, suffix, side, mistral_s=own) for own, side in sides if side]
        if not copies:
            continue
        problems = [_lacking_copy(copy) for copy in copies]
        return None if None in problems else problems[-1]
    # Weights in a format that only other engines read, or in a subfolder, are not checked here.
    if any(map(_is_weights, place.glob("*"))):
        return None
    for index in sorted(place.glob("*.index.json")):
        names = _names_in(read_object(index))
        if names and not any((place / name).exists() for name in names):
            return f"has none of the {counted(len(names), 'file')} that {index.name} names"
    if any(map(_is_weights, place.glob("*/*"))):
        return None
    return "has no weights (*.safetensors, *.bin, *.gguf)"


def _lacking_copy(copy: WeightFiles) -> str | None:
    links = [file for file in copy.absent if file.is_symlink()]
    if links:
        return (
            f"has {links[0].name}, a link to {links[0].readlink()}, which does not exist: "
            "the download is incomplete, or its files were moved"
        )
    if copy.absent:
        names = [file.name for file in copy.absent]
        return (
            f"has {len(copy.files)} of its {len(names) + len(copy.files)} weight files; "
            f"missing: {_some(names)}"
        )
    for file in copy.files:
        check_readable(file)
        size = file.stat().st_size
        if size == 0:
            return f"has {file.name}, which is empty"
        if size < 1024 and file.read_bytes().startswith(_LFS_POINTER):
            return (
                f"has {file.name}, which is a Git LFS pointer instead of weights (run 'git lfs "
                "pull' in the directory)"
            )
    return None


def _lacking_tokenizer(place: Path) -> str | None:
    if any(_TOKENIZER.search(file.name) and file.is_file() for file in place.iterdir()):
        return None
    return "has no tokenizer (tokenizer.json, tokenizer.model, vocab.json, tekken.json, ...)"


def _check_not_a_cache(place: Path) -> None:
    """Refuse a folder of the hub's cache; only its snapshots are models."""
    if (place / "snapshots").is_dir() and not any((place / name).exists() for name in _CONFIGS):
        commits = sorted((place / "snapshots").iterdir())
        known = [str(commit) for commit in commits if commit.is_dir()]
        model = _hub_name(place)
        raise Unavailable(
            f"{place} is a folder of the hub's cache, not a model"
            + ("" if known else ", and has no snapshot"),
            fix=f"give {' or '.join(known[:_SHOWN])}, or the hub id {model}"
            if known
            else f"run '{download_command(model, None)}', then give the hub id",
            at=(),
        )
    cached = sorted(folder for folder in place.glob("models--*") if folder.is_dir())
    if cached and not any((place / name).exists() for name in _CONFIGS):
        raise Unavailable(
            f"{place} is a cache of the hub, not a model",
            fix="give the hub id of a model in it "
            f"({', '.join(map(_hub_name, cached[:_SHOWN]))}), with HF_HUB_CACHE={place}",
            at=(),
        )


def _copy(directory: Path, suffix: str, files: list[Path], *, mistral_s: bool) -> WeightFiles:
    """Return one copy of the weights; ``files`` are those that exist."""
    index = _index(directory, suffix, mistral_s=mistral_s)
    named = files if index is None else [directory / name for name in _names_in(index)]
    here = tuple(file for file in named if file.is_file())
    absent = [file for file in named if not file.is_file()]
    if index is None:
        absent += [directory / name for name in _absent_numbers([file.name for file in files])]
        return WeightFiles(here, tuple(absent))
    metadata = index.get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    size = float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None
    return WeightFiles(here, tuple(absent), size)


def _top_files(directory: Path, suffix: str) -> list[Path]:
    files = sorted(directory.glob(f"*.{suffix}"))
    return [file for file in files if not _NO_WEIGHTS.match(file.name)]


def _is_weights(file: Path) -> bool:
    return file.suffix in WEIGHT_SUFFIXES and not re.match(
        r"training_args|optimizer|scheduler|scaler|rng_state", file.name
    )


def _index(directory: Path, suffix: str, *, mistral_s: bool) -> dict[str, Any] | None:
    """Return the index of a checkpoint in shards, if there is a readable one."""
    for file in sorted(directory.glob(f"*.{suffix}.index.json")):
        if bool(_MISTRAL_COPY.match(file.name)) == mistral_s and _names_in(
            found := read_object(file)
        ):
            return found
    return None


def _names_in(index: Mapping[str, Any]) -> list[str]:
    """Return the files that an index names, each once."""
    files = index.get("weight_map")
    return list(dict.fromkeys(map(str, files.values()))) if isinstance(files, dict) else []


def _absent_parts(file: Path) -> list[str]:
    """Return the missing parts of a model file that is split into parts."""
    match = _NUMBERED.fullmatch(file.name)
    if match is None:
        return []
    parts = (_NUMBERED.fullmatch(other.name) for other in file.parent.glob(f"*{file.suffix}"))
    return _absent_numbers([p[0] for p in parts if p and _set_of(p) == _set_of(match)])


def _absent_numbers(names: list[str]) -> list[str]:
    """Return the missing files of numbered sets.

    There are none if one set is complete or a file has no number.
    """
    sets: dict[tuple[str, ...], dict[int, re.Match[str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            return []
        sets.setdefault(_set_of(match), {})[int(match[2])] = match
    absent: list[str] = []
    for found in sets.values():
        some = next(iter(found.values()))
        total = int(some[3])
        if len(found) >= total:
            return []
        first = 0 if 0 in found else 1
        absent += [
            f"{some[0][: some.start(2)]}{number:0{len(some[2])}}{some[0][some.end(2) :]}"
            for number in range(first, first + min(total, _MOST_SHARDS))
            if number not in found
        ]
    return absent


def _set_of(match: re.Match[str]) -> tuple[str, ...]:
    return match[1], match[3], match[4]


def _unreadable(place: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"{error.filename or place} cannot be read ({error.strerror})",
        fix="make the model's files readable for you",
        at=(),
    )


def _incomplete(place: Path, lacks: str) -> Unavailable:
    return Unavailable(f"{place} {lacks}", fix=f"fetch it again: {fetching_command(place)}", at=())


def fetching_command(directory: Path) -> str:
    """Return the command that downloads the model of a directory.

    The directory is a snapshot in the hub's cache, or any other.
    """
    for folder in directory.parents:
        if folder.name.startswith("models--") and directory.parent.name == "snapshots":
            return download_command(_hub_name(folder), directory.name)
    return f"{download_command('ORG/NAME', None)} --local-dir {directory}"


def _hub_name(folder: Path) -> str:
    """Return the hub id of a folder of the cache."""
    return folder.name.removeprefix("models--").replace("--", "/")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
