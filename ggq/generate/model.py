"""A model ready to run: prompts to text, token ids to logits."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ggq.engine.footprint import release_freed_memory
from ggq.errors import UnsupportedError, UsageError
from ggq.format.container import Container
from ggq.generate.generation import Answer, Memory, as_tokens
from ggq.generate.options import SAMPLING, Options, check_names, default_limit, default_stops, grammar_of
from ggq.generate.request import Likelihoods, Scoring, Writing
from ggq.generate.sampling import Sampler, resolve, whole
from ggq.generate.scheduler import Policy, Scheduler, closed
from ggq.generate.stream import Stream
from ggq.generate.vectors import INSTRUCTION, Judge, Text, Vectors
from ggq.models.parts import ModelSpec, Stack
from ggq.models.text.parts import VectorHead, head_of
from ggq.tape.executor import Executor
from ggq.text.template import ChatTemplate, Message, find_template, read_json
from ggq.text.tokenizer import TOKENIZER, load_tokenizer, set_up
from ggq.text.trial import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from typing_extensions import Unpack

    from ggq.generate.grammar import Constraint, Grammar
    from ggq.text.quick.tokenizer import QuickTokenizer


LONGER = "--context N --allow-longer, in Python context=N, allow_longer=True"
"""How a context is asked for that is longer than a model was made for."""


class Model:
    """A model over its open file, as `ggq.load` gives it; a context manager.

    Any number of threads and asyncio tasks may use it at once: what they ask for is computed together, and each gets
    what it would get alone.

    Args:
        reader: The open file, which it closes.
        config: Its sizes.
        bind: Makes the executor.
    """

    def __init__(self, reader: Container, config: Stack, bind: Callable[[], Executor]) -> None:
        self.reader, self.config, self._bind = reader, config, bind
        self._lock = threading.RLock()
        self.policy: Policy | None = None
        """How the scheduler weighs requests; set before it is first used."""
        self._scheduler: Scheduler | None = None
        self._executor: Executor | None = None
        self._closed = False
        self.options: Mapping[str, Any] | None = None
        """What `ggq.load` was told, by which a pickled model is loaded again."""
        self._grammar: tuple[tuple[str, object], Grammar] | None = None

    @property
    def executor(self) -> Executor:
        """Where it runs; made, which may compile kernels, when first needed (`load` needs it at once).

        Raises:
            UnsupportedError: A scheme or an operation that it cannot compute.
            UsageError: The model is closed.
        """
        with self._lock:
            self._check_open()
            if self._executor is None:
                self._executor = self._bind()
            return self._executor

    @property
    def scheduler(self) -> Scheduler:
        """Shares the executor among callers.

        Raises:
            UnsupportedError, UsageError: See `executor`.
        """
        with self._lock:
            if isinstance(head_of(self.config), VectorHead):
                raise UnsupportedError(
                    "the model makes vectors of texts, and continues none",
                    path=self.reader.path,
                    fix="Model.embed or `ggq embed FILE` gives the vectors",
                )
            if self._scheduler is None or self._closed:
                self._scheduler = Scheduler(self.executor, self.policy)
            return self._scheduler

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, as the `tokenizers` library has it; loaded when first needed.

        Raises:
            ModelError: The file has none, or it is broken.
        """
        self._check_open()
        return load_tokenizer(self.reader.assets, self.reader.metadata, self.reader.path)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            UnsupportedError: The model has none.
        """
        self._check_open()
        template = find_template(self.reader.assets, self.reader.path)
        if template is not None:
            template.context = self.config.context_length
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
        self._check_open()
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
        answer = self.answer(self.encode(prompt), options)
        self.complete([answer])
        return answer.text

    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Stream:
        """The same in pieces as they come, never a part of a character.

        Args, Raises: See `generate`.

        Returns:
            An iterator of strings, "" where a token completes no character. Its `.answer.tokens` grow with it, for a
            file without a tokenizer too.
        """
        return Stream(self.scheduler, self.answer(self.encode(prompt), options))

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
        answers = [self.answer(self.encode(prompt), options, index) for index, prompt in enumerate(prompts)]
        self.complete(answers)
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
        answer = self._chat_answer(messages, options)
        self.complete([answer])
        return answer.text

    def stream_chat(
        self, messages: Sequence[Message], memory: Memory | None = None, **options: Unpack[Options]
    ) -> Stream:
        """The same in pieces as they come.

        Args:
            messages: See `chat`.
            memory: From `remember`, to compute only what differs from its last conversation.
            options: See `Options`.

        Raises:
            UsageError: The memory is another model's.
        """
        scheduler = self.scheduler
        if memory is not None and memory.owner is not scheduler:
            raise UsageError("the memory belongs to another model", fix="take one from this model's remember()")
        return Stream(scheduler, self._chat_answer(messages, options), memory)

    def remember(self) -> Memory:
        """A memory for the turns of one conversation; it is given up when the cache is full."""
        return Memory(self.scheduler)

    def embed(self, texts: str | Sequence[str], *, prompt: str = "", truncate: bool = True) -> np.ndarray:
        """Vectors of texts.

        Args:
            texts: One, or several.
            prompt: What each is for, such as "query" or "document", where the model was made with a text before each.
            truncate: Whether a text of more tokens than the model reads is cut, with a warning, or refused.

        Returns:
            float32 (texts, width), or (width,) for a single text. The vector of a text does not depend on the others.

        Raises:
            UnsupportedError: The model makes no vectors.
            UsageError: A text is not Unicode or has no tokens; it is too long and not to be cut; no such prompt.
            ModelError: The file has no tokenizer; the model computes NaN.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        if self.vectors.head.scores:
            raise UnsupportedError("the model gives scores of texts, and no vectors", path=self.reader.path)
        before = self.vectors.prompt(prompt) if prompt else ""
        found = self._results([before + text if isinstance(text, str) else text for text in several], truncate)
        return found[0] if isinstance(texts, str) else found

    def rerank(
        self, query: str, texts: Sequence[str], *, truncate: bool = True, instruction: str = INSTRUCTION
    ) -> np.ndarray:
        """How well texts fit a query.

        Args:
            query: The query.
            texts: The texts.
            truncate: See `embed`.
            instruction: What texts are sought for; only models that continue texts are told.

        Returns:
            float32 (texts,), the larger the better: the model's score of the query and each text as a pair; of a model
            that makes vectors, the cosine of the two; of one that continues texts, the probability of "yes" beside that
            of "no" where it is asked whether the text fits, as Qwen3-Reranker is.

        Raises:
            UnsupportedError: The model gives other than one score, or no vectors and has no tokens for such questions.
            UsageError, ModelError: See `embed`.
        """
        several = list(texts)
        if isinstance(self.config, ModelSpec) and TOKENIZER in self.reader.assets:
            judge = Judge(self.tokenizer, self.config.context_length)
            if judge.able:
                return self._judged(judge, query, several, truncate, instruction)
        head = self.vectors.head
        if not head.scores:
            found = self._results([query, *several], truncate)
            lengths = np.maximum(np.linalg.norm(found, axis=1), 1e-12)
            return np.asarray(found[1:] @ found[0] / (lengths[1:] * lengths[0]), np.float32)
        if self.vectors.width != 1:
            problem = f"the model gives {self.vectors.width} scores of a text, and one is needed"
            raise UnsupportedError(problem, path=self.reader.path)
        return self._results([(query, text) for text in several], truncate)[:, 0]

    def _judged(self, judge: Judge, query: str, texts: Sequence[str], truncate: bool, instruction: str) -> np.ndarray:
        for each in (query, instruction, *texts):
            if not isinstance(each, str):
                raise UsageError(f"texts are strings, not {type(each).__name__}")
        questions = [judge.question(query, text, instruction) for text in texts]
        self._tell_cut([cut for _, cut in questions], truncate)
        return judge.scores(self.scheduler, [tokens for tokens, _ in questions])

    @cached_property
    def vectors(self) -> Vectors:
        """What makes vectors of texts.

        Raises:
            UnsupportedError: The model continues texts.
        """
        self._check_open()
        return Vectors(self.reader, self.config, lambda: self.executor)

    def _results(self, texts: Sequence[Text], truncate: bool) -> np.ndarray:
        self._check_open()
        tokens = self.vectors.tokens(texts)
        self._tell_cut([each.cut for each in tokens], truncate)
        return self.vectors.results(tokens)

    def _tell_cut(self, cut: Sequence[bool], truncate: bool) -> None:
        """Warn of texts that were cut, or refuse them."""
        context = self.config.context_length
        if any(cut) and not truncate:
            text = f"the tokens of text {cut.index(True) + 1} of {len(cut)}"
            raise UsageError(f"{text} do not fit into the model's context of {context}", fix="give truncate=True")
        if any(cut):
            warnings.warn(f"{sum(cut)} of {len(cut)} texts were cut after {context} tokens", stacklevel=4)

    def encode(self, prompt: str | Sequence[int], *, begin: bool = True) -> list[int]:
        """The token ids of a prompt.

        Args:
            prompt: A text; token ids are given back as they are.
            begin: Put the token first that the model expects there, if any.
        """
        self._check_open()
        if not isinstance(prompt, str):
            return list(prompt)
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise UsageError("the prompt is not Unicode text") from None
        with library_errors(self.reader.path):
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
        self._check_open()
        request = Scoring(self._fitting(token_ids))
        self.scheduler.complete([request])
        return request.logits

    def logprobs(self, text: str | Sequence[int]) -> np.ndarray:
        """How likely each token of a text is after those before it.

        Args:
            text: A text, before which goes the token that the model expects there, or token ids, at least one.

        Returns:
            float32 (tokens - 1,): the natural logarithms of the probabilities of all tokens but the first.

        Raises:
            UsageError: See `logits` and `encode`.
        """
        request = Likelihoods(self._fitting(self.encode(text)))
        self.scheduler.complete([request])
        return np.array(request.logprobs, np.float32)

    def __repr__(self) -> str:
        name = self.reader.metadata.get("model.architecture", "a model")
        state = ", closed" if self._closed else ""
        return f"<Model {self.reader.path}: {name}, context {self.config.context_length}{state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the path of its file and what `load` was told; another process loads it anew."""
        if self.options is None:
            raise TypeError("this model was not made by ggq.load, so it cannot be pickled")
        from ggq.generate.loading import reload

        return reload, (os.path.abspath(self.reader.path), dict(self.options))

    def close(self) -> None:
        """End the executor's threads, and let go of memory and of the file; whatever is called later is refused."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._scheduler is not None:
            self._scheduler.close()
        if self._executor is not None:
            self._executor.close()
            self._executor = None
        for name in ("tokenizer", "chat_template", "generation_config", "ends", "_quick", "vectors", "special_texts"):
            self.__dict__.pop(name, None)
        self.reader.close()
        release_freed_memory()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    def complete(self, answers: Sequence[Answer]) -> None:
        """Write answers of `answer` to their ends, computed together.

        Raises:
            ModelError: The model computes NaN.
        """
        requests = [Writing(answer, whole=True) for answer in answers]
        self.scheduler.complete(requests)
        for request in requests:
            for piece in request.pieces:
                request.answer.add(piece)

    def _chat_answer(self, messages: Sequence[Message], options: Options) -> Answer:
        text = self.chat_template.render(messages)
        return self.answer(self.encode(text, begin=False), options)  # the template writes the first token itself

    def answer(
        self,
        prompt: list[int],
        options: Options,
        index: int = 0,
        wrap: Callable[[Constraint | None], Constraint | None] = lambda constraint: constraint,
    ) -> Answer:
        """An answer that nothing has computed yet; for schedulers.

        Args:
            prompt: Token ids.
            options: See `Options`.
            index: Sets apart the answers that share a seed.
            wrap: Makes of the constraint that the options ask for another one.

        Raises:
            UsageError: See `generate`.
        """
        check_names(options)
        self._tokens(prompt)
        limit = options.get("max_tokens")
        limit = default_limit(self.generation_config) if limit is None else limit
        limit = whole("max_tokens", limit, 1)
        context = self.config.context_length
        if len(prompt) > context:
            raise too_long(f"the prompt's {len(prompt)} tokens", context)
        limit = min(limit, context - len(prompt) + 1)  # nothing is computed from the last token
        given = {name: value for name, value in options.items() if name in SAMPLING}
        sampler = Sampler(resolve(given, self.generation_config), index)
        stop = options.get("stop")
        stop = default_stops(self.generation_config) if stop is None else stop
        special = self.special_texts if stop else None
        logprobs = options.get("logprobs")
        logprobs = None if logprobs is None else whole("logprobs", logprobs)
        constraint = wrap(self._constraint(options))
        return Answer(prompt, limit, sampler, self.decode, stop, self.ends, special, constraint, logprobs)

    def _constraint(self, options: Options) -> Constraint | None:
        """What an answer must match; a grammar is compiled once for answers one after the other."""
        found = grammar_of(options)
        if found is None:
            return None
        from ggq.generate.grammar import Grammar

        if TOKENIZER not in self.reader.assets:
            raise UsageError(f"{found[0]} needs a tokenizer, and the file has none")
        with self._lock:
            if self._grammar is None or self._grammar[0] != found:
                grammar = Grammar(*found, self.tokenizer.to_str(), self.config.vocabulary_size, self.ends)
                self._grammar = found, grammar
            return self._grammar[1].constraint()

    @cached_property
    def special_texts(self) -> Mapping[int, str]:
        """The texts of special tokens, which decode to nothing."""
        if TOKENIZER not in self.reader.assets:
            return {}
        if not self._whole and self._quick is not None:
            return self._quick.special_texts
        tokens = self.tokenizer.get_added_tokens_decoder().items()
        return {number: token.content for number, token in tokens if token.special}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens; "" for a file without a tokenizer."""
        if TOKENIZER not in self.reader.assets:
            return ""  # the tokens are there all the same
        if self._whole or self._quick is None:
            with library_errors(self.reader.path):
                return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return self._quick.decode(ids)

    @cached_property
    def _quick(self) -> QuickTokenizer | None:
        from ggq.text.quick.tokenizer import read

        assets = self.reader.assets
        return read(assets[TOKENIZER], self.reader.path) if TOKENIZER in assets else None

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

    def _fitting(self, ids: Sequence[int]) -> list[int]:
        """Token ids, which fit into the context."""
        self._check_open()
        tokens: list[int] = self._tokens(ids).tolist()
        if len(tokens) > self.config.context_length:
            raise too_long(f"{len(tokens)} tokens", self.config.context_length)
        return tokens

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


def too_long(what: str, context: int) -> UsageError:
    """Tokens that are more than the context."""
    return UsageError(
        f"{what} do not fit into the model's context of {context}", fix=f"shorten it, or allow it: {LONGER}"
    )
