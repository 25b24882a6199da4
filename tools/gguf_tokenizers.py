#!/usr/bin/env python3
"""Vocabularies of GGUF files: ids of ours against those of llama.cpp, and against the `.out` files beside them.

    tools/gguf_tokenizers.py --peer PYTHON FILE.gguf ...
    tools/gguf_tokenizers.py --peer PYTHON --cuts FILE.gguf       the words of one file cut in every known way

PYTHON has llama-cpp-python. The texts are of every script of Unicode, of white space, digits, marks, capitals, code and
what tokens look like; seeded. A line for each vocabulary; exits with 1 where an id of an `.out` file differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

SEPARATOR = "\n__ggml_vocab_test__\n"

PEER = r"""
import ctypes, json, sys
import llama_cpp as L
silent = L.llama_log_callback(lambda *a: None)
L.llama_log_set(silent, ctypes.c_void_p(0))
L.llama_backend_init()
job = json.loads(sys.stdin.read())
params = L.llama_model_default_params()
params.vocab_only, params.n_gpu_layers = True, 0
model = L.llama_model_load_from_file(job["path"].encode(), params)
if not model:
    raise SystemExit("it does not load")
vocab, out = L.llama_model_get_vocab(model), []
for text in job["texts"]:
    data = text.encode()
    room = (L.llama_token * (len(data) + 16))()
    count = L.llama_tokenize(vocab, data, len(data), room, len(room), False, True)
    out.append(list(room[:count]))
print(json.dumps(out))
"""

PIECES = (
    *(" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "'s", "'LL", "don't", "1", "12", "1234567"),
    *("\u00bd", "\u0663\u0664", "!", "...", "--", "$x+=<>^|`~", "(a, b)", "_id", "camelCase", "HTTPServer", "ABC"),
    *("\u2026", "\u3002", "\uff01", "\U0001f680", "\U0001f468\u200d\U0001f469", "\ud55c\uad6d\uc5b4", "\u4e2d\u6587"),
    *("\u3053\u3093", "\u041f\u0440\u0438", "\u0395\u03bb\u03b7", "\u0627\u0644\u0639", "\u0939\u093f\u0928\u094d"),
    *("\u0e44\u0e17\u0e22", "\u1781\u17d2\u1798", "caf\u00e9", "\u00df", "\u0130", "</s>", "<x>", "[INST]", "the"),
)


def texts(count: int, seed: int) -> list[str]:
    """Seeded texts, in the composed form of Unicode."""
    rng = random.Random(seed)
    letters = [chr(i) for i in range(0x20, 0x30000) if unicodedata.category(chr(i))[0] in "LMNPSZ"]
    found = []
    for _ in range(count):
        start = rng.randrange(len(letters))
        script = letters[start : start + 64]
        length = rng.randrange(1, 24)
        parts = [rng.choice(script) if rng.random() < 0.5 else rng.choice(PIECES) for _ in range(length)]
        found.append(unicodedata.normalize("NFC", "".join(parts)))
    return found


def expected(path: str) -> tuple[list[str], list[list[int]]]:
    """Texts and ids of the files beside a vocabulary; none where there are none."""
    if not Path(f"{path}.out").exists():
        return [], []
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        listed = file.read().split(SEPARATOR)
    lines = Path(f"{path}.out").read_text().split("\n")[: len(listed)]
    return listed, [[int(number) for number in line.split()] for line in lines]


def theirs(peer: str, path: str, listed: list[str]) -> list[list[int]] | str:
    """Ids of llama.cpp; what it said where it gave none."""
    job = json.dumps({"path": path, "texts": listed})
    done = subprocess.run([peer, "-c", PEER], input=job, capture_output=True, text=True, check=False)
    found: list[list[int]] = json.loads(done.stdout) if done.returncode == 0 else []
    return found or done.stderr.strip()[-80:]


def compare(metadata: Any, path: str, peer: str, listed: list[str]) -> tuple[str, int]:
    """A line about a vocabulary, and how many ids of the `.out` file differ."""
    from tokenizers import Tokenizer

    from ggq.errors import GGQError
    from ggq.gguf.tokens.vocabulary import Vocabulary

    try:
        vocabulary = Vocabulary(metadata, path)
        tokenizer = Tokenizer.from_str(vocabulary.document())
    except GGQError as error:
        return f"refused: {error}", 0

    def ours(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    given, wanted = expected(path)
    wrong = sum(ours(text) != ids for text, ids in zip(given, wanted, strict=True))
    found = theirs(peer, path, listed)
    if isinstance(found, str):
        return f".out {len(given) - wrong} of {len(given)}; llama.cpp: {found}", wrong
    other = [text for text, ids in zip(listed, found, strict=True) if ours(text) != ids]
    shown = f", such as {min(other, key=len)!a:.60}" if other else ""
    same = len(listed) - len(other)
    return f".out {len(given) - wrong} of {len(given)}; llama.cpp's ids of {same} of {len(listed)} texts{shown}", wrong


def recut(path: str, name: str, place: Path) -> dict[str, Any]:
    """The keys of a vocabulary under another way to cut texts, also as a file."""
    from ggq.format.gguf.reader import GGUFReader
    from ggq.format.gguf.writer import write_gguf

    with GGUFReader(path) as reader:
        keys: dict[str, Any] = {"general.architecture": "llama"}
        for key in ("model", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
            found = reader.metadata.get(f"tokenizer.ggml.{key}")
            if found is not None:
                keys[f"tokenizer.ggml.{key}"] = found if isinstance(found, str | int | np.ndarray) else list(found)
    keys["tokenizer.ggml.pre"] = name
    place.unlink(missing_ok=True)
    write_gguf(place, keys, [])
    return keys


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="a Python with llama-cpp-python")
    parser.add_argument("--count", type=int, default=2000, help="texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cuts", action="store_true", help="a byte-level vocabulary under every name of a cut")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    from ggq.format.gguf.reader import GGUFReader
    from ggq.gguf.tokens.cuts import CUTS

    listed, wrong = texts(options.count, options.seed), 0
    for path in options.files:
        if not options.cuts:
            with GGUFReader(path) as reader:
                line, bad = compare(reader.metadata, path, options.peer, listed)
            print(f"{Path(path).stem}: {line}", flush=True)
            wrong += bad
            continue
        with tempfile.TemporaryDirectory() as folder:
            for name in CUTS:
                place = Path(folder) / "v.gguf"
                line, _ = compare(recut(path, name, place), str(place), options.peer, listed)
                print(f"{name}: {line}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
