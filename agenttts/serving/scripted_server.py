"""A server of the scripted engine, to try a served model without weights or GPUs.

It answers what the search asks of an OpenAI-compatible server.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agenttts.inference.base import ModelConfig, Request, SamplingParams
from agenttts.inference.scripted import ScriptedEngine


def scripted_server(model: ModelConfig, host: str, port: int, key: str) -> ThreadingHTTPServer:
    """Return the server, which listens and does not serve yet.

    Args:
        model: A model of the engine ``scripted``.
        host: The address to listen at.
        port: The port to listen at; 0: one that is free.
        key: The API key that requests have to bring.

    Raises:
        EngineError: The model cannot be loaded.
    """
    engine = ScriptedEngine(model)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.endswith("/models")
            self._answer(200 if known else 404, {"data": [{"id": model.name}]} if known else {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.endswith("/chat/completions"):
                self._answer(404, {})
                return
            try:
                self._answer(*_completion(engine, json.loads(body)))
            except (ValueError, LookupError, TypeError) as error:
                self._answer(400, {"error": f"not a valid request: {error!r}"})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            if self.headers.get("Authorization") != f"Bearer {key}":
                status, document = 401, {"error": "the API key is not valid"}
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def _completion(engine: ScriptedEngine, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the document that answer a request."""
    params = SamplingParams(float(body.get("temperature", 1.0)), int(body["max_tokens"]))
    messages = tuple({"role": m["role"], "content": m["content"]} for m in body["messages"])
    request = Request(messages, params, (int(body.get("seed", 0)),))
    [completion] = engine.generate([request])
    if completion.truncated:
        return 400, {"error": "the prompt exceeds the maximum context length"}
    [sample] = completion.samples
    message = {"role": "assistant", "content": sample.text}
    return 200, {
        "choices": [{"message": message, "finish_reason": sample.finish_reason}],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": sample.decode_tokens,
        },
    }
