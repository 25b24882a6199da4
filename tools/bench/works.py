"""What is compared, row by row: how each side is measured and what is asked of the ratio."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.bench.sides import LLAMA, MATRIX, Bench, first_word, warm

PROMPT, GENERATE, LONG, LONG_GENERATE, SHORT, SEQUENCES = 512, 64, 4096, 32, 16, 8
HYBRID_PROMPT, DENSE, DEARER = 2048, "qwen3-0.6b", 1.3
"""A prompt of hybrids, the model whose products each second they are held against, and how much longer one may take."""
ROWS, COLUMNS = 8192, 2048

Side = Callable[[Bench], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: On the command line and in the JSON.
        key: Which of the numbers that both sides give is compared.
        at_least: What the ratio must be, ours to theirs; theirs to ours where less is better.
        unit: Of the number.
        share: What must be reached of the read bandwidth measured in the same run, 0 for nothing.
        against: Key of our own number to compare with, where there is no peer.
        most: What the number must not exceed, 0 for nothing.
        enough: Share of the read bandwidth that is enough whatever the ratio is, 0 for none.
    """

    name: str
    key: str
    at_least: float
    unit: str = "tokens/s"
    share: float = 0.0
    against: str = ""
    most: float = 0.0
    enough: float = 0.0

    @property
    def less_is_better(self) -> bool:
        """Whether the number is a time."""
        return self.unit == "s"


@dataclass(frozen=True)
class Work:
    """What is measured together, in one process of either side for each round.

    Args:
        ours: Measures ggq.
        peers: Measures each peer, by name; the best of them counts.
        rows: What is compared.
    """

    ours: Side
    peers: dict[str, Side]
    rows: tuple[Row, ...]


def speed(shape: str, scheme: str, prefill: float, decode: float, share: float = 0.0, enough: float = 0.0) -> Work:
    """Prefill and decoding of a model, as llama-bench measures them."""

    def ours(bench: Bench) -> dict[str, Any]:
        path = bench.quantized(shape, scheme)
        warm(path)
        options = ["--prompt", PROMPT, "--generate", GENERATE, "--threads", bench.threads, "--repeat", 1, "--json"]
        return {**bench.own("limits", bench.threads), **bench.ggq("bench", path, *options)}

    def peer(bench: Bench) -> dict[str, Any]:
        path = bench.gguf(shape, scheme)
        warm(path)
        return bench.other(LLAMA, "speed", path, bench.threads, PROMPT, GENERATE)

    name = f"{shape}-{scheme.split('-')[0]}"
    rows = (
        Row(f"prefill-{name}", "prefill_tok_s", prefill),
        Row(f"decode-{name}", "decode_tok_s", decode, share=share, enough=enough),
    )
    return Work(ours, {"llama.cpp": peer}, rows)


def hybrid(shape: str, scheme: str, share: float) -> Work:
    """A long prompt of a model with states, by its products each second against a dense model's, and decoding."""

    def ours(bench: Bench) -> dict[str, Any]:
        found = {**bench.own("limits", bench.threads)}
        options = ["--generate", GENERATE, "--threads", bench.threads, "--repeat", 1, "--json"]
        for each in (DENSE, shape):
            path = bench.quantized(each, scheme)
            warm(path)
            measured = bench.ggq("bench", path, "--prompt", HYBRID_PROMPT, *options)
            found |= {"dense_gop_s": measured["prefill_gop_s"]} if each == DENSE else measured
        return {**found, "bandwidth_tok_s": found["decode_tok_s"] / found["bandwidth_share"]}

    name = f"{shape}-{scheme.split('-')[0]}"
    rows = (
        Row(f"prefill-{HYBRID_PROMPT}-{name}", "prefill_gop_s", 1 / DEARER, "GOP/s", against="dense_gop_s"),
        Row(f"decode-{name}", "decode_tok_s", share, against="bandwidth_tok_s"),
    )
    return Work(ours, {}, rows)


def long_context(shape: str, scheme: str, prefill: float, decode: float) -> Work:
    """A long prompt, and decoding behind it; both with an f16 cache."""

    def ours(bench: Bench) -> dict[str, Any]:
        path = bench.quantized(shape, scheme)
        warm(path)
        return bench.own("context", path, bench.threads, LONG, LONG_GENERATE)

    def peer(bench: Bench) -> dict[str, Any]:
        path = bench.gguf(shape, scheme)
        warm(path)
        return bench.other(LLAMA, "context", path, bench.threads, LONG, LONG_GENERATE)

    name = f"{LONG}-{shape}-{scheme.split('-')[0]}"
    rows = (Row(f"prefill-{name}", "prefill_tok_s", prefill), Row(f"decode-{name}", "decode_tok_s", decode))
    return Work(ours, {"llama.cpp": peer}, rows)


def together(shape: str, scheme: str, ratio: float) -> Work:
    """Several sequences decoded together, against one."""

    def ours(bench: Bench) -> dict[str, Any]:
        path = bench.quantized(shape, scheme)
        warm(path)
        return bench.own("batch", path, bench.threads, SEQUENCES, GENERATE)

    name = f"batch-{SEQUENCES}-{shape}-{scheme.split('-')[0]}"
    return Work(ours, {}, (Row(name, "many_tok_s", ratio, against="one_tok_s"),))


def start(shape: str, scheme: str, ratio: float, most: float) -> Work:
    """From the start of the process to the first token of a short prompt; ours is a text, theirs are token ids."""

    def ours(bench: Bench) -> dict[str, Any]:
        path = bench.quantized(shape, scheme)
        warm(path)
        text = bench.prompt(path, SHORT)
        options = ["--prompt", text, "--max-tokens", "1", "--greedy", "--threads", str(bench.threads)]
        return {"seconds": first_word([sys.executable, "-m", "ggq", "run", str(path), *options])}

    def peer(bench: Bench) -> dict[str, Any]:
        path = bench.gguf(shape, scheme)
        warm(path)
        return {"seconds": first_word([bench.peer, LLAMA, "start", str(path), str(bench.threads), str(SHORT)])}

    name = f"start-{shape}-{scheme.split('-')[0]}"
    return Work(ours, {"llama.cpp": peer}, (Row(name, "seconds", ratio, "s", most=most),))


def convert(shape: str, scheme: str, ratio: float) -> Work:
    """From 16-bit weights to a quantized file, whole processes, sources in the page cache."""

    def ours(bench: Bench) -> dict[str, Any]:
        source, out = bench.checkpoint(shape), bench.folder / "converted.ggq"
        warm(source / "model.safetensors")
        options = ["--scheme", scheme, "--workers", bench.threads, "--force", "--json"]
        found = bench.ggq("convert", source, out, *options)
        out.unlink()
        return {"seconds": found["process_s"], "call_s": found["seconds"]}

    def peer(bench: Bench) -> dict[str, Any]:
        source, out = bench.gguf(shape), bench.folder / "converted.gguf"
        warm(source)
        found = bench.other(LLAMA, "quantize", source, out, bench.threads, "Q4_0")
        out.unlink()
        return {"seconds": found["process_s"], "call_s": found["call_s"], "version": found["version"]}

    name = f"convert-{shape}-{scheme.split('-')[0]}"
    return Work(ours, {"llama.cpp": peer}, (Row(name, "seconds", ratio, "s"),))


def matrix(tokens: int, copies: int, ratio: float) -> Work:
    """One 4-bit matrix; the best of the peers counts."""

    def ours(bench: Bench) -> dict[str, Any]:
        found = bench.own("matrix", ROWS, COLUMNS, tokens, copies, bench.threads)
        found["gop_s"] = 2 * ROWS * COLUMNS * tokens / found["seconds"] / 1e9
        found["read_gb_s"] = found["bytes"] / found["seconds"] / 1e9
        return {**found, **bench.own("limits", bench.threads)}

    def peer(program: str) -> Side:
        return lambda bench: bench.other(MATRIX, program, ROWS, COLUMNS, tokens, copies, bench.threads)

    row = Row(f"matrix-{tokens}", "seconds", ratio, "s")
    return Work(ours, {program: peer(program) for program in ("onnxruntime", "openvino")}, (row,))


def gguf(kind: str, prefill: float, decode: float) -> Work:
    """Prefill and decoding of a GGUF file of the 1b shape, and loading it: until the model is there, and until the
    first token of a short prompt is. Both sides read the same file, which lies in the page cache."""

    def ours(bench: Bench) -> dict[str, Any]:
        path = bench.gguf("1b", kind)
        warm(path)
        options = ["--prompt", PROMPT, "--generate", GENERATE, "--threads", bench.threads, "--repeat", 1, "--json"]
        return {**bench.own("load", path, bench.threads, SHORT), **bench.ggq("bench", path, *options)}

    def peer(bench: Bench) -> dict[str, Any]:
        path = bench.gguf("1b", kind)
        warm(path)
        found = bench.other(LLAMA, "load", path, bench.threads, SHORT)
        return {**found, **bench.other(LLAMA, "speed", path, bench.threads, PROMPT, GENERATE)}

    name = f"gguf-{kind.lower()}"
    rows = (
        Row(f"prefill-{name}", "prefill_tok_s", prefill),
        Row(f"decode-{name}", "decode_tok_s", decode),
        Row(f"load-{name}", "load_s", 1.0, "s"),
        Row(f"first-{name}", "first_s", 1.0, "s"),
    )
    return Work(ours, {"llama.cpp": peer}, rows)


WORKS = (
    speed("1b", "q4-g32", 2.0, 1.15, 0.90),
    speed("1b", "q8-g32", 2.5, 1.0, 0.92),
    speed("135m", "q4-g32", 1.8, 1.5),
    speed("135m", "q8-g32", 2.0, 1.2),
    speed("qwen3-0.6b", "q4-g32", 2.0, 1.1, enough=0.88),
    speed("gemma3-1b", "q4-g32", 2.0, 1.1, enough=0.88),
    hybrid("lfm2-350m", "q4-g32", 0.85),
    hybrid("qwen3.5-0.8b", "q4-g32", 0.85),
    long_context("1b", "q4-g32", 2.2, 1.1),
    together("1b", "q4-g32", 5.0),
    start("1b", "q4-g32", 1.0, 1.0),
    convert("1b", "q4-g32", 4.0),
    matrix(512, 2, 1.8),
    matrix(1, 16, 1.0),
    *(gguf(kind, 2.0, 1.05) for kind in ("Q4_0", "Q4_K_M", "Q6_K", "Q8_0")),
)
