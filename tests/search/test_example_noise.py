"""The noise of trials on known examples: what they share, and how it is estimated."""

import numpy as np
import pytest

from agenttts.search.archive import Archive, Scored, TrialResult
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.gaussian import Posterior, log_evidence
from agenttts.search.noise import example_noise
from agenttts.space import SearchSpace
from benchmarks.search.problems.items import draw_pipeline
from tests.support.recorded import SPACE

GRID = ChoiceGrid(SPACE)


def noise(trials):
    return example_noise(trials, GRID.encode(trial.allocation for trial in trials))


def scored(first, second, examples):
    score = sum(examples.values()) / len(examples)
    return Scored(SPACE.allocation(first, second), score, examples=examples)


def test_trials_on_different_examples_share_no_noise():
    rng = np.random.default_rng(1)
    trials = [
        scored(("s", n + 1), ("s", 1), {25 * n + e: float(rng.random() < 0.5) for e in range(25)})
        for n in range(4)
    ]
    covariance = noise(trials).covariance
    assert np.array_equal(covariance, np.diag(np.diag(covariance)))
    assert np.diag(covariance) == pytest.approx(0.25 / 25, rel=0.15)


def test_a_trial_without_scores_by_example_leaves_the_noise_unknown():
    known = scored(("s", 1), ("s", 1), {0: 1.0, 1: 0.0})
    assert noise([known]) is not None
    assert noise([known, Scored(SPACE.allocation(("s", 2), ("s", 1)), 0.5)]) is None
    assert noise([]) is None


@pytest.mark.parametrize(("number", "nests"), [(100, True), (105, True), (112, False)])
def test_the_covariance_is_that_of_repeated_draws_of_examples(number, nests):
    """Of pipelines: over many draws of 25 examples, the scores vary together as estimated."""
    pipeline = draw_pipeline(number, 400, 2)
    grid = ChoiceGrid(pipeline.space)
    chosen = sorted(pipeline.space.feasible())[:: max(1, pipeline.space.count() // 40)]
    scores = np.stack([pipeline.scores(allocation) for allocation in chosen])
    rng = np.random.default_rng(number)
    drawn = np.stack(
        [scores[:, rng.choice(400, 25, replace=False)].mean(axis=1) for _ in range(3000)]
    )
    true = np.cov(drawn.T)
    estimates = []
    for _ in range(8):
        examples = rng.choice(400, 25, replace=False).tolist()
        trials = [
            Scored(a, float(row[examples].mean()), examples={e: float(row[e]) for e in examples})
            for a, row in zip(chosen, scores, strict=True)
        ]
        estimates.append(example_noise(trials, grid.encode(chosen)).covariance)
        assert np.linalg.eigvalsh(estimates[-1]).min() > 0.0
    found = np.mean(estimates, axis=0)
    assert np.diag(found).mean() == pytest.approx(np.diag(true).mean(), rel=0.15)
    pairs = ~np.eye(len(chosen), dtype=bool)
    assert found[pairs].mean() == pytest.approx(true[pairs].mean(), rel=0.25)
    # What is wanted of it: the noise of a difference, here of nested samples, is smaller.
    rows = grid.encode(chosen)
    nested = (
        pairs
        & (rows[:, :1] == rows[:, 0])
        & (grid.models[1][rows[:, 1]][:, None] == grid.models[1][rows[:, 1]])
    )
    assert nested.any() == nests
    if nests:
        assert found[nested].mean() > found[pairs & ~nested].mean()
        assert found[nested].mean() == pytest.approx(true[nested].mean(), rel=0.3)


def test_all_examples_alike_are_not_certain():
    trials = [scored(("s", n + 1), ("s", 1), dict.fromkeys(range(25), 1.0)) for n in range(3)]
    covariance = noise(trials).covariance
    assert (np.diag(covariance) > 0.0).all()
    assert np.isfinite(covariance).all()


def test_one_example_a_trial_has_the_noise_of_the_scores_among_each_other():
    trials = [scored(("s", n + 1), ("s", 1), {n: float(n % 2)}) for n in range(20)]
    assert np.diag(noise(trials).covariance) == pytest.approx(0.25)


def test_a_space_of_one_stage_has_nested_samples_only():
    rng = np.random.default_rng(3)
    space = SearchSpace(SPACE.stages[:1], 260)
    chosen = [space.allocation(("s", count)) for count in (1, 2, 4, 8)]
    trials = [Scored(a, 0.5, examples=dict(enumerate(rng.random(30)))) for a in chosen]
    covariance = example_noise(trials, ChoiceGrid(space).encode(chosen)).covariance
    assert np.linalg.eigvalsh(covariance).min() > 0.0


def test_a_diagonal_covariance_is_as_good_as_variances():
    rng = np.random.default_rng(2)
    root = rng.standard_normal((3, 6, 6))
    kernels, targets = root @ np.swapaxes(root, 1, 2), rng.standard_normal(6)
    variances = rng.random((3, 6)) + 0.1
    covariances = np.eye(6) * variances[:, None, :]
    for scaled in (True, False):
        assert log_evidence(kernels, covariances, targets, scaled=scaled) == pytest.approx(
            log_evidence(kernels, variances, targets, scaled=scaled)
        )
    one, other = (Posterior(kernels, noise, targets) for noise in (covariances, variances))
    assert one.mean(one.whiten(kernels)) == pytest.approx(other.mean(other.whiten(kernels)))


def test_results_on_further_examples_are_joined():
    archive, allocation = Archive(SPACE), SPACE.allocation(("s", 1), ("s", 1))
    first = TrialResult(allocation, 0.5, {"a.f1": 0.4}, examples={0: 1.0, 1: 0.0})
    archive.add_pending([allocation], (0, 1))
    archive.add([first])
    assert not archive.pending
    archive.add_pending([allocation], (2, 3))
    assert archive.pending == (allocation,)
    assert archive.examples_of(allocation) == {0, 1, 2, 3}
    archive.add([TrialResult(allocation, None)])
    assert not archive.pending, "the extension failed"
    assert archive.scored[0].score == 0.5, "and the score stays"
    archive.add([TrialResult(allocation, 1.0, {"a.f1": 0.8}, examples={2: 1.0, 3: 1.0})])
    [result] = archive.scored
    assert (result.score, result.metrics) == (0.75, {"a.f1": pytest.approx(0.6)})
    archive.add([first])
    assert archive.scored[0].score == 0.75, "told again, it adds nothing"


def test_a_trial_that_is_out_stays_so_while_other_examples_of_it_are_told():
    archive, allocation = Archive(SPACE), SPACE.allocation(("s", 1), ("s", 1))
    archive.add_pending([allocation], (0, 1))
    archive.add([TrialResult(allocation, 1.0, examples={5: 1.0}, source="stored")])
    assert archive.pending == (allocation,)
    archive.add([TrialResult(allocation, 0.0, examples={0: 0.0, 1: 0.0})])
    assert not archive.pending
