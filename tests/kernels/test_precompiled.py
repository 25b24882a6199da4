"""Kernels that a wheel carries are used where they were made for, whole or not at all."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from ggq_kernels.code import key, precompiled, ready, store
from ggq_kernels.code.targets import TARGETS, Target, form_of, target_of, usable
from ggq_kernels.vector import isa

FILES: dict[str, tuple[dict[str, Any], bytes]] = {
    "gather.select.kernel": ({"symbol": "a", "needed": ["malloc"]}, b"first code"),
    "gather.module": ({"constants": {"ROW": 8}, "kernels": {"select": [2, False]}}, b""),
    "gather.transform.kernel": ({"symbol": "b", "needed": []}, b"second\ncode"),
}
BY_NAME = {target.name: target for target in TARGETS}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / f"x86-64-v3{precompiled.SUFFIX}"
    precompiled.save(path, "x86-64-v3", FILES)
    return path


def test_each_form_has_one_target_whose_own_code_it_is() -> None:
    forms = [form_of(usable(target.cpu, frozenset(target.features))) for target in TARGETS]
    assert len(set(forms)) == len(forms)
    names = [("avx2", False), ("avx-vnni", False), ("avx512-vnni", False), ("avx512-vnni", True)]
    names += [("neon-dot", False), ("neon-i8mm", False)]
    assert [tuple(form) for form in forms] == names
    assert all(target_of(target.cpu, frozenset(target.features)) == target for target in TARGETS)


@pytest.mark.parametrize(
    ("cpu", "like", "without", "more", "found"),
    [
        ("znver3", "x86-64-v3", (), ("sse4a", "vaes"), "x86-64-v3"),
        ("znver4", "x86-64-v4-vnni", (), ("avx512bf16", "avx512vbmi"), "x86-64-v4-vnni"),
        ("sapphirerapids", "x86-64-v4-amx", (), ("amx-int8",), "x86-64-v4-amx"),
        ("sapphirerapids", "x86-64-v4-amx", ("amx-tile", "amx-bf16"), (), "x86-64-v4-vnni"),  # hidden by a hypervisor
        ("cascadelake", "x86-64-v4-vnni", ("avx512vl",), (), None),  # its own form, and too little; another's never
        ("skylake-avx512", "x86-64-v4-vnni", ("avx512vnni",), (), "x86-64-v3"),
        ("alderlake", "x86-64-v4-vnni", (), (), "x86-64-v3"),  # a processor that kernels use without AVX-512
        ("alderlake", "x86-64-v3-vnni", (), ("gfni", "vaes"), "x86-64-v3-vnni"),
        ("raptorlake", "x86-64-v4-amx", (), (), "x86-64-v3-vnni"),
        ("haswell", "x86-64-v4-amx", (), (), "x86-64-v3"),
        ("nehalem", "x86-64-v3", ("avx", "avx2", "fma", "f16c"), (), None),
        ("generic", "aarch64-neoverse-n1", (), ("aes", "ssbs"), "aarch64-neoverse-n1"),
        ("neoverse-v2", "aarch64-neoverse-v1", (), ("sve", "sve2", "bf16"), "aarch64-neoverse-v1"),
        ("generic", "aarch64-neoverse-n1", ("lse",), (), None),
        ("cortex-a72", "aarch64-neoverse-n1", ("dotprod", "lse", "rdm", "fullfp16", "rcpc"), (), None),
    ],
)
def test_a_processor_gets_the_code_of_its_own_form_or_none(
    cpu: str, like: str, without: tuple[str, ...], more: tuple[str, ...], found: str | None
) -> None:
    features = ({*BY_NAME[like].features} | {*more}) - {*without}
    target = target_of(cpu, features)
    assert (target and target.name) == found
    if isinstance(target, Target):
        assert form_of(usable(cpu, features)) == form_of(frozenset(target.features))


def test_compiled_kernels_have_the_form_that_is_told_here() -> None:
    assert (isa.ISA, isa.AMX) == form_of(usable(isa.CPU, isa.FEATURES))


def test_kernels_that_need_tiles_are_not_compiled_where_there_are_none() -> None:
    """LLVM ends the process that compiles them for another processor."""
    from ggq_kernels.code.compiled import Op
    from ggq_kernels.product.amx import linear_tiles

    for name, load in ready.MODULES.items():
        for kernel in vars(load()).values():
            if isinstance(kernel, Op) and linear_tiles in kernel.function.__globals__.values():
                assert f"{name}.{kernel.name}".startswith(ready.NEED_TILES)


def test_what_was_saved_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = precompiled.load(file, "x86-64-v3")
    assert archive is not None and archive.target == "x86-64-v3"
    monkeypatch.setattr(precompiled, "archive", lambda: archive)
    for name, (said, code) in FILES.items():
        assert precompiled.read(name) == (said, code) == store.find(name)
    assert precompiled.read("gather.nothing.kernel") is None
    assert store.is_saved("gather.select")


@pytest.mark.parametrize("change", ["nothing there", "cut", "flip", "empty", "sources", "target"])
def test_a_file_that_is_not_as_it_was_made_or_of_other_sources_is_not_used(
    file: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    whole = file.read_bytes()
    if change == "nothing there":
        file.unlink()
    elif change == "sources":
        monkeypatch.setattr(precompiled, "sources", lambda: "0" * 64)
    elif change == "target":
        assert precompiled.load(file, "x86-64-v4-vnni") is None
        return
    else:
        flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
        file.write_bytes({"cut": whole[:-1], "flip": flipped, "empty": b""}[change])
    assert precompiled.load(file, "x86-64-v3") is None


@pytest.fixture
def fitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file for a processor that this machine is said to have."""
    precompiled.save(tmp_path / f"x86-64-v3{precompiled.SUFFIX}", "x86-64-v3", FILES)
    listed = ",".join(f"+{feature}" for feature in BY_NAME["x86-64-v3"].features)
    monkeypatch.setattr(precompiled, "folder", lambda: tmp_path)
    monkeypatch.setattr(precompiled, "processor", lambda: ("znver3", f"{listed},-avx512f"))
    monkeypatch.setattr(precompiled, "settings", list)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def test_the_machines_own_file_is_used(fitting: Path) -> None:
    found = precompiled.archive.__wrapped__()
    assert found is not None and set(found.files) == set(FILES)


@pytest.mark.parametrize("other", ["settings", "system", "machine", "folder"])
def test_elsewhere_and_with_settings_kernels_are_compiled(
    fitting: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    if other == "settings":
        monkeypatch.setenv("NUMBA_OPT", "1")
        monkeypatch.setattr(precompiled, "settings", key.settings)
    elif other == "system":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif other == "machine":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    else:
        monkeypatch.setattr(precompiled, "folder", lambda: fitting / "none")
    assert precompiled.archive.__wrapped__() is None
