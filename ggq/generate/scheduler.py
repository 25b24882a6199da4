"""Who is computed next: each step hands out a budget of tokens so that what is computed catches up with what is wanted.

A prompt and one more token are the same case: tokens of a sequence that are wanted and not computed. There is no thread
of its own. Of the callers that wait for something, one leads: it computes steps for all requests until its own is
served, then the next one leads. So a single caller computes in its own thread, with nothing to hand over.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggq.errors import NotFiniteError, UsageError
from ggq.generate.finite import located
from ggq.generate.generation import Memory
from ggq.generate.request import Interrupted, Request, shared_tokens
from ggq.generate.serving.pace import BESIDE, Fixed, Pace
from ggq.generate.serving.prefix import BLOCK, Prefixes
from ggq.generate.serving.shares import hand_out, in_turn
from ggq.tape.executor import Executor, wanted_count


@dataclass
class Policy:
    """How a scheduler weighs its requests.

    Args:
        pace: How much of prompts goes beside sequences that decode.
        prefixes: Whether what ended sequences hold is kept, as long as there is memory, for prompts that begin alike.
        most_running: Sequences that are computed at once at most.
    """

    pace: Pace
    prefixes: bool = False
    most_running: int = 1 << 30


@dataclass
class Counts:
    """What a scheduler did since it began, for who watches it."""

    steps: int = 0
    preempted: int = 0
    running: int = 0
    waiting: int = 0


class Scheduler:
    """Shares one executor among the requests of any number of threads.

    Args:
        executor: It computes; the sequences that others open in it are left alone.
        policy: How requests are weighed.
    """

    def __init__(self, executor: Executor, policy: Policy | None = None) -> None:
        self._executor, self.policy = executor, policy or Policy(Fixed())
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._step_ended = threading.Condition(self._lock)
        self._requests: dict[Request, None] = {}  # in the order in which they came
        self._kept: dict[int, weakref.ref[Memory]] = {}  # sequences of memories, those unused longest first
        self.prefixes = Prefixes(self._executor) if self.policy.prefixes else None
        self._leading = self._closed = False
        self._readers, self.counts = 0, Counts()
        self._process = os.getpid()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests in, all before the next step.

        Raises:
            UsageError: The model is closed.
        """
        if self._process != os.getpid():
            self._begin()  # a forked child: its parent's threads, and what they wait for, are not here
        with self._lock:
            if self._closed:
                raise closed()
            for request in requests:
                request.changed = threading.Condition(self._lock)
                memory = request.memory
                if memory is not None and (memory.busy or memory.owner is not self):
                    request.memory = memory = None
                if memory is not None:
                    memory.busy = True
                self._requests[request] = None

    def wait(self, request: Request) -> None:
        """Return once a submitted request has news or is finished.

        Raises:
            UsageError: The model was closed; or what is wanted does not fit into the cache even alone.
            Exception: What went wrong in computing it.
        """
        assert request.changed is not None
        with self._lock:
            request.readers += 1
            self._readers += 1
            try:
                while not request.finished and not request.news:
                    if self._leading or self._closed:
                        request.changed.wait()
                    else:
                        self._lead()
            finally:
                request.readers -= 1
                self._readers -= 1
                if self._readers and not self._leading:
                    self._appoint()
        if request.error is not None and not request.news:
            raise request.error

    def complete(self, requests: Sequence[Request]) -> None:
        """Submit requests and wait for them all.

        Raises:
            Exception: See `submit` and `wait`; the other requests are cancelled.
        """
        self.submit(requests)
        try:
            for request in requests:
                self.wait(request)
        finally:
            for request in requests:
                self.cancel(request)

    def cancel(self, request: Request) -> None:
        """Compute no more of a request; its pages are free when the step under way has ended."""
        request.cancelled = True
        if request.finished or request.changed is None:
            return
        with self._lock:
            if not self._leading:
                self._sweep()

    def work(self) -> bool:
        """Compute one step for everybody, in the caller's thread; False where nothing can be computed now."""
        with self._lock:
            while self._leading:
                self._step_ended.wait()
            return not self._closed and self._lead()

    def forget(self) -> None:
        """Give up all prefixes that are kept."""
        with self._lock:
            while self._leading:
                self._step_ended.wait()
            while self.prefixes is not None and self.prefixes.forget_one():
                pass

    def close(self) -> None:
        """Let the step under way end, and refuse what is still wanted and whatever comes later."""
        with self._lock:
            self._closed = True
            while self._leading:
                self._step_ended.wait()
            for request in list(self._requests):
                request.error = request.error or closed()
                self._finish(request)
            while self.prefixes is not None and self.prefixes.forget_one():
                pass

    def _lead(self) -> bool:
        """Compute one step; the lock is held before and after, and free meanwhile. False where there is nothing."""
        self._leading = True
        batch: list[tuple[Request, int]] = []
        try:
            batch = self._plan()
            if batch:
                self._lock.release()
                try:
                    self._compute(batch)
                finally:
                    self._lock.acquire()
        finally:
            self._leading = False
            for request, _ in batch:
                if request.done or request.error is not None:
                    self._finish(request)
                elif request.readers and request.news:
                    assert request.changed is not None
                    request.changed.notify_all()
            self._sweep()
            self._step_ended.notify_all()
        return bool(batch)

    def _appoint(self) -> None:
        """Wake one who waits, to lead."""
        for request in self._requests:
            if request.readers:
                assert request.changed is not None
                request.changed.notify()
                return

    def _compute(self, batch: list[tuple[Request, int]]) -> None:
        runs = [request.next_run(count) for request, count in batch]
        self.counts.steps += 1
        served = 0
        decoding = sum(request.pending == 1 for request, _ in batch)
        try:
            start = time.perf_counter()
            logits = self._executor.forward(runs)
            seconds, place = time.perf_counter() - start, 0
            self.policy.pace.observe(decoding, sum(len(run.tokens) for run in runs) - decoding, seconds)
            for (request, _), run in zip(batch, runs, strict=True):
                served += 1
                request.computed += len(run.tokens)
                request.last_step = self.counts.steps
                rows = logits[place : place + wanted_count(run)]
                place += len(rows)
                self._receive(request, rows, len(run.tokens), seconds)
        except BaseException as error:
            for request, _ in batch[served:]:  # as if the step had not been
                assert request.sequence is not None
                request.computed = self._executor.truncate(request.sequence, request.computed)
                if isinstance(error, Exception):
                    request.error = error
            if not isinstance(error, Exception):
                raise

    def _receive(self, request: Request, rows: np.ndarray, tokens: int, seconds: float) -> None:
        try:
            request.receive(rows, tokens, seconds)
        except NotFiniteError as error:
            request.error = located(error, self._executor, request.tokens[: request.computed])
        except Exception as error:
            request.error = error
        except BaseException:
            request.error = Interrupted("the answer was interrupted")
            raise

    def _plan(self) -> list[tuple[Request, int]]:
        """Who takes part in the next step and with how many tokens at most, pages for them set aside."""
        self._sweep()
        ready = [request for request in self._requests if request.pending and (request.readers or request.hungry)]
        for request in ready:
            if request.sequence is None and request.memory is not None and request.memory.sequence is not None:
                self._go_on(request, request.memory)
            if request.sequence is not None and not self._executor.serves(request.sequence, len(request.tokens)):
                request.computed = self._executor.truncate(request.sequence, 0)
        ready, counts = in_turn(ready), self.counts
        counts.running = sum(request.sequence is not None for request in self._requests)
        counts.waiting = len(self._requests) - counts.running
        decoding = sum(request.pending == 1 for request in ready)
        batch: list[tuple[Request, int]] = []
        short = False
        for request, count in zip(ready, hand_out(ready, self.policy.pace.beside(decoding)), strict=True):
            if not count or self._should_follow(request, ready):
                continue
            if self._seat(request, count, short):
                batch.append((request, min(count, request.pending)))
            else:
                short = True
        return batch or self._make_room(ready)

    def _should_follow(self, request: Request, ready: Sequence[Request]) -> bool:
        """Whether a request that has not begun waits for another one, which is reading the same beginning just now."""
        if request.sequence is not None or self.prefixes is None or not request.shares_prefix:
            return False
        found = self.prefixes.find(request.tokens)
        if found is None:
            return False
        holder, common, computed = found
        return common - computed >= BLOCK and any(holder is other for other in ready)

    def _seat(self, request: Request, count: int, short: bool) -> bool:
        """Set pages aside for a request, which is begun where that leaves enough to those that run."""
        if request.sequence is None:
            if short or self.counts.running >= self.policy.most_running:
                return False
            self._begin_with_prefix(request)
            if not self._admits(request):
                self._leave(request)
                return False
            self._open(request)
        assert request.sequence is not None
        return self._reserve(request.sequence, min(count, request.pending))

    def _begin_with_prefix(self, request: Request) -> None:
        """Take over what another sequence has computed of the same tokens."""
        if self.prefixes is None or not request.shares_prefix:
            return
        found = self.prefixes.find(request.tokens)
        if found is not None:
            request.sequence, request.computed = self.prefixes.take(found[0], found[2])
            request.reused = request.computed

    def _open(self, request: Request) -> None:
        """Begin a request, which others may follow from now on."""
        if request.sequence is None:
            request.sequence = self._executor.open_sequence()
        self.counts.running += 1
        if self.prefixes is not None and request.shares_prefix:
            self.prefixes.enter(request)
            self.prefixes.queries += len(request.tokens)
            self.prefixes.hits += request.computed

    def _leave(self, request: Request) -> None:
        """Close what a request has in the cache."""
        if self.prefixes is not None:
            self.prefixes.leave(request)
        if request.sequence is not None:
            self._executor.close_sequence(request.sequence)
        request.sequence, request.computed = None, 0

    def _reserve(self, sequence: int, count: int) -> bool:
        while not self._executor.reserve(sequence, count):
            if not self._forget_one():
                return False
        return True

    def _admits(self, request: Request) -> bool:
        """Whether all its tokens fit beside those that the others want, and a page more of each: one that was preempted
        would otherwise be computed anew just to be preempted again."""
        cost = self._executor.cost
        running = [other for other in self._requests if other.sequence is not None and other is not request]
        if not running:
            return True
        owed = sum(cost(len(other.tokens)) - cost(other.computed) + cost(1) for other in running)
        needed = cost(len(request.tokens)) - (cost(request.computed) if request.computed else 0) + owed
        while self._executor.room() < needed:
            if not self._forget_one():
                return False
        return True

    def _make_room(self, ready: list[Request]) -> list[tuple[Request, int]]:
        """Nobody fits: preempt those that came last, until the first one fits."""
        for first in ready:
            count = min(first.pending, BESIDE)
            if first.sequence is None:
                self._open(first)
            assert first.sequence is not None
            while not self._reserve(first.sequence, count):
                running = [other for other in self._requests if other.sequence is not None and other is not first]
                if running:
                    self._preempt(running[-1])
                elif count > 1:
                    count = 1
                else:
                    break
            else:
                return [(first, count)]
            first.error = UsageError(
                f"{len(first.tokens)} tokens do not fit into the cache",
                fix="give a shorter text, or load the model with more cache_bytes",
            )
            self._finish(first)
        return []

    def _preempt(self, request: Request) -> None:
        """Take the pages of a request, which is computed anew when there is room."""
        self.counts.preempted += 1
        self._leave(request)

    def _go_on(self, request: Request, memory: Memory) -> None:
        """Begin with what a memory has computed of the same tokens; the last one's logits are wanted in any case."""
        assert memory.sequence is not None
        self._kept.pop(memory.sequence, None)
        known = shared_tokens(memory.tokens, request.tokens[:-1])
        request.computed = self._executor.truncate(memory.sequence, known)
        request.sequence, memory.sequence = memory.sequence, None

    def _forget_one(self) -> bool:
        """Give up the prefix, or the memory, that was not used for longest; False where there is none."""
        if self.prefixes is not None and self.prefixes.forget_one():
            return True
        for sequence, reference in self._kept.items():
            memory = reference()
            if memory is not None:
                memory.sequence, memory.tokens = None, []
            del self._kept[sequence]
            self._executor.close_sequence(sequence)
            return True
        return False

    def _finish(self, request: Request) -> None:
        """Let go of a request: its sequence is closed, or goes to its memory."""
        del self._requests[request]
        request.finished = True
        memory, sequence = request.memory, request.sequence
        if self.prefixes is not None:
            self.prefixes.leave(request)
        if memory is not None:
            memory.sequence, memory.tokens, memory.busy = sequence, request.tokens[: request.computed], False
            if sequence is not None:
                self._kept[sequence] = weakref.ref(memory)
        elif sequence is not None:
            if self.prefixes is not None and request.worth_keeping:
                self.prefixes.keep(sequence, request.tokens[: request.computed])
            else:
                self._executor.close_sequence(sequence)
        request.sequence = None
        if request.readers:
            assert request.changed is not None
            request.changed.notify_all()

    def _sweep(self) -> None:
        """Free what was cancelled, and memories that nobody has any more."""
        for request in [request for request in self._requests if request.cancelled]:
            self._finish(request)
        for sequence in [sequence for sequence, memory in self._kept.items() if memory() is None]:
            del self._kept[sequence]
            self._executor.close_sequence(sequence)


def closed() -> UsageError:
    """What everything says that is called too late."""
    return UsageError("the model is closed")
