"""The prompts of retrieval QA.

The facts of the worked examples are invented, and in none of the data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agenttts.inference.base import Prompt


@dataclass(frozen=True)
class Wording:
    """The words of the two stages for their references.

    ``heading`` stands above the references. A retrieval shot is (references, question, numbers
    needed). An answer shot is (references selected, question, answer).
    """

    heading: str
    retrieval_system: str
    retrieval_label: str
    retrieval_shots: tuple[tuple[tuple[str, ...], str, tuple[int, ...]], ...]
    answer_system: str
    answer_shots: tuple[tuple[tuple[str, ...], str, str], ...]


_FUSION_SYSTEM = (
    "Several people answered the question. Work out the best answer from theirs. "
    "Reply with the answer only."
)

# Short, because every prompt has them: two or three, each of a few invented sentences.
_RETRIEVAL_SHOTS = (
    (
        (
            "Bram Oddel keeps geese.",
            "The poem Low Tide was written by Ila Fenn.",
            "Ila Fenn lives in Corvane.",
            "The poem Dry Wells was written by Bram Oddel.",
        ),
        "Where does the writer of the poem Low Tide live?",
        (2, 3),
    ),
    (
        (
            "The chef of the inn Red Kettle is Dov Marl.",
            "Una Sorrel collects stamps.",
            "The inn Red Kettle has nine rooms.",
            "The chef of the inn Old Plough is Una Sorrel.",
            "Dov Marl collects coins.",
        ),
        "What does the chef of the inn Red Kettle collect?",
        (1, 5),
    ),
)
_ANSWER_SHOTS = (
    (
        ("The poem Low Tide was written by Ila Fenn.", "Ila Fenn lives in Corvane."),
        "Where does the writer of the poem Low Tide live?",
        "Corvane",
    ),
    (
        ("Dov Marl collects coins.", "The chef of the inn Red Kettle is Dov Marl."),
        "What does the chef of the inn Red Kettle collect?",
        "coins",
    ),
    (
        ("The lake Issel lies near Tarn.", "The judge of Tarn is Edda Polk."),
        "Who is the judge of the village near the lake Issel?",
        "Edda Polk",
    ),
)
_FUSION_SHOTS = (
    (
        "Where does the writer of the poem Low Tide live?",
        ("Ila Fenn", "Corvane", "Corvane"),
        "Corvane",
    ),
    (
        "What does the chef of the inn Red Kettle collect?",
        ("coins", "stamps", "coins", "the inn"),
        "coins",
    ),
)


PASSAGES = Wording(
    heading="References",
    retrieval_system=(
        "Pick the references needed to answer the question. It takes several facts that build "
        "on each other. "
        "Reply with their numbers only, such as [2] [5]."
    ),
    retrieval_label="Needed references:",
    retrieval_shots=_RETRIEVAL_SHOTS,
    answer_system=(
        "Answer the question from the references. Reply with the answer only: a name, a date "
        "or a few words."
    ),
    answer_shots=_ANSWER_SHOTS,
)


def retrieval_prompt(wording: Wording, question: str, candidates: Sequence[str]) -> Prompt:
    """Return the prompt that asks which candidates, numbered from 1, are needed."""
    return Prompt(
        system=wording.retrieval_system,
        shots=tuple(
            (_retrieval_question(wording, asked, references), format_numbers(numbers))
            for references, asked, numbers in wording.retrieval_shots
        ),
        user=_retrieval_question(wording, question, candidates),
        label=wording.retrieval_label,
        stop=("\n",),
    )


def answer_prompt(wording: Wording, question: str, references: Sequence[str]) -> Prompt:
    """Return the prompt that asks for the answer, with only the selected references.

    Without references the model has to know the answer.
    """
    return Prompt(
        system=wording.answer_system,
        shots=tuple(
            (_answer_question(wording, asked, texts), answer)
            for texts, asked, answer in wording.answer_shots
        ),
        user=_answer_question(wording, question, references),
        stop=("\n",),
    )


def fusion_prompt(question: str, candidates: Sequence[str]) -> Prompt:
    """Return the prompt that asks for one answer, given several candidates."""
    return Prompt(
        system=_FUSION_SYSTEM,
        shots=tuple((_fusion_question(q, answers), best) for q, answers, best in _FUSION_SHOTS),
        user=_fusion_question(question, candidates),
        label="Best answer:",
        stop=("\n",),
    )


def format_numbers(numbers: Sequence[int]) -> str:
    """Return reference numbers in the form that a model is asked for: [2] [5]."""
    return " ".join(f"[{number}]" for number in numbers)


def _retrieval_question(wording: Wording, question: str, candidates: Sequence[str]) -> str:
    return f"{wording.heading}:\n{_numbered(dict(enumerate(candidates, 1)))}\nQuestion: {question}"


def _answer_question(wording: Wording, question: str, references: Sequence[str]) -> str:
    listed = "\n".join(references) or "(none)"
    return f"{wording.heading}:\n{listed}\nQuestion: {question}"


def _fusion_question(question: str, candidates: Sequence[str]) -> str:
    listed = "\n".join(f"- {candidate}" for candidate in candidates)
    return f"Question: {question}\nAnswers given:\n{listed}"


def _numbered(texts: Mapping[int, str]) -> str:
    return "\n".join(f"[{number}] {text}" for number, text in texts.items())
