"""What is installed: packages listed by hand, data files, the lazy top level."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

import ggq
from tests.kit.support import DEMO, ROOT, run_python


def listed_packages() -> set[str]:
    """The package list of pyproject.toml (tomllib is not in Python 3.10)."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^packages = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'"([\w.]+)"', block))


def test_every_package_is_listed() -> None:
    folders = [(ROOT, folder.parent) for folder in (ROOT / "ggq").rglob("__init__.py")]
    folders += [(ROOT / "kernels", folder.parent) for folder in (ROOT / "kernels").rglob("__init__.py")]
    found = {".".join(folder.relative_to(base).parts) for base, folder in folders}
    assert listed_packages() == found
    assert not (ROOT / "kernels" / "__init__.py").exists()  # would shadow another project's package of that name


def test_version_is_said_once() -> None:
    assert f'version = "{ggq.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert version("ggq") == ggq.__version__
    assert f"## {ggq.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_both_packages_are_typed() -> None:
    assert (ROOT / "ggq" / "py.typed").is_file()
    assert (ROOT / "kernels" / "ggq_kernels" / "py.typed").is_file()


def test_the_demo_checkpoint_is_whole() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert {path.name for path in DEMO.iterdir()} >= {"model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 2_500_000


@pytest.mark.parametrize("before", ["", "import ggq.convert.plan.plan", "import ggq.convert.convert"])
def test_convert_is_a_function_whatever_was_imported(before: str) -> None:
    check = "import ggq, inspect; assert inspect.isfunction(ggq.convert); assert inspect.isfunction(ggq.open)"
    result = run_python(
        "-c", f"{before}\n{check}\nfrom ggq import convert, load, open\nfrom ggq.convert.plan.plan import make_plan"
    )
    assert result.returncode == 0, result.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ggq.nothing  # type: ignore[attr-defined]


def test_no_path_of_one_machine_is_in_the_documents() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "NOTES.md"):
        assert not re.search(r"(?<![\w.~])/(home|root|work|tmp)/", (ROOT / name).read_text()), name


def test_ci_script_is_executable_bash() -> None:
    script = Path(ROOT, ".ci", "run")
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
