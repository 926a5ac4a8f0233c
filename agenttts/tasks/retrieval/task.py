"""Retrieval QA: pick the references a question needs, then answer from them.

The data sets are 2WikiMultiHopQA and HotpotQA. As in the paper, retrieval draws k lists of
reference numbers and fuses them by vote. Answering draws k answers from the selected references
alone, and the same model fuses them. Knowledge-graph QA (`agenttts.tasks.retrieval.kgqa`) has the
same stages over other references.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from agenttts.inference.base import Prompt
from agenttts.tasks.base import Example, Fusion, StageDefinition, Task, TaskConfig
from agenttts.tasks.metrics import exact_match, set_overlap, token_overlap
from agenttts.tasks.options import QAOptions
from agenttts.tasks.retrieval.data import RetrievalExample, arranged, load_retrieval
from agenttts.tasks.retrieval.prompts import (
    PASSAGES,
    Wording,
    answer_prompt,
    fusion_prompt,
    retrieval_prompt,
)
from agenttts.tasks.votes import most_frequent, plain_answer

FUSION_TEMPERATURE = 0.3


class Retrieval(StageDefinition):
    """Picks references.

    The output is a list of their numbers, counted from 1. It is empty if no number could be read.
    """

    name = "retrieval"
    temperature = 0.9
    description = "Pick, out of numbered references, those needed to answer the question."
    wording: ClassVar[Wording] = PASSAGES

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = RetrievalExample.of(example)
        return retrieval_prompt(self.wording, record.question, record.candidates)

    def parse(self, text: str, example: Example) -> list[int]:
        """Return the numbers in brackets or, without brackets, those of the first line.

        Repeats and unknown numbers are dropped.
        """
        bracketed = _NUMBER.findall(" ".join(_BRACKETS.findall(text)))
        numbers = bracketed or _NUMBER.findall(_first_line(text))
        valid = range(1, len(RetrievalExample.of(example).candidates) + 1)
        return list(dict.fromkeys(int(number) for number in numbers if int(number) in valid))

    def fuse(self, candidates: Sequence[list[int]], example: Example) -> list[int]:
        """Fuse by vote: select the most frequent references.

        Their number is the most frequent length of the samples' lists. A sample without references
        counts as a list of length 0. Ties between references and between lengths go to the earliest
        in the order of the samples.
        """
        votes = Counter(number for numbers in candidates for number in numbers)
        length = most_frequent(map(len, candidates)) or 0
        return [number for number, _ in votes.most_common(length)]

    def metrics(self, output: list[int], example: Example) -> dict[str, float]:
        return dataclasses.asdict(set_overlap(output, RetrievalExample.of(example).gold_ids))


class Answer(StageDefinition):
    """Answers from the selected references alone.

    The output is a short text. It is empty if there was no answer.
    """

    name = "answer"
    temperature = 0.7
    description = "Answer the question in a few words from the selected references alone."
    wording: ClassVar[Wording] = PASSAGES
    whole_answers: ClassVar[frozenset[str]] = frozenset({"yes", "no", "noanswer"})
    """Normalised answers that overlap with nothing but themselves."""

    def prompt(self, example: Example, outputs: Mapping[str, Any]) -> Prompt:
        record = RetrievalExample.of(example)
        # In the order of the data, whatever the order of the votes, so that equal selections share
        # their samples.
        selected = [record.candidates[number - 1] for number in sorted(outputs[Retrieval.name])]
        return answer_prompt(self.wording, record.question, selected)

    def parse(self, text: str, example: Example) -> str:
        """Return the first line with content, without label, quotes, mark-up and period.

        A label on a line of its own is skipped, unless there is nothing else.
        """
        lines = [_MARK.sub("", line).strip(_AROUND) for line in text.splitlines()]
        said = (_LABEL.sub("", line).strip(_AROUND) for line in lines)
        answer = next((line for line in said if line), "")
        answer = answer or next((line for line in lines if line), "")
        return answer.rstrip(".").strip(_AROUND)

    def fusion(
        self, candidates: Sequence[str], example: Example, outputs: Mapping[str, Any]
    ) -> Fusion | None:
        """Return one more call over the candidates.

        There is none for a single sample, or if no sample has an answer.
        """
        given = [candidate for candidate in candidates if candidate]
        if len(candidates) < 2 or not given:
            return None
        question = RetrievalExample.of(example).question
        return Fusion(fusion_prompt(question, given), FUSION_TEMPERATURE)

    def fuse(self, candidates: Sequence[str], example: Example) -> str:
        """Return the most frequent answer that is not empty; the first on a tie.

        Answers that differ in case, white space, the marks around them or the end of a sentence
        count as the first of them.
        """
        return most_frequent(filter(None, candidates), plain_answer) or ""

    def metrics(self, output: str, example: Example) -> dict[str, float]:
        """Return exact match and the overlap of words.

        As in the evaluation of HotpotQA and 2WikiMultiHopQA, F1 is 0 where the normalised answers
        differ and one is yes, no or noanswer.
        """
        answers = RetrievalExample.of(example).answers
        overlap = dataclasses.asdict(token_overlap(output, answers, self.whole_answers))
        return {"em": exact_match(output, answers), **overlap}


class RetrievalOptions(QAOptions):
    """The options of `retrieval_qa`."""

    shuffle: Annotated[bool, Field(description="true or false")] = False
    """Put the references of each example in an order drawn by seed, not in the data's order."""


class RetrievalQA(Task):
    """Retrieval, then question answering."""

    name = "retrieval_qa"
    description = (
        "Answer a question that takes several facts, which have to be picked out of "
        "many references first."
    )
    stages = (Retrieval(), Answer())
    main_metric = "answer.em"
    options_model = RetrievalOptions

    def load(self, config: TaskConfig) -> list[Example]:
        options: RetrievalOptions = self.read_options(config.options)
        found = load_retrieval(
            config.data,
            split=config.split,
            examples=config.examples,
            seed=config.seed,
            report=config.report,
            search_examples=options.search_examples,
            hub_split=options.hub_split,
            records_key=options.records_key,
            aliases=options.aliases,
        )
        return [
            arranged(
                example,
                max_candidates=options.max_candidates,
                shuffle=options.shuffle,
                seed=config.seed,
            ).to_example()
            for example in found
        ]


def _first_line(text: str) -> str:
    """Return the first line that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
# Whole numbers in ASCII digits, at most six, because int() refuses thousands of digits.
_NUMBER = re.compile(r"(?<![0-9.])[0-9]{1,6}(?![0-9]|\.[0-9])")
_LABEL = re.compile(r"^(?:(?:the )?(?:(?:best|final|short) )?answer(?: is\b|\s*:|$)|A:)\s*:?", re.I)
_MARK = re.compile(r"^\s*(?:#{1,6}\s+|>\s*)+")
"""The marks of a heading or a quotation, before its text."""
_AROUND = " \t\"'`*“”‘’«»"
