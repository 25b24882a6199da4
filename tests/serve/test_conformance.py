"""llm-comply against the server, where it is installed; tools/conformance.sh runs it with everything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.test_client import running
from tools.conformance_server import ENDS, write

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("llm_comply", reason="pip install llm-comply")
    path = write(tmp_path_factory.mktemp("conformance") / "demo.ggq", ENDS)
    with running({"demo": path}, images="mention") as found:
        yield found


@pytest.mark.parametrize("form", ["openai-chat", "open-responses", "anthropic"])
def test_llm_comply_finds_nothing(url: str, form: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_comply.cli", "run", "-u", f"{url}/v1", "-k", "none", "-m", "demo"]
    done = subprocess.run([*command, "--format", form, "--json"], capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    failed = [each for each in found["results"] if each["status"] not in ("passed", "skipped")]
    assert found["summary"]["passed"] >= 8 and not failed and done.returncode == 0
