"""A model ready to run: prompts to text, token ids to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ggq.errors import UnsupportedError, UsageError
from ggq.format import Reader
from ggq.generate.generation import Answer, Memory, Timing, as_tokens, run
from ggq.generate.options import SAMPLING, Options, check_names
from ggq.generate.sampling import Sampler, resolve, whole
from ggq.models.config import ModelConfig
from ggq.tape.executor import Executor
from ggq.tape.program import Run
from ggq.text.template import ChatTemplate, Message, find_template, read_json
from ggq.text.tokenizer import TOKENIZER, load_tokenizer, set_up

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from typing_extensions import Unpack

    from ggq.text.quick_tokenizer import QuickTokenizer

MAX_TOKENS = 256
"""Tokens to generate when nobody says."""


class Stream(Iterator[str]):
    """Pieces of text as they come; close it to stop early.

    `answer` holds the text, the tokens and why it ended, `timing` the seconds, both growing.

    Args:
        executor: Where the model runs.
        answer: A fresh one.
        memory: A sequence to go on with, if any.
    """

    def __init__(self, executor: Executor, answer: Answer, memory: Memory | None = None) -> None:
        self.answer, self.timing = answer, Timing()
        self._pieces = run(executor, [answer], self.timing, memory)

    def __next__(self) -> str:
        return next(self._pieces)[1]

    def close(self) -> None:
        """Stop, and let go of the sequence."""
        self._pieces.close()


class Model:
    """A decoder over its open file, as `ggq.load` gives it; a context manager.

    Args:
        reader: The open file, which it closes.
        config: Its sizes.
        bind: Makes the executor.
    """

    def __init__(self, reader: Reader, config: ModelConfig, bind: Callable[[], Executor]) -> None:
        self.reader, self.config, self._bind = reader, config, bind

    @cached_property
    def executor(self) -> Executor:
        """Where it runs; made, which may compile kernels, when first needed (`load` needs it at once).

        Raises:
            UnsupportedError: A scheme or an operation that it cannot compute.
        """
        return self._bind()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, as the `tokenizers` library has it; loaded when first needed.

        Raises:
            ModelError: The file has none, or it is broken.
        """
        return load_tokenizer(self.reader.assets, self.reader.metadata, self.reader.path)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            UnsupportedError: The model has none.
        """
        template = find_template(self.reader.assets, self.reader.path)
        if template is None:
            raise UnsupportedError(
                "the model has no chat template",
                path=self.reader.path,
                fix="continue a text instead: ggq run FILE -p TEXT",
            )
        return template

    @cached_property
    def generation_config(self) -> Mapping[str, object]:
        """The model's own defaults for generation; empty when it has none."""
        return read_json(self.reader.assets, "generation_config.json", self.reader.path)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Token ids that end a text."""
        ids: set[int] = set()
        for found in (self.reader.metadata.get("tokenizer.eos_ids"), self.generation_config.get("eos_token_id")):
            several: Iterable[object] = found if isinstance(found, Iterable) else [found]
            ids.update(int(item) for item in several if isinstance(item, int | np.integer))
        return frozenset(ids)

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> str:
        """The text that continues a prompt.

        Args:
            prompt: A text, or token ids that are taken as they are.
            options: See `Options`.

        Raises:
            UsageError: An option is unknown or out of range; the prompt is empty, holds a token id outside the
                vocabulary, or leaves no room in the context.
            ModelError: A text is given and the file has no tokenizer; the model computes NaN.
        """
        return "".join(self.stream(prompt, **options))

    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Stream:
        """The same in pieces as they come, never a part of a character.

        Args, Raises: See `generate`.

        Returns:
            An iterator of strings, "" where a token completes no character. Its `.answer.tokens` grow with it, for a
            file without a tokenizer too.
        """
        return Stream(self.executor, self._answer(self.encode(prompt), options))

    def generate_batch(self, prompts: Sequence[str | Sequence[int]], **options: Unpack[Options]) -> list[str]:
        """The texts that continue several prompts, computed together.

        Args:
            prompts: See `generate`.
            options: See `Options`; they hold for each prompt, and the seed grows by one from prompt to prompt.

        Returns:
            As many texts; each as `generate` would give it, up to rounding.

        Raises:
            UsageError, ModelError: See `generate`.
        """
        answers = [self._answer(self.encode(prompt), options, index) for index, prompt in enumerate(prompts)]
        for _ in run(self.executor, answers, Timing()):
            pass
        return [answer.text for answer in answers]

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> str:
        """The answer to a conversation.

        Args:
            messages: {"role": ..., "content": ...}, oldest first.
            options: See `Options`.

        Raises:
            UnsupportedError: The model has no chat template.
            UsageError, ModelError: See `generate` and `ChatTemplate.render`.
        """
        return "".join(self.stream_chat(messages, **options))

    def stream_chat(
        self, messages: Sequence[Message], memory: Memory | None = None, **options: Unpack[Options]
    ) -> Stream:
        """The same in pieces as they come.

        Args:
            messages: See `chat`.
            memory: From `remember`, to compute only what is new since its last conversation.
            options: See `Options`.
        """
        text = self.chat_template.render(messages)
        prompt = self.encode(text, begin=False)  # the template writes what a prompt begins with itself
        return Stream(self.executor, self._answer(prompt, options), memory)

    def remember(self) -> Memory:
        """A memory for the turns of one conversation."""
        return Memory(self.executor.open_sequence())

    def encode(self, prompt: str | Sequence[int], *, begin: bool = True) -> list[int]:
        """The token ids of a prompt.

        Args:
            prompt: A text; token ids are given back as they are.
            begin: Put the token first that the model expects there, if any.
        """
        if not isinstance(prompt, str):
            return list(prompt)
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UsageError("the prompt is not Unicode text") from None
        return list(self._tokenizer_for(prompt).encode(prompt, add_special_tokens=begin).ids)

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """The logits after each token of a text.

        Args:
            token_ids: At least one.

        Returns:
            float32 (tokens, vocabulary).

        Raises:
            UsageError: There is no token, one is outside the vocabulary, or they do not fit into the context.
        """
        sequence = self.executor.open_sequence()
        try:
            return self.executor.forward([Run(sequence, self._tokens(token_ids), "all")])
        finally:
            self.executor.close_sequence(sequence)

    def close(self) -> None:
        """End the executor's threads and let go of the file."""
        if "executor" in self.__dict__:
            self.executor.close()
        self.reader.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, prompt: list[int], options: Options, index: int = 0) -> Answer:
        check_names(options)
        self._tokens(prompt)
        limit = options.get("max_tokens")
        limit = MAX_TOKENS if limit is None else limit
        whole("max_tokens", limit, 1)
        context = self.config.context_length
        if len(prompt) > context:
            raise UsageError(f"the prompt's {len(prompt)} tokens do not fit into the model's context of {context}")
        limit = min(limit, context - len(prompt) + 1)  # nothing is computed from the last token
        given = {name: value for name, value in options.items() if name in SAMPLING}
        sampler = Sampler(resolve(given, self.generation_config), index)
        return Answer(prompt, limit, sampler, self._decode, options.get("stop") or (), self.ends)

    def _decode(self, ids: Sequence[int]) -> str:
        if TOKENIZER not in self.reader.assets:
            return ""  # the tokens are there all the same
        if self._whole or self._quick is None:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return self._quick.decode(ids)

    @cached_property
    def _quick(self) -> QuickTokenizer | None:
        from ggq.text.quick_tokenizer import read

        return read(self.reader.assets[TOKENIZER].read()) if TOKENIZER in self.reader.assets else None

    @property
    def _whole(self) -> bool:
        """Whether the tokenizer was loaded whole."""
        return "tokenizer" in self.__dict__

    def _tokenizer_for(self, text: str) -> Tokenizer:
        """The whole tokenizer, or what a first short text needs of it."""
        if self._whole or self._quick is None:
            return self.tokenizer
        metadata, path = self.reader.metadata, self.reader.path
        first = metadata.get("tokenizer.bos_id")
        return self._quick.encoder(text, first, lambda made: set_up(made, metadata, path)) or self.tokenizer

    def _tokens(self, ids: Sequence[int]) -> np.ndarray:
        """Token ids as a run wants them, each checked before it is narrowed to 32 bits."""
        if len(ids) == 0:
            raise UsageError("the prompt is empty")
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int | np.integer):
                raise UsageError(f"token ids are integers, not {token!r}")
            if not 0 <= token < self.config.vocabulary_size:
                allowed = f"0 to {self.config.vocabulary_size - 1} allowed"
                raise UsageError(f"token id {token} is outside the vocabulary, {allowed}")
        return as_tokens(ids)
