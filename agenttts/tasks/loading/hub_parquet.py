"""The hub's Parquet conversion of a data set (revision ``refs/convert/parquet``).

Its files are ``CONFIG/SPLIT/NUMBER.parquet``. If only the beginning of a split was converted, the
split is called ``partial-SPLIT``. The files come from the Hugging Face hub or from its cache on
this machine (``huggingface_hub``), or lie in a directory with that layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from agenttts.errors import MissingRequirement, UserError, valid_names
from agenttts.tasks.loading.content import read_content
from agenttts.tasks.loading.record import Record, RecordSet
from agenttts.tasks.loading.table_records import read_parquet

PARQUET_REVISION = "refs/convert/parquet"
_DEFAULT_CONFIG = "default"


@dataclass(frozen=True)
class _Files:
    """The revision's files: their paths in it, and a function that fetches one.

    ``offline`` is the reason why the hub was not reached. The files then come from this machine's
    cache, which may hold only a part of them.
    """

    paths: Sequence[str]
    fetch: Callable[[str], Path]
    offline: Exception | None = None


def read_converted(
    name: str, config: str | None, choose_split: Callable[[Sequence[str]], str]
) -> RecordSet:
    """Return the records of a split of the converted data set.

    Args:
        name: Name of the data set, or a directory.
        config: Name of the configuration.
        choose_split: Chooses one of the existing splits by name.

    Raises:
        MissingRequirement: ``huggingface_hub`` is not installed, or the conversion is not available
            here.
        UserError: The configuration is unknown, or none of several is named. Also the errors of
            ``choose_split``.
    """
    files = _in_folder(Path(name)) if Path(name).is_dir() else _on_hub(name, config)
    layout = [PurePosixPath(path).parts for path in files.paths if path.endswith(".parquet")]
    configs = list(dict.fromkeys(parts[0] for parts in layout if len(parts) == 3))
    try:
        if not configs:
            raise UserError(
                f"'{name}' has no files CONFIG/SPLIT/NUMBER.parquet in its revision "
                f"{PARQUET_REVISION}",
                at=("data",),
            )
        chosen = _choose_config(name, config, configs)
        splits = list(dict.fromkeys(parts[1] for parts in layout if parts[0] == chosen))
        split = choose_split(splits)
    except UserError as error:
        if files.offline is None:
            raise
        raise _not_here(
            name, config, files.offline, f"; of what is in the cache: {error}"
        ) from None
    source = f"hub data set '{name}' ({PARQUET_REVISION}, {chosen}), split '{split}'"
    records: list[Record] = []
    for path in sorted(p for p in files.paths if PurePosixPath(p).parts[:-1] == (chosen, split)):
        file = files.fetch(path)
        found = read_parquet(file, read_content(file)).records
        first = len(records) + 1
        records += [
            replace(record, place=_place(source, first + n)) for n, record in enumerate(found)
        ]
    return RecordSet(source, records)


def _place(source: str, number: int) -> Callable[[], str]:
    return lambda: f"{source}, record {number}"


def _choose_config(name: str, config: str | None, configs: Sequence[str]) -> str:
    if config is None:
        if len(configs) > 1 and _DEFAULT_CONFIG not in configs:
            raise UserError(
                f"hub data set '{name}' has {len(configs)} configurations; name one: "
                f"hf:{name}:CONFIG@{PARQUET_REVISION}; valid: {', '.join(configs)}",
                at=("data",),
            )
        return _DEFAULT_CONFIG if _DEFAULT_CONFIG in configs else configs[0]
    if config not in configs:
        raise UserError(
            f"hub data set '{name}' has no configuration '{config}' in its revision "
            f"{PARQUET_REVISION}; "
            f"{valid_names(config, configs)}",
            at=("data",),
        )
    return config


def _in_folder(folder: Path, offline: Exception | None = None) -> _Files:
    files = sorted(folder.rglob("*.parquet"))
    paths = [file.relative_to(folder).as_posix() for file in files]
    return _Files(paths, folder.joinpath, offline)


def _on_hub(name: str, config: str | None) -> _Files:
    try:
        import huggingface_hub as hub
    except ImportError:
        raise MissingRequirement(
            f"reading '{name}' takes the Python package 'huggingface_hub'",
            fix="pip install 'agenttts-hpc[hub]'",
            at=("data",),
        ) from None
    where: dict[str, Any] = {"repo_type": "dataset", "revision": PARQUET_REVISION}

    def fetch(path: str) -> Path:
        try:
            return Path(hub.hf_hub_download(name, path, **where))
        except Exception as error:  # the library's errors share no base class
            raise _not_here(name, config, error) from error

    try:
        return _Files(sorted(hub.list_repo_files(name, **where)), fetch)
    except Exception as error:  # offline, unknown, gated: as above
        try:
            folder = Path(hub.snapshot_download(name, local_files_only=True, **where))
        except (
            Exception
        ):  # nothing is in the cache: report the first error, which says why the hub failed
            raise _not_here(name, config, error) from error
        return _in_folder(folder, error)


def _not_here(
    name: str, config: str | None, error: Exception, more: str = ""
) -> MissingRequirement:
    reason = " ".join(str(error).split()).rstrip(".")[:300]
    only = f", allow_patterns={f'{config}/*'!r}" if config else ""
    return MissingRequirement(
        f"the conversion to Parquet of hub data set '{name}' ({PARQUET_REVISION}) "
        "can neither be downloaded from "
        f"here nor is it in this machine's cache ({type(error).__name__}: {reason}){more}",
        fix="check the id; then, on a login node with Internet access and with HF_HOME on a "
        "file system this machine sees "
        'too, run: python -c "import huggingface_hub; '
        f"huggingface_hub.snapshot_download({name!r}, repo_type='dataset', "
        f'revision={PARQUET_REVISION!r}{only})"',
        at=("data",),
    )
