"""What the surrogate expects around the recommended allocation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.loop import outlook as outlook_module
from agenttts.loop.outlook import outlook
from agenttts.search.archive import STORED, Archive, TrialResult
from agenttts.search.evidence import EvidenceReader
from agenttts.search.surrogate import Surrogate
from agenttts.space import SearchSpace
from tests.support.outlooks import RESULTS, SPACE, result, small_outlook
from tests.support.repeatable import max_examples
from tests.support.spaces import spaces

BEST = SPACE.allocation(("large", 2), ("large", 8))


def test_the_curves_are_the_surrogate_s_with_the_other_stages_as_recommended():
    found = small_outlook(BEST)
    archive = Archive(SPACE)
    archive.add(RESULTS)
    model = Surrogate(EvidenceReader(archive).read())
    assert [(c.stage, c.model) for c in found.curves] == [
        ("retrieval", "small"), ("retrieval", "large"), ("answer", "small"), ("answer", "large"),
    ]  # fmt: skip
    for curve in found.curves:
        for point in curve.points:
            at = BEST.replace(type(BEST[curve.stage])(curve.stage, curve.model, point.samples))
            assert abs(point.expected.mean - model.mean(at)) < 1e-9
            assert point.within == (SPACE.cost(at) <= SPACE.budget)
            assert point.expected.sd >= 0
        assert curve.chosen == (BEST[curve.stage].samples if curve.model == "large" else None)


def test_trials_stand_beside_their_curves():
    [retrieval] = [c for c in small_outlook(BEST).curves if (c.stage, c.model) == ("retrieval", "large")]  # fmt: skip
    exact = [t for t in retrieval.trials if t.same]
    assert [(t.samples, t.score, t.adjusted) for t in exact] == [(2, 0.65, 0.65)]
    others = {t.score: t for t in retrieval.trials if not t.same}
    assert set(others) == {0.50, 0.64}
    # Its answers were those of a smaller model: with the recommended ones it would score higher.
    assert others[0.50].adjusted > 0.50


def test_results_of_fewer_samples_are_no_trials(monkeypatch):
    """They are points beside the curves, but no trial evaluated their allocations."""
    fewer = [
        replace(result(score, ("large", 2), ("large", count)), source=STORED)
        for count, score in ((1, 0.55), (2, 0.60), (8, 0.65))
    ]
    found = outlook(SPACE, [*RESULTS, *fewer], BEST)
    assert found is not None
    tried = [c.tried for c in found.curves]
    assert tried == [c.tried for c in small_outlook(BEST).curves] == [2, 3, 3, 2]
    retrieval = found.curves[1]
    assert [t.score for t in retrieval.trials if t.stored] == [0.55, 0.60]
    assert found.pairs[0].tried == [(2, 4), (2, 8)]
    monkeypatch.setattr(outlook_module, "MOST_TRIALS", 1)
    thinned = outlook(SPACE, [*RESULTS, *fewer], BEST)
    assert thinned is not None
    assert len(thinned.curves[1].trials) < len(retrieval.trials)
    assert [c.tried for c in thinned.curves] == tried


def test_of_many_trials_beside_a_curve_some_are_left_out(monkeypatch):
    monkeypatch.setattr(outlook_module, "MOST_TRIALS", 1)
    [retrieval] = [c for c in small_outlook(BEST).curves if (c.stage, c.model) == ("retrieval", "large")]  # fmt: skip
    assert [(t.score, t.same) for t in retrieval.trials] == [(0.50, False), (0.65, True)]


def test_enough_is_the_least_number_with_nearly_all_of_the_gain():
    for curve in small_outlook().curves:
        means = {p.samples: p.expected.mean for p in curve.points}
        first, top = means[min(means)], max(means.values())
        limit = top - 0.05 * (top - first)
        assert means[curve.enough] >= limit
        assert all(mean < limit for samples, mean in means.items() if samples < curve.enough)


def test_pairs_know_budget_trials_and_the_recommendation():
    [pair] = small_outlook(BEST).pairs
    assert (pair.x_stage, pair.x_model, pair.y_stage, pair.y_model) == ("retrieval", "large", "answer", "large")  # fmt: skip
    assert pair.chosen == (2, 8)
    assert pair.tried == [(2, 4), (2, 8)]
    cells = {(c.x, c.y): c for c in pair.cells}
    assert cells[pair.chosen].within
    for (x, y), cell in cells.items():
        cost = SPACE.cost(SPACE.allocation(("large", x), ("large", y)))
        assert cell.within == (cost <= SPACE.budget)


def test_the_rival_is_the_best_other_allocation():
    found = small_outlook(BEST)
    assert found.rival is not None
    assert found.rival.allocation == "large×2 → large×4"
    assert found.rival.ahead.mean > 0
    only = outlook(SPACE, [result(0.5, ("small", 1), ("small", 1))], None)
    assert only is not None
    assert only.rival is None


def test_without_scores_there_is_none():
    assert outlook(SPACE, [], BEST) is None
    assert outlook(SPACE, [result(None, ("small", 1), ("small", 1))], BEST) is None


def test_a_recommendation_outside_the_space_is_replaced_by_the_best_tried_one():
    other = SearchSpace(SPACE.stages, 1000.0).allocation(("large", 20), ("large", 20))
    assert small_outlook(other) == small_outlook(None)


@settings(max_examples=max_examples(0.3))
@given(spaces(), st.data())
def test_any_space_has_curves_for_all_stages_and_models(space: SearchSpace, data: st.DataObject):
    feasible = list(zip(range(40), space.feasible(), strict=False))
    picked = data.draw(st.lists(st.sampled_from(feasible), min_size=1, max_size=4, unique_by=lambda e: e[0]))  # fmt: skip
    results = [TrialResult(a, data.draw(st.floats(0, 1))) for _, a in picked]
    found = outlook(space, results, None)
    assert found is not None
    assert [(c.stage, c.model) for c in found.curves] == [
        (stage.name, model.name) for stage in space.stages for model in stage.models
    ]
    assert len(found.pairs) == len(space.stages) * (len(space.stages) - 1) // 2
    for curve in found.curves:
        samples = [point.samples for point in curve.points]
        assert samples == sorted(set(samples))
        assert curve.enough in samples or not samples
        assert {t.samples for t in curve.trials} <= set(samples)
