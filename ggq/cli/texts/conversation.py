"""A conversation on the command line: turns, and what else may be typed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ggq.cli import generation as cli
from ggq.cli.output import printable
from ggq.cli.server.remote import RemoteModel, RemoteStream
from ggq.cli.texts.thoughts import Answer
from ggq.cli.texts.typing import editing, read_message
from ggq.errors import GGQError, UsageError, nearest
from ggq.format.unfinished import replacing
from ggq.generate.model import Model
from ggq.generate.options import Options
from ggq.generate.stream import Stream
from ggq.text.template import ChatTemplate, Message, named_templates, template_variables

FULL = 0.8
"""Share of the model's context from which on a person is warned."""

HELP = """\
/help         this list
/system TEXT  how the model shall behave; without TEXT, as it likes
/set NAME=X   an option, such as temperature=0.7; /set lists them
/regen        answer the last question again
/clear        forget the conversation
/save FILE    write the conversation as JSON; /load FILE goes on with one
/quit         end, as does Ctrl-D; Ctrl-C interrupts an answer
\"\"\"           begins and ends a message of several lines"""

SETTINGS: dict[str, Callable[[str], Any]] = {
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
}
"""Options that /set changes, and how it reads them."""


def chosen_template(model: Model, name: str) -> ChatTemplate:
    """A chat template by name, or from a file.

    Raises:
        UsageError: There is neither; the file is no text.
    """
    known = named_templates(model.reader.assets, model.reader.path)
    source = known.get(name)
    if source is None:
        if not Path(name).exists():
            there = f"; it has {', '.join(known)}" if known else ""
            fix = nearest(name, known) or "give the file of a template, or one of the model's"
            raise UsageError(f"no template {name!r} in the model, and no such file{there}", fix=fix)
        source = cli.read_text(Path(name))
    variables = template_variables(model.reader.assets, model.reader.path)
    return ChatTemplate(source, variables, model.reader.path, model.config.context_length)


class Conversation:
    """The turns between a person and a model.

    Args:
        model: Answers.
        system: The message before all others, if any.
        options: How it answers.
        verbose: Whether the speed of each answer is told.
        session: A file that the conversation goes on from, if it is there, and that is written after each answer.

    Raises:
        UsageError: The session is no conversation, or has a message before all others besides `system`.
    """

    def __init__(
        self,
        model: Model | RemoteModel,
        system: str | None,
        options: Options,
        *,
        verbose: bool = False,
        session: Path | None = None,
    ) -> None:
        self.session = session
        self.model, self.options, self.verbose = model, options, verbose
        self.messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.memory: Any = model.remember()
        self.commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: say(HELP),
            "system": self.system,
            "set": self.set,
            "regen": self.regenerate,
            "clear": lambda _: self.forget(),
            "save": self.save,
            "load": self.load,
        }

    def resume(self) -> None:
        """Go on with the session, where there is one."""
        if self.session is None or not self.session.exists():
            return
        before = self.messages
        self.load(str(self.session))
        if before and before != self.messages[:1]:
            fix = "leave --system out, or change it by /system in the conversation"
            raise UsageError("the session begins with another message than --system", path=self.session, fix=fix)

    def keep(self) -> None:
        """Write the session; a conversation of which nothing can be kept goes on."""
        if self.session is None:
            return
        try:
            with replacing(self.session, b'"role"') as file:
                file.write((json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n").encode("utf-8"))
        except GGQError as problem:
            say(f"note: {problem}")

    def talk(self) -> None:
        """Ask and answer until the person ends it."""
        self.resume()
        if sys.stdin.isatty():
            say("/help lists what may be typed besides messages, /quit ends")
        with editing():
            while (message := read_message("/quit or Ctrl-D ends")) not in (None, "/quit", "/exit", "/bye"):
                assert message is not None
                try:
                    self.heed(message)
                except GGQError as problem:
                    say(f"error: {problem}")

    def heed(self, message: str) -> None:
        """Answer a message, or do what it says behind a slash.

        Raises:
            UsageError: There is no such command, or it cannot be done.
        """
        name, _, rest = message.partition(" ")
        if not message.startswith("/") or "\n" in name or "/" in name[1:]:  # a path is a message
            if message:
                self.turn(message)
            return
        command = self.commands.get(name[1:])
        if command is None:
            raise UsageError(f"there is no {name}", fix=nearest(name[1:], self.commands) or "/help lists what there is")
        command(rest.strip())

    def system(self, text: str) -> None:
        """Say how the model shall behave from now on."""
        others = [message for message in self.messages if message["role"] != "system"]
        self.messages = [*([cast(Message, {"role": "system", "content": text})] if text else []), *others]

    def set(self, text: str) -> None:
        """Change options, or list them."""
        if not text:
            for name in SETTINGS:
                value = self.options.get(name)
                say(f"{name}={'as the model says' if value is None else value}")
            return
        for word in shlex.split(text):
            name, equals, value = word.partition("=")
            name = name.replace("-", "_")
            if name not in SETTINGS:
                raise UsageError(f"there is no option {name!r}", fix=nearest(name, SETTINGS) or "/set lists them")
            try:
                self.options[name] = SETTINGS[name](value) if equals and value else None  # type: ignore[literal-required]
            except ValueError:
                raise UsageError(f"{value!r} is no number for {name}") from None

    def regenerate(self, _: str) -> None:
        """Answer the last question again."""
        asked = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not asked:
            raise UsageError("there is no question to answer again")
        question = str(self.messages[asked[-1]]["content"])
        self.messages = self.messages[: asked[-1]]
        self.turn(question)

    def forget(self) -> None:
        """Go back to the beginning; what the model is told about itself stays."""
        self.messages = [message for message in self.messages if message["role"] == "system"]

    def save(self, text: str) -> None:
        """Write the conversation to a file."""
        path = _path(text)
        try:
            path.write_text(json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write: {error.strerror}", path=path) from None
        say(f"{len(self.messages)} messages written to {printable(str(path))}")

    def load(self, text: str) -> None:
        """Go on with the conversation in a file."""
        path = _path(text)
        try:
            found = json.loads(cli.read_text(path))
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(map(_is_message, found)):
            raise UsageError("no conversation that /save has written", path=path)
        self.messages = found
        say(f"{len(found)} messages read from {printable(str(path))}")

    def turn(self, question: str) -> None:
        """One question and its answer; an answer cut off by Ctrl-C stays in the conversation as far as it came."""
        self.messages.append({"role": "user", "content": question})
        try:
            stream: Stream | RemoteStream = self.model.stream_chat(self.messages, self.memory, **self.options)
        except UsageError:
            self.messages.pop()
            raise
        text = self._show(stream)
        sys.stdout.write("\n")
        sys.stdout.flush()
        self.messages.append({"role": "assistant", "content": text})
        self.keep()
        if self.verbose:
            say(stream.figures if isinstance(stream, RemoteStream) else cli.figures(stream.timing))
        if isinstance(stream, Stream) and isinstance(self.model, Model):
            self.warn(len(stream.answer.prompt) + len(stream.answer.tokens), self.model.config.context_length)

    def _show(self, stream: Stream | RemoteStream) -> str:
        """Show an answer as it comes; what it says."""
        if not (isinstance(stream, Stream) and isinstance(self.model, Model)):
            try:
                for piece in stream:
                    cli.show(piece)
            except KeyboardInterrupt:
                stream.close()
            return stream.answer.text
        answer = Answer(self.model, self.model.chat_template, stream, cli.show)
        try:
            answer.run()
        except KeyboardInterrupt:
            answer.close()
        return answer.text

    def warn(self, tokens: int, room: int) -> None:
        """Tell when little of the context is left."""
        if tokens >= FULL * room:
            say(f"the conversation takes {tokens} of the {room} tokens that the model reads; /clear forgets it")


def say(text: str) -> None:
    """What is said beside the conversation."""
    print(text, file=sys.stderr, flush=True)


def _path(text: str) -> Path:
    if not text:
        raise UsageError("the name of a file is missing", fix="/save FILE or /load FILE")
    return Path(text).expanduser()


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))
