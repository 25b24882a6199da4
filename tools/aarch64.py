"""The kernel tests on AArch64, emulated by qemu on another Linux machine.

    python tools/aarch64.py FOLDER [--target aarch64-neoverse-n1] [TEST ...]

FOLDER is made and keeps everything between runs: the emulator and Debian's arm64 Python, which apt downloads and does
not install; wheels for arm64; a copy of the tree, and the kernels, which this machine compiles for each target
(tools/release_wheel.py), since Numba would take hours under emulation. Tests that compile kernels of their own do that
there. Each test module is a process of its own; the default is all of tests/kernels. Takes apt-get and dpkg-deb, and an
hour of two cores for both targets.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from tools.release_wheel import compile_for, copy_tree  # noqa: E402

EMULATED = {"aarch64-neoverse-n1": "neoverse-n1", "aarch64-neoverse-v1": "max,sve=off"}
"""The processor that qemu emulates for each target: version 7.2 has i8mm in "max" alone."""
WITHOUT = re.compile("^(dpkg|tar|perl|libperl|mailcap|mime-support|install-info)")
"""Packages that Python's depend on and no test does."""
TIMEOUT = "1200"
"""Seconds that a test waits for a process that it starts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the folder and run tests; see the module's docstring.

    Returns:
        0 when all tests passed, 1 when not.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where everything is kept")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="what pytest runs, each in a process of its own")
    parser.add_argument("--target", action="append", choices=EMULATED, help="only this; may be repeated")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    download(folder)
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    copy_tree(tree)
    tests = options.tests or sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/kernels").glob("test_*.py"))
    failed = []
    for target in options.target or EMULATED:
        print(f"compiling kernels for {target} ...", flush=True)
        compile_for(target, tree, folder / "kernels")
        found = {test: run(folder, tree, target, test) for test in tests}
        failed += [(target, test) for test, (status, _) in found.items() if status]
        print(f"{target}: {summary([told for _, told in found.values()])}", flush=True)
    for target, test in failed:
        print(f"failed on {target}: {test}", file=sys.stderr)
    return 1 if failed else 0


def download(folder: Path) -> None:
    """Fetch what is not there yet: the emulator, Python and its libraries, wheels."""
    if not (folder / "root" / "usr").is_dir():
        own = architecture()
        unpack(["qemu-user-static"], own, folder / "emulator")
        wanted = depended(["python3-minimal", "libpython3-stdlib", "libgomp1", "libstdc++6"], "arm64", folder / "apt")
        unpack([name for name in wanted if not WITHOUT.match(name)], "arm64", folder / "root")
    (python,) = (folder / "root" / "usr" / "bin").glob("python3.*[0-9]")
    write_script(folder, python)
    if not (folder / "site").is_dir():
        version = python.name.removeprefix("python")
        needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / "site")]
        command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
        for platform in ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"):
            command += ["--platform", platform]
        subprocess.run([*command, *needed, "pytest", "hypothesis"], check=True)


def apt(state: Path, machine: str) -> list[str]:
    """Options that have apt look at a folder's lists of packages for a machine, and at none of this system's."""
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    pairs = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Architecture": machine,
        "APT::Architectures::": machine,
        "APT::Sandbox::User": "root",
    }
    return [text for name, value in pairs.items() for text in ("-o", f"{name}={value}")]


def architecture() -> str:
    """What Debian calls this machine."""
    told = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return told.stdout.strip()


def depended(packages: Sequence[str], machine: str, state: Path) -> list[str]:
    """Names of Debian packages and of all that they depend on."""
    options = apt(state, machine)
    subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", *options, "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), *packages]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted({line for line in told.splitlines() if re.match("[a-z0-9]", line)})


def unpack(packages: Sequence[str], machine: str, target: Path) -> None:
    """Download Debian packages and unpack them into a folder."""
    state = target.with_name("apt" if machine == "arm64" else "apt-own")
    options = apt(state, machine)
    subprocess.run(["apt-get", "-qq", *options, "update"], check=True)
    subprocess.run(["apt-get", "-qq", *options, "download", *packages], cwd=state / "cache", check=True)
    for package in sorted((state / "cache").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(target)], check=True)


def write_script(folder: Path, python: Path) -> None:
    """Write a program that runs Python under emulation, and that this Python takes itself for."""
    (emulator,) = (folder / "emulator" / "usr" / "bin").glob("qemu-aarch64-static")
    root, script = folder / "root", folder / "python"
    script.write_text(
        "#!/bin/sh\n"
        f"export QEMU_LD_PREFIX={root} PYTHONHOME={root / 'usr'}\n"
        f'exec {emulator} -0 {script} -cpu "$EMULATED" {python} "$@"\n'
    )
    script.chmod(0o755)


def run(folder: Path, tree: Path, target: str, test: str) -> tuple[int, str]:
    """Run pytest under emulation; its status (0 also where no test was left) and the last line it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON"))}
    environment = {
        **kept,
        "PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "kernels", folder / "site"))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "EMULATED": EMULATED[target],
        "GGQ_TEST_TIMEOUT": TIMEOUT,
    }
    command = [str(folder / "python"), "-m", "pytest", "-p", "no:cacheprovider", "-rfE", test]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines() or done.stderr.splitlines() or [""]
    print(f"{target} {test}: {lines[-1]}", flush=True)
    status = 0 if done.returncode == 5 else done.returncode
    if status:
        print(done.stdout[-20000:], done.stderr[-5000:], file=sys.stderr, flush=True)
    return status, lines[-1]


def summary(told: Sequence[str]) -> str:
    """The sums of what pytest says of some modules, "9 passed, 1 skipped in 2.0s" each."""
    sums: dict[str, int] = {}
    for line in told:
        for count, what in re.findall(r"(\d+) ([a-z]+)", line.split(" in ")[0]):
            sums[what] = sums.get(what, 0) + int(count)
    return ", ".join(f"{count} {what}" for what, count in sums.items())


if __name__ == "__main__":
    sys.exit(main())
