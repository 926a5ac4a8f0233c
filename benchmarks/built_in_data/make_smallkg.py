"""Makes ``smallkg.json``, the built-in knowledge graph questions: ``python -m
benchmarks.built_in_data.make_smallkg``.

Each of 6 patterns is a chain of two triples, head → bridge → answer, in a made-up world of six
chains; a question names the head only. The 2-hop triples hold the gold ones too, as in the
published files, next to those of the pattern's other chains and triples about head and bridge that
do not lead to the answer. Drawn with a fixed seed, so the file can be made again.

``--worlds 7 --out FILE`` writes the questions of seven worlds, whose names and answers are drawn
anew: the data of benchmarks/search/tables/kgqa_three_models.yaml.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agenttts.tasks.loading.source import DATA_FOLDER
from benchmarks.built_in_data.make_twohop import Names

SEED = 11
TARGET = DATA_FOLDER / "smallkg.json"

Triple = list[str]


def main() -> None:
    """Write the data set, or a larger one of several worlds, a record a line of a JSON list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=1, help="worlds of 36 questions")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    made = [record for world in range(arguments.worlds) for record in records(SEED, world)]
    lines = [json.dumps(record, ensure_ascii=False) for record in made]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def records(seed: int, world: int = 0) -> list[dict[str, object]]:
    """All questions in ComplexWebQuestions' shape, in an order in which patterns alternate."""
    names = Names(seed + world)
    by_pattern = [list(pattern.records(names)) for pattern in PATTERNS]
    rows = [record for row in zip(*by_pattern, strict=True) for record in row]
    first = world * len(rows)
    return [{"ID": f"smallkg-{number}", **record} for number, record in enumerate(rows, first)]


@dataclass(frozen=True)
class Pattern:
    """Relations of two triples, of the first one's inverse and of an aside about each end."""

    question: str
    first: str
    inverse: str
    second: str
    head_aside: tuple[str, tuple[str, ...]]
    bridge_aside: tuple[str, tuple[str, ...]]
    heads: tuple[str, ...]
    bridge: str
    answer: str | tuple[str, ...]

    def records(self, names: Names) -> Iterator[dict[str, object]]:
        """A question a head."""
        if isinstance(self.answer, str):
            answers = [names.take(self.answer) for _ in self.heads]
        else:
            answers = names.random.sample(self.answer, len(self.heads))
        chains = [
            (head, names.take(self.bridge), answer)
            for head, answer in zip(self.heads, answers, strict=True)
        ]
        for chain in chains:
            others = names.random.sample([c for c in chains if c != chain], 3)
            yield self._record(chain, others, names.random)

    def _record(
        self,
        chain: tuple[str, str, str],
        others: list[tuple[str, str, str]],
        order: random.Random,
    ) -> dict[str, object]:
        head, bridge, answer = chain
        crucial: list[Triple] = [[head, self.first, bridge], [bridge, self.second, answer]]
        gold = [*crucial, [bridge, self.inverse, head]]
        around: list[Triple] = [
            [head, self.head_aside[0], order.choice(self.head_aside[1])],
            [bridge, self.bridge_aside[0], order.choice(self.bridge_aside[1])],
        ]
        for other_head, other_bridge, other_answer in others:
            around.append([other_head, self.first, other_bridge])
            around.append([other_bridge, self.second, other_answer])
        near = [*gold, *around]
        order.shuffle(near)
        return {
            "question": self.question.format(head=head),
            "answer": [answer],
            "crucial_triples": crucial,
            "gt_triples": gold,
            "2hop_triples": near,
        }


PATTERNS = (
    Pattern(
        "Where was the conductor of the orchestra {head} born?",
        "orchestra.conductor",
        "person.conducts",
        "person.birthplace",
        ("orchestra.founded", ("1901", "1924", "1957")),
        ("person.eyes", ("brown", "green", "grey")),
        (
            "Bell Harbour Players",
            "Dusk Ensemble",
            "Fen Philharmonic",
            "Lantern Strings",
            "Moss Street Band",
            "Three Rivers Brass",
        ),
        "person",
        "town",
    ),
    Pattern(
        "Who is the governor of the province that the lake {head} lies in?",
        "lake.province",
        "province.lake",
        "province.governor",
        ("lake.depth_m", ("12", "48", "103")),
        ("province.flower", ("iris", "poppy", "thistle")),
        ("Arro", "Bittern Mere", "Clevant", "Dimmet", "Ostra", "Pellin"),
        "town",
        "person",
    ),
    Pattern(
        "Which sport does the owner of the newspaper {head} practise?",
        "newspaper.owner",
        "person.owns",
        "person.sport",
        ("newspaper.price", ("3 pence", "5 pence", "one crown")),
        ("person.height_cm", ("164", "177", "189")),
        (
            "Daily Anchor",
            "Evening Plough",
            "Morning Kettle",
            "Northern Wick",
            "The Gazetteer",
            "The Tattler",
        ),
        "person",
        ("archery", "curling", "fencing", "rowing", "skating", "wrestling"),
    ),
    Pattern(
        "In which year was the castle of Duke {head} built?",
        "duke.castle",
        "castle.duke",
        "castle.built",
        ("duke.motto", ("Ever on", "Slow and sure", "We watch")),
        ("castle.towers", ("4", "6", "9")),
        ("Albrin", "Borsk", "Corland", "Edwent", "Galford", "Hathe"),
        "valley",
        ("1102", "1219", "1288", "1344", "1407", "1519"),
    ),
    Pattern(
        "What does the keeper of the lighthouse {head} breed?",
        "lighthouse.keeper",
        "person.keeps",
        "person.breeds",
        ("lighthouse.colour", ("red", "white", "striped")),
        ("person.birth_month", ("March", "June", "October")),
        ("Cape Sorrow", "Gull Point", "Long Spit", "Ness Head", "Shale Bar", "Twin Rocks"),
        "person",
        ("bees", "carp", "falcons", "geese", "mules", "spaniels"),
    ),
    Pattern(
        "Which currency is used in the country whose capital is {head}?",
        "city.capital_of",
        "country.capital",
        "country.currency",
        ("city.trams", ("2 lines", "5 lines", "none")),
        ("country.anthem", ("Hail the Hills", "O Golden Shore", "Stand Fast")),
        ("Port Amity", "Castra", "Dellum", "Imber", "Sarnow", "Vantry"),
        "country",
        ("ardo", "crown", "fennig", "lirel", "pallar", "tolan"),
    ),
)


if __name__ == "__main__":
    main()
