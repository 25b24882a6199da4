"""That every byte between header and footer belongs to exactly one range, apart from padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ggq.format.native.cursor import refuse
from ggq.format.native.descriptor import check_dimensions, check_shape
from ggq.format.native.frame import Footer
from ggq.format.native.index import Index
from ggq.format.native.layout import ALIGNMENT, HEADER_BYTES, MAX_DIMENSIONS, TENSOR


def check_tensors(index: Index) -> list[int]:
    """Checks each tensor's record against its scheme and its segments' lengths.

    Returns:
        The number of each tensor's first segment, and the number of segments at the end.

    Raises:
        FormatError: A shape, a scheme number or a length breaks a rule.
    """
    schemes = index.tensors["scheme"]
    if len(schemes) and int(schemes.max()) >= len(index.descriptors):
        tensor = index.names[int(schemes.argmax())]
        problem = f"scheme {int(schemes.max())}, the file describes {len(index.descriptors)}"
        raise refuse("C-53", problem, f"tensor {tensor}")
    roles = np.array([len(item.roles) for item in index.descriptors], np.int64)
    counts = roles[schemes] if len(schemes) else np.zeros(0, np.int64)
    firsts = [0, *np.cumsum(counts).tolist()]
    if firsts[-1] != len(index.segments):
        raise refuse("C-54", f"{len(index.segments)} segments, the tensors' schemes have {firsts[-1]}")
    lengths = index.segments["length"].tolist()
    position, size, seen = index.tensors_start, TENSOR.itemsize, set()
    for number, name in enumerate(index.names):
        key = (index.data[position : position + size], *lengths[firsts[number] : firsts[number + 1]])
        if key not in seen:  # most tensors of a model are alike, and this is the costly part of opening a file
            _check_tensor(index, number, name, key[1:])
            seen.add(key)
        position += size
    return firsts


def _check_tensor(index: Index, number: int, name: str, lengths: tuple[int, ...]) -> None:
    record, where = index.tensors[number], f"tensor {name}"
    dimensions, sizes = int(record["dimensions"]), record["shape"].tolist()
    if dimensions > MAX_DIMENSIONS:
        raise refuse("C-55", f"{dimensions} dimensions, allowed are 1 to {MAX_DIMENSIONS}", where)
    shape = tuple(sizes[:dimensions])
    check_dimensions(shape, where)
    if any(sizes[dimensions:]) or record["reserved"].any():
        raise refuse("C-55", "reserved fields are not zero", where)
    descriptor = index.descriptors[int(record["scheme"])]
    if descriptor.scheme is None:
        needed = tuple(max(length, 1) for length in lengths)
    else:
        check_shape(descriptor.scheme, shape, where)
        needed = tuple(descriptor.scheme.geometry(shape).lengths.values())
    for role, length, right in zip(descriptor.roles, lengths, needed):
        if length != right:
            raise refuse("C-54", f"{length} bytes of {role}, the shape {shape} needs {right}", where)


def check_coverage(index: Index, footer: Footer, firsts: list[int]) -> npt.NDArray[np.int64]:
    """Checks that the ranges lie side by side from the header to the index.

    Args:
        index: The parsed index.
        footer: Where the index lies.
        firsts: What check_tensors returned.

    Returns:
        int64 (ranges, 3): number among segments, assets and retired ranges, offset and length, in file order.

    Raises:
        FormatError: A range is not aligned, lies outside, overlaps another or leaves a hole.
    """
    offsets = np.concatenate([index.segments["offset"], index.assets["offset"], index.retired["offset"]])
    lengths = np.concatenate([index.segments["length"], index.assets["length"], index.retired["length"]])
    limit = np.uint64(footer.index_offset)
    outside = (offsets < np.uint64(HEADER_BYTES)) | (offsets > limit)
    outside |= lengths > limit - np.minimum(offsets, limit)
    unaligned = (offsets & np.uint64(ALIGNMENT - 1)) != 0
    if outside.any() or unaligned.any():
        first = int(np.flatnonzero(outside | unaligned)[0])
        problem = f"offset {int(offsets[first])} and length {int(lengths[first])}"
        if outside[first]:
            problem += f" do not lie between {HEADER_BYTES} and the index at {footer.index_offset}"
            raise refuse("C-61", problem, owner(index, firsts, first))
        raise refuse("C-60", f"{problem}: not aligned to {ALIGNMENT}", owner(index, firsts, first))
    starts, sizes = offsets.astype(np.int64), lengths.astype(np.int64)
    order = np.lexsort((sizes, starts))
    starts, sizes = starts[order], sizes[order]
    ends = starts + sizes
    needed = np.concatenate([[HEADER_BYTES], ends + (-ends % ALIGNMENT)])
    found = np.concatenate([starts, [footer.index_offset]])
    wrong = np.flatnonzero(needed != found)
    if len(wrong):
        _refuse_gap(index, firsts, order, int(wrong[0]), int(needed[wrong[0]]), int(found[wrong[0]]))
    return np.stack([order, starts, sizes], axis=1)


def _refuse_gap(index: Index, firsts: list[int], order: Any, slot: int, needed: int, found: int) -> None:
    where = owner(index, firsts, int(order[slot])) if slot < len(order) else "the index"
    before = owner(index, firsts, int(order[slot - 1])) if slot else "the header"
    if found < needed:
        raise refuse("C-62", f"begins at {found} and overlaps {before}, which ends before {needed}", where)
    raise refuse("C-63", f"begins at {found}, {found - needed} bytes after the end of {before}", where)


def owner(index: Index, firsts: list[int], number: int) -> str:
    """What a range belongs to, from its number among segments, assets and retired ranges."""
    if number < len(index.segments):
        tensor = int(np.searchsorted(firsts, number, side="right")) - 1
        return f"tensor {index.names[tensor]}, {index_roles(index, tensor)[number - firsts[tensor]]}"
    number -= len(index.segments)
    if number < len(index.assets):
        return f"asset {index.asset_names[number]}"
    return f"retired range {number - len(index.assets)}"


def index_roles(index: Index, tensor: int) -> tuple[str, ...]:
    """The roles of a tensor's segments, from its number."""
    return index.descriptors[int(index.tensors[tensor]["scheme"])].roles
