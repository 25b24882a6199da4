"""Expressions of several others: tensors behind and below each other, sums, products."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from ggq.models.expression import Expression, Floats, Mask, Shape, Shapes, Source, Use, between, misfit, piece_rows


@dataclass(frozen=True)
class Several(Expression):
    """What is made of any number of others."""

    parts: tuple[Expression, ...]

    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.names())


@dataclass(frozen=True)
class Stack(Several):
    """Tensors of one shape behind each other as a tensor with one dimension more, such as the experts of a layer."""

    def __str__(self) -> str:
        return f"stack({_listed([str(part) for part in self.parts])})"

    def shape(self, shapes: Shapes) -> Shape:
        first = self.parts[0].shape(shapes)
        for part in self.parts[1:]:
            if (found := part.shape(shapes)) != first:
                expected = f"{list(first)} like {self.parts[0]} expected"
                raise misfit(part, f"shape {list(found)} found, {expected}")
        return (len(self.parts), *first)

    def fill(self, source: Source, start: int, out: Floats) -> None:
        count, done = prod(self.parts[0].shape(source.shape)[:-1]), 0
        while done < len(out):
            part, first = divmod(start + done, count)
            rows = min(count - first, len(out) - done)
            self.parts[part].fill(source, first, out[done : done + rows])
            done += rows

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        flat = len(self.parts[0].shape(shapes)) == 1  # each of them is a row of the stack
        for number, part in enumerate(self.parts):
            yield from part.reach(shapes, rows[number : number + 1] if flat else rows, columns)


@dataclass(frozen=True)
class Joined(Several):
    """Matrices of so many rows each below each other."""

    heights: tuple[int, ...]

    def __str__(self) -> str:
        return f"joined({', '.join(map(str, self.parts))})"

    def shape(self, shapes: Shapes) -> Shape:
        columns = self.parts[0].shape(shapes)[-1]
        for part, height in zip(self.parts, self.heights, strict=True):
            if (found := part.shape(shapes)) != (height, columns):
                raise misfit(part, f"shape {list(found)} found, {[height, columns]} expected")
        return (sum(self.heights), columns)

    def fill(self, source: Source, start: int, out: Floats) -> None:
        done = first = 0
        for part, height in zip(self.parts, self.heights, strict=True):
            begin = max(start + done - first, 0)
            if done < len(out) and begin < height:
                count = min(height - begin, len(out) - done)
                part.fill(source, begin, out[done : done + count])
                done += count
            first += height

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        first = 0
        for part, height in zip(self.parts, self.heights, strict=True):
            yield from part.reach(shapes, rows[first : first + height], columns)
            first += height


@dataclass(frozen=True)
class Pair(Expression):
    """What is made of two others; in a third it stands between parentheses."""

    compound: ClassVar[bool] = True
    left: Expression
    right: Expression

    def names(self) -> tuple[str, ...]:
        return (*self.left.names(), *self.right.names())


@dataclass(frozen=True)
class Sum(Pair):
    """Two expressions of one shape added, rounded to float32, such as a matrix and the product of a LoRA adapter."""

    def __str__(self) -> str:
        return f"{between(self.left)} + {between(self.right)}"

    def whole(self) -> str | None:
        return self.left.whole()

    def shape(self, shapes: Shapes) -> Shape:
        left, right = self.left.shape(shapes), self.right.shape(shapes)
        if left != right:
            raise misfit(self.right, f"shape {list(right)} found, {list(left)} like {self.left} expected")
        return left

    def fill(self, source: Source, start: int, out: Floats) -> None:
        self.left.fill(source, start, out)
        out += self.right.rows(source, start, start + len(out))

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        yield from self.left.reach(shapes, rows, columns)
        yield from self.right.reach(shapes, rows, columns)


@dataclass(frozen=True)
class Product(Pair):
    """A matrix product times a number, summed in float64 and rounded once: LoRA's B @ A * alpha / rank.

    Every block of rows reads the whole right matrix, piece by piece: cheap where that is of low rank.
    """

    scale: float = 1.0

    def __str__(self) -> str:
        factor = "" if self.scale == 1 else f"{self.scale:.9g} * "
        return f"{factor}{between(self.left)} @ {between(self.right)}"

    def shape(self, shapes: Shapes) -> Shape:
        left, right = self.left.shape(shapes), self.right.shape(shapes)
        if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
            problem = f"shape {list(right)} found, which cannot be multiplied with {self.left} of shape {list(left)}"
            raise misfit(self.right, problem)
        return (left[0], right[1])

    def fill(self, source: Source, start: int, out: Floats) -> None:
        left = self.left.rows(source, start, start + len(out)).astype(np.float64)
        total = np.zeros(out.shape, np.float64)
        step = piece_rows(out.shape[1])
        for at in range(0, left.shape[1], step):
            part = left[:, at : at + step]
            total += part @ self.right.rows(source, at, at + part.shape[1]).astype(np.float64)
        out[...] = total * self.scale

    def reach(self, shapes: Shapes, rows: Mask, columns: Mask) -> Iterator[Use]:
        between = np.ones(self.right.shape(shapes)[0], np.bool_)
        yield from self.left.reach(shapes, rows, between)
        yield from self.right.reach(shapes, between, columns)


_NUMBER = re.compile(r"(\d+)")


def _listed(texts: list[str]) -> str:
    """Texts for people; those that differ by one number, which counts up, are written once: "experts.{0..7}.w1"."""
    split = [_NUMBER.split(text) for text in texts]
    places = [i for i, part in enumerate(split[0]) if any(other[i : i + 1] != [part] for other in split)]
    if len(texts) > 1 and len(places) == 1 and places[0] % 2 and len({len(parts) for parts in split}) == 1:
        place = places[0]
        first = int(split[0][place])
        if all(parts[place] == str(first + i) for i, parts in enumerate(split)):
            return "".join([*split[0][:place], f"{{{first}..{first + len(texts) - 1}}}", *split[0][place + 1 :]])
    return ", ".join(texts)
