"""What a conversion is calibrated on: windows of a text, statistics of an earlier calibration, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggq.convert.options import CalibrationOptions
from ggq.convert.plan.plan import Plan, TensorPlan
from ggq.convert.source.assets import TOKENIZER
from ggq.errors import UsageError
from ggq.format.paths import check_place
from ggq.quant.methods import Calibrated, uses
from ggq.tape.cut import sections

if TYPE_CHECKING:
    from ggq.convert.calibrate.calibration_text import CalibrationText
    from ggq.convert.calibrate.calibrator import LayerStatistics
    from ggq.convert.calibrate.statistics import SavedStatistics, SharedInput


@dataclass(frozen=True, eq=False)
class Calibration:
    """Where the statistics of a conversion come from.

    Args:
        text: Windows to run the checkpoint on; None where saved statistics are used.
        saved: Statistics that were there already.
        save_to: Where to keep new ones, or None.
        digest: Of the checkpoint's weights, where statistics are saved or were; else "".
        wants: What each matrix's method wants besides numbers by column, by role: of "gram" and "samples".
    """

    text: CalibrationText | None
    saved: SavedStatistics | None
    save_to: Path | None
    digest: str
    wants: Mapping[str, frozenset[str]]

    @property
    def identity(self) -> list[str]:
        """What the statistics depend on besides the checkpoint: for the fingerprint of the conversion."""
        text = self.saved.origin.text if self.saved is not None else self.text.digest if self.text is not None else ""
        return [text, *(f"{role} {name}" for role, names in self.wants.items() for name in sorted(names))]


def uses_of(tensor: TensorPlan, activations: str) -> frozenset[str]:
    """What statistics a tensor has a use for: see `ggq.quant.methods.uses`; static activations take samples."""
    if tensor.method is None:
        return frozenset()
    found = uses(tensor.method)
    return found | {"samples"} if activations == "static" else found


def requires(tensor: TensorPlan, activations: str) -> bool:
    """Whether a tensor can do nothing without statistics."""
    if tensor.method is None:
        return False
    return activations == "static" or (isinstance(tensor.method, Calibrated) and tensor.method.requires)


def check_calibration(plan: Plan, options: CalibrationOptions) -> None:
    """Refuse what shows before a text is read; arguments as for `make_calibration`.

    Raises:
        UsageError: A method needs calibration and nothing is given for it, options do not go together, or there is no
            place for the statistics.
    """
    text, context, statistics = options.calibration, options.calibration_context, options.statistics
    if (options.calibration_tokens is not None or context is not None) and text is None:
        raise UsageError("calibration_tokens and calibration_context need a text", fix="give --calibration TEXT too")
    if context is not None and context > plan.model.context_length:
        raise UsageError(f"calibration_context must be 2 to {plan.model.context_length} for this model, not {context}")
    if statistics is not None and not (path := Path(statistics)).exists():
        if text is None:
            raise UsageError(
                "this file of statistics does not exist yet", path=path, fix="give --calibration TEXT too, to make them"
            )
        check_place(path, force=False)
    activations = plan.recipe.activations
    needy = next((tensor for tensor in plan.tensors if requires(tensor, activations)), None)
    if needy is not None and text is None and statistics is None:
        who = "static activations need" if activations == "static" else f"method {needy.method_name} needs"
        raise UsageError(
            f"{who} calibration",
            where=needy.name,
            fix="give --calibration TEXT, a text like those that the model will see",
        )


def make_calibration(plan: Plan, options: CalibrationOptions) -> Calibration | None:
    """Read the text, or the header of saved statistics, that a plan's methods need; None where they need none.

    Args:
        plan: Whose methods decide.
        options: The text and the file of statistics.

    Raises:
        UsageError: A method needs calibration and nothing is given for it, or the other way round.
        GGQError: The text or the statistics cannot be used.
    """
    check_calibration(plan, options)
    text, statistics = options.calibration, options.statistics
    if text is None and statistics is None:
        return None
    activations = plan.recipe.activations
    wanted = [tensor for tensor in plan.tensors if uses_of(tensor, activations)]
    if not wanted:
        raise UsageError(
            f"nothing to calibrate: method {plan.recipe.body_method} does not use statistics",
            fix="choose a method such as gptq or mse, or leave --calibration and --statistics out",
        )
    from ggq.convert.calibrate.calibration_text import CONTEXT, VECTORS_CONTEXT, read_windows
    from ggq.convert.calibrate.statistics import SavedStatistics, checkpoint_digest

    windows = None
    if text is not None:
        usual = CONTEXT if "logits" in plan.program.outputs else VECTORS_CONTEXT
        context = options.calibration_context or min(usual, plan.model.context_length)
        windows = read_windows(text, plan.assets[TOKENIZER], plan.tokens, context, options.calibration_tokens)
    wants = {tensor.role: uses_of(tensor, activations) - {"vectors"} for tensor in wanted}
    if statistics is None:
        return Calibration(windows, None, None, "", wants)
    path, digest = Path(statistics), checkpoint_digest(plan.checkpoint)
    if path.exists():
        saved = SavedStatistics(path, inputs_of(plan))
        saved.check_origin(digest, None if windows is None else windows.digest)
        saved.check_wanted(wants)
        return Calibration(None, saved, None, digest, wants)
    return Calibration(windows, None, path, digest, wants)


def inputs_of(plan: Plan) -> list[list[SharedInput]]:
    """The inputs of all matrices of a model; see `shared_inputs`."""
    from ggq.convert.calibrate.statistics import shared_inputs

    return shared_inputs(plan.program, {tensor.role: tensor.shape for tensor in plan.tensors})


@contextmanager
def layer_statistics(
    plan: Plan, calibration: Calibration | None, report: Callable[[str], None] | None = None
) -> Iterator[Iterator[LayerStatistics]]:
    """The statistics of the model's layers in order, computed or read as they are asked for; none without calibration.

    Whatever happens, nothing but a finished file of statistics is left behind.

    Args:
        plan: The conversion.
        calibration: From `make_calibration` for this plan.
        report: Called with what is being done.
    """
    if calibration is None:
        yield iter([{}] * len(sections(plan.program)))
        return
    from ggq.convert.calibrate.calibrator import Calibrator
    from ggq.convert.calibrate.statistics import Origin, save

    if calibration.saved is not None:
        yield calibration.saved.layers()
        return
    assert calibration.text is not None
    text, wants = calibration.text, calibration.wants
    calibrator = Calibrator(
        plan.checkpoint, plan.expressions, plan.program, text.windows, lambda role: wants.get(role, set()), report
    )
    with closing(calibrator.layers()) as layers:
        if calibration.save_to is None:
            yield layers
            return
        origin = Origin(calibration.digest, text.digest, text.tokens, text.windows.shape[1])
        with closing(save(calibration.save_to, origin, inputs_of(plan), wants, layers)) as saving:
            yield saving
