"""Evaluating a file on a text: opening what is needed, checking that it fits together, the report."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggq.errors import UsageError
from ggq.evaluate.forward import check_context, check_fit
from ggq.evaluate.recipes import HF, StridedText, check_recipe, strided_text
from ggq.evaluate.reference import OWN_MODEL, ModelReference, check_windows
from ggq.evaluate.saved import TOP, SavedLogits, is_model, load_logits, top_logits
from ggq.evaluate.scores import Scores, check_vocabulary, score
from ggq.evaluate.text import text_digest, text_windows
from ggq.evaluate.text_windows import CONTEXT, LLAMA_CPP, Progress, Windows
from ggq.format.native.summary import summarize
from ggq.format.paths import check_not_input, check_place
from ggq.generate.loading import open_model
from ggq.generate.model import Model
from ggq.notebook import bar
from ggq.text.tokenizer import TOKENIZER


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Args:
        scores: The numbers of each token.
        windows: What was scored.
        settings: Everything else that the figures depend on, by the names of `document`.
    """

    scores: Scores
    windows: Windows | StridedText
    settings: dict[str, Any]

    @property
    def perplexity(self) -> float:
        """exp of the mean of -log p(token)."""
        return self.scores.perplexity

    @property
    def mean_kld(self) -> float:
        """Mean KL divergence from the reference in nats; a UsageError without one."""
        return self.scores.mean_kld

    def document(self) -> dict[str, Any]:
        """All figures and settings, for `--json`."""
        windows = self.windows
        return {
            **self.settings,
            **self.scores.figures(),
            "tokens": windows.tokens,
            "windows": windows.count,
            "context": windows.context,
            "stride": windows.stride,
            "recipe": windows.recipe or None,
            "scored_per_window": windows.scored,
            "tokens_digest": windows.digest,
        }


def evaluate(
    file: str | os.PathLike[str] | Model,
    text: str | Sequence[int],
    *,
    text_name: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | Model | None = None,
    save_logits: str | os.PathLike[str] | None = None,
    top: int = TOP,
    context: int | None = None,
    stride: int | None = None,
    recipe: str | None = None,
    tokens: int | None = None,
    windows: int | None = None,
    threads: int | None = None,
    activations: str = "int8",
    cache: str | None = None,
    interpreter: str = "numba",
    lora: Sequence[str] = (),
    allow_longer: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Perplexity of a model on a text and, with a reference, its divergence from that, as `ggq.evaluate`.

    Args:
        file: A .ggq file, or a model that `ggq.load` gave.
        text: The text itself, or token ids.
        text_name: The file that the text is from, which errors name and no result replaces.
        reference: What to compare with: a .ggq file (run with float32 activations), a file that `save_logits` made, or
            a loaded model.
        save_logits: A file to write, for later use as reference; it keeps the likeliest tokens of each distribution.
        top: How many.
        context: Tokens of a window; by default those of the reference's file, or 512, or the model's context if less.
        stride: Tokens from window to window, by which our own rule scores as many tokens as `Windows` says; by default
            those of the reference's file.
        recipe: Score as others do: "llama.cpp", the default where no stride is given, or "hf"; see
            `ggq.evaluate.recipes`.
        tokens: Only the first so many tokens of the text.
        windows: At most so many windows.
        threads, activations, interpreter: See `load`; of no account for loaded models.
        cache: See `load`; a reference that is a file keeps its own, but for "f32", which holds for both.
        lora: Adapters beside a file's matrices, see `load`.
        allow_longer: Windows may be longer than files' models were made for.
        force: Replace an existing file of logits.
        progress: Called with the tokens scored and those in all.

    Raises:
        UsageError: An argument is out of range; the text is empty, shorter than a window or none; the reference is of
            another vocabulary, text, context or stride.
        FormatError, ModelError, UnsupportedError: A file is broken, or holds no model that can be run.
    """
    if save_logits is not None:
        if reference is not None:
            raise UsageError("saving logits makes a reference, so it cannot be combined with one")
        check_not_input(save_logits, file.reader.path if isinstance(file, Model) else file, text_name)
        check_place(save_logits, force=force)
    check_recipe(recipe)
    if recipe == HF and (reference is not None or save_logits is not None):
        raise UsageError(f"the recipe {HF} gives a perplexity alone, so it cannot be combined with a reference")
    options: dict[str, Any] = {"threads": threads, "interpreter": interpreter}
    if allow_longer:
        options |= {"context": context, "allow_longer": True}
    with ExitStack() as opened:
        exact = cache if cache == "f32" else None
        against = open_reference(reference, {**options, "cache": exact}, opened)
        model = file
        if not isinstance(model, Model):
            model = opened.enter_context(open_model(model, activations=activations, cache=cache, lora=lora, **options))
        cut: Windows | StridedText
        if recipe == HF:
            cut = fitting_strided(model, text, context, stride, tokens, windows, text_name)
        else:
            cut = fitting_windows(model, against, text, context, stride, tokens, windows, text_name, recipe)
        for each in (model, against.model if isinstance(against, ModelReference) else model):
            each.executor  # noqa: B018  ready to run, its kernels compiled, now that nothing is left to refuse
        progress = progress or opened.enter_context(bar("scoring", "token"))
        start = time.perf_counter()
        digest = text_digest(text)
        if isinstance(cut, StridedText):
            scores = score_strided(model, cut, progress)
        elif save_logits is not None:
            notes = {"text_digest": digest or "", "model_digest": model.reader.digest.hex(), "model": model_name(model)}
            kept = top_logits(model, cut, top, notes, progress)
            kept.save(save_logits)
            scores = Scores(-kept.targets)
        else:
            scores = score(model, cut, against, progress)
        settings = {
            "file": model.reader.path,
            "digest": model.reader.digest.hex(),
            "bits_per_weight": summarize(model.reader).bits_per_weight,
            **reference_notes(against),
            "activations": None if isinstance(file, Model) else activations,
            "cache": None if isinstance(file, Model) else cache,
            "text_digest": digest,
            "seconds": time.perf_counter() - start,
        }
    return Evaluation(scores, cut, settings)


def open_reference(
    reference: str | os.PathLike[str] | Model | None, options: dict[str, Any], opened: ExitStack
) -> ModelReference | SavedLogits | None:
    """What a model is compared with, not yet ready to run; `opened` closes what is opened."""
    if reference is None:
        return None
    if isinstance(reference, Model):
        return ModelReference(reference)
    if is_model(reference):
        return ModelReference(opened.enter_context(open_model(reference, activations="float32", **options)))
    return load_logits(reference)


def fitting_windows(
    model: Model,
    reference: ModelReference | SavedLogits | None,
    text: str | Sequence[int],
    context: int | None,
    stride: int | None,
    tokens: int | None,
    limit: int | None,
    name: str | os.PathLike[str] | None,
    recipe: str | None = None,
) -> Windows:
    """The windows to score, once all has been refused that can be refused before a model runs.

    Args:
        model, reference: Neither need be ready to run.
        text, context, stride, tokens, limit, name, recipe: See `evaluate` (`windows` and `text_name` there).

    Raises:
        UsageError: See `evaluate`.
    """
    saved = reference if isinstance(reference, SavedLogits) else None
    if reference is not None:
        check_vocabulary(model, reference)
    if context is None:
        context = min(CONTEXT, model.config.context_length) if saved is None else saved.windows.context
    if stride is None and saved is not None and not saved.windows.recipe:
        stride = saved.windows.stride
    if recipe is None:
        recipe = (saved.windows.recipe or None) if saved is not None else (LLAMA_CPP if stride is None else None)
    check_context(model, context)
    cut = text_windows(model, text, context, stride, tokens, limit, name, recipe)
    check_fit(model, cut)
    if saved is not None:
        check_windows(saved.windows, cut, saved.path)
    elif isinstance(reference, ModelReference):
        other = reference.model
        check_fit(other, cut)
        if isinstance(text, str) and tokenizer_digest(other) != tokenizer_digest(model):
            theirs = text_windows(other, text, context, stride, tokens, limit, name, recipe)
            check_windows(theirs, cut, other.reader.path, fix=OWN_MODEL)
    return cut


def fitting_strided(
    model: Model,
    text: str | Sequence[int],
    context: int | None,
    stride: int | None,
    tokens: int | None,
    limit: int | None,
    name: str | os.PathLike[str] | None,
) -> StridedText:
    """The windows of transformers' loop; by default of `CONTEXT` tokens, one every half of that.

    Raises:
        UsageError: See `evaluate`.
    """
    context = min(CONTEXT, model.config.context_length) if context is None else context
    if not len(text):
        raise UsageError("the text is empty", path=name)
    check_context(model, context)
    cut = strided_text(model.encode(text)[:tokens], context, stride or max(1, context // 2), limit, name)
    for group in cut.groups:
        check_fit(model, group)
    return cut


def score_strided(model: Model, text: StridedText, progress: Progress | None) -> Scores:
    """Run a model over the windows of transformers' loop."""
    done, found = 0, list[Any]()
    for group in text.groups:
        before = done
        advance = None if progress is None else lambda n, _, before=before: progress(before + n, text.tokens)
        found.append(score(model, group, progress=advance).nll)
        done += group.tokens
    return Scores(np.concatenate(found), weights=text.weights)


def reference_notes(reference: ModelReference | SavedLogits | None) -> dict[str, Any]:
    """What the figures say of the reference."""
    if isinstance(reference, ModelReference):
        reader = reference.model.reader
        return {"reference": reader.path, "reference_digest": reader.digest.hex(), "reference_top": None}
    if reference is not None:
        digest = reference.notes["model_digest"]
        return {"reference": reference.path, "reference_digest": digest, "reference_top": reference.ids.shape[1]}
    return {}


def model_name(model: Model) -> str:
    """What a file calls its model."""
    return str(model.reader.metadata.get("general.name", ""))


def tokenizer_digest(model: Model) -> bytes | None:
    """Names the tokenizer of a model's file."""
    asset = model.reader.assets.get(TOKENIZER)
    return None if asset is None else asset.digest
