"""`ggq bench` and `ggq demo`: what they count and what they do, apart from how fast."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from ggq.cli.commands.bench import Between, Times, Work, figures, measure, target, work
from ggq.cli.commands.demo import CHECKPOINT, STEPS, show
from ggq.cli.main import COMMANDS, main
from ggq.errors import GGQError
from ggq.format import open_reader
from ggq.generate.loading import load
from ggq.models.parts import Experts, GatedDelta
from ggq.tape.program import Run
from tests.kit.family_models import checkpoint as family_tensors
from tests.kit.family_models import spec_of
from tests.kit.small_families import FAMILIES
from tests.kit.small_models import CONFIGS, checkpoint, write_demo, write_ggq
from tests.kit.support import DEMO


def test_work_of_a_tied_model(tmp_path: Path) -> None:
    with open_reader(write_demo(tmp_path / "demo.ggq", "q4-g32")) as reader:
        found = work(reader)
    late = 128 * 128 + 3 * 128 * 384  # what comes after the attention of a layer; in the last only for the last token
    layer = 128 * 128 + 2 * 128 * 64 + late
    assert found.body == 4 * layer - late
    assert found.head == 1024 * 128 + late
    assert found.bytes == (found.body + found.head) * 4.5 / 8 + 9 * 128 * 4


def test_work_of_an_untied_model_leaves_the_embedding_out(tmp_path: Path) -> None:
    config = CONFIGS["biased"]
    with open_reader(write_ggq(tmp_path / "m.ggq", config, checkpoint(config))) as reader:
        found = work(reader)
        stored = sum(part.length for tensor in reader.tensors.values() for part in tensor.segments.values())
    assert found.head == 64 * 32 + 32 * 32 + 3 * 32 * 44
    assert found.bytes == stored - 64 * 32 * 4


def test_work_of_experts_counts_those_that_are_chosen(tmp_path: Path) -> None:
    """And of states what a token reads and writes."""
    spec = spec_of("mixtral")[1]
    part, hidden = spec.layers[0].feed_forward, spec.hidden_size
    assert isinstance(part, Experts)
    with open_reader(write_ggq(tmp_path / "m.ggq", FAMILIES["mixtral"], family_tensors("mixtral"))) as reader:
        found, sizes = work(reader), dict[str, int]()
        for tensor in reader.tensors.values():
            role = str(tensor.attributes["role"])
            kind = "experts" if re.search(r"experts\.[0-9]", role) else role
            sizes[kind] = sizes.get(kind, 0) + sum(each.length for each in tensor.segments.values())
    assert not spec.head.tied and found.states == 0
    assert found.bytes == sum(sizes.values()) - sizes["embedding.weight"] - sizes["experts"] * 3 // 5
    router, attention = part.count * hidden, hidden * (2 * 4 + 2 * 2) * spec.layers[0].attention.head_dim
    late = 2 * 3 * hidden * part.width + hidden * 4 * spec.layers[0].attention.head_dim + router
    assert (part.count, part.chosen, len(spec.layers)) == (5, 2, 2)
    assert found.head == spec.vocabulary_size * hidden + late
    assert found.body == 2 * (attention + router + 2 * 3 * hidden * part.width) - late
    with open_reader(write_ggq(tmp_path / "q.ggq", FAMILIES["qwen3_5"], family_tensors("qwen3_5"))) as reader:
        mixers = [layer.mixer for layer in spec_of("qwen3_5")[1].layers if isinstance(layer.mixer, GatedDelta)]
        rules = sum(each.heads * each.key_dim * each.value_dim for each in mixers)
        assert 8 * rules < work(reader).states < 8 * rules * 1.5  # and the convolutions' few tokens


def test_figures_are_medians() -> None:
    times = Times(9.0, [1.0, 8.0, 2.0], [4.0, 0.5, 1.0])
    found = figures(times, Work(body=10**9, head=10**8, bytes=10**9), prompt=100, generate=10)
    assert found["prefill_tok_s"] == 50
    assert found["prefill_gop_s"] == pytest.approx(2 * (100 + 0.1) / 2)
    assert found["decode_tok_s"] == 10
    assert found["read_gb_s"] == 10
    assert found["prefill_tok_s_runs"] == [100, 12.5, 50]


@pytest.mark.parametrize(
    ("isa", "tiles", "words"),
    [
        ("avx2", "", "avx2"),
        ("avx512-vnni", "amx-bf16", "avx512-vnni, many tokens by AMX tiles of bf16"),
        ("avx512-vnni", "refused", "avx512-vnni (the system does not allow this process AMX tiles)"),
        (None, None, "NumPy"),
    ],
)
def test_the_target_is_named_with_its_tiles(isa: str | None, tiles: str | None, words: str) -> None:
    assert target({"isa": isa, "tiles": tiles}) == words


class Recorder:
    """An executor that only notes what it is asked."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, list[int], str]] = []
        self.open: set[int] = set()
        self.count = 0

    def open_sequence(self) -> int:
        self.count += 1
        self.open.add(self.count)
        return self.count

    def close_sequence(self, sequence: int) -> None:
        self.open.remove(sequence)

    def length(self, sequence: int) -> int:
        return 0

    def close(self) -> None:
        pass

    def forward(self, runs: Sequence[Run]) -> np.ndarray:
        (run,) = runs
        assert run.sequence in self.open
        self.passes.append((run.sequence, run.tokens.tolist(), run.logits))
        return np.zeros((1, 4), np.float32)


def test_what_is_timed() -> None:
    recorder = Recorder()
    between: list[int] = []
    times = measure(recorder, np.arange(5, dtype=np.int32), 5, 2, 3, lambda: between.append(recorder.count))
    prefill, step = list(range(5)), [[0], [1]]
    assert [tokens for _, tokens, _ in recorder.passes] == [prefill] * 4 + step * 4
    assert {wanted for _, _, wanted in recorder.passes} == {"last"}
    assert recorder.open == set()
    assert recorder.count == 8  # each run on an empty sequence
    assert between == [5, 6, 7, 8]  # memory is read around each decoding run
    assert (len(times.prefill), len(times.decode)) == (3, 3)


def test_json_has_what_is_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_demo(tmp_path / "demo.ggq", "q4-g32")
    options = ["--prompt", "4", "--generate", "2", "--repeat", "1", "--interpreter", "numpy"]
    assert main(["bench", str(path), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for key in (
        "prefill_tok_s",
        "decode_tok_s",
        "load_s",
        "first_token_s",
        "bytes_per_token",
        "read_gb_s",
        "prefill_gop_s",
    ):
        assert found[key] > 0, key
    assert found["first_token_s"] > found["load_s"]
    assert found["threads"] >= 1
    assert found["memory_bytes"] is None or 10**7 < found["memory_bytes"] < 10**10
    assert found["versions"]["ggq"] == "0.1.0"
    assert main(["bench", str(path), *options]) == 0
    assert "tokens/s (4)" in capsys.readouterr().out


def test_times_become_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token takes loading too; bandwidth is the median of what was read between runs, the share is of it."""

    def measured(executor: object, tokens: object, prompt: int, generate: int, repeat: int, between: Between) -> Times:
        between.rates += [1.0, 8.0, 2.0]
        return Times(9.0, [1.0], [0.5])

    monkeypatch.setattr("ggq.cli.commands.bench.measure", measured)
    path = write_demo(tmp_path / "demo.ggq", "q4-g32")
    assert main(["bench", str(path), "--interpreter", "numpy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first_token_s"] == found["load_s"] + 9
    assert (found["prompt"], found["prefill_tok_s"], found["generate"], found["decode_tok_s"]) == (512, 512, 64, 128)
    assert found["bandwidth_gb_s"] == 2 and found["bandwidth_share"] == found["moved_gb_s"] / 2
    assert found["moved_gb_s"] == found["read_gb_s"] and found["state_bytes_per_token"] == 0
    assert found["read_gb_s"] == found["bytes_per_token"] * 128 / 1e9


@pytest.mark.parametrize("command", ["bench", "profile", "eval", "run"])
def test_threads_reach_the_engine(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(file: object, *, threads: int | None = None, **_: object) -> None:
        raise GGQError(f"{threads} threads")

    module, name = (
        ("ggq.evaluate.evaluate", "open_model") if command == "eval" else (f"ggq.cli.commands.{command}", "load")
    )
    monkeypatch.setattr(import_module(module), name, load)
    options = {"eval": ["--text", str(DEMO / "valid.txt")], "run": ["-p", "x"]}.get(command, [])
    path = str(write_demo(tmp_path / "demo.ggq"))
    for asked, told in ((["--threads", "3"], "3"), ([], "None")):
        assert main([command, path, *options, *asked]) == 2
        assert f"error: {told} threads\n" in capsys.readouterr().err


def test_a_prompt_is_no_longer_than_the_models_context(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def measured(executor: object, tokens: object, prompt: int, generate: int, *_: object) -> Times:
        seen.append((prompt, generate))
        return Times(1.0, [1.0], [1.0])

    monkeypatch.setattr("ggq.cli.commands.bench.measure", measured)
    config = {**CONFIGS["biased"], "max_position_embeddings": 48}
    path = str(write_ggq(tmp_path / "m.ggq", config, checkpoint(config)))
    assert main(["bench", path, "--interpreter", "numpy"]) == 0
    assert main(["bench", path, "--interpreter", "numpy", "--generate", "49"]) == 2
    assert seen == [(48, 48)]


def test_a_prompt_beyond_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_demo(tmp_path / "demo.ggq")
    assert main(["bench", str(path), "--prompt", "513", "--interpreter", "numpy"]) == 2
    assert "513 tokens do not fit into the model's context of 512" in capsys.readouterr().err


def test_demo_steps_are_commands() -> None:
    assert {command[0] for _, command in STEPS} <= {command.name for command in COMMANDS}
    assert [command[0] for _, command in STEPS][:3] == ["convert", "inspect", "verify"]


def test_demo_stops_where_a_step_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def run(arguments: list[str]) -> int:
        seen.append(arguments)
        return 1 if arguments[0] == "verify" else 0

    assert show(CHECKPOINT, tmp_path / "demo.ggq", run) == 1
    assert [arguments[0] for arguments in seen] == ["convert", "inspect", "verify"]
    assert seen[0] == ["convert", str(CHECKPOINT), str(tmp_path / "demo.ggq")]
    assert "step 3 of the demo, ggq verify, ended with status 1" in capsys.readouterr().err


def test_the_demo_model_knows_python(tmp_path: Path) -> None:
    """The embedded model at 4 bits reads Python that it was not trained on: a wrong tensor or scheme shows."""
    with load(write_demo(tmp_path / "demo.ggq", "q4-g32"), interpreter="numpy") as model:
        ids = model.encode((DEMO / "valid.txt").read_text()[:6000])[768:1024]
        logits = model.logits(ids[:-1]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chances = logits[np.arange(255), ids[1:]] - np.log(np.exp(logits).sum(axis=1))
    assert 8.5 < np.exp(-chances.mean()) < 10  # 9.0 in f32
