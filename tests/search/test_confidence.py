"""How sure a recommendation is: the probability is right on average, and rises with the trials."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.search import SEARCHERS, create
from agenttts.search.base import TrialResult
from agenttts.search.confidence import _root
from agenttts.space import Model, SearchSpace, Stage

SPACE = SearchSpace(
    tuple(
        Stage(name, (Model("small", 1e9), Model("large", 8e9)), 128, 64, (1, 2, 4, 8, 16))
        for name in ("first", "last")
    ),
    60.0,
)


def truth(seed):
    """A score for each allocation: a model's quality, rising with samples; stages multiply."""
    rng = random.Random(f"confidence/{seed}")
    quality = {
        (stage.name, model.name): (rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.3))
        for stage in SPACE.stages
        for model in stage.models
    }

    def score(allocation):
        product = 1.0
        for choice in allocation.choices:
            base, rise = quality[choice.stage, choice.model]
            product *= base + rise * (1 - choice.samples**-0.7)
        return product

    return score


def told(searcher, score, trials, noise, seed):
    rng = random.Random(f"noise/{seed}")
    while trials > 0:
        batch = searcher.ask(min(trials, 4))
        trials -= len(batch)
        searcher.tell(
            [
                TrialResult(a, score(a) + rng.gauss(0, noise), {}, SPACE.cost(a), stderr=noise)
                for a in batch
            ]
        )
    return searcher


def test_the_probability_is_right_on_average():
    """Over many searches, as often good as is said; being too careful is allowed."""
    best, said, good = {}, [], []
    for seed in range(24):
        score = truth(seed)
        best = max(map(score, SPACE.feasible()))
        for trials in (8, 20):
            searcher = told(create("agenttts", SPACE, seed), score, trials, 0.03, seed)
            found = searcher.confidence(searcher.best(), 0.05)
            said.append(found.probability)
            good.append(score(searcher.best()) >= 0.95 * best)
            assert 0.0 <= found.probability <= 1.0
            assert found.shortfall >= 0.0
    assert sum(good) / len(good) > sum(said) / len(said) - 0.1


@pytest.mark.parametrize(
    "covariance",
    [
        pytest.param([[4.0, 1.0], [1.0, 2.0]], id="regular"),
        pytest.param([[1.0, 1.0], [1.0, 1.0]], id="singular"),
        pytest.param([[0.0, 0.0], [0.0, 0.0]], id="certain"),
        pytest.param([[1.0, 0.0], [0.0, -1e-6]], id="indefinite by rounding"),
    ],
)
def test_a_covariance_of_any_rank_has_a_root(covariance):
    root = _root(np.array(covariance))
    assert root @ root.T == pytest.approx(np.array(covariance), abs=2e-6)


def test_it_rises_with_trials_and_with_a_wider_margin():
    score = truth(1)
    searcher = create("agenttts", SPACE, 1)
    told(searcher, score, 8, 0.02, 1)
    few = searcher.confidence(searcher.best(), 0.02)
    told(searcher, score, 16, 0.02, 2)
    many = searcher.confidence(searcher.best(), 0.02)
    assert many.shortfall < few.shortfall
    assert many.probability > few.probability
    assert searcher.confidence(searcher.best(), 0.2).probability >= many.probability


def test_it_is_not_known_without_enough_trials():
    searcher = create("agenttts", SPACE)
    assert searcher.confidence(SPACE.cheapest, 0.02) is None
    told(searcher, truth(0), 4, 0.01, 0)
    assert searcher.confidence(searcher.best(), 0.02) is None


TRIED = list(SPACE.feasible())[::3][:12]


def sure(scores, within=0.02):
    """How sure a search is that was told these scores, in any unit, of `TRIED`."""
    searcher = create("agenttts", SPACE)
    pairs = zip(TRIED, scores, strict=True)
    searcher.tell([TrialResult(a, score, {}, SPACE.cost(a), stderr=0.0) for a, score in pairs])
    return searcher.confidence(searcher.best(), within)


@given(st.sampled_from([0.0, -0.0, 1.0, 50.0, -3.0, 1e-9, 0.1 + 0.2, 1e12]) | st.floats(-1e6, 1e6))
@settings(max_examples=15, deadline=None)
def test_equal_scores_do_not_say_how_sure_a_recommendation_is(score):
    rounded = [score * (1 + 1e-15 * (number % 3)) for number in range(len(TRIED))]
    assert sure([score] * len(TRIED)) is None
    assert sure(rounded) is None


SCORES = st.lists(st.integers(-20, 20), min_size=12, max_size=12).filter(lambda s: len(set(s)) > 1)


@given(SCORES, st.sampled_from([1e-15, 1e-13, 1e-8, 1.0, 1e6, 1e9]))
@settings(max_examples=15, deadline=None)
def test_scores_of_any_size_and_sign_say_how_sure_a_recommendation_is(scores, unit):
    scores = [100.0 * score for score in scores]  # some of 0 to 1 are taken as shares
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = sure(scores), sure([unit * score for score in scores])
        wider = sure(scores, 0.2)
    assert 0.0 <= one.probability <= wider.probability <= 1.0
    assert other.probability == pytest.approx(one.probability, abs=0.02)
    assert other.shortfall == pytest.approx(unit * one.shortfall, rel=0.05, abs=1e-4 * unit)


def test_a_worse_allocation_is_less_sure_and_failed_ones_are_no_rivals():
    score = truth(2)
    searcher = told(create("agenttts", SPACE, 2), score, 16, 0.02, 1)
    best = searcher.best(tried=True)
    worst = min(searcher.archive.scored, key=lambda trial: trial.score).allocation
    sure = searcher.confidence(best, 0.02)
    assert searcher.confidence(worst, 0.02).probability < sure.probability
    assert searcher.confidence(worst, 0.02).shortfall > sure.shortfall
    untried = [a for a in SPACE.feasible() if a not in searcher.archive]
    searcher.tell([TrialResult(a, None, {}, SPACE.cost(a)) for a in untried])
    assert searcher.confidence(best, 0.02).shortfall <= sure.shortfall


@pytest.mark.parametrize("name", [n for n, kind in SEARCHERS.items() if not kind.knows_confidence])
def test_other_searchers_say_nothing(name):
    assert create(name, SPACE).confidence(SPACE.cheapest, 0.02) is None
