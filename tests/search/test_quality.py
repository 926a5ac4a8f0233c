"""The response: its slopes, what it learns from scores and stage metrics, and the scales it
takes.
"""

import numpy as np
import pytest

from agenttts.search.archive import Archive, TrialResult
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.evidence import Evidence
from agenttts.search.quality import Observed, QualityModel
from agenttts.search.surrogate import Surrogate
from agenttts.space import Model, SearchSpace, Stage
from benchmarks.search.problems.surfaces import draw_surface

EXAMPLES = 100


def observed(surface, grid, rows, stages):
    """What trials of ``rows`` report, from 100 examples."""
    trials = [surface.trial(grid.decode(row), EXAMPLES, 0) for row in rows]
    found = []
    for number in stages:
        name = f"{surface.space.stages[number].name}.metric"
        values = np.array([trial.metrics[name] for trial in trials])
        found.append(Observed(number, rows, values, np.eye(len(rows)) * 0.25 / EXAMPLES))
    return found


def drawn(number, trials):
    surface = draw_surface(number)
    grid = ChoiceGrid(surface.space)
    every = grid.feasible(5000)
    rng = np.random.default_rng(number)
    return surface, grid, every, every[rng.choice(len(every), trials, replace=False)]


@pytest.mark.parametrize("number", [5200, 5201, 5204])
def test_the_slopes_are_those_of_the_values(number):
    surface, grid, every, rows = drawn(number, 12)
    last = len(surface.space.stages) - 1
    response = QualityModel(grid, observed(surface, grid, rows, range(last + 1)))
    setting, step = response._setting, 1e-5
    slope = response._handed(setting, every[:40], last)[1][0]
    for place in range(setting.shape[1]):
        moved = np.zeros_like(setting)
        moved[0, place] = step
        above, below = (
            response._handed(setting + sign * moved, every[:40], last)[0][0] for sign in (1, -1)
        )
        assert (above - below) / (2 * step) == pytest.approx(slope[:, place], abs=1e-6)


def test_noise_is_averaged_out_over_the_whole_space():
    off, flat = [], []
    for number in range(5200, 5206):
        surface, grid, every, rows = drawn(number, 40)
        archive = Archive(surface.space)
        archive.add([surface.trial(grid.decode(row), EXAMPLES, 0) for row in rows])
        some = [grid.decode(row) for row in every[::40]]
        true = np.array([surface.score(allocation) for allocation in some])
        expected = np.array(Surrogate(Evidence.of(grid, archive)).means(some))
        off.append(np.sqrt(np.mean((expected - true) ** 2)))
        flat.append(true.std())
    # One score is off by 0.05: the fit is better than a trial, also where none was made.
    assert np.mean(off) < 0.03
    assert np.mean(off) < 0.6 * np.mean(flat)


def test_stage_metrics_make_it_surer():
    surface, grid, every, rows = drawn(5201, 30)
    spread = []
    for stages in ([0], []):
        _, features = QualityModel(grid, observed(surface, grid, rows, stages)).at(every)
        spread.append(np.square(features).sum(axis=1).mean())
    assert spread[0] < 0.7 * spread[1]


def test_before_any_trial_larger_models_and_more_samples_are_expected_to_do_better():
    models = (Model("small", 3e9), Model("large", 70e9))
    space = SearchSpace((Stage("a", models, 256, 64, (1, 8)), Stage("b", models, 256, 64, (1, 8))), 1e6)  # fmt: skip
    grid = ChoiceGrid(space)

    def expected(a, b):
        return float(QualityModel(grid, []).at(grid.encode([space.allocation(a, b)]))[0][0])

    one = expected(("small", 1), ("small", 1))
    assert expected(("large", 1), ("small", 1)) > one
    assert expected(("small", 1), ("large", 1)) > one
    assert expected(("small", 8), ("small", 1)) > one
    assert expected(("small", 1), ("small", 8)) > one


@pytest.mark.parametrize(("zero", "unit"), [(0.0, 100.0), (-3.0, 0.5), (0.3, 0.4)])
def test_scores_and_metrics_of_any_scale(zero, unit):
    surface, grid, every, rows = drawn(5203, 40)
    archive = Archive(surface.space)
    for row in rows:
        trial = surface.trial(grid.decode(row), 0, 0)
        metrics = {name: zero + unit * value for name, value in trial.metrics.items()}
        archive.add([TrialResult(trial.allocation, zero + unit * trial.score, metrics)])
    some = [grid.decode(row) for row in every[::40]]
    expected = (np.array(Surrogate(Evidence.of(grid, archive)).means(some)) - zero) / unit
    true = np.array([surface.score(allocation) for allocation in some])
    assert np.sqrt(np.mean((expected - true) ** 2)) < 0.5 * true.std()


@pytest.mark.parametrize("spread", [0.0, 1e-17, 1e-12, 1e-7, 1e-4])
def test_scores_that_hardly_differ(spread):
    surface, grid, _, rows = drawn(5203, 60)
    archive = Archive(surface.space)
    for number, row in enumerate(rows):
        archive.add([TrialResult(grid.decode(row), 0.1 + 0.2 if spread == 1e-17 and number % 2 else 0.3 + spread * (number % 7))])  # fmt: skip
    model = Surrogate(Evidence.of(grid, archive))
    some = [grid.decode(row) for row in rows]
    assert model.means(some) == pytest.approx(
        [0.3] * len(some), abs=10 * spread if spread > 1e-9 else 0.005
    )


@pytest.mark.parametrize("scores", [[0.5], [0.0, 0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [7.0, 7.0]])
def test_few_and_extreme_scores(scores):
    space = SearchSpace((Stage("a", (Model("s", 3e9), Model("l", 70e9)), 256, 64, (5, 10, 20)),), 1e4)  # fmt: skip
    grid = ChoiceGrid(space)
    rows = grid.feasible(100)
    archive = Archive(space)
    for row, score in zip(rows, scores, strict=False):
        archive.add([TrialResult(grid.decode(row), score, {"a.em": score, "a.f1": score})])
    model = Surrogate(Evidence.of(grid, archive))
    tried = [grid.decode(row) for row in rows[: len(scores)]]
    assert model.means(tried) == pytest.approx(scores, abs=0.25)
    assert np.isfinite(model.means([grid.decode(row) for row in rows])).all()
