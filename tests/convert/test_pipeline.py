"""What a conversion writes: the right numbers, the same bytes however it is done, and what people need to know."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggq.convert.convert import convert, plan
from ggq.convert.mix import candidates
from ggq.convert.plan.plan import TensorPlan
from ggq.convert.pool import start_pool
from ggq.convert.source.checkpoint import Checkpoint
from ggq.convert.write import blocks, pipeline
from ggq.convert.write.blocks import TensorJob
from ggq.errors import ConvertError
from ggq.format import open_reader, verify
from ggq.models.family import TensorSpec
from ggq.models.names import Tensor
from ggq.quant import METHODS, SCHEMES, check_segments, decode_tensor, encode_tensor, parse_scheme, tensor_error
from ggq.quant.stored import segments_of
from tests.kit.checkpoints import edit_json, numbers, read_safetensors, replace_tensors, tiny, write_safetensors
from tests.kit.support import DEMO


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of one tile of rows, so that even small tensors are made of many."""
    monkeypatch.setattr(blocks, "BLOCK_WEIGHTS", 16 * 32)
    yield


@pytest.mark.parametrize("scheme", ["f32", "bf16", "q3-g32", "q4-g32", "q5z-g64", "q6z-row", "q8-g128"])
def test_every_tensor_is_what_encoding_it_whole_gives(tmp_path: Path, scheme: str) -> None:
    source, out = tiny(tmp_path / "m", tied=False), tmp_path / "m.ggq"
    convert(source, out, scheme=scheme)
    with open_reader(out) as reader:
        assert not verify(reader)
        assert set(reader.tensors) == set(read_safetensors(source / "model.safetensors")[0]) - {"__metadata__"}
        for name, entry in reader.tensors.items():
            weights = numbers(source / "model.safetensors", name)
            segments = {role: reader.segment(name, role) for role in entry.segments}
            expected = encode_tensor(weights, entry.scheme)
            assert segments.keys() == expected.keys()
            assert all(np.array_equal(segments[role], expected[role]) for role in segments), name
            error = tensor_error(weights, entry.scheme, expected)
            for key, value in error._asdict().items():
                assert entry.attributes[key] == float(f"{value:.4g}")
            assert entry.attributes["source_dtype"] == "bf16"


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("scheme", ["q2-g32", "q3z-g64", "q4-g32", "q5-row", "q6z-g32", "q8-g128"])
def test_the_compiled_encoder_writes_the_same_segments(
    tmp_path: Path, scheme: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny(tmp_path / "m", dtype=dtype)
    convert(source, tmp_path / "plain.ggq", scheme=scheme)
    called = 0
    encode = TensorJob._encode

    def counted(*arguments: Any) -> Any:
        nonlocal called
        called += 1
        return encode(*arguments)

    monkeypatch.setattr(TensorJob, "_encode", counted)
    monkeypatch.setattr(pipeline, "COMPILED_WEIGHTS", 0)
    convert(source, tmp_path / "compiled.ggq", scheme=scheme, workers=3)
    assert called > 40
    with open_reader(tmp_path / "compiled.ggq") as fast, open_reader(tmp_path / "plain.ggq") as slow:
        assert list(fast.tensors) == list(slow.tensors)
        for name, entry in fast.tensors.items():
            assert entry.segments == slow.tensors[name].segments  # offsets, lengths, digests
            for key, value in slow.tensors[name].attributes.items():  # sums in another order may round the other way
                same = pytest.approx(value, rel=2e-4) if isinstance(value, float) else value
                assert entry.attributes[key] == same


@pytest.mark.kernels
@pytest.mark.parametrize("scheme", ["q3-g32-s6", "c4-g32", "ternary-g32", "q4-row", "q4z-g32"])
def test_the_compiled_search_writes_the_same_file(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny(tmp_path / "m")
    digests = set()
    for least in (candidates.SEARCHED_WEIGHTS, 0):
        monkeypatch.setattr(candidates, "SEARCHED_WEIGHTS", least)
        digests.add(convert(source, tmp_path / f"{least}.ggq", scheme=scheme, method="mse", workers=3).digest)
    assert len(digests) == 1


@pytest.mark.kernels
def test_the_compiled_search_finds_the_same_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny(tmp_path / "m")
    digests = set()
    for least in (candidates.SEARCHED_WEIGHTS, 0):
        monkeypatch.setattr(candidates, "SEARCHED_WEIGHTS", least)
        digests.add(convert(source, tmp_path / f"{least}.ggq", target_bpw=5.0).digest)
    assert len(digests) == 1


def test_the_search_is_compiled_code_where_it_takes_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for wheel, least in ((None, candidates.SEARCHED_WEIGHTS), ("an archive", candidates.LOADED_WEIGHTS)):
        monkeypatch.setattr("ggq_kernels.code.precompiled.archive", lambda wheel=wheel: wheel)
        assert candidates.searched(least) and not candidates.searched(least - 1)


@pytest.mark.kernels
def test_the_compiled_encoder_leaves_bad_weights_to_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "COMPILED_WEIGHTS", 0)
    source, name = tiny(tmp_path / "m"), "model.layers.1.mlp.up_proj.weight"
    for bad, message in (
        (np.nan, "1 of 384 weights are NaN"),
        (np.inf, "1 of 384 weights are NaN"),
        (1e7, "too large"),
    ):
        weights = numbers(source / "model.safetensors", name).copy()
        weights[40, 7] = bad
        replace_tensors(source / "model.safetensors", {name: weights})
        with pytest.raises(ConvertError, match=f"tensor {name}, rows 32 to 43: .*{message}"):
            convert(source, tmp_path / "m.ggq", scheme="q4-g32", workers=2)


def test_matrices_stored_one_after_the_other_are_placed_one_by_one(tmp_path: Path) -> None:
    stack = np.random.default_rng(5).standard_normal((3, 40, 48), dtype=np.float32)
    folder = tiny(tmp_path / "m")
    replace_tensors(folder / "model.safetensors", {"experts": stack})
    checkpoint = Checkpoint(folder)
    for name in ("q5z-g32", "f16"):
        scheme = parse_scheme(name)
        method = METHODS["zero-point"] if scheme.kind == "uniform" else None
        spec = TensorSpec("", stack.shape, Tensor("experts"))
        job = TensorJob(checkpoint, TensorPlan(spec, (checkpoint.tensors["experts"],), scheme, method, 0))
        todo = list(job.blocks())
        assert len(todo) == 9
        for block in reversed(todo):
            job.convert(block)
        expected = encode_tensor(stack, scheme)
        assert all(np.array_equal(job.segments[role], expected[role]) for role in expected)
        assert np.array_equal(
            decode_tensor(scheme, stack.shape, job.segments)[2, 39], decode_tensor(scheme, stack.shape, expected)[2, 39]
        )


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_f32_keeps_every_source_type_exactly(tmp_path: Path, dtype: str) -> None:
    source = tiny(tmp_path / "m", dtype=dtype)
    report = convert(source, tmp_path / "m.ggq", scheme="f32")
    assert {(t.relative_rmse, t.max_error, t.source_dtype) for t in report.tensors} == {(0.0, 0.0, dtype)}
    with open_reader(tmp_path / "m.ggq") as reader:
        for name, entry in reader.tensors.items():
            found = decode_tensor(entry.scheme, entry.shape, {"values": reader.segment(name, "values")})
            assert np.array_equal(found, numbers(source / "model.safetensors", name))


def test_the_bytes_do_not_depend_on_workers_shards_or_the_order_in_the_source(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, many = tiny(tmp_path / "a" / "m"), tiny(tmp_path / "b" / "m", shards=3)
    for number, (source, workers) in enumerate([(one, 1), (one, 2), (one, 7), (many, 3)]):
        convert(source, tmp_path / f"{number}.ggq", scheme="q4-g32", workers=workers)
    header, data = read_safetensors(one / "model.safetensors")
    write_safetensors(one / "model.safetensors", dict(reversed(header.items())), data)
    convert(one, tmp_path / "4.ggq", scheme="q4-g32", workers=2)
    assert len({(tmp_path / f"{number}.ggq").read_bytes() for number in range(5)}) == 1


@pytest.mark.parametrize("name", ["q3-g32-s6", "q4m-g16-s4", "ternary-g32", "binary-row", "c3-g32", "c4-g32-s6"])
def test_blocks_of_every_kind_of_scheme_are_placed_where_the_whole_tensor_has_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codebook is learnt from the whole tensor, and is the same whichever block asks first."""
    monkeypatch.setattr(blocks, "BLOCK_WEIGHTS", 1)
    source, files = tiny(tmp_path / "m"), []
    for workers in (1, 5):
        files.append(tmp_path / f"{workers}.ggq")
        convert(source, files[-1], scheme=name, workers=workers)
    assert files[0].read_bytes() == files[1].read_bytes()
    with open_reader(files[0]) as reader:
        assert verify(reader) == []
        chosen = [entry for entry in reader.tensors.values() if entry.scheme == parse_scheme(name)]
        assert len(chosen) == 14
        for entry in chosen:
            weights = numbers(source / "model.safetensors", entry.name)
            expected, segments = encode_tensor(weights, entry.scheme), segments_of(reader, entry)
            assert list(segments) == list(expected)
            assert all(np.array_equal(segments[role], expected[role]) for role in expected)
            check_segments(entry.scheme, entry.shape, segments)
            error = tensor_error(weights, entry.scheme, segments)
            assert entry.attributes["relative_rmse"] == float(f"{error.relative_rmse:.4g}")


def test_relative_error_falls_with_every_bit() -> None:
    errors = []
    for bits in (2, 3, 4, 5, 6, 8):
        planned = plan(DEMO, scheme=f"q{bits}-g32")
        tensor = next(t for t in planned.tensors if t.name == "model.layers.1.mlp.up_proj.weight")
        job = TensorJob(planned.checkpoint, tensor)
        total = blocks.ErrorSum()
        for block in job.blocks():
            total.merge(job.convert(block))
        errors.append(total.error().relative_rmse)
    assert all(more < 0.62 * less for less, more in zip(errors, errors[1:]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_plan_knows_the_size_and_the_bits(tmp_path: Path, scheme: str) -> None:
    source = tiny(tmp_path / "m")
    planned, out = plan(source, scheme=scheme), tmp_path / "m.ggq"
    report = convert(source, out, scheme=scheme)
    with open_reader(out) as reader:
        matrices = [entry for entry in reader.tensors.values() if len(entry.shape) == 2]
        stored = sum(segment.length for entry in matrices for segment in entry.segments.values())
        weights = sum(entry.shape[0] * entry.shape[1] for entry in matrices)
        assert reader.metadata["quantization.bits_per_weight"] == report.bits_per_weight == 8 * stored / weights
    slack = 800 * (len(planned.tensors) + 16)
    assert report.file_bytes == out.stat().st_size <= planned.file_bytes <= report.file_bytes + slack
    assert planned.weights == report.weights == weights


def test_metadata_and_assets(tmp_path: Path) -> None:
    source = tiny(tmp_path / "my model")
    (source / "LICENSE").write_text("Do what you like.")
    (source / "LICENSE.d").mkdir()
    (source / "pytorch_model.bin").write_bytes(b"not read")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    convert(source, tmp_path / "m.ggq", scheme="q4-g32", keep=["up_proj=q8-g32", "down=q3-row"])
    with open_reader(tmp_path / "m.ggq") as reader:
        found = {key: list(v) if key.endswith(("keep", "ids")) else v for key, v in reader.metadata.items()}
        assert list(reader.tensors)[:2] == ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"]
        assert reader.tensors["model.layers.1.mlp.up_proj.weight"].attributes["role"] == "layers.1.mlp.up.weight"
        assert reader.tensors["model.layers.1.mlp.up_proj.weight"].attributes["method"] == "absmax"
        assert "method" not in reader.tensors["model.norm.weight"].attributes
        assets = {name: asset.read() for name, asset in reader.assets.items()}
    assert found["general.name"] == found["general.source"] == "my model"
    assert found["general.producer"].startswith("ggq ")
    assert (list(found["model.layers"]), found["model.head.tied"]) == ([0, 0], True)
    assert found["model.layer.0.mixer.rope.theta"] == 500000.0
    assert (found["tokenizer.bos_id"], found["tokenizer.eos_ids"], found["tokenizer.add_bos"]) == (0, [1], True)
    assert found["quantization.scheme"] == "q4-g32" and found["quantization.embedding"] == "q6-g32"
    assert found["quantization.method"] == "absmax"
    assert found["quantization.recipe"].splitlines()[4:7] == [
        "rules = [",
        '    { match = "up_proj", scheme = "q8-g32", method = "absmax" },',
        '    { match = "down", scheme = "q3-row", method = "absmax" },',
    ]
    names = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"}
    assert set(assets) == names | {"chat_template.jinja"}
    assert all(data == (source / name).read_bytes() for name, data in assets.items())


def test_known_leftovers_are_ignored_and_listed(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m")
    names = ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"]
    equal = numbers(source / "model.safetensors", "model.embed_tokens.weight")
    replace_tensors(source / "model.safetensors", {names[0]: np.ones(4, np.float32), names[1]: equal})
    report = convert(source, tmp_path / "m.ggq", scheme="q4-g32")
    assert sorted(report.ignored) == sorted(names)
    assert not {tensor.name for tensor in report.tensors} & set(names)


def test_the_report_names_the_worst_tensors(tmp_path: Path) -> None:
    report = convert(tiny(tmp_path / "m"), tmp_path / "m.ggq", scheme="q4-g32", keep=["layers.1.mlp.gate=q2-row"])
    worst = report.worst(3)
    assert [tensor.scheme for tensor in worst] == ["q2-row", "q4-g32", "q4-g32"]
    assert worst[0].relative_rmse > worst[1].relative_rmse >= worst[2].relative_rmse > 0
    assert report.workers >= 1 and report.seconds > 0 and report.peak_memory > 10e6
    document = json.loads(json.dumps(report.document(), allow_nan=True))
    assert document["digest"] == report.digest and len(document["tensors"]) == 20


@pytest.mark.parametrize(
    "bad, rows", [(np.nan, "rows 32 to 43"), (np.inf, "rows 32 to 43"), (-np.inf, "rows 32 to 43")]
)
def test_weights_that_are_no_numbers_are_refused_by_name_and_nothing_is_left(
    tmp_path: Path, bad: float, rows: str
) -> None:
    source, name = tiny(tmp_path / "m"), "model.layers.1.mlp.up_proj.weight"
    weights = numbers(source / "model.safetensors", name).copy()
    weights[40, 7] = bad
    replace_tensors(source / "model.safetensors", {name: weights})
    with pytest.raises(ConvertError, match=f"tensor {name}, {rows}: 1 of 384 weights are NaN or infinite"):
        convert(source, tmp_path / "m.ggq", scheme="q4-g32", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_bad_norm_is_refused_by_name(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m")
    replace_tensors(source / "model.safetensors", {"model.norm.weight": np.full(32, np.nan, np.float32)})
    with pytest.raises(ConvertError, match="tensor model.norm.weight: 32 of 32 weights are NaN"):
        convert(source, tmp_path / "m.ggq", scheme="q4-g32")


def test_weights_too_large_for_the_scheme_are_refused_by_name(tmp_path: Path) -> None:
    source, name = tiny(tmp_path / "m"), "model.layers.0.mlp.gate_proj.weight"
    weights = numbers(source / "model.safetensors", name).copy()
    weights[3, 3] = 1e7
    replace_tensors(source / "model.safetensors", {name: weights})
    for scheme in ("f16", "q4-g32"):
        with pytest.raises(ConvertError, match=f"tensor {name}, rows 0 to 15: .*too large"):
            convert(source, tmp_path / "m.ggq", scheme=scheme)
    convert(source, tmp_path / "m.ggq", scheme="bf16")


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    planned = plan(tiny(tmp_path / "m"))
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    with pytest.raises(ConvertError, match="tensor model.norm.weight: the file changed while it was converted"):
        planned.checkpoint.rows("model.norm.weight", 0, 1)


def test_progress_reaches_the_whole_source_and_never_goes_back(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    report = convert(tiny(tmp_path / "m"), tmp_path / "m.ggq", progress=lambda *state: seen.append(state))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1] == (report.source_bytes, report.source_bytes, "")
    assert {name for _, _, name in seen} == {"", *(tensor.name for tensor in report.tensors)}


def test_a_folder_whose_name_is_no_text_gets_one(tmp_path: Path) -> None:
    folder = Path(bytes(tmp_path / "x").decode() + "\udcff")
    try:
        tiny(folder)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    edit_json(folder / "config.json", hidden_act="silu")
    convert(folder, tmp_path / "m.ggq")
    with open_reader(tmp_path / "m.ggq") as reader:
        assert reader.metadata["general.name"] == "x?"


@pytest.mark.parametrize("room", [0, 1, 2])
def test_as_many_threads_as_can_be_started(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Where a limit of processes leaves none, the work is done where it is submitted, failures and all."""
    start, left = threading.Thread.start, [room]

    def limited(self: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    pool = start_pool(4)
    left[0] = room
    with pool:
        threads = {pool.submit(threading.get_ident).result() for _ in range(9)}
        assert (threading.get_ident() in threads) == (room == 0) and len(threads) <= max(1, room)
        assert list(pool.map(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0).result()
