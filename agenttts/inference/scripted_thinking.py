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
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from agenttts.spec.section import Section

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


_Marker = Annotated[
    str,
    Field(
        pattern=r"^\S(?:[^\n]*\S)?$",
        description="a text of one line without white space at its ends",
    ),
]


class ScriptedThinking(Section):
    """The option as read; see the module."""

    start: _Marker = "<think>"
    """What opens the thinking."""
    end: _Marker = "</think>"
    """What ends it."""
    text: Annotated[str, Field(description="a text")] = DRAFT
    """What is thought."""
    blocks: Annotated[int, Field(ge=1, description="a whole number of 1 or more")] = 1
    """How many: the first before the reply, the others within it."""
    unclosed: Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")] = 0.0
    """The probability that a sample thinks until it is cut."""
    opened: Annotated[bool, Field(description="true or false")] = False
    """Whether the prompt opens the first block."""

    @model_validator(mode="after")
    def _check_pair(self) -> ScriptedThinking:
        if self.start == self.end:
            raise ValueError("start and end must be two different texts")
        return self

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


def _parts(reply: str, count: int) -> list[str]:
    """Return a reply in ``count`` parts, cut between words.

    Together the parts are the reply. There are fewer parts if the reply has fewer words.
    """
    words = re.findall(r"\s*\S+\s*\Z|\s*\S+", reply) or [reply]
    count = min(count, len(words))
    edges = [round(number * len(words) / count) for number in range(count + 1)]
    return ["".join(words[a:b]) for a, b in pairwise(edges)]
