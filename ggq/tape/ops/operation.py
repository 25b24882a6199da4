"""What an operation says of itself: its operands, declared by their types, and how it is computed.

An operation is a frozen dataclass, compared by identity (equality costs 0.2 ms a class at every start). Its fields are
annotated with what it does to them:

| annotation | the field names |
|---|---|
| `Read` | a buffer whose contents it uses |
| `Write` | a buffer that it fills |
| `Update` | a buffer that it uses and changes |
| `Weight` | a tensor of the model, by role; None where there is none |
| `Cache` | a cache of the program that it reads, by its place |
| `CacheUpdate` | a cache that it appends to |
| `State` | a state that it carries from token to token, by its place among the caches |

A field with several of a kind is `Annotated[tuple[...], READ]` and so on. Data flow, memory, folding, calibration and
profiles come from these declarations alone; a field without one is a number or a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, get_type_hints

from ggq.errors import UnsupportedError
from ggq.tape.buffers import Buffer

if TYPE_CHECKING:
    from ggq.tape.folding import Origin, Origins
    from ggq.tape.passes import Backward, Forward, Oracle


@dataclass(frozen=True)
class Access:
    """What an operation does to an operand.

    Args:
        what: "buffer", "weight", "cache" or "state".
        reads, writes: Whether it uses what is there, and whether it changes it.
        added: The name of a field that, where true, makes it use what is there too.
    """

    what: str
    reads: bool
    writes: bool
    added: str = ""


READ, WRITE, UPDATE = Access("buffer", True, False), Access("buffer", False, True), Access("buffer", True, True)
WRITE_OR_ADD = Access("buffer", False, True, added="add")
WEIGHT = Access("weight", True, False)
CACHE, CACHE_UPDATE = Access("cache", True, False), Access("cache", False, True)
STATE = Access("state", True, True)

Read = Annotated[Buffer, READ]
Write = Annotated[Buffer, WRITE]
Update = Annotated[Buffer, UPDATE]
Weight = Annotated[str, WEIGHT]
Cache = Annotated[int, CACHE]
CacheUpdate = Annotated[int, CACHE_UPDATE]
State = Annotated[int, STATE]


class Product(NamedTuple):
    """Matrices that meet one source: outs[j] = source @ weights[j].T + biases[j], or added to outs[j].

    Args:
        source: The inputs.
        weights: Roles of the matrices.
        biases: Roles of the biases, None where there is none.
        outs: The results.
        add: Whether results are added to what is there.
    """

    source: Buffer
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]
    outs: tuple[Buffer, ...]
    add: bool


class Operation:
    """One step of a program; see the module for how operands are declared."""

    name: ClassVar[str]
    """What it is called in profiles and messages."""

    def reads(self) -> tuple[Buffer, ...]:
        """Buffers whose contents it uses, those that it changes included."""
        return self._touched[0]

    def writes(self) -> tuple[Buffer, ...]:
        """Buffers that it fills or changes."""
        return self._touched[1]

    def buffers(self) -> tuple[Buffer, ...]:
        """All buffers that it touches."""
        return self._touched[2]

    def weights_read(self) -> tuple[str, ...]:
        """Roles of the tensors that it reads, in the order of its fields."""
        return tuple(value for _, value in self._operands("weight"))

    def caches_read(self) -> tuple[int, ...]:
        """Caches that it reads."""
        return tuple(value for access, value in self._operands("cache") if access.reads)

    def caches_written(self) -> tuple[int, ...]:
        """Caches that it appends to."""
        return tuple(value for access, value in self._operands("cache") if access.writes)

    def states(self) -> tuple[int, ...]:
        """States that it carries on, by their places among the caches."""
        return tuple(value for _, value in self._operands("state"))

    def products(self) -> tuple[Product, ...]:
        """Its matrix products; none unless it says so."""
        return ()

    def inner_products(self) -> tuple[Product, ...]:
        """Matrix products inside it, which some rows alone meet; none unless it says so."""
        return ()

    def whole_product(self) -> Product | None:
        """The product that is all it computes; None where it computes anything else."""
        return None

    def tables(self) -> tuple[str, ...]:
        """Roles of the matrices of which it takes rows by token id; none unless it says so."""
        return ()

    def whole_texts(self) -> bool:
        """Whether a text must be computed in one piece, as tokens see those behind them; not unless it says so."""
        return False

    def forward(self, run: Forward) -> None:
        """Compute it on arrays (..., width) of one array namespace: `run[buffer]` gives and takes them."""
        raise UnsupportedError(f"{type(self).__name__} cannot be computed outside the kernels")

    def backward(self, run: Backward) -> None:
        """Replace the gradients of what it wrote by gradients of what it read."""
        raise UnsupportedError(f"{type(self).__name__} has no gradient")

    def oracle(self, run: Oracle) -> None:
        """Compute it in float64 with the kernels' roundings; the same as `forward` where nothing is rounded."""
        self.forward(run)

    def origins(self, known: Origins) -> dict[Buffer | int, Origin | None]:
        """What the columns of its results come from, by buffer and by cache; None where nothing can be folded."""
        return dict.fromkeys((*self.writes(), *self.caches_written()))

    @cached_property
    def _touched(self) -> tuple[tuple[Buffer, ...], tuple[Buffer, ...], tuple[Buffer, ...]]:
        """Buffers that it reads, that it writes, and all: loading a model asks thousands of times."""
        operands = list(self._operands("buffer"))
        reads = tuple(value for access, value in operands if _used(self, access))
        writes = tuple(value for access, value in operands if access.writes)
        return reads, writes, tuple(value for _, value in operands)

    def _operands(self, what: str) -> Iterator[tuple[Access, Any]]:
        for field, access in declarations(type(self)):
            if access.what == what:
                value = getattr(self, field)
                for each in value if isinstance(value, tuple) else (value,):
                    if each is not None:
                        yield access, each


_DECLARED: dict[type[Operation], tuple[tuple[str, Access], ...]] = {}


def declarations(kind: type[Operation]) -> tuple[tuple[str, Access], ...]:
    """The declared operands of a kind of operation, by field name, in order."""
    if kind not in _DECLARED:
        hints = get_type_hints(kind, include_extras=True).items()
        _DECLARED[kind] = tuple((field, each) for field, hint in hints for each in _accesses(hint))
    return _DECLARED[kind]


def _accesses(hint: Any) -> list[Access]:
    """The access that an annotation declares, also inside `Weight | None`."""
    own = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Access)]
    return own or [each for inner in getattr(hint, "__args__", ()) for each in _accesses(inner)]


def _used(op: Operation, access: Access) -> bool:
    return access.reads or bool(access.added and getattr(op, access.added))
