"""Where the values of a document were written: file and line, or ``--set``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from agenttts.errors import AgentTTSError, KeyPath

Place = tuple[str, int | None]
"""A file and a line, or a ``--set`` argument and None."""


@dataclass(frozen=True)
class Source:
    """The places of a document's keys.

    All sources are equal, so that two specs with equal values are equal wherever they were read.

    Attributes:
        name: Name of the document for messages.
        places: The place of every key that was written.
    """

    name: str = field(compare=False)
    places: Mapping[KeyPath, Place] = field(compare=False, repr=False)

    def place(self, path: KeyPath) -> Place:
        """Return the place of a key, else of the nearest section that holds it."""
        above = (path[:length] for length in range(len(path), 0, -1))
        return next((self.places[p] for p in above if p in self.places), (self.name, None))

    def overridden(self) -> tuple[KeyPath, ...]:
        """Return the keys whose values were given with ``--set``."""
        given = {path: place for path, place in self.places.items() if place[1] is None}
        # An override also makes the sections around its key that the document lacks.
        made = {
            path[:length]
            for path, place in given.items()
            for length in range(len(path))
            if given.get(path[:length]) == place
        }
        return tuple(path for path in given if path not in made)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Add file and line to an error about a value of this document."""
        try:
            yield
        except AgentTTSError as error:
            error.find(self.place)
            raise
