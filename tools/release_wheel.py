"""The wheel for release: the package with its kernels compiled for common processors, so that no start waits for that.

    python tools/release_wheel.py OUT_DIR

The kernels are those of ggq_kernels/code/ready.py, the processors those of ggq_kernels/code/targets.py: Numba compiles
for a processor that it does not run on. The files are put into a copy of the tree, and the wheel is built of that.
Compiled kernels are kept in the folder given by --cache: a second wheel of the same kernels takes seconds. Making it
takes Linux on x86-64, and some minutes of two cores for each target; the wheel can be installed everywhere, and its
kernels are used where they were made for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 25_000_000
"""Bytes that a wheel has at most."""


def main(arguments: list[str] | None = None) -> int:
    """Make the wheel; see the module's docstring.

    Returns:
        0 when a wheel was made, 2 when not.
    """
    from ggq_kernels.code.targets import TARGETS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where the wheel is put")
    names = [target.name for target in TARGETS]
    parser.add_argument("--target", action="append", choices=names, help="only for this; may be repeated")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where compiled kernels are kept between runs")
    parser.add_argument("--pack", action="store_true", help=argparse.SUPPRESS)  # what the processes are told
    options = parser.parse_args(arguments)
    if options.pack:
        pack(options.out, options.target[0])
        return 0
    with tempfile.TemporaryDirectory() as work:
        tree = copy_tree(Path(work) / "ggq")
        cache = options.cache or Path(work) / "cache"
        for target in options.target or names:
            print(f"compiling kernels for {target} ...", flush=True)
            compile_for(target, tree, cache.absolute())
        wheel = build(tree, options.out)
    size = wheel.stat().st_size
    print(f"{wheel}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        print(f"more than {LIMIT / 1e6:.0f} MB", file=sys.stderr)
        return 2
    return 0


def copy_tree(folder: Path) -> Path:
    """Copy what a checkout holds; of an unpacked source distribution, everything."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".venv", "build", "dist", "__pycache__"))
        return folder
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def compile_for(target: str, tree: Path, cache: Path) -> None:
    """Have a process compile all kernels of a copy of the tree for a target and put their file into the copy."""
    from ggq_kernels.code.precompiled import SUFFIX
    from ggq_kernels.code.targets import TARGETS

    (chosen,) = (each for each in TARGETS if each.name == target)
    folder = tree / "kernels" / "ggq_kernels" / "precompiled"
    folder.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")},
        "NUMBA_CPU_NAME": chosen.cpu,
        "NUMBA_CPU_FEATURES": chosen.listed,
        "NUMBA_CACHE_DIR": str(cache),
    }
    command = [
        sys.executable,
        str(tree / "tools" / "release_wheel.py"),
        str(folder / f"{target}{SUFFIX}"),
        "--pack",
        "--target",
        target,
    ]
    subprocess.run(command, env=environment, cwd=tree, check=True)


def pack(path: Path, target: str) -> None:
    """Compile every kernel for the target of this process and write them to a file."""
    from ggq_kernels.code import precompiled, ready, store, together
    from ggq_kernels.code.processor import foreign

    names = [f"{name}.module" for name in ready.MODULES]
    keys = ready.all_keys()
    together.compile_missing(keys)
    for module, name in (key.split(".") for key in keys if not foreign()):
        assert getattr(ready.module(module), name).address, name
    for name in ready.MODULES:
        ready.module(name).kernel_keys()  # describes and saves it
    found = {name: store.read(name) for name in [*names, *(f"{key}.kernel" for key in keys)]}
    whole = {name: saved for name, saved in found.items() if saved is not None}
    if missing := sorted(found.keys() - whole.keys()):
        raise SystemExit(f"not saved: {', '.join(missing)}; {store.write_failures or store.distrust()}")
    precompiled.save(path, target, whole)


def build(tree: Path, out: Path) -> Path:
    """Build the wheel of a tree into a folder, which need not exist."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", made, str(tree)]
        subprocess.run(command, check=True)
        (wheel,) = Path(made).glob("*.whl")
        return Path(shutil.move(wheel, out / wheel.name))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    sys.exit(main())
