import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.space import (
    Model,
    SearchSpace,
    Stage,
    allocation_budget,
    fits,
    samples_within,
    stage_budget,
    total,
)

# The paper's table: cost of one sample of the stage's largest model. CWQ retrieval worked by hand:
# (24 * (1024 + 64) - 128) / 64 = 406.
PAPER = [
    ("2wiki retrieval", 72e9, 2048, 128, 814),
    ("2wiki answer", 70e9, 256, 64, 115),
    ("taskbench decomposition", 70e9, 1024, 64, 395),
    ("taskbench tools", 70e9, 1024, 256, 465),
    ("taskbench parameters", 70e9, 1024, 2048, 1118),
    ("chatdev coding", 70e9, 1024, 1024, 745),
    ("chatdev static testing", 70e9, 1024, 512, 558),
    ("chatdev dynamic testing", 70e9, 1024, 256, 465),
    ("cwq retrieval", 72e9, 1024, 64, 406),
    ("cwq answer", 70e9, 256, 64, 115),
]

params = st.floats(min_value=1e8, max_value=1e12)
tokens = st.integers(min_value=1, max_value=100_000)
counts = st.integers(min_value=1, max_value=10_000)


@pytest.mark.parametrize(("label", "size", "prompt", "decode", "units"), PAPER)
def test_unit_budgets_of_the_paper(label, size, prompt, decode, units):
    assert round(stage_budget(size, prompt, decode, 1)) == units


@pytest.mark.parametrize(("label", "size", "prompt", "decode", "units"), PAPER)
def test_equals_the_papers_product_form(label, size, prompt, decode, units):
    alpha, beta1, beta2, beta3 = size / 3e9, prompt / decode, 128 / 64, prompt / 128
    for samples in (1, 2, 17, 100):
        product = beta2 * ((alpha * beta3 / beta1) * (beta1 + samples) - 1)
        assert stage_budget(size, prompt, decode, samples) == pytest.approx(product)
        inverse = beta1 * ((product / beta2 + 1) / (alpha * beta3) - 1)
        assert inverse == pytest.approx(samples)


def test_the_reference_sample_is_one_unit():
    assert stage_budget(3e9, 128, 64, 1) == 1
    assert stage_budget(3e9, 128, 64, 5) == 5


def test_negative_budgets_count_as_zero():
    assert stage_budget(1e9, 128, 64, 1) == 0.0
    assert samples_within(1e9, 128, 64, 0.0) == 4  # 4 samples still cost (384/3 - 128)/64 = 0
    assert samples_within(1e9, 128, 64, -1.0) == 0


def test_a_budget_under_one_sample_pays_for_none():
    assert samples_within(72e9, 2048, 128, 813.9) == 0
    assert samples_within(72e9, 2048, 128, 814) == 1


@given(params, tokens, tokens, counts)
def test_rises_with_samples(size, prompt, decode, samples):
    one, more = (stage_budget(size, prompt, decode, s) for s in (samples, samples + 1))
    assert more > one or more == one == 0


@given(params, st.floats(min_value=1.01, max_value=100), tokens, tokens, counts)
def test_rises_with_model_size(size, factor, prompt, decode, samples):
    small, large = (stage_budget(s, prompt, decode, samples) for s in (size, size * factor))
    assert large > small or large == small == 0


@given(params, tokens, tokens, counts)
def test_samples_inverts_the_budget(size, prompt, decode, samples):
    units = stage_budget(size, prompt, decode, samples)
    if units > 0:
        assert samples_within(size, prompt, decode, units) == samples
    else:
        assert samples_within(size, prompt, decode, units) >= samples


@given(params, tokens, tokens, st.floats(min_value=0, max_value=1e7))
def test_what_a_budget_pays_for_fits_and_one_more_does_not(size, prompt, decode, units):
    samples = samples_within(size, prompt, decode, units)
    if samples:
        assert stage_budget(size, prompt, decode, samples) <= units * (1 + 1e-6) + 1e-6
    assert stage_budget(size, prompt, decode, samples + 1) >= units * (1 - 1e-6) - 1e-6


def test_allocation_budget_sums_its_stages():
    space = SearchSpace(
        (
            Stage("retrieval", (Model("m72", 72e9),), 2048, 128, (1,)),
            Stage("answer", (Model("m70", 70e9),), 256, 64, (1,)),
        ),
        1000,
    )
    assert allocation_budget(space, space.cheapest) == pytest.approx(814 + 7338.6666667 / 64)


def test_exact_cost_fits_in_any_order_of_stages():
    parts = [0.1] * 10
    assert total(parts) == total(reversed(parts)) == 1.0
    assert fits(sum(parts) + 1e-12, 1.0)
    assert not fits(1.001, 1.0)
    assert not fits(math.inf, 1.0)
