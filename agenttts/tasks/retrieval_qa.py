"""Retrieval QA: pick the references a question needs, then answer from them (2WikiMultiHopQA, HotpotQA).

As in the paper: retrieval draws k lists of reference numbers and fuses them by vote; answering draws k answers from
the selected references alone and has the same model fuse them.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agenttts.errors import UserError, valid_names
from agenttts.inference.base import Prompt
from agenttts.tasks.base import Example, Fusion, StageDefinition, Task, TaskConfig
from agenttts.tasks.datasets import RetrievalExample, load_retrieval
from agenttts.tasks.metrics import exact_match, set_overlap, token_overlap
from agenttts.tasks.retrieval_prompts import answer_prompt, fusion_prompt, retrieval_prompt

FUSION_TEMPERATURE = 0.3


class Retrieval(StageDefinition):
    """Picks references. The output is a list of their numbers, counted from 1; empty when none could be read."""

    name = "retrieval"
    temperature = 0.9
    description = "Pick, out of numbered references, those needed to answer the question."

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = RetrievalExample.of(example)
        return retrieval_prompt(record.question, record.candidates)

    def parse(self, text: str, example: Example) -> list[int]:
        """The numbers in brackets or, without brackets, those of the first line; repeats and unknown ones are dropped."""
        bracketed = _NUMBER.findall(" ".join(_BRACKETS.findall(text)))
        numbers = bracketed or _NUMBER.findall(_first_line(text))
        valid = range(1, len(RetrievalExample.of(example).candidates) + 1)
        return list(dict.fromkeys(int(number) for number in numbers if int(number) in valid))

    def fuse(self, candidates: Sequence[list[int]], example: Example) -> list[int]:
        """A vote: as many of the most named references as most samples name.

        Ties, between references and between list lengths, go to the one that came up first, in the order of the
        samples. A sample that names none counts as a list of length 0.
        """
        votes = Counter(number for numbers in candidates for number in numbers)
        lengths = Counter(len(numbers) for numbers in candidates)
        if not lengths:
            return []
        [(length, _)] = lengths.most_common(1)
        return [number for number, _ in votes.most_common(length)]

    def metrics(self, output: list[int], example: Example) -> dict[str, float]:
        return dataclasses.asdict(set_overlap(output, RetrievalExample.of(example).gold_ids))


class Answer(StageDefinition):
    """Answers from the selected references alone. The output is a short text; empty when there was no answer."""

    name = "answer"
    temperature = 0.7
    description = "Answer the question in a few words from the selected references alone."

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = RetrievalExample.of(example)
        # In the order of the data, whatever the order of the votes: equal selections share their samples.
        selected = [record.candidates[number - 1] for number in sorted(outputs[Retrieval.name])]
        return answer_prompt(record.question, selected)

    def parse(self, text: str, example: Example) -> str:
        """The first line that is not empty, without label, quotes, mark-up and final period."""
        line = _first_line(text).strip(_AROUND)
        line = _LABEL.sub("", line).strip(_AROUND) or line
        return line.rstrip(".").strip(_AROUND)

    def fusion(
        self, candidates: Sequence[str], example: Example, outputs: Mapping[str, Any]
    ) -> Fusion | None:
        """One more call over the candidates; none for a single sample, or when no sample has an answer."""
        given = [candidate for candidate in candidates if candidate]
        if len(candidates) < 2 or not given:
            return None
        question = RetrievalExample.of(example).question
        return Fusion(fusion_prompt(question, given), FUSION_TEMPERATURE)

    def fuse(self, candidates: Sequence[str], example: Example) -> str:
        """Without the model: the most frequent answer (the first of equals), empty ones aside."""
        votes = Counter(candidate for candidate in candidates if candidate).most_common(1)
        return votes[0][0] if votes else ""

    def metrics(self, output: str, example: Example) -> dict[str, float]:
        answers = RetrievalExample.of(example).answers
        overlap = dataclasses.asdict(token_overlap(output, answers))
        return {"em": exact_match(output, answers), **overlap}


class RetrievalQA(Task):
    """Retrieval, then question answering.

    Options: ``max_candidates`` (keep the gold references and as many others, drawn by seed, as make up that number, in
    the order of the data), ``shuffle`` (put the references of each example in an order drawn by seed),
    ``search_examples`` and ``hub_split`` (see `agenttts.tasks.datasets.load_retrieval`).
    """

    name = "retrieval_qa"
    description = "Answer a question that takes several facts, which have to be picked out of many references first."
    stages = (Retrieval(), Answer())
    main_metric = "answer.em"

    def load(self, config: TaskConfig) -> list[Example]:
        options = _Options.of(config.options)
        found = load_retrieval(
            config.data,
            split=config.split,
            examples=config.examples,
            search_examples=options.search_examples,
            hub_split=options.hub_split,
            seed=config.seed,
        )
        return [_arranged(example, options, config.seed).to_example() for example in found]


@dataclasses.dataclass(frozen=True)
class _Options:
    """The task's options, checked."""

    max_candidates: int | None = None
    shuffle: bool = False
    search_examples: int | None = None
    hub_split: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> _Options:
        rules: dict[str, tuple[str, Callable[[Any], bool]]] = {
            "max_candidates": ("a whole number of 1 or more", lambda v: type(v) is int and v >= 1),
            "shuffle": ("true or false", lambda v: isinstance(v, bool)),
            "search_examples": (
                "a whole number of 0 or more",
                lambda v: type(v) is int and v >= 0,
            ),
            "hub_split": ("the name of a split of the hub data set", lambda v: type(v) is str),
        }
        for name, value in given.items():
            if name not in rules:
                raise UserError(
                    f"task.options: task 'retrieval_qa' has no option '{name}'; {valid_names(name, rules)}"
                )
            valid, check = rules[name]
            if not check(value):
                raise UserError(f"task.options.{name}: {value!r} is not valid; valid: {valid}")
        return cls(**given)


def _arranged(example: RetrievalExample, options: _Options, seed: int) -> RetrievalExample:
    """The example with its references trimmed and shuffled as the options say."""
    # A generator for each example: its references do not depend on how many examples there are.
    random_order = random.Random(f"{seed}:{example.id}")
    positions = list(range(len(example.candidates)))
    gold = {number - 1 for number in example.gold_ids}
    if options.max_candidates is not None:
        others = [position for position in positions if position not in gold]
        room = min(len(others), max(0, options.max_candidates - len(gold)))
        positions = sorted(gold | set(random_order.sample(others, room)))
    if options.shuffle:
        random_order.shuffle(positions)
    number_of = {position: number for number, position in enumerate(positions, 1)}
    return dataclasses.replace(
        example,
        candidates=tuple(example.candidates[position] for position in positions),
        gold_ids=tuple(number_of[number - 1] for number in example.gold_ids),
    )


def _first_line(text: str) -> str:
    """The first line with something on it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
# ASCII digits, and few of them: int() refuses thousands.
_NUMBER = re.compile(r"(?<![0-9.])[0-9]{1,6}(?![0-9])")
_LABEL = re.compile(r"^(?:(?:the )?(?:(?:best|final|short) )?answer(?: is\b|\s*:)|A:)\s*:?", re.I)
_AROUND = " \t\"'`*“”‘’«»"
