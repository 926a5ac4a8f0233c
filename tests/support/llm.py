"""What the tests of language models share: a space, a task_description, links to scripted
models, a real HTTP server.
"""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agenttts.search import TrialResult, create
from agenttts.search.archive import Archive
from agenttts.search.base import Proposal, Searcher
from agenttts.search.evidence import EvidenceReader
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.proposer import LLMSession
from agenttts.search.llm.scripted import ScriptedLLM
from agenttts.search.llm.task_description import TaskDescription
from agenttts.search.llm.transcript import Transcript
from agenttts.search.surrogate import Surrogate
from agenttts.space import Allocation, Model, SearchSpace, Stage
from tests.support.scripted import at_fixed_path

KEY = "sk-very-secret-4711"

SPACE = SearchSpace(
    (
        Stage("retrieval", (Model("qwen-7b", 7e9), Model("qwen-72b", 72e9)), 2048, 128, tuple(range(1, 101))),
        Stage("answer", (Model("llama-3b", 3e9), Model("llama-70b", 70e9)), 256, 64, (1, 2, 4, 8, 16, 32, 64)),
    ),
    1000,
)  # fmt: skip

TASK_DESCRIPTION = TaskDescription(
    task="two-hop questions",
    description="Answer questions that take two facts.",
    stages={"retrieval": "Pick the facts.", "answer": "Answer from them."},
    main_metric="answer.em",
    examples=50,
)


def allocation(first: str, few: float, second: str, many: float) -> dict[str, Any]:
    """One entry of a well-formed reply."""
    return {
        "retrieval": {"model": first, "samples": few},
        "answer": {"model": second, "samples": many},
    }


def batch_reply(
    allocations: list[dict[str, Any]], guidelines: list[str], predicted: object = 0.6
) -> str:
    """A well-formed reply to the one question of a batch."""
    entries = [{"reason": "why", **entry, "predicted_score": predicted} for entry in allocations]
    reply = {"analysis": "so far", "guidelines": guidelines, "allocations": entries}
    return json.dumps(reply)


def talking_script(script: Path) -> Path:
    """A scripted model of `small_spec` that also answers the questions of the search.

    Args:
        script: The model's script; the new one is written elsewhere.
    """
    document = json.loads(script.read_text())
    pairs = [[allocation("weak", 3 + n, "strong", 2), allocation("strong", 1, "weak", 3 + n)] for n in range(8)]  # fmt: skip
    proposals = [batch_reply(pair, [f"rule {n}"]) for n, pair in enumerate(pairs)]
    replies = [{"text": text} for text in proposals]
    document["rules"].append({"contains": ['{"analysis"'], "replies": replies})
    talking = script.with_name("talking.json")
    talking.write_text(json.dumps(document))
    return at_fixed_path(talking)


def scripted_session(
    replies: list[Any], then: Any = "", transcript: Transcript | None = None, **policy: Any
) -> LLMSession:
    """A link to a scripted model that waits for nothing."""
    transcript = transcript or Transcript()
    script = {"replies": replies, "then": then}
    llm = ScriptedLLM(script, served=transcript.purposes(), sleep=lambda seconds: None)
    caller = Caller(llm, transcript, RetryPolicy(**policy), sleep=lambda seconds: None)
    return LLMSession(caller, TASK_DESCRIPTION)


def score(tried: Allocation) -> float:
    """A made-up score of an allocation of `SPACE`."""
    first, second = tried.choices
    value = {"qwen-7b": 0.3, "qwen-72b": 0.55}[first.model] + 0.1 * (1 - first.samples**-0.5)
    value += {"llama-3b": 0.1, "llama-70b": 0.2}[second.model] * (1 - 0.7 * second.samples**-0.8)
    return round(value, 4)


def run(
    connection: LLMSession | None,
    trials: int = 24,
    batch: int = 6,
    seed: int = 3,
    searcher: Searcher | None = None,
    method: str = "agenttts",
    **options: Any,
) -> tuple[list[Proposal], Searcher]:
    """A whole search; the proposals in order."""
    size = batch
    if searcher is None:
        searcher = create(method, SPACE, seed, llm=connection, **options)
        size = searcher.initial_batch
    done: list[Proposal] = []
    while len(done) < trials:
        proposals = searcher.propose(size)
        if not proposals:
            break
        searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in proposals])
        done += proposals
        size = batch
    return done, searcher


def scripted(path: Path) -> LLMSession:
    """A session with a model whose script lasts for six batches, its transcript in a file."""
    replies: list[Any] = []
    for number in range(6):
        guidelines = [f"rule {number}"]
        replies.append({"for": "guidelines", "text": json.dumps({"guidelines": guidelines})})
        few = allocation("qwen-72b", 1 + number % 3, "llama-3b", 2**number)
        many = allocation("qwen-7b", 10 + number, "llama-70b", 1)
        replies.append({"for": "propose", "text": batch_reply([few, many], guidelines)})
    return scripted_session(replies, transcript=Transcript(path))


def surrogate_of(archive: Archive) -> Surrogate:
    """The surrogate fitted to what an archive knows."""
    return Surrogate(EvidenceReader(archive).read())


class Server:
    """Answers each request with the next of ``answers``: (status, body, headers), a function of the
    request's JSON body that gives one, or the last one for ever. ``requests`` are (path, headers,
    body). ``models`` answers requests without a body, or is a function of the path that does.
    ``most_at_once`` counts requests without an answer.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.models: Any = (404, "", {})
        self.most_at_once = 0
        self._open = 0
        lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(owner.models(self.path) if callable(owner.models) else owner.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    owner.requests.append((self.path, dict(self.headers), body))
                    answer = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
                    owner._open += 1
                    owner.most_at_once = max(owner.most_at_once, owner._open)
                try:
                    reply = answer(body) if callable(answer) else answer
                finally:  # before the client has it, and may send another request
                    with lock:
                        owner._open -= 1
                self._reply(reply)

            def _reply(self, answer: Any) -> None:
                status, content, headers = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                pieces = content if isinstance(content, list) else [content]
                try:
                    for piece in pieces:
                        if isinstance(piece, float):
                            self.wfile.flush()
                            time.sleep(piece)
                        else:
                            self.wfile.write(piece if isinstance(piece, bytes) else piece.encode())
                except OSError:
                    return  # the client has gone, as some tests want

            def log_message(self, format: str, *args: Any) -> None:
                return

        class Waiting(ThreadingHTTPServer):
            request_queue_size = 128  # connections that may wait; the default is 5

        self._http = Waiting(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        # It looks for the end as often as it is asked to: half a second by default, which `close`
        # would wait.
        serve = partial(self._http.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def said(text: str | None, **more: Any) -> tuple[int, str, dict[str, str]]:
    """A chat completion."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    document = {"choices": [choice], "usage": usage, **more}
    return 200, json.dumps(document), {"Content-Type": "application/json"}
