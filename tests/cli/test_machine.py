"""The machine around a command: closed inputs, locales, settings of Numba's, limits of processes, unknown users."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ggq.convert.convert import convert
from tests.kit.support import DEMO, ROOT

resource = pytest.importorskip("resource", reason="limits of processes are POSIX's")

NOBODY = 54321
"""A user without an entry in any list of users."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template, where everybody can read it."""
    folder = tmp_path_factory.mktemp("machine")
    path = folder / "m.ggq"
    convert(DEMO, path, scheme="q4-g32")
    path.chmod(0o644)
    return path


def ggq(*arguments: str | Path, shell: str = "", before: Sequence[str] = (), **options: Any) -> tuple[int, str, str]:
    """Status, output and problems of a command.

    Args:
        arguments: The command's.
        shell: What the shell adds behind it: "<&-".
        before: A command that runs it.
        options: Of `subprocess.run`; `env` is added to what the command needs to be found.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*before, sys.executable, "-m", "ggq", *map(str, arguments)]
    if shell:
        command = ["sh", "-c", f"exec {shlex.join(command)} {shell}"]
    options = {"stdin": subprocess.DEVNULL, **options, "env": {**environment, **options.get("env", {})}}
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def kept() -> dict[str, str]:
    """Where this run of the tests keeps its compiled kernels, and the user's folders."""
    names = ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in names if name in os.environ}


def quick(model: Path, *more: str) -> tuple[str, ...]:
    """A command that computes on NumPy alone."""
    return ("run", str(model), "-n", "2", "--greedy", "--interpreter", "numpy", *more)


def test_closed_standard_input(model: Path) -> None:
    right = ggq(*quick(model, "-p", "import"), env=kept())
    assert right[0] == 0 and ggq(*quick(model, "-p", "import"), shell="<&-", env=kept())[:2] == right[:2]
    status, out, told = ggq(*quick(model, "-p", "-"), shell="<&-", env=kept())
    assert (status, out) == (2, "") and told.startswith("error: ") and "unexpected" not in told
    status, _, told = ggq("inspect", model, shell="<&- >&- 2>&-", env=kept())
    assert (status, told) == (0, "")


def test_chat_ends_where_there_is_no_input(tmp_path: Path) -> None:
    from tests.kit.small_models import write_demo

    template = b"{% for m in messages %}{{ m.content }}{% endfor %}"
    path = write_demo(tmp_path / "chat.ggq", chat_template_jinja=template)
    status, out, told = ggq("chat", path, "--interpreter", "numpy", shell="<&-", env=kept())
    assert (status, out.strip()) == (0, "") and "unexpected" not in told


POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def test_arguments_are_utf8_whatever_the_locale_is(model: Path, tmp_path: Path) -> None:
    """And a file of a name beyond ASCII is found, and told of without a traceback."""
    odd = tmp_path / "caf\u00e9 \u6f22.ggq"
    odd.write_bytes(model.read_bytes())
    utf8 = {**kept(), "PYTHONUTF8": "1"}
    for path in (model, odd):
        right = ggq(*quick(path, "-p", "caf\u00e9 = '\u6f22'"), env=utf8)
        found = ggq(*quick(path, "-p", "caf\u00e9 = '\u6f22'"), env={**kept(), **POSIX})
        assert right[0] == 0 and found[0] == 0, found[2]
        assert ggq(*quick(path, "-p", "caf\u00e9 = '\u6f22'", "--stop", "\u00e9"), env={**kept(), **POSIX})[0] == 0
    status, _, told = ggq("inspect", odd, env={**kept(), **POSIX})
    assert status == 0 and "Traceback" not in told
    status, _, told = ggq("inspect", tmp_path / "n\u00e9ant.ggq", env={**kept(), **POSIX})
    assert status == 2 and told.startswith("error: ") and "Traceback" not in told
    made = tmp_path / "gr\u00fcn.ggq"
    status, _, told = ggq("convert", DEMO, made, "--scheme", "q4-g32", env={**kept(), **POSIX})
    assert status == 0 and made.read_bytes() == model.read_bytes(), told


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("NUMBA_DISABLE_JIT", "1"),
        ("NUMBA_NUM_THREADS", "0"),
        ("NUMBA_CPU_FEATURES", "avx2"),
        ("NUMBA_FUNCTION_CACHE_SIZE", "-1"),
        ("NUMBA_NUM_THREADS", "many"),
        ("NUMBA_NUM_THREADS", "100000"),
        ("NUMBA_THREADING_LAYER", "none"),
        ("NUMBA_CACHE_DIR", "/dev/null/nowhere"),
    ],
)
def test_settings_of_numba_that_mean_nothing_here(model: Path, setting: str, value: str) -> None:
    """They are passed over, also while a kernel is compiled; a folder that is none is told of."""
    script = (
        "import sys; from ggq_kernels.code.compiled import compiled\n"
        "@compiled(1, returns=True)\ndef more(x): return x + 1\n"
        "print(more(41), flush=True)\n"
        "from ggq.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["run", str(model), "-p", "import", "-n", "2", "--greedy"]
    if setting == "NUMBA_CACHE_DIR":
        command += ["--interpreter", "numpy"]  # all kernels would be compiled
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path, setting: value}
    done = subprocess.run(
        [sys.executable, "-c", script, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["42"]), done.stderr
    assert "Traceback" not in done.stderr and "rror" not in done.stderr


@pytest.mark.kernels
@pytest.mark.parametrize(
    "text",
    [
        "num_threads: 0",
        "disable_jit: 1",
        "dump_ir: 1",
        "cpu_features: x",
        "cpu_name: generic",
        ": : [",
        "[1, 2]",
        "opt: x",
    ],
)
def test_settings_of_numba_in_the_current_folder(model: Path, tmp_path: Path, text: str) -> None:
    """It may be a stranger's: Numba reads .numba_config.yaml wherever it is started."""
    (tmp_path / ".numba_config.yaml").write_text(text)
    script = (
        "import sys; from ggq_kernels.code.compiled import compiled\n"
        "@compiled(1, returns=True)\ndef more(x): return x + 1\n"
        "print(more(41), flush=True)\n"
        "from ggq.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", script, "run", str(model), "-p", "import", "-n", "2", "--greedy"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["42"]), done.stderr
    assert ".numba_config.yaml of this folder is passed over" in done.stderr and "rror" not in done.stderr
    assert len(done.stdout.splitlines()) < 5


@pytest.mark.kernels
def test_settings_of_a_program_that_imports_numba_are_its_own(tmp_path: Path) -> None:
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\nopt: 0")
    script = (
        "import numba\nfrom ggq_kernels.code.compiled import compiled\n"
        "@compiled(1, returns=True)\ndef more(x): return x + 1\n"
        "print(more(41), numba.config.DISABLE_JIT, numba.config.OPT)"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split()[:2] == ["42", "0"], done.stderr


def nobody(*arguments: str | Path, processes: int | None = None, **environment: str) -> tuple[int, str, str]:
    """`ggq`, run by a user whom the system does not know, who may read all files (a Python that only we can read) and
    write none of ours."""
    change = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    change += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if os.geteuid() != 0 or subprocess.run([*change, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root and setpriv")

    def limit() -> None:
        if processes is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))

    return ggq(*arguments, before=change, preexec_fn=limit, env=environment, cwd="/")


@pytest.fixture
def readable(model: Path) -> Iterator[Path]:
    """The model where an unknown user can open it."""
    place = Path(tempfile.mkdtemp(prefix="ggq-machine-"))
    place.chmod(0o755)
    shutil.copy(model, place / "m.ggq")
    yield place / "m.ggq"
    shutil.rmtree(place)


def test_a_user_without_a_name_or_a_home(model: Path, readable: Path) -> None:
    right = ggq(*quick(model, "-p", "import"), env=kept())
    for home in ({}, {"HOME": "/"}, {"HOME": "/nonexistent"}, {"HOME": ""}):
        assert nobody(*quick(readable, "-p", "import"), **home)[:2] == right[:2]
    assert nobody("inspect", readable)[0] == 0
    status, _, told = nobody("inspect", readable.with_name("other.ggq"))
    assert status == 2 and told.startswith("error: ")


def test_a_limit_of_processes(model: Path, readable: Path) -> None:
    """One is all: threads, trials of tokenizers and templates go without, or say so in a line."""
    right = ggq(*quick(model, "-p", "import"), env=kept())
    for processes in (1, 2):
        status, out, told = nobody(*quick(readable, "-p", "import"), processes=processes)
        assert (status, out) == right[:2] and len(told.splitlines()) == 1, told
    status, _, told = nobody("inspect", readable, processes=1)
    assert status == 0, told


@pytest.mark.kernels
def test_threads_that_cannot_be_started(model: Path) -> None:
    """The kernels take those that there are, and files are converted to the same bytes by one."""
    script = (
        "import sys, threading, subprocess\n"
        'def refuse(*_, **__): raise RuntimeError("can\'t start new thread")\n'
        "def none(*_, **__): raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "threading.Thread.start, subprocess.Popen.__init__ = refuse, none\n"
        "from ggq.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    right = ggq("run", model, "-p", "import", "-n", "4", "--greedy", env=dict(os.environ))
    done = run("run", model, "-p", "import", "-n", "4", "--greedy", "--threads", "8")
    assert (done.returncode, done.stdout) == right[:2], done.stderr
    out = model.with_name("one.ggq")
    done = run("convert", DEMO, out, "--scheme", "q4-g32", "--workers", "2")
    assert done.returncode == 0 and out.read_bytes() == model.read_bytes(), done.stderr
    calibrated = ["--scheme", "q3z-g32", "--method", "gptq", "--calibration", DEMO / "valid.txt", "--force"]
    calibrated += ["--calibration-tokens", "512", "--calibration-context", "128"]
    done = run("convert", DEMO, out, *calibrated)
    assert done.returncode == 0, done.stderr
    alone = out.read_bytes()
    assert ggq("convert", DEMO, out, *calibrated, env=dict(os.environ))[0] == 0 and out.read_bytes() == alone
