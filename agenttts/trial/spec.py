"""The trial's spec: one JSON document that says which trial to run.

The host writes it, and the container reads it. It is plain JSON, because host and image may hold
different Python versions. ``protocol`` is raised when the document's meaning changes, so that an
image older than the host is detected before it computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agenttts.errors import UserError
from agenttts.files.documents import parse_json
from agenttts.inference.base import ModelConfig
from agenttts.inference.partition import SamplePartition
from agenttts.space import Allocation

PROTOCOL = 10
# Documents of these protocols are read too: 2 had no shares, 3 no thinking, 4 one rule of sample
# addresses, 5 no lists of trials and no models on servers, 6 no questions to workers, 7 no trials
# in parts, 8 no results with fewer samples and no parts of the examples, and 9 no models with
# `ModelConfig.later_keys`. A spec without such models is still written as 9, for earlier images.
_WITHOUT_LATER_KEYS = 9
_READ = (2, 3, 4, 5, 6, 7, 8, _WITHOUT_LATER_KEYS, PROTOCOL)
SPEC_FILE = "trial.json"


@dataclass(frozen=True)
class TrialSpec:
    """One allocation to evaluate over the examples of a split.

    ``examples`` is the run's frozen examples file. ``decode_tokens`` bounds the tokens of one
    sample, by stage. ``seed`` is the run's seed, from which every sample's own seed is derived.
    ``directory`` (the trial's own) and ``samples`` (the sample store) are absolute paths, the same
    inside the container. ``task_source`` is the folder from which the source of a user's own task
    is imported. ``options`` are the task's. ``code_on_host`` says that the user allows programs
    written by a model to run outside a container. ``shares`` holds, by stage, this trial's share of
    the samples that other trials draw at the same time. ``fewer_samples`` are numbers of samples,
    by stage, for which results are found too where the trial's samples give them.
    ``example_numbers`` are the examples of the file that the trial is scored on, from 0 and
    ascending; None means all.
    """

    run: str
    trial: str
    allocation: Allocation
    task: str
    examples: str
    seed: int
    decode_tokens: Mapping[str, int]
    models: Mapping[str, ModelConfig]
    directory: str
    samples: str
    options: Mapping[str, Any] = field(default_factory=dict)
    task_source: str | None = None
    code_on_host: bool = False
    shares: Mapping[str, SamplePartition] = field(default_factory=dict)
    fewer_samples: Mapping[str, Sequence[int]] = field(default_factory=dict)
    example_numbers: Sequence[int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document."""
        document = asdict(self)
        document["allocation"] = self.allocation.to_records()
        document["models"] = {name: model.to_record() for name, model in self.models.items()}
        later = any(model.later_keys for model in self.models.values())
        return {"protocol": PROTOCOL if later else _WITHOUT_LATER_KEYS, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrialSpec:
        """Return the spec in a document; inverse of `to_json`.

        Raises:
            UserError: The document has another protocol.
        """
        values = dict(document)
        protocol = values.pop("protocol", None)
        if protocol not in _READ:
            raise UserError(
                f"the trial protocol of this image is {PROTOCOL}, but the controller's "
                f"is {protocol}: build the image again with 'agenttts-hpc image build'"
            )
        values["allocation"] = Allocation.from_records(values["allocation"])
        values["models"] = {
            name: ModelConfig.from_record(model) for name, model in values["models"].items()
        }
        values["shares"] = {
            stage: SamplePartition(**share) for stage, share in values.get("shares", {}).items()
        }
        if (numbers := values.get("example_numbers")) is not None:
            values["example_numbers"] = tuple(map(int, numbers))
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> TrialSpec:
        """Read the spec in a file.

        Raises:
            UserError: The file cannot be read or has another protocol.
        """
        try:
            return cls.from_json(parse_json(path.read_bytes()))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}: is not a trial's spec, or is damaged ({problem})") from error
