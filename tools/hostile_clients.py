"""Clients that misbehave, against a server that must not mind.

    python tools/hostile_clients.py URL [--drops N] [--slow N] [--bad N] [--requests N] [--pid PID]

Clients that leave at random moments, slow readers, bodies of a gigabyte, malformed requests, many requests; then
nothing must run or wait, and the server must answer. With --pid its memory is watched. The status is 1 where something
is wrong; figures are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ggq.serve.client import Client

WORDS = "time year people way day man thing woman life child world school state family".split()


class Target:
    """The server.

    Args:
        url: Its address.
        pid: Of its process, 0 where it is not known.
    """

    def __init__(self, url: str, pid: int) -> None:
        parts = urlsplit(url)
        self.client, self._pid = Client(url), pid
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.model = self.client.models()[0]

    def memory(self) -> float:
        """Megabytes that the server holds; 0 where its process is not known."""
        if not self._pid:
            return 0.0
        with open(f"/proc/{self._pid}/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))

    def body(self, chance: random.Random, tokens: int, words: int = 60, stream: bool = True) -> bytes:
        """A request."""
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, words)))
        document = {"model": self.model, "prompt": text, "max_tokens": tokens, "stream": stream, "temperature": 0}
        return json.dumps(document).encode()

    def open(self, body: bytes) -> socket.socket:
        """A connection with a request under way."""
        sock = socket.create_connection(self.address, timeout=120)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        return sock

    def idle(self, seconds: float = 60) -> float:
        """Seconds until nothing runs or waits.

        Raises:
            AssertionError: Something still does.
        """
        start = time.monotonic()
        while True:
            state = json.loads(self.client._whole("GET", "/state"))
            busy = [each for each in state["models"] if each.get("running") or each.get("waiting")]
            if not busy:
                return time.monotonic() - start
            assert time.monotonic() - start < seconds, f"still busy: {busy}"
            time.sleep(0.05)


def at_once(count: int, work: Callable[[random.Random], None], threads: int = 64) -> None:
    """Do something so many times in threads."""
    order, lock = iter(range(count)), threading.Lock()
    problems: list[BaseException] = []

    def run() -> None:
        while True:
            with lock:
                number = next(order, None)
            if number is None:
                return
            try:
                work(random.Random(number))
            except BaseException as problem:
                problems.append(problem)
                return

    several = [threading.Thread(target=run) for _ in range(min(threads, count))]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    if problems:
        raise problems[0]


def drop(target: Target, chance: random.Random) -> None:
    """Leave at a random moment: in the head, in the prompt, in the answer."""
    with target.open(target.body(chance, 400, words=chance.choice([5, 200]))) as sock:
        time.sleep(chance.random() * chance.choice([0.01, 0.3, 2.0]))
        if chance.random() < 0.5:
            sock.settimeout(0.05)
            try:
                sock.recv(chance.randint(1, 5000))
            except TimeoutError:
                pass
        if chance.random() < 0.3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset instead of an end


def read_slowly(target: Target, chance: random.Random) -> None:
    """Take a few bytes now and then, to the end."""
    with target.open(target.body(chance, 60)) as sock:
        data = b""
        while b"[DONE]" not in data[-64:]:
            piece = sock.recv(600)
            assert piece, f"a slow reader was left: {data[-200:]!r}"
            data += piece
            time.sleep(0.05)


def ask(target: Target, chance: random.Random) -> None:
    """A plain request."""
    with target.open(target.body(chance, 4, 30, False)) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"


def gigabyte(target: Target, chance: random.Random) -> None:
    """A body of a gigabyte, told before it comes or not: it is refused long before its end."""
    told = chance.random() < 0.5
    with socket.create_connection(target.address, timeout=60) as sock:
        kind = f"Content-Length: {1 << 30}" if told else "Transfer-Encoding: chunked"
        sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n\r\n".encode())
        block = b" " * (1 << 20)
        sent = 0
        try:
            for _ in range(1024):
                sock.sendall(block if told else b"%x\r\n%b\r\n" % (len(block), block))
                sent += len(block)
        except OSError:
            pass
        assert sent < 200 << 20, f"{sent} bytes of a body were taken"


def malformed(target: Target, chance: random.Random, found: Counter[str]) -> None:
    """Something that is no request, or a wrong one."""
    good = target.body(chance, 4, stream=False)
    data = bytearray(good)
    kind = chance.randrange(6)
    if kind == 0:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 1:
        data = data[: chance.randrange(len(data))]
    elif kind == 2:
        data = bytearray(json.dumps(nonsense(chance)).encode())
    elif kind == 3:
        wrong = {**json.loads(good), chance.choice(["n", "stop", "prompt", "logprobs", "seed"]): nonsense(chance)}
        data = bytearray(json.dumps(wrong).encode())
    with socket.create_connection(target.address, timeout=120) as sock:
        if kind == 4:
            sock.sendall(bytes(chance.randrange(256) for _ in range(chance.randint(1, 300))) + b"\r\n\r\n")
        elif kind == 5:
            head = chance.choice(["POST /v1/completions HTTP/9.9", "GET /../../etc/passwd HTTP/1.1", "PUT / HTTP/1.1"])
            sock.sendall(head.encode() + b"\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        else:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + bytes(data))
        if kind == 4:
            sock.shutdown(socket.SHUT_WR)
        first = sock.recv(64)
    status = first[9:12].decode("latin-1") if first.startswith(b"HTTP/") else "closed"
    found[status] += 1
    assert not status.startswith("5"), (status, bytes(data[:200]))


def nonsense(chance: random.Random, depth: int = 0) -> Any:
    """JSON of any kind."""
    kind = chance.randrange(8 if depth < 4 else 6)
    if kind < 6:
        return chance.choice([None, True, -1, 10**30, 1e300, "", "\ud800", "x" * 3000, 0.5, "\x00"])
    if kind == 6:
        return [nonsense(chance, depth + 1) for _ in range(chance.randrange(5))]
    return {str(chance.random()): nonsense(chance, depth + 1) for _ in range(chance.randrange(5))}


def main() -> None:
    """Run everything that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    for name, count in (("drops", 200), ("slow", 50), ("bad", 10000), ("requests", 5000), ("pid", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    given = parser.parse_args()
    target = Target(given.url, given.pid)
    statuses: Counter[str] = Counter()
    parts: list[tuple[str, int, Callable[[random.Random], None], int]] = [
        ("clients that leave", given.drops, lambda chance: drop(target, chance), 64),
        ("slow readers", given.slow, lambda chance: read_slowly(target, chance), 64),
        ("bodies of a gigabyte", 4, lambda chance: gigabyte(target, chance), 4),
        ("malformed requests", given.bad, lambda chance: malformed(target, chance, statuses), 16),
        (
            "requests",
            given.requests,
            lambda chance: ask(target, chance),
            16,
        ),
    ]
    for what, count, work, threads in parts:
        before, start = target.memory(), time.monotonic()
        at_once(count, work, threads)
        seconds, rest = time.monotonic() - start, target.idle()
        memory = f", {before:.0f} to {target.memory():.0f} MB" if given.pid else ""
        print(f"{count} {what}: {seconds:.1f} s, idle {rest:.2f} s later{memory}", flush=True)
    print("answers to malformed requests:", dict(sorted(statuses.items())))
    target.client.post("/v1/completions", {"model": target.model, "prompt": "x", "max_tokens": 1})
    print("the server answers")


if __name__ == "__main__":
    main()
