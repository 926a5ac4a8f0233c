"""Which scheduler a profile means, for its trials and for its controller."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from agenttts.dispatch.profile import ControllerResources, Profile
from agenttts.dispatch.schedulers import (
    SCHEDULERS,
    controller_scheduler,
    create_scheduler,
    scheduler_type,
)
from agenttts.errors import UserError

PACKAGE = Path(__file__).parents[2] / "agenttts"
# What only `agenttts.dispatch` may know: the backends, and the library that they submit with.
BACKENDS = tuple(f"agenttts.dispatch.{name}" for name in ("slurm", "local", "in_process", "host"))
BACKENDS += ("submitit",)


@pytest.mark.parametrize(
    ("kind", "where", "expected"),
    [
        ("slurm", "job", "slurm"),
        ("slurm", "here", "local"),
        ("local", "job", "local"),
        ("local", "here", "local"),
        ("in_process", "job", "in_process"),
        ("in_process", "here", "in_process"),
    ],
)
def test_how_trials_and_controller_of_a_profile_run(tmp_path, kind, where, expected):
    profile = Profile(kind=kind, controller=ControllerResources(where=where))
    assert create_scheduler(profile, tmp_path).name == kind
    assert controller_scheduler(profile, tmp_path).name == expected
    started = controller_scheduler(profile, tmp_path, "in_process")
    assert started.name == "in_process", "what has started it, whatever the profile says now"


def test_every_kind_of_a_profile_has_a_scheduler():
    assert set(get_args(Profile.model_fields["kind"].annotation)) == set(SCHEDULERS)
    assert all(scheduler.name == kind for kind, scheduler in SCHEDULERS.items())


def test_an_unknown_kind_is_said_with_those_there_are():
    with pytest.raises(UserError, match="unknown scheduler 'slurn'.*local.*slurm.*in_process"):
        scheduler_type("slurn")


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("own", [None, 7.5])
def test_how_long_files_take_is_the_profile_s_say_or_the_scheduler_s(tmp_path, kind, own):
    scheduler = create_scheduler(Profile(kind=kind, settle_seconds=own), tmp_path)
    assert scheduler.settle_seconds == (own or (120.0 if kind == "slurm" else 0.0))
    assert scheduler.has_nodes is (kind == "slurm")
    assert not list(tmp_path.iterdir()), "making one writes nothing"


def _branches(tree: ast.AST) -> list[str]:
    """Where code asks which scheduler there is, by name, or imports one of them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.match_case):
            inner = list(ast.walk(node))
            named = {
                n.value for n in inner if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
            kinds = {
                ast.unparse(n) for n in inner if isinstance(n, ast.Attribute) and n.attr == "kind"
            }
            owners = {kind.rpartition(".")[0].rpartition(".")[2] for kind in kinds}
            if named & set(SCHEDULERS) or owners & {"profile", "handle", "_profile", "_handle"}:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice).endswith(
            ("profile.kind", "handle.kind")
        ):
            found.append(ast.unparse(node))
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        if any(name == b or name.startswith(f"{b}.") for name in names for b in BACKENDS):
            found.append(ast.unparse(node))
    return found


def test_nothing_outside_dispatch_knows_which_schedulers_there_are():
    """They are asked what they can do; a new one changes nothing but `agenttts.dispatch`."""
    modules = [p for p in PACKAGE.rglob("*.py") if "dispatch" not in p.relative_to(PACKAGE).parts]
    assert len(modules) > 100, "the package is found"
    found = {str(p.relative_to(PACKAGE)): _branches(ast.parse(p.read_text())) for p in modules}
    assert {module: where for module, where in found.items() if where} == {}


@pytest.mark.parametrize(
    "code",
    [
        "if profile.kind != other: pass",
        "x = self.handle.kind in KINDS",
        "local = kind == 'slurm'",
        "match kind:\n    case 'in_process': pass",
        "{}[plan.profile.kind]",
        "import submitit",
        "from agenttts.dispatch.slurm.commands import run_slurm",
        "from agenttts.dispatch import local",
    ],
)
def test_code_that_does_is_found(code):
    assert len(_branches(ast.parse(code))) == 1


def test_other_kinds_are_no_schedulers():
    code = "if error.kind != 'OOM' and agent.kind == 'serve': f(profile.kind)"
    assert _branches(ast.parse(code)) == []
