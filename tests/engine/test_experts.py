"""Experts in the compiled engine: what is read for a token, and that nothing else in the batch changes its bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggq.convert.convert import convert
from ggq.engine import repeated
from ggq.engine.lower import experts
from ggq.tape.ops import Route
from tests.kit.family_models import FACTS, checkpoint, forward, opened, reference, spec_of, write_checkpoint
from tests.kit.small_families import FAMILIES
from tests.kit.small_models import write_ggq

pytestmark = pytest.mark.kernels


def chosen(name: str, token: int, monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The experts that a token alone goes through, layer by layer, by the slow executor."""
    found, real = [], Route.forward

    def noted(op: Route, run: object) -> None:
        real(op, run)  # type: ignore[arg-type]
        found.append(set(np.flatnonzero(run[op.out][0]).tolist()))  # type: ignore[index]

    executor = reference(spec_of(name)[1], name)
    with monkeypatch.context() as patched:
        patched.setattr(Route, "forward", noted)
        forward(executor, [(executor.open_sequence(), [token], "all")])
    return found


@pytest.mark.parametrize("token", [3, 17, 44])
def test_a_token_reads_the_experts_that_it_chose_alone(
    token: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all others hold other numbers its logits are the same, bit for bit; of those that it chose each matters."""
    tensors = checkpoint("mixtral")
    layers = chosen("mixtral", token, monkeypatch)
    assert [len(each) for each in layers] == [2, 2]

    def logits(changed: dict[str, np.ndarray]) -> np.ndarray:
        (tmp_path / "m.ggq").unlink(missing_ok=True)
        path = write_ggq(tmp_path / "m.ggq", FAMILIES["mixtral"], {**tensors, **changed})
        with opened(path, "numba", cache="f32") as executor:
            return forward(executor, [(executor.open_sequence(), [token], "all")])

    def lost(layer: int, expert: int) -> dict[str, np.ndarray]:
        name = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"
        return {name: np.full_like(tensors[name], 1e3)}

    whole, others = logits({}), dict[str, np.ndarray]()
    for layer, mine in enumerate(layers):
        for expert in set(range(5)) - mine:
            others |= lost(layer, expert)
    assert np.isfinite(whole).all() and np.array_equal(logits(others), whole)
    used = [(layer, expert) for layer, mine in enumerate(layers) for expert in mine]
    assert not any(np.array_equal(logits(lost(*each)), whole) for each in used)


@pytest.mark.parametrize("scheme", ["f32", "q4-g32"])
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_a_sequence_has_the_same_bits_alone_and_beside_others(name: str, scheme: str, tmp_path: Path) -> None:
    """Fewer rows than tiles of bf16 take, which round in another way, in one piece and token by token."""
    path = write_ggq(tmp_path / "m.ggq", FAMILIES[name], checkpoint(name), scheme)
    tokens = FACTS["models"][name]["prompts"][0]
    with opened(path, "numba", cache="f32") as executor:
        alone = forward(executor, [(executor.open_sequence(), tokens[:9], "all")])
        runs = [(executor.open_sequence(), part, "all") for part in (tokens[20:31], tokens[:9], tokens[40:43])]
        assert np.array_equal(forward(executor, runs)[11:20], alone)
        one = executor.open_sequence()
        single = [forward(executor, [(one, [token], "all")]) for token in tokens[:9]]
        assert np.array_equal(np.concatenate(single), alone)


@pytest.mark.parametrize(
    ("name", "scheme"), [("qwen2_moe", "q4-g32"), ("mixtral", "f32"), ("qwen3_moe", "nf4-g32"), ("gpt_oss", "q8-g32")]
)
def test_experts_that_are_like_their_neighbours_are_made_of_them(
    name: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row for row what lowering writes where it writes every one; gpt-oss has biases, which lie anywhere."""
    path, tokens = tmp_path / "m.ggq", FACTS["models"][name]["prompts"][0]
    convert(write_checkpoint(tmp_path / "m", name), path, scheme=scheme)

    def found() -> tuple[list[object], int, np.ndarray]:
        with opened(path, "numba", cache="f32") as executor:
            logits = forward(executor, [(executor.open_sequence(), tokens, "all")])
            return executor.steps, len(executor._bound.program.ops), logits

    steps, shown, logits = found()
    with monkeypatch.context() as patched:
        patched.setattr(experts, "_shown", lambda op, weights: range(len(op.downs)))
        every, all_shown, same = found()
    assert steps == every and len(steps) == all_shown and np.array_equal(logits, same)
    assert (shown < all_shown) == (name != "gpt_oss")
    monkeypatch.setattr(repeated, "_between", lambda *args: None)  # as if they differed in another way
    again, written, third = found()
    assert again == every and written == all_shown and np.array_equal(third, logits)
