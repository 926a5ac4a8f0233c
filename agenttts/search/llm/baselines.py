"""The LLM baselines: the same questions, asked without the insights.

If the model proposes too few allocations, the others are drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import override

from agenttts.errors import located
from agenttts.search.base import Proposal, Searcher
from agenttts.search.llm.base import Chat, LLMError
from agenttts.search.llm.knowledge import Experience, load_experience, most_similar
from agenttts.search.llm.prompts import Prompts, allocation_text, history
from agenttts.search.llm.proposer import AllocationProposer, LLMSession
from agenttts.search.llm.reading import read_guidelines
from agenttts.search.llm.task_description import TaskDescription
from agenttts.space import SearchSpace
from agenttts.spec.section import Options

_MOST_SENTENCES = 8


class LLMSearcher(Searcher):
    """A model that proposes whole batches.

    ``llm`` is the session with the model. Without one, all allocations are drawn at random.
    """

    asks_llm = "needs"
    seed_role = (
        "the seed of every call of the model, and the allocations that the model does not propose"
    )

    def __init__(
        self,
        space: SearchSpace,
        seed: int = 0,
        options: Options | None = None,
        *,
        llm: LLMSession | None = None,
    ) -> None:
        super().__init__(space, seed, options)
        self._session = llm
        self._prompts = Prompts(space, llm.task_description if llm else TaskDescription())
        self._proposer = AllocationProposer(llm, self._prompts, self.name) if llm else None

    @override
    def _propose(self, n: int) -> list[Proposal]:
        asks = (
            self._proposer is not None and not self._proposer.given_up(self.archive) and self._open
        )
        chosen = self._written(n) if asks else []
        self.add_pending(proposal.allocation for proposal in chosen)
        why = "drawn at random: the model proposed too few" if self._proposer else "drawn at random"
        return chosen + self._drawn(n - len(chosen), why)

    def _written(self, n: int) -> list[Proposal]:
        """Return up to ``n`` new proposals of the model."""
        assert self._proposer is not None
        return self._proposer.propose(lambda limit: self._chat(n, limit), n, self.archive)

    def _chat(self, n: int, limit: int) -> Chat:
        """Return the question for ``n`` allocations; only for searchers that ask it."""
        raise NotImplementedError

    def _ask(self, template: str, n: int, **values: object) -> Chat:
        return self._prompts.proposals(template, n, self.archive, self.seed, **values)


class ZeroShotSearcher(LLMSearcher):
    """LLM_ZS: proposes from the task's description alone.

    It reads its earlier proposals, but not their scores.
    """

    name = "llm_zs"

    @override
    def _chat(self, n: int, limit: int) -> Chat:
        tried = [allocation_text(a) for a in sorted(self.archive.known)]
        return self._ask("zero_shot", n, tried=tried[-limit:])


class AgentHPOSearcher(LLMSearcher):
    """AgentHPO: tunes from the log of its own trials (arXiv 2402.01881).

    Allocations are hyperparameters like any other.
    """

    name = "agenthpo"

    @override
    def _chat(self, n: int, limit: int) -> Chat:
        return self._ask("agent_hpo", n, history=history(self.archive, limit))


class MLCopilotOptions(Options):
    """The options of `mlcopilot`."""

    knowledge: Annotated[Sequence[str], Field(description="a list of runs or tables")] = ()
    """Finished searches: each a run's directory, its ``trials.parquet`` or a replay table."""


class MLCopilotSearcher(LLMSearcher):
    """MLCopilot: proposes from the experience of finished searches.

    Source: arXiv 2304.14979. The prompt has the most similar searches, and the knowledge that the
    model itself first wrote from them.
    """

    name = "mlcopilot"
    options_model = MLCopilotOptions
    options: MLCopilotOptions

    def __init__(
        self,
        space: SearchSpace,
        seed: int = 0,
        options: MLCopilotOptions | None = None,
        *,
        llm: LLMSession | None = None,
    ) -> None:
        super().__init__(space, seed, options, llm=llm)
        with located("options", "knowledge"):
            experience = load_experience(self.options.knowledge)
        self._experience: list[Experience] = most_similar(experience, space)

    @override
    def _chat(self, n: int, limit: int) -> Chat:
        return self._ask(
            "copilot",
            n,
            experience=self._shown(limit),
            knowledge=self._knowledge(),
            history=history(self.archive, limit),
        )

    def _shown(self, limit: int) -> list[dict[str, Any]]:
        """Return the experience for a prompt that shows at most ``limit`` own trials."""
        return [past.shown(max(2, limit // 4)) for past in self._experience]

    def _knowledge(self) -> list[str]:
        """Return the model's summary of the experience; it is asked for once."""
        if self._proposer is None or not self._experience:
            return []
        try:
            _, reply = self._proposer.ask(
                lambda limit: self._prompts.chat(
                    "knowledge",
                    "copilot_knowledge",
                    schema=self._prompts.guidelines_schema(_MOST_SENTENCES),
                    seed=self.seed,
                    experience=self._shown(limit),
                    most=_MOST_SENTENCES,
                ),
                self.archive,
            )
        except LLMError:
            # The failure is in the transcript, and the prompt has the experience itself.
            return []
        return read_guidelines(reply.text, _MOST_SENTENCES)
