"""A cursor over the bytes of an index that refuses to step past their end."""

from __future__ import annotations

from struct import unpack_from

from ggq.errors import FormatError


def refuse(rule: str, problem: str, where: str | None = None) -> FormatError:
    """A FormatError that cites the rule of spec/container.md that was broken."""
    return FormatError(f"{problem} ({rule})", where=where)


class Cursor:
    """A position in `data` that only moves over bytes that are there."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position
        self.end = len(data)

    @property
    def remaining(self) -> int:
        """Bytes from here to the end."""
        return self.end - self.position

    def take(self, count: int, what: str) -> int:
        """Steps over `count` bytes and returns where they start; raises FormatError when fewer remain."""
        start = self.position
        if count > self.end - start:
            problem = f"{what} needs {count} bytes, {self.end - start} remain"
            raise refuse("C-23", problem, f"index byte {start}")
        self.position = start + count
        return start

    def u8(self, what: str) -> int:
        """The next byte."""
        return self.data[self.take(1, what)]

    def u16(self, what: str) -> int:
        """The next two bytes as a number."""
        return int(unpack_from("<H", self.data, self.take(2, what))[0])

    def u32(self, what: str) -> int:
        """The next four bytes as a number."""
        return int(unpack_from("<I", self.data, self.take(4, what))[0])

    def bytes(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        start = self.take(count, what)
        return self.data[start : start + count]
