"""The text and the bytes of single tokens."""

from __future__ import annotations

import re
from typing import Any

from ggq.generate.model import Model
from ggq.text.detokenize import REPLACEMENT

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The byte that each character stands for in the vocabularies of byte-level BPE, since GPT-2."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


ALPHABET = byte_alphabet()


class TokenTexts:
    """Texts of the tokens of a model, as a client may put them together.

    Args:
        model: Whose tokens.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[int, bytes] = {}

    def data(self, token: int) -> bytes:
        """The bytes of a token, which may be a part of a character."""
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def text(self, token: int) -> str:
        """Its text; a part of a character as OpenAI writes it: bytes:\\xe2."""
        data = self.data(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def described(self, token: int) -> dict[str, Any]:
        """Text and bytes."""
        return {"token": self.text(token), "bytes": list(self.data(token))}

    def _read(self, token: int) -> bytes:
        tokenizer = self._model.tokenizer
        written = tokenizer.id_to_token(token)
        if written is None or token in self._model.special_texts:
            return (written or "").encode()
        byte = BYTE.fullmatch(written)
        if byte:
            return bytes([int(byte[1], 16)])
        if "\u2581" in written:
            return written.replace("\u2581", " ").encode()
        text = tokenizer.decode([token], skip_special_tokens=False)
        if REPLACEMENT in text and all(character in ALPHABET for character in written):
            return bytes(ALPHABET[character] for character in written)
        return text.encode()
