"""The weight of the language model by prequential log scores."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.search.llm.weight import log_score, posterior_weight, with_own_errors
from tests.support.repeatable import max_examples

numbers = st.floats(-2, 2)
sds = st.floats(0.001, 1.0)
made = st.lists(st.tuples(numbers, sds, numbers, sds, numbers, sds), max_size=30)
PRIOR = math.log(0.2 / 0.8)


@settings(max_examples=max_examples(1))
@given(made)
def test_the_weight_is_above_0_below_1_and_the_posterior(made):
    pairs = [((m[0], m[1]), (m[2], m[3]), m[4], m[5]) for m in made]
    weight = posterior_weight(PRIOR, pairs)
    assert 0.0 < weight < 1.0
    odds = PRIOR + sum(log_score(p, o, e) - log_score(q, o, e) for p, q, o, e in pairs)
    assert weight == pytest.approx(1 / (1 + math.exp(-max(-700, min(700, odds)))), abs=1e-9)


def test_without_scores_the_weight_is_the_prior_and_the_better_expert_gains():
    assert posterior_weight(PRIOR, []) == pytest.approx(0.2)
    assert posterior_weight(PRIOR, [((0.5, 0.05), (0.8, 0.05), 0.52, 0.02)] * 6) > 0.999


@settings(max_examples=max_examples(1))
@given(st.lists(st.lists(st.tuples(numbers, numbers, sds), max_size=4), max_size=6), sds)
def test_a_prediction_s_deviation_is_that_of_earlier_batches(batches, sd):
    found = with_own_errors(batches, sd)
    assert [mean for mean, _ in found] == [p for batch in batches for p, _, _ in batch]
    first = len(batches[0]) if batches else 0
    assert [deviation for _, deviation in found[:first]] == pytest.approx([sd] * first)
    # Nothing of the last batch's scores is in its own deviations.
    if batches:
        changed = [*batches[:-1], [(p, o + 5.0, e) for p, o, e in batches[-1]]]
        assert with_own_errors(changed, sd) == found


def test_errors_within_the_noise_make_predictions_sharp():
    sharp = with_own_errors([[(0.5, 0.52, 0.05)]] * 8, 0.2)
    blunt = with_own_errors([[(0.5, 0.9, 0.05)]] * 8, 0.2)
    assert sharp[-1][1] < 0.11
    assert blunt[-1][1] > 0.3
