"""Checkpoints of matrices that are quantized already: read exactly, kept where a scheme can, refused where none can
(S-24).

Each is packed here bit by bit from the words of its format, and what it stands for is computed number by number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ggq
from ggq.convert.convert import plan
from ggq.convert.source.checkpoint import Checkpoint
from ggq.convert.source.packed.parts import table
from ggq.errors import ConvertError, GGQError, UnsupportedError
from ggq.format import open_reader
from ggq.format.scheme_names import scheme_name
from ggq.quant.stored import decoded
from tests.kit.checkpoints import edit_json, read_safetensors, tiny, write_safetensors

SHAPE = (64, 1, 2, 1, 96, 320)
"""Hidden size, layers, heads, kv heads, feed-forward size, vocabulary."""

KINDS = {np.dtype("<i4"): "I32", np.dtype("<u4"): "U32", np.dtype("<f2"): "F16", np.dtype("<f4"): "F32"}
KINDS |= {np.dtype("u1"): "U8", np.dtype("i1"): "I8", np.dtype("<i8"): "I64", np.dtype("<f8"): "F64"}
KINDS |= {np.dtype("<u2"): "BF16"}

Parts = dict[str, NDArray[Any] | tuple[str, NDArray[Any]]]
Pack = Callable[[np.random.Generator, int, int], tuple[Parts, NDArray[np.float32]]]
"""Parts of a matrix of so many rows and columns by the ends of their names, and its numbers."""


def words(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Codes (rows, columns) in words of 32 bits, the first in the lowest bits, as Python's integers."""
    out = []
    for row in codes.tolist():
        number = sum(int(code) << (bits * i) for i, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        out.append([number >> (32 * i) & 0xFFFFFFFF for i in range(count)])
    return np.array(out, np.uint32).view(np.int32)


def grouped(
    rng: np.random.Generator, rows: int, columns: int, bits: int, group: int, zeros: bool
) -> tuple[NDArray[Any], NDArray[np.float16], NDArray[Any], NDArray[np.float32]]:
    """Codes, scales and zero-points (rows, groups), numbers."""
    codes = rng.integers(0, 1 << bits, (rows, columns))
    scales = rng.uniform(0.001, 0.02, (rows, columns // group)).astype(np.float16)
    zero = rng.integers(1, 1 << bits, scales.shape) if zeros else np.full(scales.shape, 1 << (bits - 1))
    wide = scales.astype(np.float32).repeat(group, axis=1)
    return codes, scales, zero, wide * (codes - zero.repeat(group, axis=1)).astype(np.float32)


def gptq(bits: int, zeros: bool, *, form: str = "gptq", shuffled: bool = False) -> Pack:
    def pack(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
        codes, scales, zero, numbers = grouped(rng, rows, columns, bits, 32, zeros)
        order = np.arange(columns, dtype=np.int32) // 32
        if shuffled:
            shuffle = rng.permutation(columns)
            codes, numbers, order = codes[:, shuffle], numbers[:, shuffle], order[shuffle]
        stored = zero - 1 if form == "gptq" else zero
        return {
            ".qweight": words(codes, bits).T,
            ".qzeros": words(stored.T, bits),
            ".scales": scales.T,
            ".g_idx": order,
        }, numbers

    return pack


def awq(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
    codes, scales, zero, numbers = grouped(rng, rows, columns, 4, 32, True)

    def shuffled(array: NDArray[Any]) -> NDArray[np.int32]:
        """Eight rows in a word: the nibble of row i at the place that AWQ's table has for it."""
        place = {0: 0, 2: 1, 4: 2, 6: 3, 1: 4, 3: 5, 5: 6, 7: 7}
        out = np.zeros((array.shape[1], array.shape[0] // 8), np.uint32)
        for row in range(array.shape[0]):
            out[:, row // 8] |= array[row].astype(np.uint32) << np.uint32(4 * place[row % 8])
        return out.view(np.int32)

    return {".qweight": shuffled(codes), ".qzeros": shuffled(zero), ".scales": scales.T}, numbers


def compressed(zeros: bool) -> Pack:
    def pack(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
        codes, scales, zero, numbers = grouped(rng, rows, columns, 4, 32, zeros)
        parts: Parts = {".weight_packed": words(codes, 4), ".weight_scale": scales}
        parts[".weight_shape"] = np.array([rows, columns], np.int64)
        if zeros:
            parts[".weight_zero_point"] = words(zero.T, 4).T
        return parts, numbers

    return pack


def int8(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
    codes = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
    scales = rng.uniform(0.0005, 0.001, (rows, 1)).astype(np.float16)
    bits = (scales.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)  # bf16
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    return {".weight": codes, ".weight_scale": bits}, wide * codes.astype(np.float32)


def float8(kind: str, block: bool) -> Pack:
    def pack(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
        codes = (
            rng.integers(0, 0x78, (rows, columns)).astype(np.uint8)
            | rng.integers(0, 2, (rows, columns)).astype(np.uint8) << 7
        )
        shape = (-(-rows // 48), -(-columns // 24)) if block else (rows, 1)
        scales = rng.uniform(0.001, 0.01, shape).astype(np.float32)
        wide = scales.repeat(48, 0)[:rows].repeat(24, 1)[:, :columns] if block else scales
        name = ".weight_scale_inv" if block else ".weight_scale"
        return {".weight": (kind, codes), name: scales}, table(kind)[codes] * wide

    return pack


FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def nvfp4(divides: bool) -> Pack:
    def pack(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
        codes = rng.integers(0, 16, (rows, columns))
        packed = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
        scales = rng.integers(0x30, 0x50, (rows, columns // 16)).astype(np.uint8)
        outer = np.array([300.0 if divides else 0.004], np.float32)
        inner = table("F8_E4M3")[scales]
        inner = inner / outer[0] if divides else inner * outer[0]
        numbers = np.array(FP4, np.float32)[codes] * inner.repeat(16, axis=1)
        names = (".weight_packed", ".weight_global_scale") if divides else (".weight", ".weight_scale_2")
        return {names[0]: packed, ".weight_scale": ("F8_E4M3", scales), names[1]: outer}, numbers

    return pack


def bnb4(nested: bool) -> Pack:
    def pack(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
        codes = rng.integers(0, 16, rows * columns)
        levels = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
        magnitudes = rng.uniform(0.01, 0.05, rows * columns // 64).astype(np.float32)
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [rows, columns]}
        parts: Parts = {".weight": (codes[::2] << 4 | codes[1::2]).astype(np.uint8)[:, None]}
        if nested:
            places, tables = rng.integers(0, 256, len(magnitudes)), np.linspace(-1, 1, 256).astype(np.float32)
            upper = rng.uniform(0.01, 0.02, -(-len(places) // 256)).astype(np.float32)
            state |= {"nested_blocksize": 256, "nested_offset": 0.03125, "nested_dtype": "float32"}
            parts |= {".weight.nested_absmax": upper, ".weight.nested_quant_map": tables}
            parts[".weight.absmax"] = places.astype(np.uint8)
            magnitudes = tables[places] * upper[np.arange(len(places)) // 256] + np.float32(0.03125)
        else:
            parts[".weight.absmax"] = magnitudes
        parts[".weight.quant_map"] = levels
        record = np.frombuffer(json.dumps(state).encode(), np.uint8)
        parts[".weight.quant_state.bitsandbytes__nf4"] = record
        return parts, (levels[codes] * magnitudes.repeat(64)).reshape(rows, columns)

    return pack


def mlx(bits: int) -> Pack:
    def pack(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
        codes, scales, _, _ = grouped(rng, rows, columns, bits, 32, False)
        biases = rng.uniform(-0.1, 0.1, scales.shape).astype(np.float16)
        wide, add = (each.astype(np.float32).repeat(32, axis=1) for each in (scales, biases))
        return {".weight": words(codes, bits).view(np.uint32), ".scales": scales, ".biases": biases}, wide * codes + add

    return pack


def double(rng: np.random.Generator, rows: int, columns: int) -> tuple[Parts, NDArray[np.float32]]:
    numbers = rng.normal(0, 0.02, (rows, columns))
    return {".weight": numbers}, numbers.astype(np.float32)


GPTQ = {"quant_method": "gptq", "group_size": 32, "desc_act": False}
V2, FP8 = {**GPTQ, "bits": 4, "checkpoint_format": "gptq_v2"}, {"quant_method": "fp8", "weight_block_size": [48, 24]}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
FORMS: dict[str, tuple[dict[str, Any], Pack, str]] = {
    "gptq-4": ({"quantization_config": {**GPTQ, "bits": 4}}, gptq(4, True), "q4z-g32"),
    "gptq-4-symmetric": ({"quantization_config": {**GPTQ, "bits": 4}}, gptq(4, False), "q4-g32"),
    "gptq-3": ({"quantization_config": {**GPTQ, "bits": 3}}, gptq(3, True), "q3z-g32"),
    "gptq-2": ({"quantization_config": {**GPTQ, "bits": 2}}, gptq(2, True), "q2z-g32"),
    "gptq-8": ({"quantization_config": {**GPTQ, "bits": 8}}, gptq(8, False), "q8-g32"),
    "gptq-v2": ({"quantization_config": V2}, gptq(4, True, form="v2"), "q4z-g32"),
    "awq": ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}, awq, "q4z-g32"),
    "compressed": ({"quantization_config": COMPRESSED}, compressed(False), "q4-g32"),
    "compressed-zeros": ({"quantization_config": COMPRESSED}, compressed(True), "q4z-g32"),
    "compressed-int8": ({"quantization_config": COMPRESSED}, int8, "q8-row"),
    "f8": ({"quantization_config": FP8}, float8("F8_E4M3", True), ""),
    "f8-rows": ({"quantization_config": COMPRESSED}, float8("F8_E5M2", False), ""),
    "nvfp4": ({"quantization_config": COMPRESSED}, nvfp4(True), ""),
    "nvfp4-modelopt": ({"quantization_config": {"quant_method": "modelopt"}}, nvfp4(False), ""),
    "f64": ({}, double, ""),
    "gptq-ordered": ({"quantization_config": {**GPTQ, "bits": 4}}, gptq(4, True, shuffled=True), "order of their"),
    "nf4": ({"quantization_config": {"quant_method": "bitsandbytes"}}, bnb4(False), "int8 and f16"),
    "nf4-nested": ({"quantization_config": {"quant_method": "bitsandbytes"}}, bnb4(True), "int8 and f16"),
    "mlx-4": ({"quantization": {"group_size": 32, "bits": 4}}, mlx(4), "rounded apart"),
    "mlx-3": ({"quantization": {"group_size": 32, "bits": 3}}, mlx(3), "rounded apart"),
}  # fmt: skip
"""config.json's part of each form, what packs it, and the scheme that keeps it, or why none does; "" for floats."""


def packed(folder: Path, form: str) -> dict[str, NDArray[np.float32]]:
    """A checkpoint whose matrices inside of layers are packed; their numbers."""
    tiny(folder, shape=SHAPE, dtype="f32")
    config, pack, _ = FORMS[form]
    edit_json(folder / "config.json", **config)
    header, data = read_safetensors(folder / "model.safetensors")
    header.pop("__metadata__", None)
    rng, parts, wanted = np.random.default_rng(3), dict[str, tuple[str, tuple[int, ...], bytes]](), {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if len(entry["shape"]) != 2 or "layers" not in name:
            parts[name] = entry["dtype"], tuple(entry["shape"]), bytes(data[start:end])
            continue
        several, wanted[name] = pack(rng, *entry["shape"])
        for end_of, array in several.items():
            kind, values = array if isinstance(array, tuple) else (KINDS[array.dtype], array)
            parts[name.removesuffix(".weight") + end_of] = kind, values.shape, np.ascontiguousarray(values).tobytes()
    out, at = {}, 0
    for name, (kind, shape, raw) in parts.items():
        out[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    write_safetensors(folder / "model.safetensors", out, b"".join(raw for _, _, raw in parts.values()))
    return wanted


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_those_of_the_format(form: str, tmp_path: Path) -> None:
    wanted = packed(tmp_path / "m", form)
    ggq.convert(tmp_path / "m", tmp_path / "m.ggq", scheme="f32")
    with open_reader(tmp_path / "m.ggq") as reader:
        for name, numbers in wanted.items():
            np.testing.assert_array_equal(decoded(reader, reader.tensors[name]), numbers, err_msg=name)


@pytest.mark.parametrize("form", [form for form, (_, _, scheme) in FORMS.items() if scheme.startswith("q")])
def test_a_scheme_keeps_every_number_where_one_can(form: str, tmp_path: Path) -> None:
    wanted = packed(tmp_path / "m", form)
    report = ggq.convert(tmp_path / "m", tmp_path / "m.ggq")
    schemes = {tensor.scheme for tensor in report.tensors if tensor.name in wanted}
    assert schemes == {FORMS[form][2]}
    with open_reader(tmp_path / "m.ggq") as reader:
        for name, numbers in wanted.items():
            np.testing.assert_array_equal(decoded(reader, reader.tensors[name]), numbers, err_msg=name)
            assert scheme_name(reader.tensors[name].scheme) == FORMS[form][2]  # type: ignore[arg-type]
    with ggq.load(tmp_path / "m.ggq", interpreter="numpy") as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


@pytest.mark.parametrize("form", [form for form, (_, _, scheme) in FORMS.items() if " " in scheme])
def test_what_no_scheme_keeps_is_refused_unless_one_is_named(form: str, tmp_path: Path) -> None:
    packed(tmp_path / "m", form)
    with pytest.raises(UnsupportedError, match=FORMS[form][2]) as found:
        ggq.convert(tmp_path / "m", tmp_path / "m.ggq")
    assert "--scheme" in str(found.value.fix) and not (tmp_path / "m.ggq").exists()
    report = ggq.convert(tmp_path / "m", tmp_path / "m.ggq", scheme="q4-g32")
    assert {"q4-g32"} <= {tensor.scheme for tensor in report.tensors}


def test_scales_that_f16_does_not_hold_are_refused(tmp_path: Path) -> None:
    packed(tmp_path / "m", "compressed")
    header, data = read_safetensors(tmp_path / "m" / "model.safetensors")
    name = next(name for name in header if name.endswith(".weight_scale"))
    start, end = header[name]["data_offsets"]
    scales = np.frombuffer(bytes(data[start:end]), "<f2").astype("<f4") * np.float32(1.0001)
    header[name] = {**header[name], "dtype": "F32", "data_offsets": [len(data), len(data) + scales.nbytes]}
    header["unused"] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
    write_safetensors(tmp_path / "m" / "model.safetensors", header, bytes(data) + scales.tobytes())
    with pytest.raises(ConvertError, match="f16 does not hold its scales"):
        ggq.convert(tmp_path / "m", tmp_path / "m.ggq", ignore=["unused"])
    assert not (tmp_path / "m.ggq").exists()


def broken(form: str, change: Callable[[dict[str, Any]], object], folder: Path) -> GGQError:
    packed(folder, form)
    header, data = read_safetensors(folder / "model.safetensors")
    change(header)
    write_safetensors(folder / "model.safetensors", header, bytes(data))
    with pytest.raises(GGQError) as found:
        ggq.convert(folder, folder / "m.ggq", scheme="q4-g32")
    return found.value


def first(header: dict[str, Any], end: str) -> str:
    return next(name for name in header if name.endswith(end))


@pytest.mark.parametrize(
    "form, end",
    [("gptq-4", ".scales"), ("gptq-4", ".qzeros"), ("awq", ".scales"), ("compressed", ".weight_scale"),
     ("f8", ".weight_scale_inv"), ("nf4", ".quant_map"), ("mlx-4", ".biases")],
)  # fmt: skip
def test_parts_of_another_shape_are_refused_by_name(form: str, end: str, tmp_path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        entry = header[first(header, end)]
        entry["shape"] = [1, *entry["shape"]]

    found = broken(form, change, tmp_path / "m")
    assert isinstance(found, ConvertError) and "do not fit each other" in str(found), str(found)


OTHERS = {"I32": "F32", "U32": "F32", "F32": "I32", "F16": "I16", "BF16": "I16", "U8": "BOOL", "I8": "U8", "I64": "F64"}
OTHERS |= {"F64": "I64", "F8_E4M3": "I8", "F8_E5M2": "I8"}
"""For each type another of as many bytes."""


def read_all(folder: Path) -> set[str]:
    checkpoint = Checkpoint(folder)
    checkpoint.unpack()
    for matrix in checkpoint.packed:
        checkpoint.rows(matrix, 0, int(np.prod(checkpoint.tensors[matrix].shape[:-1])))
    return set(checkpoint.packed)


@pytest.mark.parametrize("form", FORMS)
def test_strangers_may_write_anything_into_parts(form: str, tmp_path: Path) -> None:
    """Another type, other bytes, none at all: numbers, or one error of ours that names the file; nothing else."""
    packed(tmp_path / "m", form)
    path, rng = tmp_path / "m" / "model.safetensors", np.random.default_rng(7)
    header, data = read_safetensors(path)
    plain = {name for name in header if "layers.0" in name and "norm" not in name}
    ends = {name.partition("q_proj")[2]: name for name in plain if "q_proj" in name}
    for end, name in ends.items():
        entry = header[name]
        first, last = entry["data_offsets"]
        noise = bytearray(data)
        noise[first:last] = rng.integers(0, 256, last - first, dtype=np.uint8).tobytes()
        changes = [
            ({**entry, "dtype": OTHERS[entry["dtype"]]}, data),
            ({**entry, "shape": [1, *entry["shape"]]}, data),
            (entry, bytes(noise)),
            (entry, data[:first] + b"\xff" * (last - first) + data[last:]),
            (entry, data[:first] + bytes(last - first) + data[last:]),
        ]
        for number, (changed, written) in enumerate(changes):
            write_safetensors(path, {**header, name: changed}, bytes(written))
            try:
                matrices = read_all(tmp_path / "m")
            except GGQError as error:
                assert "m/" in str(error) and len(str(error).splitlines()) <= 2, (end, number)
            else:
                taken = f"{name.partition('q_proj')[0]}q_proj.weight" in matrices  # else it is refused as quantized
                assert number or not taken or entry["dtype"] not in ("U32", "I32", "U8"), f"{end} {changed['dtype']}"


STRANGE = (None, -1, 0, 3, 1 << 70, 1e400, "x", "", [], [0, 0], [128], {}, {"bits": -1}, True, "gptq", [[[]]])


@pytest.mark.parametrize(
    "form", ["gptq-4", "awq", "compressed", "f8", "nf4-nested", "mlx-4", "nvfp4", "nvfp4-modelopt"]
)
def test_strangers_may_write_anything_into_the_configuration(form: str, tmp_path: Path) -> None:
    packed(tmp_path / "m", form)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    key = "quantization" if "quantization" in config else "quantization_config"
    for name in (*config[key], "weight_block_size", "checkpoint_format", "zero_point"):
        for value in STRANGE:
            edit_json(tmp_path / "m" / "config.json", **{key: {**config[key], name: value}})
            with suppress(GGQError):
                read_all(tmp_path / "m")
    for value in STRANGE:
        edit_json(tmp_path / "m" / "config.json", **{key: value})
        with suppress(GGQError):
            plan(tmp_path / "m", scheme="q4-g32")


@pytest.mark.parametrize(
    "record", [b"[]", b"7", b"[" * 50000, b"\xff", b"", b'{"shape": [64, -1], "blocksize": 64}', b'{"shape": [[], 1]}']
)
def test_records_beside_matrices_of_bitsandbytes(record: bytes, tmp_path: Path) -> None:
    packed(tmp_path / "m", "nf4")
    header, data = read_safetensors(tmp_path / "m" / "model.safetensors")
    name = next(name for name in header if "bitsandbytes__" in name)
    start, end = header[name]["data_offsets"]
    header["unused"] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
    header[name] = {**header[name], "shape": [len(record)], "data_offsets": [len(data), len(data) + len(record)]}
    write_safetensors(tmp_path / "m" / "model.safetensors", header, bytes(data) + record)
    with pytest.raises(ConvertError, match="not what bitsandbytes writes|do not fit each other"):
        read_all(tmp_path / "m")


@pytest.mark.parametrize(
    "form, changes, message",
    [
        ("gptq-4", {"bits": 5}, "5 bits of GPTQ are not read"),
        ("gptq-4", {"checkpoint_format": "marlin"}, "the format 'marlin' of GPTQ is not read"),
        ("awq", {"version": "gemv"}, "version 'gemv' of AWQ"),
        ("awq", {"quant_method": "quip"}, "are quantized already"),
    ],
)
def test_forms_that_are_not_known_are_refused(form: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    packed(tmp_path / "m", form)
    config = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    edit_json(tmp_path / "m" / "config.json", quantization_config={**config, **changes})
    with pytest.raises(UnsupportedError, match=message):
        ggq.convert(tmp_path / "m", tmp_path / "m.ggq")


def test_weights_that_are_made_ternary_at_load_are_refused(tmp_path: Path) -> None:
    tiny(tmp_path / "m", shape=SHAPE, dtype="f32")
    said = {"quant_method": "bitnet", "quantization_mode": "online", "linear_class": "autobitlinear"}
    edit_json(tmp_path / "m" / "config.json", quantization_config=said)
    with pytest.raises(UnsupportedError, match="its weights are made ternary when they are loaded, not in the file"):
        ggq.convert(tmp_path / "m", tmp_path / "m.ggq", scheme="q4-g32")


def test_bytes_are_floats_of_eight_bits() -> None:
    """Numbers that the formats' tables list: largest, smallest, one, not a number."""
    e4m3, e5m2, e8m0 = (table(f"F8_{name}") for name in ("E4M3", "E5M2", "E8M0"))
    assert (e4m3[0x7E], e4m3[1], e4m3[0x38], e4m3[0xB8]) == (448, 2**-9, 1, -1) and np.isnan(e4m3[[0x7F, 0xFF]]).all()
    assert (e5m2[0x7B], e5m2[1], e5m2[0x3C]) == (57344, 2**-16, 1) and np.isinf(e5m2[0x7C])
    assert (e8m0[127], e8m0[0], e8m0[254]) == (1, 2.0**-127, 2.0**127) and np.isnan(e8m0[255])
