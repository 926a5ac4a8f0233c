"""Remove thinking from a model's replies, find its markers, and repair JSON.

Reasoning models write their thinking before their answer or between its parts. Thinking holds
drafts, numbers and code that a parser must not take for the answer. It is therefore removed here,
before any parser reads a reply: trials remove it from every sample (`agenttts.inference.sampler`),
the search from every reply of its language model (`agenttts.search.llm`). Stored replies are whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from agenttts.files.documents import read_object


@dataclass(frozen=True)
class Thinking:
    """The markers of a model's thinking.

    Attributes:
        starts: Markers that begin a block of thinking.
        ends: Markers that end a block.
        wrappers: Markers around the answer. They are removed, and the text between them stays.
        special: Whether the tokenizer has some of these markers as special tokens. Engines leave
            special tokens out of a text unless they are told not to.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    wrappers: tuple[str, ...] = ()
    special: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Thinking | None:
        """Inverse of `dataclasses.asdict`; None (no thinking to remove) stays None."""
        if record is None:
            return None
        parts = {name: tuple(record.get(name, ())) for name in ("starts", "ends", "wrappers")}
        return cls(**parts, special=bool(record.get("special", False)))


_KEPT_APART_START = "<think>\n(kept apart by the server)\n"
_KEPT_APART_END = "\n(kept apart by the server)\n</think>\n\n"


def with_kept_apart(thinking: str, reply: str, *, cut: bool) -> str:
    """Return a reply with the thinking that a server gave in a field of its own.

    The text is the same whatever markers a run has set for the model, and `remove_thinking` finds
    the thinking with any of them.

    Args:
        thinking: The thinking; without any, the reply is returned as it is.
        reply: The reply beside it.
        cut: Whether the sample ended within its thinking.
    """
    if not thinking.strip():
        return reply
    return f"{_KEPT_APART_START}{thinking.strip()}{'' if cut else _KEPT_APART_END}{reply}"


def _without_kept_apart(text: str) -> tuple[str, bool]:
    """Return a reply without kept-apart thinking, and whether it had some."""
    if not text.startswith(_KEPT_APART_START):
        return text, False
    return text.partition(_KEPT_APART_END)[2], True


def remove_thinking(text: str, thinking: Thinking | None) -> str:
    """Return a reply without its thinking.

    Text outside of blocks stays as it is, except for white space at its ends. The rules:

    - All blocks are removed.
    - An end without a start ends a block that the prompt opened. The text before it is thinking.
    - A block that does not end leaves no answer. The result is empty, also with text before it.
    - A start within a block begins no second block. Models may write about their own markers.
    - A start in the answer that is only mentioned (`_begins_thinking`) is removed, and the text
      around it stays.
    - Thinking that a server kept apart (`with_kept_apart`) is always removed.

    Otherwise the reply is returned unchanged without markers, and for None. The result holds no
    marker. The function never raises.
    """
    text, kept_apart = _without_kept_apart(text)
    if thinking is None:
        return text
    if kept_apart:
        text = text.strip()
    if _HARMONY_ANSWER in thinking.ends:
        text = _HARMONY_HEADER.sub(r"\1<|message|>", text)
    pattern = _pattern(thinking)
    matches = list(pattern.finditer(text))
    if not matches:
        return text
    last_end = max((n for n, m in enumerate(matches) if m.group() in thinking.ends), default=-1)
    closed = kept_apart or last_end >= 0
    kept: list[str] = []
    since_last_end: list[str] = []
    position, inside, said = 0, False, False
    for number, match in enumerate(matches):
        if not inside:
            since_last_end.append(text[position : match.start()])
            said = said or bool(since_last_end[-1].strip())
        position = match.end()
        if match.group() in thinking.ends:
            kept += since_last_end if inside else ()
            since_last_end, inside, said = [], False, False
        elif match.group() in thinking.starts:
            if number < last_end:
                inside = True
            elif not said or _begins_thinking(text, match, thinking, closed=closed):
                return ""
    kept += [*since_last_end, text[position:]]
    answer = "".join(kept)
    # Two pieces may form a marker where they are joined. No marker holds a line break.
    return (answer if pattern.search(answer) is None else "\n".join(kept)).strip()


def _begins_thinking(text: str, match: re.Match[str], thinking: Thinking, *, closed: bool) -> bool:
    """Return whether a start after a part of the answer begins cut-off thinking.

    No end follows the start. The start may be only mentioned, in code (``tag = '<think>'``) or in
    prose ("the tag <think> opens ..."). Models that never think write such text too.

    - A start in quotes is mentioned.
    - A model whose markers are known is otherwise assumed to think. The exception is a start as a
      word within a line, after an earlier block was closed.
    - For other models only a start on a line of its own counts, or one at the beginning of a line
      after an earlier block was closed.

    Args:
        text: The reply.
        match: The start.
        thinking: The markers.
        closed: Whether a block was closed before.
    """
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    if after and before + after in _QUOTES:
        return False
    begins_a_line = not text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip()
    if thinking == COMMON_THINKING:
        end = text.find("\n", match.end())
        alone = not text[match.end() : end if end >= 0 else len(text)].strip()
        return begins_a_line and (closed or alone)
    if begins_a_line or not closed or thinking.special:
        return True
    return not (before.isspace() and after.isspace() and text[match.end() :].strip())


def opened_thinking(prompt_end: str, thinking: Thinking | None) -> str:
    """Return the start of a block at a prompt's end, and the white space after it.

    The result is empty if the prompt opens no block. Chat templates of some models (DeepSeek-R1,
    QwQ, Qwen3-Thinking) open the block. The reply then begins inside the block, and a reply that is
    cut there holds no marker at all.
    """
    end = prompt_end.rstrip()
    for start in thinking.starts if thinking else ():
        if end.endswith(start):
            return prompt_end[len(end) - len(start) :]
    return ""


def repair_json(text: str) -> Any:
    """Return the value of a text that is nearly JSON, by the ``json-repair`` package.

    The text should begin with a bracket. Only its start is repaired if the rest would take long:
    `_REPAIRED`, `_DEEPEST`, `_MOST_UNMATCHED` and `_MOST_BARE`.

    Returns:
        The value; None if there is none.
    """
    import json_repair

    text = _before_noise(text)
    if (repaired := _REPAIRED.match(text)) is not None:
        text = repaired[0]
    try:
        return json_repair.loads(text, skip_json_loads=True)
    except Exception:  # the package promises nothing about arbitrary text
        return None


def _before_noise(text: str) -> str:
    """Return the text up to the bracket that passes one of the bounds below."""
    opened: list[str] = []
    unmatched = bare = last = 0
    for bracket in _BRACKET.finditer(text):
        opening = {"}": "{", "]": "["}.get(bracket[0])
        if opening is None:
            opened.append(bracket[0])
            last = bracket.start()
        else:
            inside = text[last + 1 : bracket.start()].strip()
            bare += text[last] == "{" and inside != "" and _QUOTE.search(inside) is None
            unmatched += opened[-1:] != [opening]
            # A text in an object may have an unmatched bracket: {"reason": "F1 in [0, 1)"}.
            while opening in opened and opened.pop() != opening:
                pass
        if len(opened) > _DEEPEST or unmatched > _MOST_UNMATCHED or bare > _MOST_BARE:
            return text[: bracket.start()]
    return text


_QUOTE = re.compile(r"""["']""")
_BRACKET = re.compile(r"[\[\]{}]")
_REPAIRED = re.compile(r"""(?:[^"']*["']){2000}""")
"""A text with as many quotes as are repaired; a plan or a list of proposals has fewer.

json-repair 0.64 takes time by the square of them, if they are in a list: 5 s for 6,000.
"""
_DEEPEST = 50
"""The deepest nesting of brackets that is repaired; that of a plan or a proposal is 6.

Brackets in texts count too: "in [0, 1)" nests by one.

Repairing 10 kB of "{ { { ..." by a model that repeats itself took 1 s (json-repair 0.64).
"""
_MOST_UNMATCHED = 100
"""The most closing brackets without an opening one that are repaired.

Repairing 10 kB of "{ ] } { ] } ..." took 4 s, and 200 times "{ [ } " gave nothing (json-repair
0.64).
"""
_MOST_BARE = 300
"""The most objects without a quote, such as ``{y}`` and ``{y: z}``, that are repaired.

For each of them json-repair looks for a colon or a quote in all that follows: 10 kB of
"[x]{y}[x]{y}..." took 18 s (json-repair 0.64). Of other values side by side or in a list, twice as
many take twice the time.
"""

_QUOTES = ("''", '""', "``", "\u2018\u2019", "\u201c\u201d", "\u00ab\u00bb", "()")
_HARMONY_ANSWER = "<|channel|>final<|message|>"
# OpenAI's harmony format: a recipient and the type of the content may be between a channel and its
# message, as in "<|channel|>final <|constrain|>json<|message|>" and "<|channel|>commentary
# to=functions.f code<|message|>".
_HARMONY_HEADER = re.compile(
    r"(<\|channel\|>(?:analysis|commentary|final))\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)


@cache
def _pattern(thinking: Thinking) -> re.Pattern[str]:
    markers = {*thinking.starts, *thinking.ends, *thinking.wrappers}
    # The longest come first, because a marker may begin with another one.
    return re.compile("|".join(map(re.escape, sorted(markers, key=lambda m: (-len(m), m)))))


@dataclass(frozen=True)
class _Family:
    """Models with the same markers of thinking.

    Any of ``signs`` in a model's files identifies the family; by default any marker does.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    wrappers: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()

    def shown_in(self, text: str) -> bool:
        return any(sign in text for sign in self.signs or (*self.starts, *self.ends))


# The markers of vLLM's reasoning parsers (vllm/reasoning and vllm/parser, 0.11 to 0.33; a test
# compares them with the installed ones), except where another source is named.
_TAGGED = (
    # DeepSeek-R1, QwQ, Qwen3, GLM-4.5, MiniMax-M2, Kimi-K2, Nemotron, Olmo 3, Phi-4-reasoning,
    # Granite 4.2, Hunyuan, ...
    _Family(("<think>",), ("</think>",)),
    _Family(("<thinking>",), ("</thinking>",)),
    # Sky-T1 and others trained on OpenThoughts' format.
    _Family(
        ("<|begin_of_thought|>",),
        ("<|end_of_thought|>",),
        ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    _Family(("[THINK]",), ("[/THINK]",)),  # Magistral
    _Family(("<seed:think>",), ("</seed:think>",)),  # Seed-OSS
    _Family(("<longcat_think>",), ("</longcat_think>",)),
    _Family(("<mm:think>",), ("</mm:think>",)),  # MiniMax-M3
    _Family(("<think:opensource>",), ("</think:opensource>",)),  # Hunyuan 3
    # K2 Think (its model card) and K2 Horizon, by effort.
    _Family(("<think_fast>", "<think_faster>"), ("</think_fast>", "</think_faster>")),
    _Family(
        ("<ifm|think>", "<ifm|think_fast>", "<ifm|think_faster>"),
        ("</ifm|think>", "</ifm|think_fast>", "</ifm|think_faster>"),
    ),
    _Family(("<|plamo:begin_think:plamo|>",), ("<|plamo:end_think:plamo|>",)),  # PLaMo 3
    _Family(
        ("<|open|>think<|sep|>",),
        ("<|close|>think<|sep|>",),
        ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    ),  # Kimi K3
    _Family(("◁think▷",), ("◁/think▷",)),  # Kimi-VL-Thinking
    _Family(
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),  # Command A Reasoning
    _Family(("<|inner_prefix|>",), ("<|inner_suffix|>",)),  # Apertus
)
_UNTAGGED = (
    _Family(("<thought>",), ("</thought>",)),  # EXAONE Deep (its model card)
    _Family(("<Thought>",), ("</Thought>",), ("<Output>", "</Output>")),  # Marco-o1 (its card)
    _Family(("<reasoning>",), ("</reasoning>",)),  # Reka Flash 3 (its model card)
    # In the next three families the same marker ends the thinking and the answer. The marker that
    # begins the answer therefore counts as the end of the thinking.
    _Family(
        ("<|think|>",), ("<|content|>",), ("<|begin|>assistant", "<|end|>"), signs=("<|think|>",)
    ),  # Solar Open (its model card)
    _Family(
        ("<|content_thinking|>",),
        ("<|content_text|>",),
        ("<|message_model|>", "<|end_message|>", "<|content_model_end_sampling|>"),
        signs=("<|content_thinking|>",),
    ),  # Inkling
    _Family(
        ("to=self<|message|>",),
        ("to=user<|message|>",),
        ("<|start|>assistant", "<|eom|>", "<|eot|>"),
        signs=("to=self<|message|>",),
    ),  # Muse Glimmer
    # gpt-oss: the reply is the content of the channel "final" (OpenAI's harmony format).
    _Family(
        ("<|channel|>analysis<|message|>", "<|channel|>commentary<|message|>"),
        (_HARMONY_ANSWER,),
        ("<|start|>assistant", "<|end|>", "<|return|>"),
        signs=("<|channel|>analysis", "<|channel|>final", "<|channel|>"),
    ),
    _Family(("<|channel>",), ("<channel|>",), ("<turn|>",)),  # Gemma 4
    # Granite 3.2 and 3.3; quantised models write "Here's".
    _Family(
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
    ),
)
# Markers around the answer, in models of several families (Hunyuan, ERNIE 4.5). They are wrappers
# if the model's files show them.
_WRAPPERS = ("<answer>", "</answer>", "<response>", "</response>")
# Markers around the answer of GLM-4.1V and 4.5V. They occur in no other text.
_BOX = ("<|begin_of_box|>", "<|end_of_box|>")
# Hunyuan's tags, whose suffix is in the tokenizer.
_SUFFIXED = re.compile(r"</?(think:[\w.-]+)>")


def _joined(families: Iterable[_Family], wrappers: Iterable[str] = ()) -> Thinking:
    found = tuple(families)
    return Thinking(
        tuple(marker for family in found for marker in family.starts),
        tuple(marker for family in found for marker in family.ends),
        (*(marker for family in found for marker in family.wrappers), *wrappers),
    )


COMMON_THINKING = _joined(_TAGGED, _BOX)
"""Markers for a model whose own are not known: tags that occur in no other text."""
KNOWN_THINKING = _joined((*_TAGGED, *_UNTAGGED))
"""Markers of all models that are known here."""


def detect_thinking(directory: Path | None) -> Thinking | None:
    """Return the markers of thinking in a model's directory.

    They are found in its chat templates and added tokens. None if there are none. The function
    reads a few small files. Files that cannot be read are ignored, because the engine reports what
    is wrong with them.
    """
    if directory is None or not directory.is_dir():
        return None
    tokens = _added_tokens(directory)
    text = "\n".join((*_chat_templates(directory), *tokens))
    families = [family for family in (*_TAGGED, *_UNTAGGED) if family.shown_in(text)]
    known = {start for family in families for start in family.starts}
    suffixed = sorted({tag for tag in _SUFFIXED.findall(text) if f"<{tag}>" not in known})
    families += [_Family((f"<{tag}>",), (f"</{tag}>",)) for tag in suffixed]
    if not families:
        return None
    thinking = _joined(families, [wrapper for wrapper in (*_WRAPPERS, *_BOX) if wrapper in text])
    return replace(thinking, special=_any_special(thinking, tokens))


def named_thinking(start: str, end: str, directory: Path | None) -> Thinking:
    """Return the thinking between two markers that the user names.

    Args:
        start: The marker that begins a block.
        end: The marker that ends a block.
        directory: The model's directory, if it is on this machine.
    """
    thinking = Thinking((start,), (end,))
    tokens = _added_tokens(directory) if directory is not None and directory.is_dir() else {}
    return replace(thinking, special=_any_special(thinking, tokens))


def _any_special(thinking: Thinking, tokens: Mapping[str, bool]) -> bool:
    """Return whether some of the markers are, or contain, special tokens.

    A marker may be several tokens: two of the three in ``<|channel|>analysis<|message|>`` are
    special.
    """
    markers = (*thinking.starts, *thinking.ends)
    return any(
        special and token in marker for token, special in tokens.items() for marker in markers
    )


def lacks_chat_template(directory: Path) -> bool:
    """Return whether a model's files show that it has no chat template.

    Base models have none. The result is false if the directory has no tokenizer in the layout of
    Hugging Face. Mistral's own tokenizers write chats without a template.
    """
    return (
        bool(read_object(directory / "tokenizer_config.json"))
        and not _chat_templates(directory)
        and not _files(directory, "tekken.json")
        and not _files(directory, "tokenizer.model.v*")
    )


def _chat_templates(directory: Path) -> list[str]:
    """Return every chat template of a model.

    They are in files of their own or in the tokenizer's configuration.
    """
    found: list[str] = []
    for file in (
        *_files(directory, "chat_template*.jinja"),
        *_files(directory / "additional_chat_templates", "*.jinja"),
    ):
        try:
            found.append(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_object(directory / name).get("chat_template")
        named = template if isinstance(template, list) else [{"template": template}]
        found += [
            part["template"]
            for part in named
            if isinstance(part, dict) and isinstance(part.get("template"), str)
        ]
    return found


def _files(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(file for file in directory.glob(pattern) if file.is_file())
    except OSError:
        return []


def _added_tokens(directory: Path) -> dict[str, bool]:
    """Return the added tokens of a tokenizer, and whether each is special."""
    decoder = read_object(directory / "tokenizer_config.json").get("added_tokens_decoder")
    records = list(decoder.values()) if isinstance(decoder, dict) else []
    if not records:
        listed = read_object(directory / "tokenizer.json").get("added_tokens")
        records = listed if isinstance(listed, list) else []
    if not records:
        # Mistral's own tokenizer files.
        listed = read_object(directory / "tekken.json").get("special_tokens")
        records = [
            {"content": token.get("token_str"), "special": True}
            for token in (listed if isinstance(listed, list) else [])
            if isinstance(token, dict)
        ]
    tokens = dict.fromkeys(map(str, read_object(directory / "added_tokens.json")), False)
    for record in records:
        if isinstance(record, dict) and isinstance(record.get("content"), str):
            tokens[record["content"]] = record.get("special") is True
    tokens.pop("", None)
    return tokens
