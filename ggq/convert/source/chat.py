"""Trying a checkpoint's chat template, so that one that fails on every conversation is found before it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ggq.errors import GGQError, ModelError, UnsupportedError, UsageError
from ggq.text.template import find_template

QUESTION = {"role": "user", "content": "Hello"}
CONVERSATIONS = ([QUESTION], [{"role": "system", "content": "Be brief."}, QUESTION])
"""What `ggq chat` begins with: a template that writes or refuses one of them, but fails on none of its own, is used."""


@dataclass(frozen=True)
class Kept:
    """An asset that is not in a file yet."""

    data: bytes

    def read(self) -> bytes:
        """Its bytes."""
        return self.data


def try_template(assets: Mapping[str, bytes], folder: Path, context: int, notes: list[str]) -> None:
    """Render short conversations; a template that writes none of them is told and kept, as prompts without it run.

    Args:
        assets: The checkpoint's files by name.
        folder: The checkpoint's, for the messages.
        context: Tokens of the model's context.
        notes: Why the template writes no conversation is added here.

    Raises:
        ModelError: tokenizer_config.json or special_tokens_map.json is no JSON object.
    """
    template = find_template({name: Kept(data) for name, data in assets.items()}, folder)
    if template is None:
        return
    template.context = context
    problem: GGQError | None = None
    for messages in CONVERSATIONS:
        try:
            template.render(messages)
            return
        except UnsupportedError:  # no process can be started here: told when the template is needed
            return
        except (ModelError, UsageError) as error:
            problem = problem or error
    assert problem is not None
    notes.append(f"{problem.problem}, whatever the conversation: `ggq chat` is of no use, `ggq run` is")
