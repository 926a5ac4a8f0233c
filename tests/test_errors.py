"""The tree of errors: what a user may see, and the exit code of each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts import errors
from agenttts.errors import (
    AgentTTSError,
    MissingRequirement,
    RunFailed,
    Unavailable,
    UserError,
    nearest_name,
    valid_names,
)


def test_every_error_is_in_the_tree_with_the_documented_exit_code():
    parents = {
        AgentTTSError: Exception,
        UserError: AgentTTSError,
        Unavailable: UserError,
        MissingRequirement: AgentTTSError,
        RunFailed: AgentTTSError,
    }
    codes = {AgentTTSError: 1, UserError: 2, Unavailable: 2, MissingRequirement: 3, RunFailed: 4}
    found = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}  # fmt: skip
    assert found == set(codes)
    for error, code in codes.items():
        assert error.exit_code == code
        assert error.__bases__ == (parents[error],)


@pytest.mark.parametrize("message", ["there is no sbatch", "there is no sbatch."])
def test_what_is_missing_comes_with_its_fix(message):
    error = MissingRequirement(message, fix="module load slurm")
    assert str(error) == "there is no sbatch. Fix: module load slurm"
    assert error.fix == "module load slurm"


def test_an_unknown_name_is_told_the_valid_ones_and_the_nearest():
    assert valid_names("strng", ["weak", "strong"]) == "valid: weak, strong; did you mean 'strong'?"
    assert valid_names("xyzzy", ["weak", "strong"]) == "valid: weak, strong"
    assert valid_names("x", []) == "valid: (none)"
    assert valid_names(7, ["70b"]).startswith("valid: 70b")


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), max_size=6))
def test_the_nearest_name_is_one_of_them(given_name, names):
    near = nearest_name(given_name, names)
    assert near is None or near in names


@given(st.lists(st.from_regex(r"[a-z]{3,8}", fullmatch=True), min_size=1, unique=True), st.data())
def test_a_name_itself_is_nearest_whatever_its_case(names, data):
    name = data.draw(st.sampled_from(names))
    assert nearest_name(name.upper(), names) == name
