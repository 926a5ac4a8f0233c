"""Format the output of ``compare`` for people."""

from __future__ import annotations

from typing import Any

from agenttts.cli.output import say
from agenttts.errors import counted
from agenttts.launch.differences import shown
from agenttts.report.contents import allocation_text, number, share
from agenttts.tables.difference import verdict_text

_KINDS = {
    "search": "examples of the search",
    "finalist": "examples of the finalists",
    "test": "held-out examples of the final test",
}


def comparison(document: dict[str, Any]) -> None:
    """``compare``: show the verdict first, then its numbers and what limits it."""
    for line in comparison_lines(document):
        say(line)


def comparison_lines(document: dict[str, Any]) -> list[str]:
    """Return the lines of a comparison."""
    first, second, score = document["first"], document["second"], document["score"]
    how = "paired" if score["paired"] else "not paired"
    lines = [
        f"{_name(first, second)} against {_name(second, first)}: {verdict_text(score['verdict'])}",
        f"{document['metric']}: {score['first']:.4f} against {score['second']:.4f}, difference "
        f"{_difference(score, '+.4f')} ({how}, {score['examples']} "
        f"{_KINDS[document['kind']]})",
    ]
    if document["same_allocation"]:
        same = f"both have the same allocation: {allocation_text(first['allocation'])}"
        chance = "; a difference of their scores is chance" if document["only_chance"] else ""
        lines.append(f"{same}{chance}")
    if not document["only_chance"]:
        lines += _more(score)
    for side in (first, second):
        lines.append(
            f"{_name(side, second if side is first else first)}: {side['of']} allocation "
            f"{allocation_text(side['allocation'])} ({side['trial']}); one example costs "
            f"{number(side['budget'])} budget units, {number(side['tokens_per_example'])} tokens, "
            f"{number(side['gpu_seconds_per_example'])} GPU-seconds measured "
            f"({share(side['reused_share'])} of the tokens reused)"
        )
        lines.append(
            f"  the run: {counted(side['run_trials'], 'trial')}, "
            f"{number(side['run_gpu_hours'])} GPU-hours, "
            f"{number(side['run_tokens'])} tokens computed"
        )
    if (tokens := document["tokens"]) is not None:
        lines.append(
            f"tokens per example: {verdict_text(tokens['verdict'])}, "
            f"difference {_difference(tokens, '+,.1f')}"
        )
    lines += [
        f"setting: {part['key']}: {shown(part['first'])} against {shown(part['second'])}"
        for part in document["settings"]
    ]
    return [*lines, *(f"warning: {warning}" for warning in document["warnings"])]


def _name(side: dict[str, Any], other: dict[str, Any]) -> str:
    """Return a run's name, or its path if both runs have one name."""
    return str(side["path"] if side["run"] == other["run"] else side["run"])


def _difference(part: dict[str, Any], form: str) -> str:
    text = format(part["difference"], form)
    if part["low"] is None:
        return f"{text} (no interval: one example)"
    return f"{text} [{format(part['low'], form)}, {format(part['high'], form)}] (95% interval)"


def _more(score: dict[str, Any]) -> list[str]:
    if score["verdict"] != "not to be told":
        return []
    if score["more_examples"] is None and score["low"] is None:
        return ["one example cannot tell whether there is a difference"]
    if score["more_examples"] is None:
        return ["no difference was measured, so no number of examples is known that would tell one"]
    lines = []
    if score["low"] is not None and score["low"] * score["high"] > 0:
        lines = ["the interval excludes 0, but too few examples differ to rule out chance"]
    more = counted(format(score["more_examples"], ","), "more example")
    return [*lines, f"about {more} would tell, if the true difference is the measured one"]
