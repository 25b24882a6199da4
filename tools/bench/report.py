"""What a run found: a table for people and one JSON line."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.bench.works import Row, Work

INFORMATION = ("bytes_per_token", "read_gb_s", "prefill_gop_s", "gop_s", "call_s", "first_token_s")
"""Numbers of ours that are kept beside what is compared."""

AGAINST = {"one_tok_s": "one sequence", "dense_gop_s": "dense model", "bandwidth_tok_s": "bandwidth"}
"""What our own numbers are called that others of ours are compared with."""


@dataclass
class Found:
    """The rounds of one work: what each side gave, and the peers that are missing with their words."""

    work: Work
    ours: list[dict[str, Any]] = field(default_factory=list)
    peers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def median(rounds: list[dict[str, Any]], key: str) -> float | None:
    """The median of a number over the rounds, None where nobody gave it."""
    numbers = [found[key] for found in rounds if isinstance(found.get(key), int | float)]
    return statistics.median(numbers) if numbers else None


def summary(found: Found, row: Row) -> dict[str, Any]:
    """One row: our number, the best peer's, their ratio, and shares of the machine's limits."""
    result: dict[str, Any] = {"name": row.name, "unit": row.unit, "ours": median(found.ours, row.key)}
    rivals = {name: median(rounds, row.key) for name, rounds in found.peers.items()}
    numbers = {name: number for name, number in rivals.items() if number is not None}
    if row.against:
        numbers = {AGAINST[row.against]: median(found.ours, row.against) or 0.0}
    result["missing"] = found.missing
    if numbers:
        best = (min if row.less_is_better else max)(numbers, key=lambda name: numbers[name])
        ours, theirs = result["ours"], numbers[best]
        ratio = theirs / ours if row.less_is_better else ours / theirs
        result |= {"peer": best, "theirs": theirs, "ratio": ratio, "peers": numbers}
    else:
        ratio = None
    for key in INFORMATION:
        if (number := median(found.ours, key)) is not None:
            result[key] = number
    bandwidth, peak = median(found.ours, "bandwidth_gb_s"), median(found.ours, "peak_gop_s")
    if bandwidth and "read_gb_s" in result:
        share = median(found.ours, "bandwidth_share") or result["read_gb_s"] / bandwidth
        result |= {"bandwidth_gb_s": bandwidth, "bandwidth_share": share}
    operations = result.get("prefill_gop_s") or result.get("gop_s")
    if peak and operations:
        result |= {"peak_gop_s": peak, "peak_share": operations / peak}
    if operations and (tiles := median(found.ours, "tile_gop_s")):
        result |= {"tile_gop_s": tiles, "tile_share": operations / tiles}
    reached = ratio is not None and ratio >= row.at_least
    if row.share:
        reached = reached and result.get("bandwidth_share", 0) >= row.share
    if row.enough:
        reached = reached or result.get("bandwidth_share", 0) >= row.enough
    if row.most:
        reached = reached and result["ours"] <= row.most
    return {**result, "at_least": row.at_least, "share_at_least": row.share, "most": row.most, "reached": reached}


def line(result: dict[str, Any]) -> str:
    """A row of the table."""
    digits = 3 if result["unit"] == "s" and result["ours"] < 0.01 else 2
    unit, scale = ("ms", 1e3) if digits == 3 else (result["unit"], 1.0)

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value * scale:.{digits}f}"

    ratio = f"{result['ratio']:.2f}" if "ratio" in result else "-"
    parts = [f"{result['name']:<20}{number(result['ours']):>10}{number(result.get('theirs')):>10} {unit:<9}"]
    parts += [f"{ratio:>6}{result['at_least']:>6.2f}  {'yes' if result['reached'] else 'no':<4}"]
    notes = [str(result.get("peer", ""))] if "peer" in result else []
    decode = result["name"].startswith(("decode", "matrix-1"))
    if decode and "bandwidth_share" in result and not result["name"].endswith("512"):
        share = f"{result['bandwidth_share']:.0%} of {result['bandwidth_gb_s']:.1f} GB/s"
        notes.append(share + (f", {result['share_at_least']:.0%} asked" if result["share_at_least"] else ""))
    if not decode and "peak_share" in result:
        notes.append(f"{result['peak_share']:.0%} of {result['peak_gop_s']:.0f} GOP/s")
    if not decode and "tile_share" in result:
        notes.append(f"{result['tile_share']:.0%} of {result['tile_gop_s']:.0f} GOP/s in tiles")
    if result["most"]:
        notes.append(f"at most {result['most']:.1f} s asked")
    notes += [f"{name} is missing: {words}" for name, words in result["missing"].items()]
    return "".join(parts) + "; ".join(notes)


HEADER = f"{'work':<20}{'ggq':>10}{'peer':>10} {'':<9}{'ratio':>6}{'asked':>6}  {'':<4}"


def machine(all_found: list[Found], threads: int) -> dict[str, Any]:
    """What it ran on."""
    documents = [found for one in all_found for rounds in [one.ours, *one.peers.values()] for found in rounds]
    peers = {str(found["version"]) for found in documents if "version" in found}
    packages = ("ggq", "numpy", "numba", "llvmlite")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "isa": next((found["isa"] for found in documents if found.get("isa")), None),
        "threads": threads,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "peer_versions": sorted(peers),
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
