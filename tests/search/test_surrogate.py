import numpy as np
import pytest

from agenttts.search.acquisition import choose, initial_design
from agenttts.search.archive import Archive, TrialResult
from agenttts.search.curves import curve_prior
from agenttts.search.encoding import ChoiceGrid
from agenttts.search.evidence import Evidence
from agenttts.search.feasible import FeasibleSet
from agenttts.search.initial import initial_trials
from agenttts.search.surrogate import Surrogate
from benchmarks.search.problems.surfaces import draw_surface, optimum

SURFACE = draw_surface(5100)
SPACE = SURFACE.space
GRID = ChoiceGrid(SPACE)
FEASIBLE = FeasibleSet(SPACE)


def told(number, examples=0, metrics=True, surface=SURFACE, feasible=FEASIBLE):
    """Initial trials, which use every model, and random ones."""
    rng = np.random.default_rng(7)
    archive = Archive(surface.space)
    allocations = [proposal.allocation for proposal in initial_trials(surface.space)]
    allocations += [feasible[int(i)] for i in rng.choice(len(feasible), number, replace=False)]
    for allocation in allocations[:number]:
        result = surface.trial(allocation, examples, 0)
        archive.add([result if metrics else TrialResult(result.allocation, result.score)])
    return Evidence.of(GRID if surface is SURFACE else ChoiceGrid(surface.space), archive)


def error(model, surface=SURFACE, feasible=FEASIBLE):
    """Root mean square of expected less true scores over the whole space, and these scores' own
    spread.
    """
    rng = np.random.default_rng(8)
    some = [feasible[int(i)] for i in rng.choice(len(feasible), 150, replace=False)]
    true = np.array([surface.score(allocation) for allocation in some])
    return float(np.sqrt(np.mean((np.array(model.means(some)) - true) ** 2))), float(true.std())


def test_exact_scores_are_met_and_others_foretold():
    evidence = told(30)
    trials, model = evidence.trials, Surrogate(evidence)
    assert model.means([t.allocation for t in trials]) == pytest.approx(
        [t.score for t in trials], abs=0.005
    )
    off, spread_ = error(model)
    assert off < 0.5 * spread_
    assert model.noise < 0.01


def test_noisy_scores_are_smoothed():
    evidence = told(60, examples=100)
    trials, model = evidence.trials, Surrogate(evidence)
    assert 0.025 < model.noise < 0.08
    true = np.array([SURFACE.score(t.allocation) for t in trials])
    smoothed = np.array(model.means([t.allocation for t in trials]))
    raw = np.array([t.score for t in trials])
    assert np.mean((smoothed - true) ** 2) < 0.4 * np.mean((raw - true) ** 2)


def test_stage_metrics_help():
    errors = []
    for number in range(5100, 5112):
        surface = draw_surface(number)
        feasible = FeasibleSet(surface.space)
        errors.append(
            [
                error(Surrogate(told(16, 0, metrics, surface, feasible)), surface, feasible)[0]
                for metrics in (True, False)
            ]
        )
    with_metrics, without = np.mean(errors, axis=0)
    assert with_metrics < without


def test_uncertainty_shrinks_with_trials_and_is_small_where_tried():
    few, many = Surrogate(told(6)), Surrogate(told(40))
    untried = FEASIBLE[len(FEASIBLE) // 2]
    assert many.expect(untried).sd < few.expect(untried).sd
    tried = many.trials[0].allocation
    assert many.expect(tried).sd < 0.1 * few.expect(untried).sd
    assert many.expect(tried).mean == pytest.approx(many.mean(tried))


def test_more_trials_than_it_fits_are_represented():
    model = Surrogate(told(400, examples=100))
    assert len(model.trials) < 400
    assert error(model)[0] < 0.5 * error(model)[1]


def test_curves_start_at_nothing_rise_and_have_unit_size():
    mean, moments = curve_prior(np.arange(1.0, 61.0))
    assert mean[0] == moments[0, 0] == 0
    assert mean[9] > 0.5 * mean.max()
    assert np.trace(moments) / 60 == pytest.approx(1)
    assert np.linalg.eigvalsh(moments).min() > -1e-9
    single, of_one = curve_prior(np.array([8.0]))
    assert single == [0]
    assert of_one == [[0]]


def test_picks_are_distinct_and_worth_more_than_chance():
    model = Surrogate(told(15))
    rng = np.random.default_rng(3)
    rows = GRID.feasible(3000)
    rows = rows[rng.permutation(len(rows))]
    picks = choose(model, rows, 10)
    assert len(set(picks)) == 10
    values = [SURFACE.score(GRID.decode(rows[i])) for i in picks]
    chance = [SURFACE.score(GRID.decode(row)) for row in rows[:300]]
    assert np.mean(values) > np.quantile(chance, 0.8)
    assert max(values) > 0.95 * optimum(SURFACE)


def test_a_batch_spreads_out():
    model = Surrogate(told(8, examples=100))
    rows = GRID.feasible(3000)
    models = {
        tuple(c.model for c in GRID.decode(rows[pick]).choices) for pick in choose(model, rows, 8)
    }
    assert len(models) > 1


def test_before_any_score_every_model_gets_its_turn():
    rows = GRID.feasible(2000)
    picked = [GRID.decode(rows[i]) for i in initial_design(GRID, rows[:0], rows, 12)]
    assert len(set(picked)) == 12
    for stage in SPACE.stages:
        fits = {c.model for a in map(GRID.decode, rows) for c in [a[stage.name]]}
        assert {a[stage.name].model for a in picked} == fits
    # What is out already is not repeated, and around it less is to be learnt.
    again = initial_design(GRID, GRID.encode(picked[:4]), rows, 4)
    assert not {GRID.decode(rows[i]) for i in again} & set(picked[:4])
