"""The endpoint engine: samples of a model on an OpenAI-compatible server.

The user starts the server. A model's ``path`` is the server's id of the model, and its ``options``
are `agenttts.spec.endpoint.EndpointOptions`. A chat is sent to ``chat/completions``, where the
server applies its chat template. A few-shot completion is sent to ``completions``.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agenttts.endpoint import (
    Answer,
    EndpointClient,
    ServerError,
    estimated_tokens,
    refusal,
    refuses_system,
    says_too_long,
    shown_variable,
    without_system,
)
from agenttts.errors import MissingRequirement, UserError, valid_names
from agenttts.inference.base import (
    Completion,
    EngineError,
    Finished,
    ModelConfig,
    OnFinished,
    Request,
    Sample,
    ServerSilent,
)
from agenttts.inference.beats import Beat
from agenttts.inference.endpoint_calls import GivenUp, PatientCalls, Stopped
from agenttts.inference.endpoint_models import has_model, read_models
from agenttts.inference.endpoint_options import find_address, read_endpoint_options
from agenttts.inference.endpoint_prompts import (
    Content,
    characters,
    longest_that_fits,
    no_room,
)
from agenttts.inference.endpoint_replies import FILTERED, ServerReply, read_reply

_LARGEST_ANSWER = 64 << 20
"""The most bytes of an answer."""
_NO_TEMPLATE = re.compile(r"chat.?template", re.I)
# Azure and others refuse a prompt that their filter rejects with status 400, OpenRouter and xAI
# with status 403.
_PROMPT_FILTERED = re.compile(
    r"content_filter|content_policy|content management policy|input was flagged|"
    r"violates usage guidelines|SAFETY_CHECK",
    re.I,
)
_ONLY_CHATS = re.compile(r"chat model|chat/completions", re.I)
_TEMPERATURE = re.compile(r"\btemperature\b", re.I)
# With status 400, OpenAI and Azure end a reply whose thinking has taken all its tokens.
_CUT = re.compile(r"could not finish the message.{0,80}limit was reached", re.I)
# Only codes are matched. The texts of OpenAI and Gemini name billing and quota also when only a
# rate limit is reached.
_NO_MONEY = re.compile(
    r"insufficient_quota|exceeded_current_quota_error|billing_(?:not_active|hard_limit)", re.I
)


class EndpointEngine:
    """Draws samples from a server.

    By default, every sample is a request with a seed of its own. If ``samples_per_request`` is
    above 1, a request is for several samples and has the seed of the first one. If the server
    refuses a parameter that is not necessary (the seed, or a ``top_p`` of 1), later requests are
    sent without this parameter, and a line in the trial's log says so.

    A fault of the server, the network or the key is an `EngineError` of kind INFRA_FAILED, because
    the allocation is not to blame. If the server lacks the model or refuses a request for another
    reason than money, the kind is FAILED.

    Args:
        config: The model.
        say: Called with lines about progress, failures and refused parameters. By default, these
            lines are printed.

    Raises:
        EngineError: The options are wrong, or the server does not answer or lacks the model.
    """

    reports_progress = True

    def __init__(
        self,
        config: ModelConfig,
        say: Callable[[str], object] = lambda line: print(line, flush=True),
    ) -> None:
        self._config = config
        self._print = say
        try:
            self._options = read_endpoint_options(config.options)
        except UserError as error:
            raise EngineError(f"model '{config.name}': {error}") from None
        try:
            self._address = find_address(self._options)
        except MissingRequirement as error:
            raise self._infra(error.what) from None
        self._beat = Beat(config.name, say=say)
        self._lock = threading.Lock()
        self._left_out: set[str] = set()
        self._limit_field = "max_tokens"
        self._per_request = self._options.samples_per_request
        self._merges_system = False
        self._client = EndpointClient(
            timeout=self._options.timeout_seconds,
            use_proxy=self._options.use_proxy,
            connections=self._options.max_concurrent,
            largest=_LARGEST_ANSWER,
        )
        self._calls = PatientCalls(
            self._client,
            self._address,
            retry_seconds=self._options.retry_seconds,
            requests_per_minute=self._options.requests_per_minute,
            say=self._say,
        )
        self._closed = False
        try:
            listed = self.listed_models()
        except BaseException:
            self.close()
            raise
        self._context = self._options.max_model_len or listed.get(config.path)
        if listed and not has_model(listed, config.path):
            self.close()
            raise EngineError(
                f"model '{config.name}': the server at {self._options.base_url} has no model "
                f"'{config.path}'; {valid_names(config.path, listed)}"
            )

    def listed_models(self) -> dict[str, int | None]:
        """Return the context length of each model that the server lists, by id.

        A length is None if the server does not give it. If the server has no list of models, the
        result is empty.

        Raises:
            EngineError: The server does not answer, or refuses the key.
        """

        try:
            return self._calls.get(
                "models", lambda answer: read_models(answer, self._address), threading.Event()
            )
        except (ServerError, GivenUp) as error:
            self._fail(error)

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        """Return one completion per request, in order.

        Raises:
            EngineError: The server gave no usable answer, or refused a request.
        """
        if self._closed:
            raise EngineError(f"the engine of model '{self._config.name}' is closed")
        for request in requests:
            if self._context is not None and request.params.max_tokens >= self._context:
                raise no_room(request.params.max_tokens, self._context)
        drawings = [_Drawing(request, position) for position, request in enumerate(requests)]
        size = self._per_request
        pieces = deque(
            (drawing, tuple(range(begin, min(begin + size, len(drawing.request.seeds)))))
            for drawing in drawings
            for begin in range(0, len(drawing.request.seeds), size)
        )
        _on_threads(
            pieces,
            self._draw,
            self._options.max_concurrent,
            self._beat,
            on_finished or (lambda finished: None),
        )
        return [drawing.completion(range(len(drawing.request.seeds))) for drawing in drawings]

    def close(self) -> None:
        """Close the connections; may be called twice."""
        self._closed = True
        self._client.close()

    def _draw(
        self,
        drawing: _Drawing,
        places: tuple[int, ...],
        stop: threading.Event,
        tell: Callable[[Finished], None],
    ) -> None:
        """Draw some samples of a request, and report each reply.

        Args:
            drawing: The request.
            places: The places of the samples among the request's seeds.
            stop: Set when the call is over.
            tell: Called with the samples of each reply.
        """
        missing = places
        try:
            while missing:
                reply = self._reply(drawing, missing[: self._per_request], stop)
                for place, sample in zip(missing, reply.samples, strict=False):
                    drawing.samples[place] = sample
                if reply.prompt_tokens is not None:
                    drawing.prompt_tokens = reply.prompt_tokens
                found = missing[: len(reply.samples)]
                tell(Finished(drawing.position, found, drawing.completion(found)))
                # Some servers give fewer samples than a request asks for.
                missing = missing[len(reply.samples) :]
        except (ServerError, GivenUp) as error:
            self._fail(error)

    def _reply(
        self, drawing: _Drawing, places: tuple[int, ...], stop: threading.Event
    ) -> ServerReply:
        """Return the reply to a prompt; a prompt that is too long is shortened."""
        sent = drawing.content
        try:
            return self._ask(drawing, sent, places, stop)
        except ServerError as error:
            if error.fault != "context":
                raise
            refused = error
        with drawing.lock:
            if drawing.content == sent:  # no other thread has shortened the prompt
                drawing.content = longest_that_fits(
                    sent,
                    refused,
                    lambda content: self._ask(drawing, content, places[:1], stop).prompt_tokens,
                    max_tokens=drawing.request.params.max_tokens,
                    context=self._context,
                )
                drawing.truncated = True
        return self._ask(drawing, drawing.content, places, stop)

    def _ask(
        self, drawing: _Drawing, content: Content, places: tuple[int, ...], stop: threading.Event
    ) -> ServerReply:
        """Return the reply to a prompt.

        The request is sent again each time that `_adapt` has changed it.
        """
        request = drawing.request
        path = "completions" if isinstance(content, str) else "chat/completions"
        while True:
            body = self._body(request, content, [request.seeds[place] for place in places])
            found = self._calls.post(path, body, self._reader(request, body), stop)
            if found is not None:
                return found

    def _reader(
        self, request: Request, body: Mapping[str, Any]
    ) -> Callable[[Answer], ServerReply | None]:
        """Return a function that reads an answer.

        The function returns None if the request must be sent again with the changes of `_adapt`.
        """

        def read(answer: Answer) -> ServerReply | None:
            if answer.status == 200:
                reply = read_reply(
                    answer,
                    self._address,
                    max_tokens=request.params.max_tokens,
                    stop=request.stop,
                )
                self._check_room(reply.prompt_tokens, request.params.max_tokens)
                return reply
            too_long = says_too_long(answer)
            refused = answer.status in (400, 403, 422) and not too_long
            if refused and _PROMPT_FILTERED.search(answer.text):
                return ServerReply((Sample("", 0, FILTERED),), None)
            if answer.status in (400, 422) and not too_long:
                if _CUT.search(answer.text):
                    cut = Sample("", request.params.max_tokens, "length")
                    return ServerReply((cut,), None)
                with self._lock:
                    if self._adapt(answer.text, body):
                        return None
            if answer.status == 429 and _NO_MONEY.search(answer.text):
                raise ServerError("refused", str(refusal(answer, self._address)), status=402)
            raise refusal(answer, self._address)

        return read

    def _check_room(self, prompt_tokens: int | None, max_tokens: int) -> None:
        """Check that the context has room for a prompt and a whole reply.

        vLLM does not refuse a chat that leaves too little room, but lowers ``max_tokens``.

        Raises:
            ServerError: There is too little room.
        """
        context = self._context
        if context is not None and prompt_tokens and prompt_tokens + max_tokens > context:
            raise ServerError(
                "context",
                f"{prompt_tokens} input tokens and {max_tokens} of a reply exceed a context length "
                f"of {context} tokens",
            )

    def _body(self, request: Request, content: Content, seeds: Sequence[int]) -> dict[str, Any]:
        params = request.params
        body: dict[str, Any] = {
            "model": self._config.path,
            "temperature": params.temperature,
            self._limit_field: params.max_tokens,
            "seed": seeds[0],
        }
        if params.temperature > 0:
            body["top_p"] = params.top_p
        if len(seeds) > 1:
            body["n"] = len(seeds)
        if request.stop:
            body["stop"] = list(request.stop)
        if request.keep_special:
            body["skip_special_tokens"] = False
        if isinstance(content, str):
            body["prompt"] = content
        else:
            messages = [dict(message) for message in content]
            if self._merges_system:
                messages = without_system(messages) or messages
            body["messages"] = messages
            if request.template_args:
                body["chat_template_kwargs"] = dict(request.template_args)
        body |= self._options.extra
        return {
            name: value
            for name, value in body.items()
            if value is not None and name not in self._left_out
        }

    def _adapt(self, complaint: str, body: Mapping[str, Any]) -> bool:
        """Change later requests so that the server no longer refuses them.

        No change alters the meaning of a request.

        Returns:
            Whether to send the refused request again, with these changes.
        """
        text = complaint.lower()
        if "max_completion_tokens" in text and "max_tokens" in body:
            self._limit_field = "max_completion_tokens"
            return True
        if "seed" in body and re.search(r"\bseed\b", text):
            self._leave_out(
                "seed", "samples are repeatable through the sample store only, not by their seeds"
            )
            return True
        if body.get("top_p") == 1.0 and re.search(r"\btop_p\b", text):
            self._leave_out("top_p", "it was 1, which changes nothing")
            return True
        if "n" in body and re.search(r"""['"`]n['"`]|\bn\b (?:must|is|should|greater)""", text):
            self._per_request = 1
            self._say(
                "the server refuses several samples in one request, so each request asks for one"
            )
            self._left_out.add("n")
            return True
        first = (body.get("messages") or [{}])[0]
        if first.get("role") == "system" and refuses_system(text):
            # The system message becomes a part of the first user message, as with other engines.
            self._merges_system = True
            return True
        return False

    def _leave_out(self, name: str, consequence: str) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            self._say(f"the server refuses {name}, so it is not sent: {consequence}")

    def _fail(self, error: ServerError | GivenUp) -> NoReturn:
        """Raise the `EngineError` for a request that got no reply."""
        text = str(error)
        status = error.status if isinstance(error, ServerError) else None
        name = self._config.name
        if isinstance(error, GivenUp):
            raise self._infra(text, ServerSilent if error.silent else EngineError) from None
        if status in (401, 403):
            variable = self._options.api_key_env
            fix = (
                f"check the key in {shown_variable(variable)}"
                if variable
                else "set options.api_key_env to the name of the variable that holds the key"
            )
            raise self._infra(f"the server refuses the key: {text}; {fix}") from None
        # An error without a status is of the node's environment or the address, or it says that the
        # prompt is too long.
        outside = status is None or status == 402 or not 400 <= status < 500
        if outside and error.fault != "context":
            raise self._infra(text) from None
        if status == 404:
            text += "; check base_url and the model's path, which is the server's id of the model"
        if self._config.prompt_style == "few_shot_completion" and (
            status in (404, 405) or _ONLY_CHATS.search(text)
        ):
            text += (
                "; the server may not accept plain text for this model (few_shot_completion needs "
                "the server's path /completions); set prompt_style to chat or few_shot_chat"
            )
        if status in (400, 422) and _TEMPERATURE.search(text):
            text += "; for a model that accepts only its default temperature, set options.extra to "
            text += "{temperature: null}"
        if _NO_TEMPLATE.search(text):
            raise EngineError(
                f"model '{name}' ({self._config.path}) has no chat template on its server (it may "
                "be a base model), so it cannot be used with "
                f"prompt_style: {self._config.prompt_style}; set prompt_style: few_shot_completion "
                f"for it ({text})"
            ) from None
        raise EngineError(f"model '{name}': {text}") from None

    def _infra(self, text: str, kind: type[EngineError] = EngineError) -> EngineError:
        return kind(f"model '{self._config.name}': {text}", kind="INFRA_FAILED")

    def _say(self, text: str) -> None:
        self._print(f"model '{self._config.name}': {text}")


@dataclass
class _Drawing:
    """A request, and its samples so far, each by the place of its seed in the request.

    ``position`` is the place of the request among the requests of the call.
    """

    request: Request
    position: int
    samples: dict[int, Sample] = field(default_factory=dict)
    prompt_tokens: int | None = None
    truncated: bool = False
    content: Content = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.content = self.request.content

    def completion(self, places: Iterable[int]) -> Completion:
        """Return the completion of the samples at ``places``; all must have arrived."""
        tokens = self.prompt_tokens
        if tokens is None:
            tokens = max(1, estimated_tokens(characters(self.content)))
        samples = tuple(self.samples[place] for place in places)
        return Completion(samples, tokens, self.truncated)


def _on_threads(
    pieces: deque[tuple[_Drawing, tuple[int, ...]]],
    draw: Callable[[_Drawing, tuple[int, ...], threading.Event, Callable[[Finished], None]], None],
    threads: int,
    beat: Callable[[], None],
    on_finished: OnFinished,
) -> None:
    """Draw all pieces on several threads, and raise the first error.

    After an error, this function does not wait for the threads, because a request may take minutes.

    Args:
        pieces: Requests, each with the places of some of its samples.
        draw: Draws one piece.
        threads: Number of threads.
        beat: Called in the calling thread after an answer.
        on_finished: Called in the calling thread with finished samples.
    """
    stop, changed = threading.Event(), threading.Condition()
    errors: list[BaseException] = []
    ready: list[Finished] = []
    left = len(pieces)

    def tell(finished: Finished) -> None:
        with changed:
            ready.append(finished)
            changed.notify()

    def work() -> None:
        nonlocal left
        while not stop.is_set():
            try:
                piece = pieces.popleft()
            except IndexError:
                return
            try:
                draw(*piece, stop, tell)
            except Stopped:
                return
            except BaseException as error:
                with changed:
                    errors.append(error)
                    changed.notify()
                return
            with changed:
                left -= 1
                changed.notify()

    for _ in range(min(threads, left)):
        threading.Thread(target=work, daemon=True).start()
    over = False
    try:
        while not over:
            with changed:
                if left and not errors and not ready:
                    changed.wait(1.0)
                due, ready[:] = ready[:], []
                over = not left or bool(errors)
            if due:  # an answer shows that the server works
                beat()
            for finished in due:
                on_finished(finished)
    finally:
        stop.set()
    if errors:
        raise errors[0]
