"""Makes ``twohop.jsonl``, the built-in data set: ``python -m
benchmarks.built_in_data.make_twohop``.

Each of 12 patterns is a chain of two facts, head → bridge → answer, in a made-up world of five
chains. A question names the head only, so that the first fact is needed to know which second fact
to read. The distractors are facts of the same pattern's other chains, a namesake of the bridge in
the same relation as the answer, and asides about head and bridge; none of them holds the answer.
Everything is drawn with a fixed seed, so the file can be made again.

``--worlds 3 --out FILE`` writes the questions of three worlds, whose names and answers are drawn
anew: the data of benchmarks/search/tables/two_facts.yaml.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agenttts.tasks.loading.source import DATA_FOLDER

SEED = 7
TARGET = DATA_FOLDER / "twohop.jsonl"


def main() -> None:
    """Write the data set, or a larger one of several worlds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=1, help="worlds of 60 questions")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    made = [question for n in range(arguments.worlds) for question in questions(SEED + n)]
    lines = [json.dumps(question, ensure_ascii=False) for question in made]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def questions(seed: int) -> list[dict[str, object]]:
    """All questions in 2Wiki's shape, in an order in which patterns alternate."""
    names = Names(seed)
    by_pattern = [list(pattern.questions(names)) for pattern in PATTERNS]
    return [question for row in zip(*by_pattern, strict=True) for question in row]


@dataclass(frozen=True)
class Chain:
    """What fills a pattern's templates, and somebody else who is called almost as the bridge is."""

    head: str
    bridge: str
    answer: str
    namesake: str

    def fill(self, template: str) -> str:
        return template.format(head=self.head, bridge=self.bridge, answer=self.answer)


@dataclass(frozen=True)
class Pattern:
    """A relation of two facts.

    ``bridge`` and ``answer`` name the pool their names come from, or list the values.
    """

    question: str
    first: str
    second: str
    head_aside: str
    bridge_aside: str
    heads: tuple[str, ...]
    bridge: str
    answer: str | tuple[str, ...]

    def questions(self, names: Names) -> Iterator[dict[str, object]]:
        """A question a head."""
        count = len(self.heads)
        # One value more than chains: the namesakes'.
        if isinstance(self.answer, str):
            answers = [names.take(self.answer) for _ in range(count + 1)]
        else:
            answers = names.random.sample(self.answer, count + 1)
        chains = []
        for head, answer in zip(self.heads, answers[:count], strict=True):
            bridge = names.take(self.bridge)
            chains.append(Chain(head, bridge, answer, names.like(bridge, self.bridge)))
        for chain in chains:
            yield self._question(chain, chains, answers[-1], names.random)

    def _question(
        self, chain: Chain, chains: list[Chain], other_answer: str, order: random.Random
    ) -> dict[str, object]:
        gold = [chain.fill(self.first), chain.fill(self.second)]
        whole, last_half, first_half = order.sample([c for c in chains if c != chain], 3)
        distractors = [
            whole.fill(self.first),
            whole.fill(self.second),
            last_half.fill(self.second),
            first_half.fill(self.first),
            self.second.format(bridge=chain.namesake, answer=other_answer),
        ]
        asides = [
            chain.fill(self.head_aside),
            chain.fill(self.bridge_aside),
            whole.fill(self.bridge_aside),
        ]
        distractors += order.sample(asides, order.randint(1, 3))
        candidates = [*gold, *distractors]
        order.shuffle(candidates)
        return {
            "question": chain.fill(self.question),
            "answers": [chain.answer],
            "ctxs_candidate": candidates,
            "ctxs_gt": gold,
        }


PATTERNS = (
    Pattern(
        "Where was the director of the film {head} born?",
        "The film {head} was directed by {bridge}.",
        "{bridge} was born in {answer}.",
        "The film {head} won a prize for its music.",
        "{bridge} has two sisters.",
        (
            "Ashes of Juniper",
            "The Glass Ferry",
            "Nine Lanterns",
            "Salt and Thunder",
            "Winter Parade",
        ),
        "person",
        "town",
    ),
    Pattern(
        "What is the hobby of the captain of the ship {head}?",
        "The captain of the ship {head} is {bridge}.",
        "The hobby of {bridge} is {answer}.",
        "The ship {head} was painted green last year.",
        "{bridge} is afraid of storms.",
        ("Grey Pelican", "Lady Marrow", "Morning Tern", "Old Fortune", "Silver Eel"),
        "person",
        ("beekeeping", "chess", "fencing", "pottery", "stargazing", "weaving"),
    ),
    Pattern(
        "Who is the mayor of the town on the river {head}?",
        "The town on the river {head} is {bridge}.",
        "The mayor of {bridge} is {answer}.",
        "The river {head} freezes every winter.",
        "{bridge} has a famous clock tower.",
        ("Ambel", "Dravo", "Isk", "Loom", "Quenna"),
        "town",
        "person",
    ),
    Pattern(
        "Which instrument does the author of the novel {head} play?",
        "The author of the novel {head} is {bridge}.",
        "{bridge} plays the {answer}.",
        "The novel {head} has forty chapters.",
        "{bridge} writes only at night.",
        (
            "A Quiet Orchard",
            "Feather and Flint",
            "The Last Cartographer",
            "The Paper Moon",
            "Under Red Hills",
        ),
        "person",
        ("bassoon", "cello", "harp", "oboe", "trumpet", "zither"),
    ),
    Pattern(
        "At which university did the founder of the company {head} study?",
        "The founder of the company {head} is {bridge}.",
        "{bridge} studied at {answer} University.",
        "The company {head} sells umbrellas and hats.",
        "{bridge} owns three horses.",
        ("Brightmoss", "Cobalt Works", "Hexaloom", "Norvane", "Tillerby"),
        "person",
        "town",
    ),
    Pattern(
        "In which year was the town with the {head} Museum founded?",
        "The {head} Museum is in the town of {bridge}.",
        "{bridge} was founded in {answer}.",
        "The {head} Museum is closed on Mondays.",
        "{bridge} has a large fish market.",
        ("Amber", "Button", "Kite", "Lock", "Teapot"),
        "town",
        ("1187", "1264", "1342", "1405", "1533", "1618"),
    ),
    Pattern(
        "Who is the father of the singer of the song {head}?",
        "The song {head} is sung by {bridge}.",
        "The father of {bridge} is {answer}.",
        "The song {head} lasts six minutes.",
        "{bridge} has a cat and a parrot.",
        ("Blue Gravel", "Carry the Lamp", "Hollow Drum", "Slow Harvest", "Two Small Boats"),
        "person",
        "person",
    ),
    Pattern(
        "Which language is spoken in the country that the island {head} belongs to?",
        "The island {head} belongs to the country {bridge}.",
        "The language spoken in {bridge} is {answer}.",
        "The island {head} has no trees.",
        "{bridge} has a red and yellow flag.",
        ("Corriva", "Ennis Rock", "Haldo", "Mirrin", "Tavosk"),
        "country",
        ("Ardic", "Belmish", "Ossan", "Purrin", "Tolvic", "Yendi"),
    ),
    Pattern(
        "Which award did the architect of the {head} Bridge win?",
        "The architect of the {head} Bridge is {bridge}.",
        "{bridge} won the {answer}.",
        "The {head} Bridge has seven arches.",
        "{bridge} works in a small office.",
        ("Copper", "Ferrymen's", "Hazel", "Pilgrim", "Vesper"),
        "person",
        (
            "Crystal Compass",
            "Golden Trowel",
            "Iron Laurel",
            "Marble Wreath",
            "Oak Medal",
            "Silver Plumb",
        ),
    ),
    Pattern(
        "In which year did the inventor of the {head} die?",
        "The inventor of the {head} is {bridge}.",
        "{bridge} died in {answer}.",
        "The {head} was first sold at a spring fair.",
        "{bridge} never learned to swim.",
        ("cloud press", "echo lamp", "foot organ", "rope engine", "tide clock"),
        "person",
        ("1713", "1748", "1796", "1821", "1859", "1890"),
    ),
    Pattern(
        "What is the home town of the coach of the team {head}?",
        "The coach of the team {head} is {bridge}.",
        "The home town of {bridge} is {answer}.",
        "The team {head} plays in white shirts.",
        "{bridge} used to be a baker.",
        ("Badger Rovers", "Harbour Nine", "Old Millers", "Red Herons", "Stone Foxes"),
        "person",
        "town",
    ),
    Pattern(
        "What is grown in the valley below the mountain {head}?",
        "The valley below the mountain {head} is called {bridge}.",
        "The farmers of {bridge} grow {answer}.",
        "The mountain {head} has snow all year.",
        "A narrow road leads to {bridge}.",
        ("Brannock", "Dunmaw", "Great Ulver", "Kessarin", "Old Tooth"),
        "valley",
        ("apricots", "barley", "hops", "lentils", "saffron", "walnuts"),
    ),
)

FIRST_NAMES = (
    "Alda Berno Cassik Darva Edrin Fenna Gorul Hesta Ilvan Jorra Kellan Lusa Marek Nerys Osric "
    "Pavla Quill Rosk Sanna "
    "Tobin Ulla Varek Wenna Yorik Zenda Anselm Brisa Corvin Dessa Ermin"
).split()
SURNAMES = (
    "Abbrock Bellamar Cranick Dunvale Eskel Farrowin Gantrey Holloran Inskip Jarrowby Kestrin "
    "Lomaxe Marrin Nettley "
    "Orwick Penhale Quorne Ruskett Sallowe Tarrant Umberton Vancell Wexley Yarrin Zollet "
    "Ashdel Birkin Castorf Dorrin "
    "Elvane Finchley Gorrell Haskin Ivorell Jessup Kilbane Larkin Mossop Norrel Oakesby "
    "Prewett Ravelle Stroude "
    "Thackett Ulrick Vosper Wymond Ambry Brockle Cadwin Dellamy Escott Fennimor Glaive"
).split()
TOWNS = (
    "Aldermoor Bexcombe Calverne Dunmere Elmsgate Farrowby Glenholt Harwick Ivelton Jorvale "
    "Kelderby Lorringham "
    "Marnock Netherby Oakmantle Pellmoor Quarrington Redfallow Stavely Thornwater Umberleigh "
    "Valden Westerfell "
    "Yarrowdale Zennick Ashbarrow Brackwell Coldquay Drayfield Estermere"
).split()
COUNTRIES = "Avaria Bruneth Calenda Dorvania Estrovia Felmark".split()
VALLEYS = "Amblerook Birchmead Cinderhollow Dapplecombe Foxglen Wrenrest".split()


class Names:
    """Names given out once each, so that no two chains share one by chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._pools = {
            "surname": self._shuffled(SURNAMES),
            "town": self._shuffled(TOWNS),
            "country": self._shuffled(COUNTRIES),
            "valley": self._shuffled(VALLEYS),
        }
        self._first_names: list[str] = []

    def take(self, kind: str) -> str:
        """A new name of a 'person', 'town', 'country' or 'valley'."""
        if kind == "person":
            return f"{self._first_name()} {self._pools['surname'].pop()}"
        return self._pools[kind].pop()

    def like(self, name: str, kind: str) -> str:
        """Another name that is easily taken for ``name``: the same surname, or a place beside
        the place.
        """
        if kind != "person":
            return f"Upper {name}"
        first, surname = name.split()
        return f"{next(f for f in iter(self._first_name, None) if f != first)} {surname}"

    def _first_name(self) -> str:
        # First names come again: there are fewer of them than people, as in any world.
        self._first_names = self._first_names or self._shuffled(FIRST_NAMES)
        return self._first_names.pop()

    def _shuffled(self, names: list[str]) -> list[str]:
        return self.random.sample(names, len(names))


if __name__ == "__main__":
    main()
