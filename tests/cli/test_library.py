"""A checkpoint is converted once where a file is asked for, kept, listed and removed; demo: is there from anywhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import ggq
from ggq.cli.library import folder as library
from ggq.cli.main import main
from ggq.convert.source import hub
from ggq.errors import GGQError
from tests.kit.support import DEMO

Capture = pytest.CaptureFixture[str]
RUN = ["-n", "2", "--greedy", "--interpreter", "numpy"]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GGQ_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scheme instead of the mix, for which a search is made."""
    pull = library.pull_model
    monkeypatch.setattr(
        library, "pull_model", lambda source, options, **more: pull(source, {"scheme": "q4-g32", **options}, **more)
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "mine"))


def test_a_folder_is_converted_once_and_again_when_it_changes(checkpoint: Path, models: Path, capsys: Capture) -> None:
    assert main(["run", str(checkpoint), "import os", *RUN]) == 0
    first = capsys.readouterr()
    (kept,) = models.glob("*.ggq")
    before = kept.stat()
    assert "converting" in first.err and kept.stem.startswith("mine-")
    assert main(["run", str(checkpoint), "import os", *RUN]) == 0
    second = capsys.readouterr()
    assert "converting" not in second.err and second.out == first.out
    assert kept.stat() == before or kept.stat().st_mtime_ns == before.st_mtime_ns
    (checkpoint / "generation_config.json").write_text("{}")
    assert main(["run", str(checkpoint), "import os", *RUN]) == 0
    assert "converting" in capsys.readouterr().err
    (again,) = models.glob("*.ggq")
    assert again != kept  # what it was before is not kept


def test_two_folders_of_one_name_are_two_models(tmp_path: Path, models: Path) -> None:
    for place in ("a", "b"):
        shutil.copytree(DEMO, tmp_path / place / "model")
        assert main(["pull", str(tmp_path / place / "model"), "--scheme", "q4-g32"]) == 0
    assert len(list(models.glob("model-*.ggq"))) == 2


def test_pull_list_run_and_rm(models: Path, capsys: Capture) -> None:
    assert main(["list"]) == 0 and "no models are kept" in capsys.readouterr().err
    assert main(["pull", "demo:", "--scheme", "q8-g32", "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert (pulled["model"], pulled["file"]) == ("demo", str(models / "demo.ggq"))
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["model"] for each in listed["models"]] == ["demo"]
    assert listed["models"][0]["architecture"] == "LlamaForCausalLM"
    assert listed["models"][0]["file_bytes"] == pulled["file_bytes"] == (models / "demo.ggq").stat().st_size
    assert main(["run", "demo", "import os", *RUN]) == 0
    assert main(["rm", "demo:"]) == 0
    assert "demo removed" in capsys.readouterr().out and not list(models.iterdir())


def test_a_model_that_is_kept_is_run_without_asking_a_hub(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name on the hub is enough; what is downloaded is a snapshot as huggingface_hub makes them."""
    asked: list[str] = []

    def download(name: str, revision: str | None, patterns: list[str], *, offline: bool = False) -> str:
        asked.append(name)
        return str(DEMO)

    monkeypatch.setattr(hub, "_download", download)
    assert main(["run", "some/model", "import os", *RUN]) == 0
    assert set(asked) == {"some/model"} and [path.name for path in models.iterdir()] == ["some--model.ggq"]
    asked.clear()
    assert main(["run", "some/model", "import os", *RUN]) == 0 and asked == []
    assert main(["rm", "some/model"]) == 0 and not list(models.iterdir())


def test_a_file_comes_before_a_model_of_its_name(tmp_path: Path, models: Path, capsys: Capture) -> None:
    models.mkdir()
    (models / "odd.ggq").write_bytes(b"broken")
    assert main(["run", "odd", "x", *RUN]) == 2
    assert "odd.ggq: not a ggq file" in capsys.readouterr().err
    assert main(["list", "--json"]) == 0  # it can be seen, and removed
    assert json.loads(capsys.readouterr().out)["models"][0]["architecture"] == "(cannot be read)"
    ggq.convert(DEMO, tmp_path / "odd", scheme="q4-g32")
    assert main(["run", "odd", "x", *RUN]) == 0


def test_demo_is_never_asked_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_download", lambda *_: pytest.fail("asked"))
    report = ggq.convert("demo:", tmp_path / "demo.ggq", scheme="q4-g32")
    assert report.digest == ggq.convert(DEMO, tmp_path / "same.ggq", scheme="q4-g32").digest
    with pytest.raises(GGQError, match="no such folder"):
        ggq.convert("demo:x", tmp_path / "x.ggq")


def test_what_is_kept_is_the_users_alone(models: Path) -> None:
    assert main(["pull", "demo:", "--scheme", "q4-g32"]) == 0
    assert os.name == "nt" or models.stat().st_mode & 0o77 == 0


def test_the_text_comes_from_an_argument_an_option_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import io

    ggq.convert("demo:", tmp_path / "d.ggq", scheme="q4-g32")
    (tmp_path / "text").write_text("import os")
    found = []
    for given in (["import os"], ["-p", "import os"], ["--file", "text"], ["-"], []):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"import os")))
        assert main(["run", "d.ggq", *given, *RUN, "--echo"]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 1 and found[0].startswith("import os")
