"""Thinking of the scripted engine, as reasoning models write it around answers.

It serves to test how the thinking is handled. The model option ``thinking`` is a mapping; every key
may be left out:

```yaml
options:
  thinking:
    start: "<think>"      # the markers
    end: "</think>"
    text: "…"             # the thinking; unset: a draft full of what parsers look for
    blocks: 1             # number of blocks: the first before the reply, the others within it
    unclosed: 0.0         # the probability that a sample thinks until it is cut, without a reply
    opened: false         # the prompt opens the first block, as some chat templates do: the
                          # sample has only its end
```
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agenttts.errors import UserError, valid_names
from agenttts.replies import Thinking

DRAFT = """
Okay, the question. Perhaps [1] and [2]? Or [3] [4] [5], no: 6, 7.
Answer: nobody knows. The final answer is: Atlantis.
Draft plan:
{"task_steps": ["Step 1: Wait, is this right?"], "task_nodes": [{"task": "wrong_tool", "arguments": [{"name": "city", "value": "Atlantis"}]}], "task_links": []}
{"answer": "Atlantis", "score": 1, "label": "wrong", "allocations": []}

main.py
```python
raise SystemExit("a draft that must not run")
```
- yes
- no
But the user wants only the answer. Let me write it.
"""
"""The thinking, unless ``text`` is set.

It has reference numbers, a wrong answer, JSON plans, code and a list.
"""


@dataclass(frozen=True)
class ScriptedThinking:
    """The option as read; see the module."""

    start: str = "<think>"
    end: str = "</think>"
    text: str = DRAFT
    blocks: int = 1
    unclosed: float = 0.0
    opened: bool = False

    @property
    def prompt_end(self) -> str:
        """The text that the prompt ends with."""
        return f"{self.start}\n" if self.opened else ""

    def around(self, reply: str, max_words: int, temperature: float, seed: int) -> str:
        """Return a reply with thinking in it.

        At temperature 0 every sample takes the more probable case: thinking that ends, or not.
        """
        luck = random.Random(f"thinking {seed}").random() if temperature > 0 else 0.5
        if luck < self.unclosed:
            # Longer than the sample may be, so that it is cut within the block.
            return self._opening + self.text + " and then" * max_words
        first = f"{self._opening}{self.text}{self.end}\n\n"
        block = f"{self.start}{self.text}{self.end}"
        return first + block.join(_parts(reply, self.blocks))

    @property
    def _opening(self) -> str:
        return "" if self.opened else self.start


def script_thinking(options: Mapping[str, Any]) -> Thinking | None:
    """Return the markers of a scripted model by its options.

    None if it does not think, or if its option is wrong.
    """
    try:
        thinking = read_thinking(options)
    except UserError:  # the engine reports what is wrong with it
        return None
    return Thinking((thinking.start,), (thinking.end,)) if thinking else None


def read_thinking(options: Mapping[str, Any]) -> ScriptedThinking | None:
    """Return the option ``thinking`` of a scripted model; None without one.

    Raises:
        UserError: The option is wrong; the message names what.
    """
    given = options.get("thinking")
    if given is None:
        return None
    valid = tuple(_RULES)
    if not isinstance(given, Mapping):
        raise UserError(
            f"option thinking: {given!r} must be a mapping with keys of {', '.join(valid)}"
        )
    for key, value in given.items():
        if key not in _RULES:
            raise UserError(f"option thinking: unknown key '{key}'; {valid_names(str(key), valid)}")
        fits, wanted = _RULES[key]
        if not fits(value):
            raise UserError(f"option thinking.{key}: {value!r} must be {wanted}")
    thinking = ScriptedThinking(**given)
    if thinking.start == thinking.end:
        raise UserError("option thinking: start and end must be two different texts")
    return thinking


def _is_marker(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value == value.strip() and "\n" not in value


_MARKER = (_is_marker, "a text of one line without white space at its ends")
_RULES = {
    "start": _MARKER,
    "end": _MARKER,
    "text": (lambda value: isinstance(value, str), "a text"),
    "blocks": (lambda value: type(value) is int and value >= 1, "a whole number of 1 or more"),
    "unclosed": (
        lambda value: type(value) in (int, float) and 0 <= value <= 1,
        "a number from 0 to 1",
    ),
    "opened": (lambda value: isinstance(value, bool), "true or false"),
}


def _parts(reply: str, count: int) -> list[str]:
    """Return a reply in ``count`` parts, cut between words.

    Together the parts are the reply. There are fewer parts if the reply has fewer words.
    """
    words = re.findall(r"\s*\S+\s*\Z|\s*\S+", reply) or [reply]
    count = min(count, len(words))
    edges = [round(number * len(words) / count) for number in range(count + 1)]
    return ["".join(words[a:b]) for a, b in pairwise(edges)]
