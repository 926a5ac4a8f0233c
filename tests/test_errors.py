"""The tree of errors: what a user may see, and the exit code of each."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

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
    WrongValues,
    cli_command,
    counted,
    dotted,
    located,
    nearest_name,
    valid_names,
)


def test_every_error_is_in_the_tree_with_the_documented_exit_code():
    parents = {
        AgentTTSError: Exception,
        UserError: AgentTTSError,
        Unavailable: UserError,
        WrongValues: UserError,
        MissingRequirement: AgentTTSError,
        RunFailed: AgentTTSError,
    }
    codes = {AgentTTSError: 1, UserError: 2, Unavailable: 2, WrongValues: 2, MissingRequirement: 3, RunFailed: 4}  # fmt: skip
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


def inner(error):
    """Raise an error about a value, as code that was given the value does."""
    with located("options"), located("knowledge", 0):
        raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("7 is too many", at=("most",), value=7), "7 is too many"),
        (Unavailable("7 is not here.", fix="get it", at=("most",)), "7 is not here; get it"),
        (MissingRequirement("no 7", fix="get it", at=("most",)), "no 7. Fix: get it"),
    ],
)
def test_an_error_about_a_value_has_its_keys_from_all_who_passed_it_on(error, message):
    with pytest.raises(type(error)) as caught, located("search"):
        inner(error)
    assert caught.value is error
    assert error.at == ("search", "options", "knowledge", 0, "most")
    assert str(error) == f"{dotted(error.at)}: {message}"
    error.find(lambda at: ("job.yaml", len(at)))
    assert (error.file, error.line) == ("job.yaml", 5)
    assert str(error) == f"job.yaml:5: search.options.knowledge[0].most: {message}"
    assert getattr(error, "what", str(error)).startswith("job.yaml:5: search.options.")
    error.find(lambda at: ("other.yaml", None))
    assert error.file == "job.yaml", "the place nearest to the error is kept"


def test_an_error_that_is_not_about_a_value_stays_as_it_is():
    with pytest.raises(UserError, match=r"^data.jsonl:3: not JSON$") as caught:
        inner(UserError("not JSON", file="data.jsonl", line=3))
    assert caught.value.at is None
    plain = UserError("no such run")
    plain.find(lambda at: ("job.yaml", 1))
    assert str(plain) == "no such run"


def test_an_error_about_the_whole_section_has_the_section_s_keys():
    with pytest.raises(UserError, match=r"^options.knowledge\[0\]: is empty$"):
        inner(UserError("is empty", at=()))


def test_each_of_several_wrong_values_has_its_own_place():
    lines = {("task", "data"): 3, ("task", "split"): 4}
    several = WrongValues([UserError("a", at=("data",)), UserError("b", at=("split",)), UserError("b", at=("split",))])  # fmt: skip
    with pytest.raises(WrongValues) as caught, located("task"):
        raise several
    caught.value.find(lambda at: ("job.yaml", lines[at]))
    assert str(several) == "job.yaml:3: task.data: a; job.yaml:4: task.split: b"


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


@given(words=st.lists(st.text()))
def test_a_shell_reads_the_words_of_a_command_as_they_were_given(words):
    assert shlex.split(cli_command("resume", *words)) == ["agenttts-hpc", "resume", *words]


def test_words_that_need_no_quotes_have_none():
    command = cli_command("logs", Path("/a/my-run_1"), 3, "--set", "a.b[0]=1")
    assert command == "agenttts-hpc logs /a/my-run_1 3 --set 'a.b[0]=1'"


def unquoted_commands(source):
    """The messages of a module that put a value into a command without `cli_command`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
        if isinstance(text, str) and re.search(r"agenttts-hpc [a-z][^'\"]*(\{\w*\}|%s)", text):
            found.append(text)
    return found


def test_commands_in_messages_are_made_in_one_place():
    package = Path(errors.__file__).parent
    texts = {str(path.relative_to(package)): path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}  # fmt: skip
    assert len(texts) > 100, "the package is found"
    assert {name: found for name, text in texts.items() if (found := unquoted_commands(text))} == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('f"it has ended; \'agenttts-hpc resume " f"{run.path}\' continues it"', 1),
        ("log.warning(\"'agenttts-hpc cancel %s' tries again\", run)", 1),
        ("FIX = \"'agenttts-hpc resume {run} --cluster {value}' gives another\"", 1),
        ("f\"'{cli_command('resume', run)}' continues {run}\"", 0),
        ("f\"{run}: 'agenttts-hpc launch SPEC' starts {run}\"", 0),
    ],
)
def test_a_value_in_a_command_is_found(source, count):
    assert len(unquoted_commands(source)) == count


def test_one_thing_is_named_in_the_singular():
    assert counted(1, "trial") == "1 trial"
    assert [counted(n, "batch", "batches") for n in (0, 1, 2)] == [
        "0 batches",
        "1 batch",
        "2 batches",
    ]
    assert counted("1 to 2", "job") == "1 to 2 jobs"
