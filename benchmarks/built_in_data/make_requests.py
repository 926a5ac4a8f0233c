"""Makes the two built-in data sets of task automation: ``python -m
benchmarks.built_in_data.make_requests``.

``errands.jsonl`` has tools with named arguments and temporal dependencies, ``studio.jsonl`` tools
that turn resources into others; each with its tools in ``NAME_tools.json``. Requests, steps and
plans are put together from templates with a fixed seed, so the files can be made again.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agenttts.tasks.loading.source import DATA_FOLDER

SEED = 5
FOLDER = DATA_FOLDER


def main() -> None:
    """Write the four files."""
    _write("errands", errands(SEED), _ERRAND_TOOLS)
    _write("studio", studio(SEED), _STUDIO_TOOLS)


def errands(seed: int) -> list[dict[str, Any]]:
    """36 requests of one to three errands each, in TaskBench's shape."""
    return _records("errands", 36, _errand, random.Random(seed))


def studio(seed: int) -> list[dict[str, Any]]:
    """30 requests of one to three tools each, every one fed by what the one before puts out."""
    return _records("studio", 30, _production, random.Random(seed))


def _records(
    name: str,
    count: int,
    draw: Callable[[int, random.Random], dict[str, Any]],
    order: random.Random,
) -> list[dict[str, Any]]:
    """``count`` records, no two of the same request, one to three calls long in turn."""
    by_request: dict[str, dict[str, Any]] = {}
    while len(by_request) < count:
        record = draw(1 + len(by_request) % 3, order)
        by_request.setdefault(record["instruction"], record)
    return [{"id": f"{name}-{n}", **record} for n, record in enumerate(by_request.values())]


def _errand(length: int, order: random.Random) -> dict[str, Any]:
    filled = [errand.fill(order) for errand in order.sample(_ERRANDS, length)]
    calls = [call for _, call in filled]
    steps = [
        f"Step {n}: Call {call['task']} with "
        + " and ".join(f"{a['name']}: '{a['value']}'" for a in call["arguments"])
        for n, call in enumerate(calls, 1)
    ]
    opening = order.choice(("Please ", "Could you ", "I would like you to "))
    wishes = ", then ".join(wish for wish, _ in filled)
    return _record(opening + wishes + ("?" if opening.startswith("Could") else "."), steps, calls)


def _production(length: int, order: random.Random) -> dict[str, Any]:
    chain = order.choice([chain for chain in _chains() if len(chain) == length])
    start = order.choice(_RESOURCES[chain[0].takes])
    calls = [
        {"task": tool.id, "arguments": [start if n == 0 else f"<node-{n - 1}>"]}
        for n, tool in enumerate(chain)
    ]
    steps = [f"Step {n}: {tool.step}" for n, tool in enumerate(chain, 1)]
    given = f"'{start}'" if chain[0].takes == "text" else start
    wishes = ", then ".join(tool.wish for tool in chain)
    return _record(f"I have the {chain[0].takes} {given}. Please {wishes}.", steps, calls)


@dataclass(frozen=True)
class Errand:
    """A tool with what a request for it sounds like; ``values`` are the choices for each
    argument.
    """

    tool: str
    wish: str
    values: dict[str, tuple[str, ...]]

    def fill(self, order: random.Random) -> tuple[str, dict[str, Any]]:
        """(the request, the call) with values drawn."""
        drawn = {name: order.choice(choices) for name, choices in self.values.items()}
        arguments = [{"name": name, "value": value} for name, value in drawn.items()]
        return self.wish.format(**drawn), {"task": self.tool, "arguments": arguments}


@dataclass(frozen=True)
class StudioTool:
    """A tool that turns one kind of resource into another."""

    id: str
    description: str
    takes: str
    gives: str
    wish: str
    step: str


def _record(request: str, steps: list[str], calls: list[dict[str, Any]]) -> dict[str, Any]:
    links = [{"source": a["task"], "target": b["task"]} for a, b in itertools.pairwise(calls)]
    return {
        "n_tools": len(calls),
        "type": "single" if len(calls) == 1 else "chain",
        "instruction": request,
        "task_steps": steps,
        "task_nodes": calls,
        "task_links": links,
    }


def _chains() -> Iterator[tuple[StudioTool, ...]]:
    """Every chain of up to three different tools in which each takes what the one before gives."""
    for first in _STUDIO:
        yield (first,)
        for second in _STUDIO:
            if second.takes == first.gives and second != first:
                yield (first, second)
                for third in _STUDIO:
                    if third.takes == second.gives and third not in (first, second):
                        yield (first, second, third)


def _write(name: str, records: list[dict[str, Any]], tools: list[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    described = json.dumps({"nodes": tools}, ensure_ascii=False, indent=1)
    (FOLDER / f"{name}_tools.json").write_text(described + "\n", encoding="utf-8")


_TIMES = ("06:30", "07:15", "08:00", "12:45", "17:30", "21:00")
_DAYS = ("Monday", "Tuesday", "Thursday", "Saturday")
_PEOPLE = ("Alda", "Berno", "Fenna", "Marek", "Pavla", "Tobin")

_ERRANDS = (
    Errand("set_alarm", "wake me at {time}", {"time": _TIMES}),
    Errand(
        "reserve_table",
        "get me a table at {restaurant} on {day}",
        {"restaurant": ("the Blue Pot", "Casa Lira", "Old Mill"), "day": _DAYS},
    ),
    Errand(
        "write_message",
        "tell {recipient} that {content}",
        {
            "recipient": _PEOPLE,
            "content": ("I am late", "the key is under the mat", "dinner is at eight"),
        },
    ),
    Errand(
        "buy_ticket",
        "buy a ticket for {event} on {day}",
        {"event": ("the circus", "the chess final", "the harbour tour"), "day": _DAYS},
    ),
    Errand(
        "order_taxi",
        "send a taxi to {place} at {time}",
        {"place": ("the station", "Elm Street 4", "the museum"), "time": _TIMES},
    ),
    Errand("play_song", "play {title}", {"title": ("Slow Harvest", "Blue Gravel", "Hollow Drum")}),
    Errand(
        "add_to_list",
        "put {item} on the {list} list",
        {
            "item": ("eggs", "lamp oil", "stamps", "rice"),
            "list": ("shopping", "travel", "birthday"),
        },
    ),
    Errand(
        "check_weather",
        "look up the weather in {city} for {day}",
        {"city": ("Calverne", "Dunmere", "Harwick"), "day": _DAYS},
    ),
)
_ABOUT = {
    "set_alarm": "Set an alarm",
    "reserve_table": "Reserve a table in a restaurant",
    "write_message": "Write a message to someone",
    "buy_ticket": "Buy a ticket for an event",
    "order_taxi": "Order a taxi",
    "play_song": "Play a song",
    "add_to_list": "Add an item to a list",
    "check_weather": "Look up the weather of a day",
}
_ABOUT_ARGUMENT = {
    "time": "The time",
    "restaurant": "The restaurant",
    "day": "The day of the week",
    "recipient": "Who gets it",
    "content": "What it says",
    "event": "The event",
    "place": "Where it comes to",
    "title": "The title",
    "item": "The item",
    "list": "The list",
    "city": "The city",
}
_ERRAND_TOOLS = [
    {
        "id": errand.tool,
        "desc": _ABOUT[errand.tool],
        "parameters": [
            {"name": name, "type": "string", "desc": _ABOUT_ARGUMENT[name]}
            for name in errand.values
        ],
    }
    for errand in _ERRANDS
]

_RESOURCES = {
    "text": ("The boat leaves at dawn", "Snow fell on the quiet town", "Bring bread and candles"),
    "image": ("harbour.png", "orchard.jpg", "old_map.png"),
    "audio": ("speech.wav", "rain.mp3", "choir.wav"),
    "video": ("parade.mp4", "regatta.mov", "lesson.mp4"),
}
_STUDIO = (
    StudioTool(
        "Image Describer",
        "Describes an image in words",
        "image",
        "text",
        "describe it in words",
        "Describe the image in words",
    ),
    StudioTool(
        "Text Translator",
        "Translates a text into another language",
        "text",
        "text",
        "translate the text",
        "Translate the text",
    ),
    StudioTool(
        "Text Shortener",
        "Makes a text shorter",
        "text",
        "text",
        "shorten the text",
        "Make the text shorter",
    ),
    StudioTool(
        "Voice Maker",
        "Reads a text aloud",
        "text",
        "audio",
        "read the text aloud",
        "Read the text aloud",
    ),
    StudioTool(
        "Picture Maker",
        "Paints an image of what a text says",
        "text",
        "image",
        "paint a picture of the text",
        "Paint an image of the text",
    ),
    StudioTool(
        "Sound Cleaner",
        "Takes the noise out of a recording",
        "audio",
        "audio",
        "clean up the sound",
        "Take the noise out of the recording",
    ),
    StudioTool(
        "Speech Writer",
        "Writes down what is said in a recording",
        "audio",
        "text",
        "write down what is said",
        "Write down what is said",
    ),
    StudioTool(
        "Sound Splitter",
        "Takes the sound out of a video",
        "video",
        "audio",
        "take out its sound",
        "Take the sound out of the video",
    ),
)
_STUDIO_TOOLS = [
    {
        "id": tool.id,
        "desc": tool.description,
        "input-type": [tool.takes],
        "output-type": [tool.gives],
    }
    for tool in _STUDIO
]


if __name__ == "__main__":
    main()
