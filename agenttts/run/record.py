"""``run.json``: everything that launch resolved for a run.

It is written at launch, and read instead of being resolved again; what follows from the profile is
written anew when the run takes a corrected one. The user's own settings are in
``spec.yaml`` and ``profile.yaml``. The controller reads here what depends on more than these two:
the models' files, the data, the image, and the environment of the launch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agenttts.dispatch.apptainer import Container
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.errors import UserError
from agenttts.files.atomic import atomic_write_bytes
from agenttts.inference.base import ModelConfig
from agenttts.replies import Thinking
from agenttts.search.llm.task_description import TaskDescription
from agenttts.tables.forecast import Forecast
from agenttts.tasks.loading.report import SourceReport

SCHEMA_NUMBER = 1
"""Number of the form of ``run.json`` that this version writes.

It grows when a key is removed or changes its meaning.
"""

RUN_FILE = "run.json"
OLDER_RUN_FILE = "origin.json"
"""The file that versions before ``run.json`` wrote in its place."""

INCOMPLETE = "restore it from a copy, or launch the spec under another --name"


def _known(number: int) -> int:
    if number > SCHEMA_NUMBER:
        raise ValueError(
            f"it is {number}, but this version reads up to {SCHEMA_NUMBER}: "
            "use the version that launched the run"
        )
    return number


def _no_null(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold a null character")
    return path


def _models(models: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
    for model in models.values():
        _no_null(Path(model.path))
    return models


_Place = Annotated[Path, AfterValidator(_no_null)]


class _Part(BaseModel):
    # Keys that only a later version knows are ignored.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class AgentRecord(_Part):
    """The language model that the search asks.

    Attributes:
        gpus: GPUs of a model that the run serves itself; None if it serves none.
        thinking: The markers around its thinking; None if it has none.
        opening: What its prompts end with if they open a block of thinking; else empty.
        merges_system: Whether its chat template leaves out a system message, whose text is
            therefore put into the user's.
        fields: Fields of every request beyond those of OpenAI's interface.
        dtype: The data type that a model that the run serves gets on a CPU; None for the engine's
            default.
        task_description: The description of the task in its prompts.
    """

    gpus: int | None = None
    thinking: Thinking | None = None
    opening: str = ""
    merges_system: bool = False
    fields: dict[str, Any] = {}
    dtype: str | None = None
    task_description: TaskDescription = Field(default_factory=TaskDescription)


class RunRecord(_Part):
    """What launch resolved for a run.

    Attributes:
        schema_number: The form of this document (`SCHEMA_NUMBER`).
        token: The run's unique id.
        earlier_tokens: The ids from before the journal was made anew, the oldest first.
        version: The package's version at launch.
        models: Every model as its engine needs it: its path, GPUs, the markers of its thinking, the
            fingerprint of its files, and the rules that make the addresses of its samples.
        contents: The digest of what each model's files hold, which copies share
            (`agenttts.inference.fingerprint`); without models whose files are elsewhere, and empty
            in records of older versions.
        sizes: The models' sizes; empty in records of older versions.
        container: The container of the trials; None for the host's Python.
        image_sha256: The digest of the container's image; None without a container.
        compile_cache: Where compiled code is kept between jobs, a path from the run's directory;
            None without a container, unless the profile names a place.
        forecast: What its trials were expected to cost; None in records of older versions.
        samples: Where samples are stored, a path from the run's directory. An absolute path is
            shared with other runs.
        agent: The language model that the search asks; None if it asks none.
        skip_bad: How many bad records of a data file were allowed.
        data: What was read of each file or hub split.
        examples: SHA-256 of each file of frozen examples, by its name.
        search_files: SHA-256 of each copied file that the search reads, by its path from the run's
            directory (`agenttts.run.search_files`); empty in records of older versions.
        extended_at: For each extension of the search, the number of the next trial.
        main_metric: The task's metric that is the score, ``STAGE.METRIC``; empty in records of
            older versions.
    """

    schema_number: Annotated[int, AfterValidator(_known)]
    token: str
    earlier_tokens: tuple[str, ...] = ()
    version: str
    models: Annotated[dict[str, ModelConfig], AfterValidator(_models)]
    contents: dict[str, str] = {}
    sizes: dict[str, ModelSize] = {}
    forecast: Forecast | None = None
    container: Container | None
    image_sha256: str | None
    compile_cache: _Place | None
    samples: _Place
    agent: AgentRecord | None
    skip_bad: int
    data: tuple[SourceReport, ...]
    examples: dict[str, str]
    search_files: dict[str, str] = {}
    main_metric: str = ""
    extended_at: tuple[int, ...] = ()

    def tokens(self, run: str) -> tuple[str, ...]:
        """Return the prefixes of the batch tokens of the run's jobs, today's first.

        ``run`` is the run's name.
        """
        return tuple(f"{run}-{token}" for token in (self.token, *self.earlier_tokens))

    def cache(self, run: Path) -> CompileCache | None:
        """Return where the jobs of the run in the directory ``run`` keep compiled code."""
        if self.compile_cache is None:
            return None
        return CompileCache(run / self.compile_cache, self.image_sha256 or "")


def write_record(path: Path, record: RunRecord) -> None:
    """Write a record, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n"
    # The name of a data file may hold invalid Unicode. Nothing is found by that name.
    atomic_write_bytes(path, text.encode("utf-8", "replace"))


def update_record(path: Path, fields: Mapping[str, Any]) -> None:
    """Give fields of the record in a run's ``run.json`` other values.

    Args:
        path: The file.
        fields: Their values as in JSON.

    Raises:
        UserError: As in `read_record`.
        OSError: It cannot be written.
    """
    record = read_record(path).model_dump(mode="json") | dict(fields)
    write_record(path, RunRecord.model_validate_json(json.dumps(record)))


def read_record(path: Path) -> RunRecord:
    """Return the record in a run's ``run.json``.

    Raises:
        UserError: The file is damaged (the message names file and key), or another version wrote
            another form of it.
    """
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"'{key}': " if key else ""
        raise UserError(f"{path}: {where}{first['msg']}; {INCOMPLETE}") from None


def _missing(path: Path) -> str:
    older = path.with_name(OLDER_RUN_FILE)
    if not older.exists():
        return f"{path}: the file does not exist; {INCOMPLETE}"
    return (
        f"{path.parent} was launched by an older version of agenttts-hpc (it has "
        f"{OLDER_RUN_FILE} and no {path.name}); "
        "finish it with that version, or launch its spec under another --name"
    )
