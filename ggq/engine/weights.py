"""The tensors of an open file as the kernels see them: addresses into its memory map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggq.errors import FormatError
from ggq.format.container import Container
from ggq.format.scheme import COLUMN_STEP, TABLE_LIMITS, Geometry, Scheme, round_up
from ggq.format.stacks import StackedMatrix
from ggq.quant.matrix import middle, subscale_offset
from ggq.quant.stored import activation_form, segments_of
from ggq.quant.transform import checked_order

if TYPE_CHECKING:
    from ggq_kernels.run.calls import Packed

COLUMN_PADDING = 128
"""Vectors and rows of buffers are padded to this many numbers: the largest activation group."""


class Weights:
    """The tensors of a file by role, as addresses into its memory map.

    Args:
        container: The open file; it must stay open.
        names: Tensor names by role.
    """

    def __init__(self, container: Container, names: dict[str, str]) -> None:
        self._container, self._names = container, names
        self._kept: dict[str, np.ndarray] = {}
        self._matrices: dict[str, Packed] = {}

    def scheme(self, role: str) -> Scheme:
        """How a tensor is stored."""
        scheme = self._container.tensors[self._names[role]].scheme
        assert scheme is not None  # whoever made `names` has refused unknown schemes
        return scheme

    def sizes(self, role: str) -> Geometry:
        """Sizes of a tensor, as given and as stored."""
        return self.scheme(role).geometry(self._container.tensors[self._names[role]].shape)

    def shape(self, role: str) -> tuple[int, ...]:
        """Dimensions of a tensor."""
        return tuple(self._container.tensors[self._names[role]].shape)

    def place(self, role: str) -> tuple[str, int] | None:
        """The stack that a matrix lies in, and its place there; None for one that lies alone, and for one that wants
        its inputs moved or scaled, which says so in parts of its own."""
        entry = self._container.tensors[self._names[role]]
        if not isinstance(entry, StackedMatrix) or entry.entry.segments.keys() & {"input_order", "input_scale"}:
            return None
        return entry.entry.name, entry.index

    def matrix(self, role: str) -> Packed:
        """A matrix as the kernels see it.

        Raises:
            FormatError: An order of columns that points outside.
        """
        if role not in self._matrices:
            self._matrices[role] = self._matrix(role)
        return self._matrices[role]

    def _matrix(self, role: str) -> Packed:
        from ggq_kernels.run.calls import Packed

        entry, scheme, sizes = self._container.tensors[self._names[role]], self.scheme(role), self.sizes(role)
        addresses = {name: self._address(role, name) for name in entry.segments}
        if scheme.kind == "float":
            return Packed(scheme.value, 0, sizes.padded_rows, sizes.columns, 0, addresses["values"])
        activations, step = activation_form(self._container, entry)
        if "input_order" in entry.segments:  # kernels read where it says, so its padding is looked at too
            order = self._container.read_segment(entry.name, "input_order").view("<u4")  # a file may change later
            order = self._kept.setdefault(f"{role}/order", order)
            addresses["input_order"] = int(order.ctypes.data)
            try:
                checked_order(order, sizes.columns)
                checked_order(order, sizes.padded_columns)
            except FormatError as error:
                raise FormatError(error.problem, path=self._container.path, where=f"tensor {entry.name}") from None
        return Packed(
            value="",
            bits=scheme.bits,
            rows=sizes.padded_rows,
            columns=sizes.padded_columns,
            group=sizes.group,
            codes=addresses["codes"],
            scales=addresses["scales"],
            middle=middle_number(scheme, self._entries(role) if scheme.kind == "codebook" else None),
            zeros=addresses.get("zeros", 0),
            minimums=addresses.get("minimums", 0),
            sub_bits=scheme.subscale,
            sub_scales=addresses.get("subscales", 0),
            sub_minimums=addresses.get("subminimums", 0),
            sub_lowest=subscale_offset(scheme) if scheme.subscale else 0,
            table=self._table(role) if scheme.kind == "codebook" else 0,
            order=addresses.get("input_order", 0),
            column_scale=addresses.get("input_scale", 0),
            activations=activations,
            activation_step=step,
        )

    def _entries(self, role: str) -> np.ndarray:
        """A codebook, int8."""
        key = f"{self._codebook_of(role)}/entries"
        if key not in self._kept:  # once: a file may change later
            self._kept[key] = self._container.read_segment(self._names[role], "codebook").view(np.int8)
        return self._kept[key]

    def _table(self, role: str) -> int:
        """Address of a codebook as the kernels look codes up."""
        key = f"{self._codebook_of(role)}/table"
        if key not in self._kept:  # once: rows of the tape hold the address
            self._kept[key] = table_bytes(self.scheme(role), self._entries(role))
        return int(self._kept[key].ctypes.data)

    def _codebook_of(self, role: str) -> str:
        """What has the codebook of a tensor: itself, or its stack."""
        place = self.place(role)
        return role if place is None else f"stack {place[0]}"

    def vector(self, role: str) -> int:
        """Address of a one-dimensional tensor as float32, padded with zeros to whole register tiles."""
        if role not in self._kept:
            from ggq.quant import decode_tensor

            entry = self._container.tensors[self._names[role]]
            segments = segments_of(self._container, entry)
            padded = np.zeros(round_up(entry.shape[0], COLUMN_PADDING), np.float32)
            padded[: entry.shape[0]] = decode_tensor(self.scheme(role), entry.shape, segments)
            self._kept[role] = padded
        return int(self._kept[role].ctypes.data)

    def number(self, role: str) -> float:
        """The number of a tensor of one."""
        self.vector(role)
        return float(self._kept[role][0])

    def speed(self, role: str) -> int:
        """Address of -e**x / log(2) of a one-dimensional tensor, as scans read it; padded likewise."""
        key = f"{role}/speed"
        if key not in self._kept:
            self.vector(role)
            self._kept[key] = (-np.exp(self._kept[role].astype(np.float64)) * np.log2(np.e)).astype(np.float32)
        return int(self._kept[key].ctypes.data)

    def _address(self, role: str, segment: str) -> int:
        view = self._container.segment(self._names[role], segment)
        self._kept[f"{role}/{segment}"] = view
        return int(view.ctypes.data)


def middle_number(scheme: Scheme, entries: np.ndarray | None = None) -> float:
    """What is subtracted from the numbers of a scheme without zero-points and minimums (kernels' planes.py).

    Args:
        scheme: Of codes.
        entries: The codebook where it has one: where seven bits hold all entries, less is subtracted.
    """
    if entries is not None:
        least, most = TABLE_LIMITS
        narrow = scheme.group % COLUMN_STEP == 0 and entries.min() >= least and entries.max() <= most
        return float(-least) if narrow else 128.0
    return float(middle(scheme)) if scheme.kind == "uniform" else 1.0


def table_bytes(scheme: Scheme, entries: np.ndarray) -> np.ndarray:
    """A codebook as kernels look codes up: 16 unsigned bytes, its entries (int8) plus the scheme's middle number."""
    table = np.zeros(16, np.uint8)
    table[: entries.size] = entries.astype(np.int16) + int(middle_number(scheme, entries))
    return table
