"""The tracebacks in a log that lead to an error.

They tell what raised an error whose message does not say it.
"""

from __future__ import annotations

import re

_BEGINS = "Traceback (most recent call last):"
# The sentences by which Python joins the tracebacks of exceptions that follow from each other
# (traceback.py).
_JOINS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
# The name of the exception in a line such as "builtins.OSError: [Errno 5] ...".
_NAME = re.compile(r"[\w.]*\w(?:Error|Exception|Exit|Warning|Interrupt): |[\w.]+: ")
_SHORTEST = 12
"""Characters that an error and a log line must share.

Fewer may be the same in any two texts.
"""


def exceptions_behind(error: str, log: str) -> str:
    """Return the exceptions of the traceback chains in ``log`` that hold ``error``.

    The result has the lines of the error and of its causes; '' if there are none. Python prints an
    exception's causes before it, joined by a sentence. A log may also hold tracebacks of exceptions
    that were caught. Without such a sentence they have nothing to do with the error.
    """
    told = " ".join(error.split())
    return "\n".join(
        line for chain in _chains(log) if any(_same(line, told) for line in chain) for line in chain
    )


def _chains(log: str) -> list[list[str]]:
    """Return the exceptions of each chain of joined tracebacks.

    An exception is given by its lines without the lines of its frames.
    """
    chains: list[list[str]] = []
    chain: list[str] | None = None
    joined = in_frames = False
    prefix = ""
    for line in log.splitlines():
        start = line.find(_BEGINS)
        if start >= 0:
            # Loggers write the time and the process before each line, always with the same number
            # of characters.
            prefix = line[:start]
            if chain is None or not joined:
                chain = []
                chains.append(chain)
            joined, in_frames = False, True
            continue
        if chain is None:
            continue
        text = line[len(prefix) :]
        if text.strip() in _JOINS:
            joined = True
        elif in_frames and text.strip() and not text.startswith((" ", "\t")):
            in_frames = False
            chain.append(text.strip())
    return chains


def _same(line: str, told: str) -> bool:
    """Return whether a line with an exception is about the error."""
    text = " ".join(line.split())
    match = _NAME.match(text)
    text = text[match.end() :] if match else text
    return min(len(text), len(told)) >= _SHORTEST and (text in told or told in text)
