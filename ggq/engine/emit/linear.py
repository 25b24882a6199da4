"""Rows of products and embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ggq.engine.emit.context import Context, Step
from ggq.engine.lower.ops import Multiply, Rounded
from ggq.tape.ops import Embed


def embed(op: Embed, at: Context) -> tuple[Step, np.ndarray]:
    """Rows of a table."""
    ids, matrix = at.batch.ids_by(op.by), at.weights.matrix(op.table)
    at.kept.append(matrix.descriptor())
    row = at.calls.embed_row(at.tokens(op.out), ids, matrix, at.kept[-1], at.floats(op.out), op.scale)
    return Step(op.name, op.table, op.out.rows), row


def multiply(op: Multiply, at: Context) -> tuple[Step, np.ndarray]:
    """A product of matrices of one kind."""
    matrices, outs = [at.weights.matrix(role) for role in op.weights], [at.floats(out) for out in op.outs]
    biases = [0 if bias is None else at.weights.vector(bias) for bias in op.biases]
    table = at.calls.descriptors(matrices, outs, biases)
    at.tables[int(table.ctypes.data)] = table
    source = at.source(op.source)
    if isinstance(op.halves, Rounded):
        source = replace(source, bf16=at.halves(op.halves))
    row = at.calls.linear_row(at.tokens(op.source), matrices, table, source, op.add, at.threads)
    sizes = [at.weights.sizes(role) for role in op.weights]
    operations = sum(2 * geometry.rows * geometry.columns for geometry in sizes)
    step = Step(op.name, " ".join(op.weights), op.source.rows, sum(geometry.bytes for geometry in sizes), operations)
    return step, row
