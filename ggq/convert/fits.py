"""Which size to take: what each preset would cost and lose, and how fast this machine would run it."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, replace

from ggq.convert.convert import unsolved_plan
from ggq.convert.mix.mix import solve_targets
from ggq.convert.options import PRESETS, Options
from ggq.convert.plan.choices import read_choices
from ggq.convert.plan.plan import Plan
from ggq.engine.footprint import usable_memory
from ggq.errors import UnsupportedError
from ggq.tape.caches import groups

SHARE = 0.83
"""Of the memory's bandwidth that decoding reads: 86 to 95 % on a Zen 4 (docs/benchmarks.md), 77 to 80 % of the mixes of
the 1b shape on a virtual Xeon."""
UNTOLD = 0.57
"""What is left of a divergence that was predicted on random tokens: those of pylm's three presets come to .57 to .83 of
the prediction, those of the included model to .34 to .44."""
GPTQ = 0.67
"""The same where sensitivity was measured on a text and GPTQ rounds: pylm's three presets come to .47 to .95."""
READS = 9
"""How often the memory is read to measure it; the median counts, as in `ggq bench`."""


@dataclass(frozen=True)
class Fit:
    """One size.

    Args:
        preset: Its name.
        bits_per_weight: Of all matrices.
        file_bytes: Of the result.
        predicted_kld: The mean KL divergence that is predicted, in nats per token.
        decode_tok_s: Of one sequence on all cores, from the memory's bandwidth; None for a model with experts,
            which reads what they route to.
        context: Tokens of one sequence that fit beside the weights, no more than the model's context.
        fits: Whether the weights fit into memory.
    """

    preset: str
    bits_per_weight: float
    file_bytes: int
    predicted_kld: float
    decode_tok_s: float | None
    context: int
    fits: bool


def what_fits(source: str | os.PathLike[str], options: Options, bandwidth: float | None = None) -> list[Fit]:
    """What each preset would be.

    Args:
        source: See `ggq.convert`.
        options: What a mix may be told: method, keep, calibration ...
        bandwidth: GB/s; measured where it is None.

    Raises:
        UnsupportedError: The model continues no text.
        GGQError: See `ggq.convert`.
    """
    wishes = [read_choices(replace(options, preset=name)) for name in PRESETS]
    base = unsolved_plan(source, options, wishes[0].recipe)
    if not base.described or "logits" not in base.program.outputs:
        raise UnsupportedError("--what-fits is for models that continue texts", path=str(source))
    targets = [wish.target for wish in wishes if wish.target is not None]
    plans = solve_targets(base, targets, wishes[0].method, options.calibration, options.report)
    rate = measured_bandwidth() if bandwidth is None else bandwidth
    share = UNTOLD if options.calibration is None else GPTQ if "gptq" in wishes[0].method else 1.0
    return [fit_of(name, plan, rate, share) for name, plan in zip(PRESETS, plans)]


def fit_of(preset: str, plan: Plan, bandwidth: float, share: float = 1.0) -> Fit:
    """What a solved plan would be on a machine whose memory gives so many GB/s.

    Args:
        share: Of its predicted divergence, what is to be expected.
    """
    from ggq_kernels.run import calls

    stored = {tensor.role: tensor.bytes for tensor in plan.tensors if tensor.role}
    experts = any(".experts." in role for role in stored)
    traffic = sum(stored.values()) - (stored.get("embedding.weight", 0) if "output.weight" in stored else 0)
    memory = min(usable_memory() // 2, max(usable_memory() - plan.file_bytes, 0))
    caches = [(group.spec, len(group.members)) for group in groups(plan.program.caches)]
    page = sum(n * calls.layer_bytes("f16", spec.kv_heads, spec.head_dim) for spec, n in caches if not spec.window)
    context = plan.model.context_length
    return Fit(
        preset,
        plan.bits_per_weight,
        plan.file_bytes,
        share * (plan.divergence or 0.0),
        None if experts else SHARE * bandwidth * 1e9 / traffic,
        min(context, memory // page * calls.PAGE) if page else context,
        plan.file_bytes < usable_memory(),
    )


def measured_bandwidth() -> float:
    """GB/s at which all cores read memory."""
    from ggq_kernels.run.limits import MemoryReader

    reader = MemoryReader()
    try:
        return statistics.median(reader.rates(READS))
    finally:
        reader.close()
