"""The user's own allocations (``search.first``) in a dry run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agenttts.search import create_for
from agenttts.spec import load_spec

OWN = [{"retrieval": "weak x3", "answer": "strong x1"}]


def test_a_dry_run_shows_and_counts_them(cli, scripted_spec):
    def plan(iterations, first):
        changes = {"search__iterations": iterations, "search__batch_size": 1}
        path = scripted_spec(search__method="random", search__first=first, **changes)
        done = cli("launch", path, "--dry-run", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    without, given, both = plan(1, []), plan(0, OWN), plan(1, OWN)
    assert without["search"]["first"] == []
    assert without["search"]["trials_at_most"] == 1
    assert both["search"]["trials_at_most"] == 2
    assert given["search"]["first"] == ["weak×3 → strong×1"]
    assert given["search"]["trials_at_most"] == 1
    assert given["forecast"]["engine_starts"]["high"] == 2
    shown = cli("launch", scripted_spec(search__first=OWN), "--dry-run")
    assert "tried first, as given: weak×3 → strong×1" in shown.stdout


@pytest.mark.parametrize("method", ["random", "genetic", "gp", "grid"])
@pytest.mark.parametrize("changes", [{}, {"search__asynchronous": True}])
def test_a_search_without_trials_is_refused(cli, scripted_spec, tmp_path, method, changes):
    path = scripted_spec(search__method=method, search__iterations=0, **changes)
    done = cli("launch", path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "search.iterations: 0 leaves this search without trials, because method" in line
    assert "valid: 1 or more, or 0 with allocations in search.first" in line
    assert not (tmp_path / "results").exists()


def test_one_over_the_budget_is_refused(cli, scripted_spec):
    own = [{"retrieval": "strong x40", "answer": "strong x40"}]
    done = cli("launch", scripted_spec(search__first=own), "--dry-run")
    assert done.returncode == 2
    assert "search.first[0]: strong×40 → strong×40 costs" in done.stderr


def test_a_replay_leaves_out_what_its_table_does_not_have(scripted_spec, caplog):
    own = [*OWN, {"retrieval": "weak x1", "answer": "weak x1"}]
    spec = load_spec(scripted_spec(search__first=own))
    space = spec.space()
    first, last = space.stages
    recorded = replace(space, stages=(replace(first, samples=(1, 2)), last))
    searcher = create_for(spec, space=recorded)
    assert [str(a) for a in searcher.first] == ["weak×1 → weak×1"]
    assert "weak×3 → strong×1, to be tried first, is left out" in caplog.text
    assert [str(a) for a in searcher.ask(1)] == ["weak×1 → weak×1"]
