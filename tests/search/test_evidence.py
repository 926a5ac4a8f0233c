"""The evidence: encoded once, and the same whatever the order of the results."""

import numpy as np
import pytest

from agenttts.search import TrialResult, create
from agenttts.search.archive import STORED, Archive
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.evidence import Evidence, EvidenceReader
from agenttts.space import Model, SearchSpace, Stage

MODELS = (Model("s", 3e9), Model("l", 70e9))
SPACE = SearchSpace(tuple(Stage(n, MODELS, 256, 64, (1, 2, 4, 8)) for n in "ab"), 1e4)
GRID = ChoiceGrid(SPACE)
A, B, C, D = (SPACE.allocation(("s", n), ("l", 1)) for n in (1, 2, 4, 8))
RESULTS = [
    TrialResult(B, 0.5, stderr=0.1),
    TrialResult(A, 0.4, stderr=0.2, source=STORED),
    TrialResult(C, None),
]


def archive_of(results, pending=()):
    archive = Archive(SPACE)
    archive.add(results)
    archive.add_pending(pending)
    return archive


def test_it_says_what_scored_failed_and_is_out():
    evidence = Evidence.of(GRID, archive_of(RESULTS, [D]))
    assert [trial.allocation for trial in evidence.trials] == [A, B]
    assert evidence.scores.tolist() == [0.4, 0.5]
    for rows, allocations in (
        (evidence.rows, [A, B]), (evidence.failed, [C]), (evidence.pending, [D]),
        (evidence.known, [A, B, C, D]),
    ):  # fmt: skip
        assert rows.tolist() == GRID.encode(allocations).tolist()
    assert (evidence.evaluated, list(evidence.told)) == (2, [1, 0])
    assert evidence.covariance == pytest.approx(np.diag([0.04, 0.01]))


def test_it_does_not_depend_on_the_order_of_the_results_but_knows_it():
    one = Evidence.of(GRID, archive_of(RESULTS))
    other = Evidence.of(GRID, archive_of(RESULTS[::-1]))
    assert (one.trials, one.rows.tolist()) == (other.trials, other.rows.tolist())
    assert list(other.told) == [0, 1]


def test_a_part_keeps_what_belongs_together():
    part = Evidence.of(GRID, archive_of(RESULTS)).part([1])
    assert (part.trials[0].allocation, part.scores.tolist()) == (B, [0.5])
    assert part.rows.tolist() == GRID.encode([B]).tolist()


@pytest.mark.parametrize(
    ("scores", "outliers"),
    [
        ((-10.0, -60.0, -30.0, -1e6), 1),
        ((-10.0, -60.0, -30.0, -5000.0), 0),
        ((0.9, 0.9, 0.9, 0.0), 0),
        ((1e6, 0.0, 0.0, 0.0), 0),
        ((0.0, 0.0, 0.0, -1.0), 0),
        ((-10.0, -1e6), 0),
        ((-10.0, -20.0, -1e6, -1e6), 0),
    ],
)
def test_a_score_far_below_the_others_counts_as_failed(scores, outliers):
    results = [TrialResult(a, one) for a, one in zip((A, B, C, D), scores, strict=False)]
    evidence = Evidence.of(GRID, archive_of(results))
    kept = len(results) - outliers
    assert evidence.scores.tolist() == list(scores[:kept])
    failed = [result.allocation for result in results[kept:]]
    assert evidence.failed.tolist() == GRID.encode(failed).tolist()
    assert list(evidence.told) == list(range(kept))
    assert len(evidence.known) == len(results)


def test_nothing_told_is_no_evidence():
    evidence = Evidence.of(GRID, archive_of([]))
    assert len(evidence.trials) == len(evidence.known) == len(evidence.scores) == 0


def test_what_is_outside_the_space_is_left_out():
    small = SearchSpace(SPACE.stages, (SPACE.cost(A) + SPACE.cost(B)) / 2)
    archive = Archive(small)
    archive.add(RESULTS)
    archive.add_pending([D])
    evidence = Evidence.of(ChoiceGrid(small), archive)
    assert [trial.allocation for trial in evidence.trials] == [A]
    assert len(evidence.failed) == len(evidence.pending) == 0


def test_it_is_read_again_only_when_the_archive_changed():
    archive = archive_of(RESULTS)
    reader = EvidenceReader(archive)
    first = reader.read()
    assert reader.read() is first
    archive.add_pending([D])
    second = reader.read()
    assert second.trials is first.trials
    assert second.pending.tolist() == GRID.encode([D]).tolist()
    archive.add([TrialResult(D, 0.6)])
    assert len(reader.read().trials) == 3


def test_a_batch_encodes_every_result_once(monkeypatch):
    searcher = create("agenttts", SPACE)
    for _ in range(4):
        searcher.tell([TrialResult(a, 0.1 * a["a"].samples) for a in searcher.ask(6)])
    counted = []
    encode = ChoiceGrid.encode

    def count(self, allocations):
        rows = encode(self, allocations)
        counted.append([tuple(row) for row in rows.tolist()])
        return rows

    monkeypatch.setattr(ChoiceGrid, "encode", count)
    searcher.ask(5)
    results = [tuple(row) for row in encode(GRID, (t.allocation for t in searcher.archive.scored))]
    assert sum(set(results) <= set(rows) for rows in counted) == 1
