"""`ggq bench-serve`: how many clients a server serves, and how long each of them waits."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from ggq.cli.layout import table
from ggq.cli.output import print_json
from ggq.errors import GGQError, UsageError
from ggq.serve.client import Client

WORDS = "time year people way day man thing woman life child world school state family group country problem".split()
SHARES = (0.5, 0.95, 0.99)


@dataclass
class Result:
    """What one request took.

    Args:
        first: Seconds to the first piece of text.
        whole: Seconds to the end.
        gaps: Seconds between pieces.
        prompt: Tokens of the prompt, as the server counts them.
        answer: Tokens of the answer.
        error: What went wrong, "" if nothing.
    """

    first: float = 0.0
    whole: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt: int = 0
    answer: int = 0
    error: str = ""


def bench_serve(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server: http://localhost:8080", show_default=False)],
    model: Annotated[str | None, typer.Option(help="The model to ask; the first one without it.")] = None,
    clients: Annotated[int, typer.Option("-c", "--clients", help="Requests at once.", min=1, max=1024)] = 8,
    requests: Annotated[
        int | None, typer.Option("-n", "--requests", help="In all; 2 a client without it.", min=1)
    ] = None,
    prompt: Annotated[int, typer.Option("-p", "--prompt", help="Words of a prompt, about a token each.", min=1)] = 512,
    answer: Annotated[int, typer.Option("-a", "--answer", help="Tokens of an answer.", min=1)] = 128,
    shared: Annotated[int, typer.Option(help="Of the prompt's words so many are the same in all.", min=0)] = 0,
    rate: Annotated[float, typer.Option(help="Requests a second that come by chance; 0 for all at once.", min=0)] = 0.0,
    seed: Annotated[int, typer.Option(help="The same prompts and arrivals again.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure a server of OpenAI's interface with several clients at once.

    Texts are continued by /v1/completions. The key is taken from GGQ_API_KEY.

    Example:
        ggq bench-serve http://localhost:8080 -c 8 -p 512 -a 128
    """
    if shared > prompt:
        raise UsageError("--shared is more than --prompt")
    client = Client(url, os.environ.get("GGQ_API_KEY"))
    name = model or client.models()[0]
    chance = random.Random(seed)
    same = chance.choices(WORDS, k=shared)
    count = requests or 2 * clients
    prompts = [" ".join(same + chance.choices(WORDS, k=prompt - shared)) for _ in range(count)]
    delays = [chance.expovariate(rate) if rate else 0.0 for _ in range(count)]
    start = time.perf_counter()
    results = measured(client, name, prompts, delays, clients, answer)
    report = summary(results, time.perf_counter() - start)
    if as_json:
        print_json({"clients": clients, "requests": count, "prompt_words": prompt, **report})
        return
    show(report)


def measured(
    client: Client, model: str, prompts: Sequence[str], delays: Sequence[float], clients: int, answer: int
) -> list[Result]:
    """The results of requests by so many threads."""
    results = [Result() for _ in prompts]
    begin, moments, total = time.perf_counter(), list[float](), 0.0
    for delay in delays:
        total += delay
        moments.append(total)

    def work(place: int) -> None:
        time.sleep(max(0.0, begin + moments[place] - time.perf_counter()))
        ask(client, model, prompts[place], answer, results[place])

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(work, range(len(prompts))))
    return results


def ask(client: Client, model: str, prompt: str, answer: int, result: Result) -> None:
    """One request; what it took goes into the result."""
    body = {"model": model, "prompt": prompt, "max_tokens": answer, "temperature": 0}
    body["stream_options"] = {"include_usage": True}
    start, last, pieces, usage = time.perf_counter(), 0.0, 0, dict[str, Any]()
    try:
        for moment, event in client.stream("/v1/completions", body):
            usage = event.get("usage") or usage
            if any(choice.get("text") for choice in event.get("choices", ())):
                if last:
                    result.gaps.append(moment - last)
                else:
                    result.first = moment - start
                last, pieces = moment, pieces + 1
    except GGQError as problem:
        result.error = problem.problem
    result.whole = time.perf_counter() - start
    result.prompt, result.answer = usage.get("prompt_tokens", 0), usage.get("completion_tokens", pieces)


def summary(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Rates and latencies of all results."""
    good = [result for result in results if not result.error]
    gaps = [gap for result in good for gap in result.gaps]
    return {
        "seconds": seconds,
        "failed": len(results) - len(good),
        "errors": sorted({result.error for result in results if result.error}),
        "prompt_tokens": sum(result.prompt for result in good),
        "answer_tokens": sum(result.answer for result in good),
        "answer_tok_s": sum(result.answer for result in good) / seconds,
        "tok_s": sum(result.answer + result.prompt for result in good) / seconds,
        "first_token_s": quantiles([result.first for result in good]),
        "between_s": quantiles(gaps),
        "whole_s": quantiles([result.whole for result in good]),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """At SHARES; empty without values."""
    ordered = sorted(values)
    return {f"{share:g}": ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in SHARES if ordered}


def show(report: dict[str, Any]) -> None:
    """Print the figures."""
    rows = [
        [label, *(f"{1000 * value:.0f}" for value in report[key].values())]
        for key, label in (
            ("first_token_s", "first token, ms"),
            ("between_s", "between tokens, ms"),
            ("whole_s", "whole, ms"),
        )
        if report[key]
    ]
    table(["", *(f"{100 * share:g} %" for share in SHARES)], rows, right=(1, 2, 3))
    rates = f"{report['answer_tok_s']:.1f} tokens/s of answers, {report['tok_s']:.1f} with prompts"
    print(f"{rates}, in {report['seconds']:.1f} s")
    if report["failed"]:
        print(f"{report['failed']} failed: {'; '.join(report['errors'])}")
