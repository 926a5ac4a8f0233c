"""Knowledge-graph QA: pick the triples a question needs, then answer from them.

The data sets are ComplexWebQuestions and WebQSP. Stages, fusion and metrics are those of retrieval
QA; the references are triples of a knowledge graph.
"""

from __future__ import annotations

from agenttts.tasks.base import Example, Task, TaskConfig
from agenttts.tasks.options import QAOptions
from agenttts.tasks.retrieval.data import arranged
from agenttts.tasks.retrieval.kgqa_data import load_triples
from agenttts.tasks.retrieval.kgqa_prompts import TRIPLES
from agenttts.tasks.retrieval.task import Answer, Retrieval


class TripleRetrieval(Retrieval):
    """Picks triples.

    The output is a list of their numbers, counted from 1. It is empty if no number could be read.
    """

    description = (
        "Pick, out of numbered triples of a knowledge graph, those needed to answer the question."
    )
    wording = TRIPLES


class TripleAnswer(Answer):
    """Answers from the selected triples alone.

    The output is a short text. It is empty if there was no answer.
    """

    description = "Answer the question in a few words from the selected triples alone."
    wording = TRIPLES
    whole_answers = frozenset()  # ComplexWebQuestions and WebQSP have no such rule.


class KnowledgeGraphQA(Task):
    """Triple retrieval, then question answering.

    The candidates of an example are its crucial triples and the first 100 of its 2-hop triples that
    are not gold, shuffled with the run's seed. The crucial triples are the gold ids.
    """

    name = "kgqa"
    description = (
        "Answer a question from a knowledge graph, out of whose triples the few that "
        "matter have to be picked first."
    )
    stages = (TripleRetrieval(), TripleAnswer())
    main_metric = "answer.em"
    options_model = QAOptions

    def load(self, config: TaskConfig) -> list[Example]:
        options: QAOptions = self.read_options(config.options)
        found = load_triples(
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
                example, max_candidates=options.max_candidates, shuffle=True, seed=config.seed
            ).to_example()
            for example in found
        ]
