"""What tools/fuzz.py changes and how: good inputs of each kind, structure-aware changes, and the readers."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WEIRD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    1e308,
    float("nan"),
    "",
    "\x00",
    "\ud83d",
    "a" * 5000,
    [],
    {},
]


class Kind(NamedTuple):
    """One kind of input: its good bytes, how they are changed, and what reads them."""

    good: bytes
    change: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], None]


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(out) + 1), rng.randint(1, 40)
        how = rng.randrange(5)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del out[at : at + size]
        elif how == 2:
            out[at:at] = out[at : at + size] * rng.choice([1, 2, 300])
        elif how == 3:
            out[at:at] = rng.choice([b"9" * 5000, b"[" * 2000, b"\xff", b'"', b"\\u0000", b"(a+)+$", b"\n", b"."])
        else:
            del out[at:]
    return bytes(out)


def change_value(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """A JSON value with something changed deep inside."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        how = rng.random()
        if how < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.2:
            return {**value, rng.choice(["type", "x", key + "x"]): rng.choice(WEIRD)}
        return {**value, key: change_value(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at, how = rng.randrange(len(value)), rng.random()
        if how < 0.1:
            return value[:at] + value[at + 1 :]
        if how < 0.2:
            return value + value[at : at + 1] * rng.choice([1, 2, 12])
        return [*value[:at], change_value(rng, value[at], depth + 1), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.4:
        return rng.choice([value * 20, value[::-1], "(" + value + "+)+$", "(a|a)*b", ".*.*.*=", value + "\u0660"])
    if type(value) is int and rng.random() < 0.6:
        return value + rng.choice([-1, 1, 64, 2**32, -value * 2])
    return rng.choice(WEIRD)


def change_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON document changed, now and then its bytes too."""
    if rng.random() < 0.1:
        return change_bytes(rng, data)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = change_value(rng, value)
    return json.dumps(value).encode()


RULES: dict[str, list[Any]] = {
    "normalizer": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"},
        {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"},
        {"type": "Prepend", "prepend": "x" * 300},
        {"type": "NFKC"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
         "lowercase": True},
        {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
        {"type": "ByteLevel"},
    ],
    "pre_tokenizer": [
        {"type": "FixedLength", "length": 0},
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        {"type": "Digits", "individual_digits": True},
        {"type": "CharDelimiterSplit", "delimiter": "a"},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "UnicodeScripts"},
    ],
    "decoder": [
        {"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeeee"},
        {"type": "Strip", "content": "e", "start": 3, "stop": 10**9},
        {"type": "Fuse"},
        {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
        {"type": "ByteFallback"},
        {"type": "WordPiece", "prefix": "", "cleanup": True},
        {"type": "BPEDecoder", "suffix": ""},
    ],
    "post_processor": [
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 50, "pair": [],
         "special_tokens": {}},
        {"type": "BertProcessing", "sep": ["a", 2**31], "cls": ["", 0]},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ],
}  # fmt: skip
PLURAL = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders",
          "post_processor": "processors"}  # fmt: skip
MODELS: list[dict[str, Any]] = [
    {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
    {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
     "vocab": {"a": 0, "##a": 1, "[UNK]": 2}},
    {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["aa", -1e300]], "byte_fallback": True},
    {"type": "BPE", "dropout": 0.5, "unk_token": "a", "continuing_subword_prefix": "#", "end_of_word_suffix": "$",
     "fuse_unk": True, "byte_fallback": True, "ignore_merges": True, "vocab": {"a": 0, "#a": 1, "a#a": 2, "aa": 3},
     "merges": ["a #a"]},
]  # fmt: skip


def change_tokenizer(rng: random.Random, data: bytes) -> bytes:
    """A tokenizer with other rules, or with the ones that it has changed."""
    value = json.loads(data)
    if rng.random() < 0.5:
        key = rng.choice(list(RULES))
        several = [rng.choice(RULES[key]) for _ in range(rng.choice([1, 2, 8]))]
        value[key] = {"type": "Sequence", PLURAL[key]: several}
    if rng.random() < 0.3:
        value["model"] = rng.choice(MODELS)
    rest = {name: item for name, item in value.items() if name != "model" or rng.random() < 0.3}
    changed = change_value(rng, rest)
    return json.dumps({**value, **changed} if isinstance(changed, dict) and rng.random() < 0.8 else value).encode()


PIECES = [
    "{{ 'ab'|replace('a', 'b' * 999999) }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages[0]['content'] * 99999 }}",
    "{{ raise_exception('no') }}",
    "{% set x = [] %}{% for m in messages %}{{ m }}{% endfor %}",
    "{{ 2 ** 99999999 }}",
    "{%",
    "{{ messages | tojson(indent=99999) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ lipsum(n=9999) }}",
    "{{ strftime_now('%9999999999d') }}",
    "{{ ('a ' * 99999) | urlize }}{{ ('<' * 9999) | striptags }}",
    "{{ ('a' * 9999) | wordwrap(1) }}",
    "{{ [messages] * 10**9 }}",
    "{% import 'x' as y %}",
    "{% block a %}{{ super() }}{% endblock %}",
    "{{ self.a() }}{{ namespace.__init__ }}",
    "{{ messages | map(attribute='content') | join('x' * 99999) }}",
    "{% filter upper %}{% generation %}",
    "{{ (1).__format__('9999999999') }}{{ 1e999 | round(10**9) }}",
]


def change_template(rng: random.Random, data: bytes) -> bytes:
    """A template with pieces of hostile ones in it."""
    text = data.decode()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at:]
    return text.encode()


TOML = [
    "9" * 5000,
    '"(((((a*)*)*)*)*)*$"',
    '"' + "(a|a)" * 500 + '"',
    "[" * 5000,
    "{" * 500,
    "nan",
    "1979-05-27T07:32:00Z",
    '"\\u0000\\U0010FFFF"',
    "true",
    "[]",
    '"q4-g32+order+scale"',
    '"q99-g7"',
    '"x" # ' + "y" * 5000,
    "0x" + "f" * 5000,
    "1e" + "9" * 390,
]


def change_recipe(rng: random.Random, data: bytes) -> bytes:
    """A recipe with other values, lines many times over, keys of many parts; now and then its bytes changed too."""
    lines = data.decode().splitlines()
    for _ in range(rng.randint(1, 3)):
        at, how = rng.randrange(len(lines)), rng.randrange(5)
        key, _, value = lines[at].partition(" = ")
        if how == 0:
            lines[at:at] = [lines[at]] * rng.choice([1, 2, 3000])
        elif how == 1:
            lines[at] = f"{key} = {rng.choice(TOML)}"
        elif how == 2:
            lines[at] = f"{key}{rng.choice(['.a' * 3000, '.scheme', '', ' '])} = {value}"
        elif how == 3:
            lines[at] = lines[at].replace('"', f'{rng.choice(TOML)}"', rng.choice([1, 2]))
        else:
            del lines[at]
            lines = lines or [""]
    out = ("\n".join(lines) + "\n").encode()
    return change_bytes(rng, out) if rng.random() < 0.3 else out


def change_journal(rng: random.Random, data: bytes) -> bytes:
    """Records changed, with right checksums."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    text = change_json(rng, lines[at][9:])
    lines[at] = b"%08x %s" % (crc32(text), text)
    if rng.random() < 0.2:
        lines = [*lines[:at], *lines[at : at + 1] * 2, *lines[at + 1 :]]
    out = b"\n".join(lines) + b"\n"
    return change_bytes(rng, out) if rng.random() < 0.1 else out


def change_statistics(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, or with numbers bent."""
    length = int.from_bytes(data[:8], "little")
    head, body = data[8 : 8 + length], bytearray(data[8 + length :])
    if rng.random() < 0.5:
        head = change_json(rng, head)
    for _ in range(rng.randint(0, 5)):
        at = 4 * rng.randrange(len(body) // 4)
        body[at : at + 4] = np.float32(rng.choice([np.nan, np.inf, -1.0, 3e38, 0.0, 1e-40])).tobytes()
    return len(head).to_bytes(8, "little") + head + bytes(body)


def change_ggq(rng: random.Random, data: bytes) -> bytes:
    """A ggq file with its index changed and its digests made right again."""
    from ggq.format.native.frame import encode_footer, find_footer
    from ggq.format.native.layout import HEADER_BYTES

    header = data[:HEADER_BYTES]
    footer = find_footer(lambda at, size: data[at : at + size], len(data), header)
    index = bytearray(data[footer.index_offset : footer.index_offset + footer.index_length])
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(index)), rng.choice([1, 2, 4, 8])
        index[at : at + size] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x01", b"\x80"]) * size
    whole = data[: footer.index_offset] + index
    whole += bytes(-len(whole) % 64)
    return whole + encode_footer(header, footer.index_offset, bytes(index))


class Good(NamedTuple):
    """Good inputs: files of a small conversion, and what an interrupted one left."""

    statistics: Path
    small: Path
    journal: bytes
    partial: bytes
    inputs: Any  # of the statistics: see SavedStatistics


def good_inputs(folder: Path) -> Good:
    """Make them in a folder."""
    from ggq.convert.calibrate.calibration import inputs_of
    from ggq.convert.convert import convert, plan
    from ggq.format import Writer, open_reader

    demo, out, statistics = ROOT / "ggq" / "demo", folder / "good.ggq", folder / "good.stat"
    convert(demo, out, scheme="q4-g32", method="gptq", calibration=demo / "valid.txt", calibration_tokens=512,
            calibration_context=128, statistics=statistics)  # fmt: skip
    small, journaled = folder / "small.ggq", folder / "journaled.ggq"
    for path in (small, journaled):
        try:
            with Writer(path) as writer, open_reader(out) as reader:
                for name, entry in list(reader.tensors.items())[:3]:
                    parts = [reader.view(part) for part in entry.segments.values()]
                    writer.add_raw_tensor(name, entry.shape, entry.descriptor.raw, parts, entry.attributes)
                if path == journaled:
                    raise KeyboardInterrupt
                writer.finish()
        except KeyboardInterrupt:
            pass
    journal, partial = Path(f"{journaled}.journal").read_bytes(), Path(f"{journaled}.partial").read_bytes()
    return Good(statistics, small, journal, partial, inputs_of(plan(demo)))


def use_checkpoint(name: str, model: Path, adapter: Path | None = None) -> Callable[[Path], None]:
    """A reader that plans a conversion of a checkpoint, with an adapter or without, of which one file is the input."""

    def use(path: Path) -> None:
        from ggq.convert.convert import plan

        ((adapter or model) / name).write_bytes(path.read_bytes())
        plan(model, scheme="q4-g32", lora=[str(adapter)] if adapter else None)

    return use


def good_adapter(folder: Path) -> bytes:
    """An adapter of the demo model; its configuration."""
    from safetensors.numpy import save_file

    folder.mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    width = json.loads((ROOT / "ggq" / "demo" / "config.json").read_bytes())["hidden_size"]
    parts = {"A.weight": np.ones((4, width), np.float32), "B.weight": np.ones((width, 4), np.float32)}
    save_file({module + name: numbers for name, numbers in parts.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "fan_in_fan_out": False}
    config |= {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}, "use_rslora": True}
    return json.dumps(config | {"target_modules": ["q_proj"], "modules_to_save": None}).encode()


def good_logits(path: Path) -> bytes:
    """A file of saved logits: two windows of eight tokens, the four likeliest of each distribution."""
    from ggq.evaluate.saved import SavedLogits
    from ggq.evaluate.text_windows import Windows

    windows = Windows(np.arange(16, dtype=np.int32).reshape(2, 8), 8)
    tokens = windows.tokens
    shares = np.log(np.array([0.4, 0.2, 0.1, 0.1], np.float32))
    notes = {"text_digest": "0" * 64, "model_digest": "0" * 64, "model": "m"}
    SavedLogits(
        windows=windows,
        vocabulary=64,
        ids=np.tile(np.arange(4, dtype=np.uint32), (tokens, 1)),
        log_probs=np.tile(shares, (tokens, 1)),
        rest=np.full(tokens, np.log(0.2), np.float32),
        targets=np.full(tokens, -1.0),
        notes=notes,
    ).save(path)
    return path.read_bytes()


def use_logits(path: Path) -> None:
    """Load a saved reference and go through its distributions."""
    from ggq.evaluate.saved import load_logits

    found = load_logits(path)
    for _ in found.distributions(found.windows):
        pass


def use_tokenizer(path: Path) -> None:
    """Parse it, and turn some texts into tokens and back."""
    from ggq.text.tokenizer import parse
    from ggq.text.trial import library_errors

    found = parse(path.read_bytes(), path)
    for text in ("Once upon a time", "a" * 300 + "!", "\u6f22\u5b57 \n\t"):
        with library_errors(path):
            found.decode(found.encode(text).ids[:50])


def use_template(path: Path) -> None:
    """Render a conversation."""
    from ggq.text.template import ChatTemplate

    ChatTemplate(path.read_text(encoding="utf-8"), context=512).render([{"role": "user", "content": "hi"}])


def use_ggq(path: Path) -> None:
    """Open it, look at its tensors, verify it."""
    from ggq.format import open_reader, verify

    with open_reader(path) as reader:
        for entry in reader.tensors.values():
            assert entry.shape
        verify(reader)


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind, with good inputs made in a folder."""
    from ggq.convert.calibrate.statistics import SavedStatistics
    from ggq.convert.plan.recipe_file import read_recipe
    from ggq.format import Writer, open_reader, verify
    from ggq.quant.possible import impossible
    from tools import fuzz_gguf

    made = good_inputs(folder)

    def resume(path: Path) -> None:
        place = folder / "resumed.ggq"
        Path(f"{place}.partial").write_bytes(made.partial)
        descriptor = os.open(f"{place}.journal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(path.read_bytes())
        with Writer(place, resume=True) as writer:
            writer.finish()
        with open_reader(place) as reader:
            assert not verify(reader), "a file under its final name that verify refuses"
        place.unlink()

    def saved(path: Path) -> None:
        for layer in SavedStatistics(path, made.inputs).layers():
            assert not any(impossible(found) for found in layer.values())

    def recipe_file(path: Path) -> None:
        read_recipe(path)

    model, base, adapter, weighed = (folder / name for name in ("model", "base", "adapter", "weighed"))
    for place in (model, base, weighed):
        shutil.copytree(ROOT / "ggq" / "demo", place)
    recipe = b'scheme = "q4-g32"\nmethod = "mse"\nrules = [\n  { match = "down_proj|q", scheme = "q6-g32" },\n]\n'
    good = b"{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    tokenizer = (ROOT / "ggq" / "demo" / "tokenizer.json").read_bytes()
    weights = (weighed / "model.safetensors").read_bytes()
    return {
        "tokenizer": Kind(tokenizer, change_tokenizer, use_tokenizer),
        "template": Kind(good, change_template, use_template),
        "recipe": Kind(recipe, change_recipe, recipe_file),
        "statistics": Kind(made.statistics.read_bytes(), change_statistics, saved),
        "logits": Kind(good_logits(folder / "logits"), change_statistics, use_logits),
        "config": Kind((model / "config.json").read_bytes(), change_json, use_checkpoint("config.json", model)),
        "adapter": Kind(good_adapter(adapter), change_json, use_checkpoint("adapter_config.json", base, adapter)),
        "journal": Kind(made.journal, change_journal, resume),
        "gguf": Kind(fuzz_gguf.good_gguf(folder), fuzz_gguf.change_gguf, fuzz_gguf.use_gguf),
        "imatrix": Kind(fuzz_gguf.good_imatrix(), fuzz_gguf.change_imatrix, fuzz_gguf.use_imatrix),
        "safetensors": Kind(weights, fuzz_gguf.change_safetensors, fuzz_gguf.use_safetensors(weighed)),
        "ggq": Kind(made.small.read_bytes(), change_ggq, use_ggq),
    }
