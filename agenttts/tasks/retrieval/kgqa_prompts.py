"""The wording of triples in the prompts of knowledge-graph QA.

The worked examples are invented, and in none of the data sets.
"""

from __future__ import annotations

from agenttts.tasks.retrieval.prompts import Wording

TRIPLES = Wording(
    heading="Triples",
    retrieval_system=(
        "Pick the triples (head, relation, tail) needed to answer the question: those that "
        "lead from what it names to "
        "the answer. Reply with their numbers only, such as [2] [5]."
    ),
    retrieval_label="Needed triples:",
    retrieval_shots=(
        (
            (
                "(Bram Oddel, person.hobby, keeping geese)",
                "(Low Tide, poem.author, Ila Fenn)",
                "(Ila Fenn, person.home, Corvane)",
                "(Dry Wells, poem.author, Bram Oddel)",
            ),
            "Where does the author of the poem Low Tide live?",
            (2, 3),
        ),
        (
            (
                "(Red Kettle, inn.chef, Dov Marl)",
                "(Una Sorrel, person.collects, stamps)",
                "(Red Kettle, inn.rooms, 9)",
                "(Old Plough, inn.chef, Una Sorrel)",
                "(Dov Marl, person.collects, coins)",
            ),
            "What does the chef of the inn Red Kettle collect?",
            (1, 5),
        ),
    ),
    answer_system=(
        "Answer the question from the triples (head, relation, tail). Reply with the answer "
        "only: a name, a date or a few "
        "words."
    ),
    answer_shots=(
        (
            ("(Low Tide, poem.author, Ila Fenn)", "(Ila Fenn, person.home, Corvane)"),
            "Where does the author of the poem Low Tide live?",
            "Corvane",
        ),
        (
            ("(Dov Marl, person.collects, coins)", "(Red Kettle, inn.chef, Dov Marl)"),
            "What does the chef of the inn Red Kettle collect?",
            "coins",
        ),
        (
            ("(Issel, lake.village, Tarn)", "(Tarn, village.judge, Edda Polk)"),
            "Who is the judge of the village on the lake Issel?",
            "Edda Polk",
        ),
    ),
)
