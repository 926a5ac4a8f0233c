"""What a search ends with: its recommendation, its rivals, and their order."""

from __future__ import annotations

from collections.abc import Set
from statistics import fmean

from agenttts.search.archive import Scored
from agenttts.search.base import Proposal, Searcher
from agenttts.space import Allocation
from agenttts.tables.schema import RECOMMENDED_SOURCE

RIVALS = 2
"""Allocations that the recommended one is compared with at the end, on common examples."""


def last_proposals(searcher: Searcher, *, tried: bool = False) -> list[Proposal]:
    """Return the last trials of a search: its recommendation, and its rivals.

    Rivals are tried where trials are scored on parts of the examples. None is proposed that has
    the score already.

    Args:
        searcher: The searcher.
        tried: Whether only allocations may be proposed that were tried.
    """
    archive, fidelity = searcher.archive, searcher.fidelity
    recommended = searcher.best(tried=tried)
    if recommended is None:
        return []
    if fidelity is None:
        if recommended in archive.tried:
            return []
        return [Proposal(recommended, RECOMMENDED_SOURCE, "expected to score best")]
    if tried:
        others = searcher.rivals(recommended, len(archive.scored))
        others = [allocation for allocation in others if allocation in archive.tried][:RIVALS]
    else:
        others = searcher.rivals(recommended, RIVALS)
    rivals = [recommended, *others]
    common = fidelity.common(archive, rivals)
    proposals = [
        Proposal(
            allocation,
            RECOMMENDED_SOURCE,
            "expected to score best" if allocation == recommended else "a rival of the best",
            common,
        )
        for allocation in rivals
        if allocation not in archive.tried or set(common) - archive.examples_of(allocation)
    ]
    for proposal in proposals:
        searcher.add_pending([proposal.allocation], common)
    return proposals


def concluded(searcher: Searcher, common: Set[int]) -> Allocation | None:
    """Return the recommendation after a search; None without a score.

    Args:
        searcher: The searcher.
        common: The examples on which the recommendation and its rivals were compared. One of the
            allocations with scores on all of them is recommended. Empty: no such comparison.
    """
    archive = searcher.archive
    best = searcher.best(tried=True)
    if best is None or searcher.fidelity is None or not common:
        return best
    compared = [
        trial
        for trial in archive.scored
        if not trial.stored and common <= (trial.examples or {}).keys()
    ]
    if not compared or best in {trial.allocation for trial in compared}:
        return best

    def place(trial: Scored) -> tuple[float, float, Allocation]:
        scores = trial.examples or {}
        score = fmean(scores[example] for example in common)
        return (-score, trial.cost, trial.allocation)

    return min(compared, key=place).allocation


def ranked(searcher: Searcher, recommended: Allocation | None) -> list[Allocation]:
    """Return the recommended allocation, then the other scored ones, best first.

    Where trials are scored on parts of the examples, the searcher's expectation decides: the
    highest scores are then lucky ones on few examples.
    """
    if recommended is None:
        return []
    tried = [trial for trial in searcher.archive.scored if not trial.stored]
    by_score = [t.allocation for t in sorted(tried, key=lambda t: (-t.score, t.cost, t.allocation))]
    likely: list[Allocation] = []
    if searcher.fidelity is not None:
        known = set(by_score)
        rivals = searcher.rivals(recommended, len(searcher.archive.scored))
        likely = [allocation for allocation in rivals if allocation in known]
    return list(dict.fromkeys([recommended, *likely, *by_score]))
