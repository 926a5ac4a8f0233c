"""The small specs run with a real small language model, cut down to the least that goes through every stage."""

from __future__ import annotations

import pytest

from tests.support.small_specs import NAMES, small_run


@pytest.mark.llm
@pytest.mark.parametrize("name", NAMES)
def test_a_small_spec_completes(cli, smollm2, tmp_path, name):
    run = small_run(name, smollm2, tmp_path)
    done = cli("launch", run.spec, "--wait", *run.arguments)
    assert done.returncode == 0, done.stderr
    run.check(tmp_path / "results")
