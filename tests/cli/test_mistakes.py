"""What is printed when something is mistyped, missing or broken: one or two lines that fit into the terminal."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest

from ggq.cli.main import main
from tests.kit.small_models import write_demo
from tests.kit.support import DEMO

WIDTHS = (60, 80, 120, None)

MISTAKES: dict[str, tuple[str, str]] = {
    "a wrong path": ("run nosuch.ggq x", "error: nosuch.ggq: cannot open: No such file or directory check the path"),
    "a folder that is no checkpoint": ("run empty x", "error: empty: not a ggq file: a directory"),
    "a checkpoint": ("verify {demo}", "make a ggq file of the checkpoint with `ggq convert`"),
    "a GGUF file": ("verify m.gguf", "error: m.gguf: not a ggq file: a GGUF file"),
    "a GGUF file without digests": ("run --verify m.gguf x", "error: m.gguf: a GGUF file has no digests"),
    "a pickle": ("convert pickle/pytorch_model.bin o.ggq", "found a file give the folder that holds config.json"),
    "only pickles": ("convert pickle o.ggq", "only pickled weights found ('pytorch_model.bin'), which can run code"),
    "no network": ("convert no/such o.ggq", "check the name and the network, or download the model's folder by other"),
    "no network to run": ("run no/such x", "error: no/such: no such folder, and not from the hub:"),
    "q4": ("convert {demo} o.ggq --scheme q4", "unknown scheme 'q4' did you mean q4-g32? `ggq schemes` lists all"),
    "int4": ("convert {demo} o.ggq --scheme int4", "error: unknown scheme 'int4' write q4-g32; `ggq schemes` lists"),
    "4bit": ("convert {demo} o.ggq --scheme 4-bit", "error: unknown scheme '4-bit' write q4-g32;"),
    "q4_k_m": ("convert {demo} o.ggq --scheme q4_k_m", "q4_k_m is a mix: `--target-bpw 4.89` makes one of that size"),
    "Q4_0": ("convert {demo} o.ggq --scheme Q4_0", "error: unknown scheme 'Q4_0' write q4-g32;"),
    "a method as scheme": (
        "convert {demo} o.ggq --scheme AWQ",
        "awq is a method: write `--scheme q4-g64 --method awq`",
    ),
    "q7": ("convert {demo} o.ggq --scheme q7-g32", "scheme 'q7-g32' has 7 bits; allowed are 2, 3, 4, 5, 6, 8"),
    "a method": ("convert {demo} o.ggq --method gtpq", "error: unknown method 'gtpq'; allowed are absmax,"),
    "a method, what is meant": ("convert {demo} o.ggq --method gtpq", "did you mean gptq?"),
    "a preset": ("convert {demo} o.ggq --preset ballanced", "preset must be small, balanced or high, not 'ballanced'"),
    "a preset, what is meant": ("convert {demo} o.ggq --preset ballanced", "did you mean balanced?"),
    "an option": ("convert {demo} o.ggq --schema x", "No such option: --schema (Possible options: --scheme)"),
    "no OUT": ("convert {demo}", "the name of the file to write is missing give OUT.ggq, or --dry-run to see the plan"),
    "OUT exists": ("convert {demo} d.ggq", "error: d.ggq: the file exists already choose another name or give --force"),
    "OUT is a folder": ("convert {demo} empty", "error: empty: the name of a file expected, found a folder"),
    "OUT in no folder": ("convert {demo} no/o.ggq", "error: no/o.ggq: there is no folder"),
    "OUT is a source": ("convert copy copy/config.json", "the result would lie inside its own input call it NAME.ggq"),
    "a file of a checkpoint": (
        "convert {demo}/config.json o.ggq",
        "found a file give the folder that holds config.json",
    ),
    "no text": ("run d.ggq -p ", "the prompt is empty"),
    "two texts": (
        "run d.ggq x --file y",
        "error: the text to continue is given twice give TEXT, or --prompt",
    ),
    "nothing to warm up for": ("warmup --for nosuch.ggq", "error: nosuch.ggq: cannot open: No such file or directory"),
    "an adapter that is not there": (
        "run d.ggq x --lora nosuch --interpreter numpy",
        "error: nosuch: cannot read: No such file or directory check the path",
    ),
    "no adapter": (
        "run d.ggq x --lora empty --interpreter numpy",
        "error: empty/adapter_config.json: missing: not a LoRA adapter give the folder of an adapter",
    ),
    "an adapter's weight": ("run d.ggq x --lora empty=much --interpreter numpy", "must be a number, not 'much'"),
    "no tokens": ("run d.ggq x -n 0 --interpreter numpy", "error: --max-tokens is 0"),
    "no threads": ("run d.ggq x --threads 0", "Invalid value for '--threads': 0 is not in the range x>=1."),
    "a temperature": (
        "run d.ggq x --temperature -1 --interpreter numpy",
        "--temperature is -1.0, a number from 0",
    ),
    "top-p": ("run d.ggq x --top-p 1.5 --interpreter numpy", "--top-p is 1.5, a number from 0 to 1 is allowed"),
    "a seed": ("run d.ggq x --seed -1 --interpreter numpy", "--seed is -1, a whole number from 0 on is allowed"),
    "greedy by chance": (
        "run d.ggq x --greedy --seed 1",
        "--greedy takes the most likely token, so it cannot",
    ),
    "an architecture": ("convert odd o.ggq", "'OddForCausalLM' is not supported; supported: Llama,"),
    "an architecture, what to do": ("convert odd o.ggq", "docs/families.md lists what is supported;"),
    "no architecture": ("convert none o.ggq", "config.json: architectures: missing; supported: Llama,"),
    "a broken config": ("convert broken o.ggq", "not JSON"),
    "a broken tokenizer": ("convert untold o.ggq", "tokenizer.json"),
    "half a checkpoint": ("convert half o.ggq", "the file is incomplete; download it again"),
    "a pointer of git-lfs": ("convert lfs o.ggq", "git lfs pull"),
    "a file cut short": ("run cut.ggq x", "no whole footer at the end: the file is cut short, or was never finished"),
    "a flipped bit": ("run --verify flipped.ggq x", "download or convert it again"),
    "what the model is computed by": ("edit d.ggq model.context_length=9", "--force changes it all the same"),
    "another program's command": ("quantize x", "No such command 'quantize'. Did you mean 'convert'?"),
    "a command mistyped": ("inspec x", "No such command 'inspec'. Did you mean 'inspect'?"),
    "a kept model": ("rm nosuch", "no model 'nosuch' is kept `ggq list` lists the models"),
    "a shell": ("completion bsh", "SHELL must be bash, zsh or fish, not 'bsh' did you mean bash?"),
    "a chat without a template": ("chat d.ggq --interpreter numpy", "the model has no chat template"),
    "a template": (
        "chat d.ggq --template nosuch --interpreter numpy",
        "no template 'nosuch' in the model",
    ),
}
"""What is typed, and what is printed, its lines joined."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what people have lying around."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_demo(folder / "d.ggq")
    (folder / "m.gguf").write_bytes(b"GGUF\3\0\0\0")
    (folder / "empty").mkdir()
    for name in ("copy", "odd", "none", "broken", "untold", "half", "lfs", "pickle"):
        shutil.copytree(DEMO, folder / name)
    (folder / "odd" / "config.json").write_text('{"architectures": ["OddForCausalLM"]}')
    (folder / "none" / "config.json").write_text("{}")
    (folder / "broken" / "config.json").write_text('{"architectures":\n oops')
    (folder / "untold" / "tokenizer.json").write_text('{"model": ')
    weights = folder / "half" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    (folder / "lfs" / "model.safetensors").write_text(pointer)
    (folder / "pickle" / "model.safetensors").unlink()
    (folder / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    whole = (folder / "d.ggq").read_bytes()
    (folder / "cut.ggq").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.ggq").write_bytes(whole[:99_999] + bytes([whole[99_999] ^ 1]) + whole[100_000:])
    return folder


class Screen(io.StringIO):
    """A standard stream that says whether it is a terminal."""

    def __init__(self, watched: bool) -> None:
        super().__init__()
        self.watched = watched

    def isatty(self) -> bool:
        return self.watched


def printed(monkeypatch: pytest.MonkeyPatch, columns: int | None, arguments: list[str]) -> tuple[int, str]:
    """A command's status and all that it prints, on a terminal of so many columns or on none."""
    screen = Screen(columns is not None)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    status = main(arguments)
    return status, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n")


def broken_words(text: str, columns: int | None) -> list[str]:
    """Lines that the terminal would break; a single word that is too long cannot be helped."""
    return [line for line in text.splitlines() if columns and len(line) > columns and " " in line.strip()]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_lines_that_fit(
    name: str, columns: int | None, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed, expected = MISTAKES[name]
    monkeypatch.chdir(place)
    monkeypatch.setenv("GGQ_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = sorted(place.iterdir())
    status, text = printed(monkeypatch, columns, [part.format(demo=DEMO) for part in typed.split(" ")])
    text = re.sub(r"^compiling kernels .*\n", "", text, flags=re.MULTILINE)  # where the cache is cold
    assert status == 2
    assert expected in " ".join(text.split())
    assert "Traceback" not in text
    assert broken_words(text, columns) == []
    if columns is None:
        assert len(text.replace("converting no/such, once; `ggq list` lists what is kept\n", "").splitlines()) <= 2
    assert sorted(place.iterdir()) == before
    assert not list(tmp_path.rglob("*.ggq*"))
