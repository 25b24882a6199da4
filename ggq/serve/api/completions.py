"""/v1/completions: texts and tokens continued as they are, and how likely they were."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggq.generate.generation import Likelihood
from ggq.generate.model import Model
from ggq.generate.request import ScoredWriting
from ggq.serve.api.chat import FINISHED, failed, usage_of
from ggq.serve.api.chat_input import FORMAT, IGNORED, format_options
from ggq.serve.api.fields import FLAG, GRAMMARS, MODEL, SAMPLING, TEXT, count, obj, sampling_options
from ggq.serve.api.token_texts import TokenTexts
from ggq.serve.context import Context, document
from ggq.serve.errors import refused
from ggq.serve.events import EventStream, event, progress, while_wanted
from ggq.serve.schema import wrong
from ggq.serve.turn.prepare import Prepared
from ggq.serve.turn.reader import Reader
from ggq.serve.turn.run import Run

IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
COMPLETION = obj(
    ["model", "prompt"],
    model=MODEL,
    prompt={
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1024},
            IDS,
            {"type": "array", "items": IDS, "minItems": 1, "maxItems": 1024},
        ]
    },
    max_tokens=count(0),
    n=count(1, 128),
    best_of=count(1, 128),
    echo=FLAG,
    logprobs=count(0, 20),
    suffix=TEXT,
    stream=FLAG,
    stream_options={"type": ["object", "null"], "properties": {"include_usage": FLAG, "include_obfuscation": FLAG}},
    response_format=FORMAT,
    add_special_tokens={**FLAG, "description": "Whether a text begins as a prompt begins; true by default."},
    **SAMPLING,
    **GRAMMARS,
    **IGNORED,
)
TOKENS = 16
"""Tokens of an answer where a request does not say."""


async def completions(context: Context, request: Request, body: dict[str, Any]) -> Response:
    """Continue prompts, whole or in events."""
    served = context.models.find(body.get("model"))
    _check(body, context)
    with ExitStack() as stack:
        stack.enter_context(context.models.use(served))
        loaded = await while_wanted(request, context.models.ready(served))
        loaded.driver  # noqa: B018  refuses a model that makes vectors
        model = loaded.model
        prepared, prompts = await asyncio.to_thread(_prepare, model, body, request.scope["ggq.client"])
        run = Run(served, prepared, context.settings, context.metrics)
        frame = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.get("model") or served.name,
        }
        texts = TokenTexts(model)
        if body.get("stream"):
            return EventStream(_events(run, frame, texts, body, prompts), failed, stack.pop_all().close)
        return await while_wanted(request, _whole(run, frame, texts, body, prompts))


def _check(body: Mapping[str, Any], context: Context) -> None:
    if body.get("suffix"):
        raise refused("suffix: text is continued at its end only", "suffix", "unsupported_parameter")
    n, best = int(body.get("n", 1)), int(body.get("best_of", body.get("n", 1)))
    if best < n:
        raise wrong("best_of", f"{best} is less than n, {n}")
    if max(n, best) > context.settings.most_choices:
        raise wrong("best_of" if best > n else "n", f"{best} choices are more than {context.settings.most_choices}")
    if best > n and body.get("stream"):
        raise refused("best_of cannot be streamed: the best are known at the end", "best_of")
    if not body.get("max_tokens", TOKENS) and not body.get("echo"):
        raise wrong("max_tokens", "0 needs echo")


def _prepare(model: Model, body: Mapping[str, Any], client: str) -> tuple[Prepared, list[list[int]]]:
    """Answers of all prompts, `best_of` of each."""
    given = body["prompt"]
    several = given if isinstance(given, list) and isinstance(given[0], str | list) else [given]
    begin = bool(body.get("add_special_tokens", True))
    prompts = [model.encode(each if isinstance(each, str) else [int(i) for i in each], begin=begin) for each in several]
    limit = int(body.get("max_tokens", TOKENS))
    options = {**sampling_options(body), **format_options(body.get("response_format") or {})}
    options["max_tokens"] = max(1, limit)
    best, n = int(body.get("best_of", body.get("n", 1))), int(body.get("n", 1))
    if "logprobs" in body or best > n:
        options["logprobs"] = int(body.get("logprobs", 0))
    scored = int(body["logprobs"]) if body.get("echo") and "logprobs" in body else None
    if limit == 0 and scored is None:
        scored = 0
    answers = [
        model.answer(prompt, options, index)  # type: ignore[arg-type]
        for prompt in prompts
        for index in range(best)
    ]
    readers = [Reader(None, False, None) for _ in answers]
    return Prepared(answers, readers, {}, sum(map(len, prompts)), client, scored, limit == 0), prompts


class _Text:
    """One continued text, collected.

    Args:
        prompt: Its tokens.
        body: What was asked for.
        texts: Of tokens.
        echo: The text of the prompt, "" where it is not wanted.
    """

    def __init__(self, prompt: Sequence[int], body: Mapping[str, Any], texts: TokenTexts, echo: str) -> None:
        self._prompt, self._texts, self._echo = prompt, texts, echo
        self._wanted = "logprobs" in body
        self.text: list[str] = [echo]
        self.tokens: list[tuple[int, Likelihood | None]] = []
        self.reason = "length"
        self._offset = 0

    @property
    def mean(self) -> float:
        """The mean logarithm of the tokens' probabilities."""
        logs = [likelihood.logprob for _, likelihood in self.tokens if likelihood is not None]
        return sum(logs) / len(logs) if logs else 0.0

    def add_prompt(self, likelihoods: Sequence[Likelihood]) -> None:
        """How likely the prompt's tokens were, of which the first has nothing before it."""
        self.tokens += zip(self._prompt, [None, *likelihoods])

    def choice(self, index: int) -> dict[str, Any]:
        """As OpenAI has it."""
        found = self.logprobs(self.tokens) if self._wanted else None
        return {"text": "".join(self.text), "index": index, "logprobs": found, "finish_reason": self.reason}

    def logprobs(self, tokens: Sequence[tuple[int, Likelihood | None]]) -> dict[str, Any]:
        """The older form of log-probabilities: lists beside each other, of the next tokens."""
        names = [self._texts.text(token) for token, _ in tokens]
        offsets = []
        for name in names:
            offsets.append(self._offset)
            self._offset += len(name)
        return {
            "tokens": names,
            "token_logprobs": [None if each is None else each.logprob for _, each in tokens],
            "top_logprobs": [None if each is None else self._top(token, each) for token, each in tokens],
            "text_offset": offsets,
        }

    def _top(self, token: int, likelihood: Likelihood) -> dict[str, float]:
        """The likeliest tokens and the one that stands there, which may be none of them."""
        found = {self._texts.text(each): log for each, log in likelihood.top}
        found.setdefault(self._texts.text(token), likelihood.logprob)
        return found


def _texts(run: Run, body: Mapping[str, Any], texts: TokenTexts, prompts: Sequence[Sequence[int]]) -> list[_Text]:
    each = len(run.requests) // len(prompts)
    given = body["prompt"]
    several = given if isinstance(given, list) and isinstance(given[0], str | list) else [given]
    found = []
    for prompt, written in zip(prompts, several):
        echo = ""
        if body.get("echo"):
            echo = written if isinstance(written, str) else b"".join(map(texts.data, prompt)).decode("utf-8", "replace")
        found += [_Text(prompt, body, texts, echo) for _ in range(each)]
    return found


async def _whole(run: Run, frame: dict[str, Any], texts: TokenTexts, body: Mapping[str, Any], prompts: Any) -> Response:
    found = _texts(run, body, texts, prompts)
    async for delta in run.deltas():
        text = found[delta.choice]
        if delta.kind == "text":
            text.text.append(delta.text)
        elif delta.kind == "tokens":
            text.tokens += delta.tokens
        elif delta.kind == "end":
            text.reason = FINISHED[delta.reason]
    each, n = len(found) // len(prompts), int(body.get("n", 1))
    chosen: list[_Text] = []
    for start in range(0, len(found), each):
        group = found[start : start + each]
        chosen += sorted(group, key=lambda text: -text.mean)[:n] if each > n else group
    for text in chosen:
        request = run.requests[found.index(text)]
        if isinstance(request, ScoredWriting) and "logprobs" in body:
            text.tokens = [*zip(request.answer.prompt, [None, *request.likelihoods]), *text.tokens]
    choices = [text.choice(index) for index, text in enumerate(chosen)]
    return document({**frame, "choices": choices, "usage": usage_of(run.usage)})


async def _events(
    run: Run, frame: dict[str, Any], texts: TokenTexts, body: Mapping[str, Any], prompts: Any
) -> AsyncIterator[str]:
    found = _texts(run, body, texts, prompts)
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    frame = {**frame, **({"usage": None} if usage else {})}

    def chunk(index: int, text: str, reason: str | None = None, tokens: Any = None) -> str:
        choice = {"text": text, "index": index, "logprobs": tokens, "finish_reason": reason}
        return event({**frame, "choices": [choice]})

    echoed = set[int]()
    async for delta in run.deltas():
        index, text = delta.choice, found[delta.choice]
        if delta.kind == "progress":
            yield progress(*delta.progress)
            continue
        if body.get("echo") and index not in echoed:
            echoed.add(index)
            request = run.requests[index]
            tokens = None
            if isinstance(request, ScoredWriting) and "logprobs" in body:
                tokens = text.logprobs([*zip(request.answer.prompt, [None, *request.likelihoods])])
            yield chunk(index, "".join(text.text), tokens=tokens)
        if delta.kind == "text":
            yield chunk(index, delta.text)
        elif delta.kind == "tokens":
            yield chunk(index, "", tokens=text.logprobs(delta.tokens))
        elif delta.kind == "end":
            yield chunk(index, "", FINISHED[delta.reason])
    if usage:
        yield event({**frame, "choices": [], "usage": usage_of(run.usage)})
    yield "data: [DONE]\n\n"
