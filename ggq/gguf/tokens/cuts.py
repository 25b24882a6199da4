"""How texts are cut into words before merges, by "tokenizer.ggml.pre".

Each name stands for the tokenizer.json of the models that carry it: regular expressions and steps of the tokenizers
library. To add one, list it in CUTS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Steps = tuple[Any, ...]

DIGITS = {"type": "Digits", "individual_digits": True}
PUNCTUATION = {"type": "Punctuation", "behavior": "Isolated"}

ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = ENDING + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = ENDING + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
CASES = f"{BEFORE}{UPPER}*{LOWER}+%s|{BEFORE}{UPPER}+{LOWER}*%s"
"""A word in capitals, small letters, or one behind the other, with what may follow it."""
GPT4O = CASES % (f"{ENDING}?", f"{ENDING}?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
TEKKEN = CASES % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL

CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
CODE_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
DEEPSEEK3 = CODE_WORD + r"| ?[\p{P}\p{S}]+[\r\n]*" + TAIL
THREES = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
"""Threes of digits, counted from the right."""
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
NOT_HAN = "[{}&&[^\\p{{Han}}]]"
KIMI_UPPER = NOT_HAN.format(UPPER[1:-1])
KIMI_LOWER = NOT_HAN.format(LOWER[1:-1])
KIMI_K2 = (
    rf"[\p{{Han}}]+|{BEFORE}{KIMI_UPPER}*{KIMI_LOWER}+{ENDING}?|{BEFORE}{KIMI_UPPER}+{KIMI_LOWER}*{ENDING}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
)
LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-"
    "\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-"
    "\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e"
    "\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-"
    "\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943]+"
)
"""Letters that have a case, as DeepSeek LLM lists them."""


@dataclass(frozen=True)
class Cut:
    """A way to cut texts.

    Args:
        steps: Regular expressions that isolate what they match, and steps of the library, one after the other.
        normal: Form of Unicode that texts are brought to first; "" for none.
        whole: Whether a word that is a token is taken whatever the merges say.
        begins: Whether a text begins with its first token where the file says nothing.
    """

    steps: Steps
    normal: str = ""
    whole: bool = False
    begins: bool = False


_llama3, _gpt2, _digits, _qwen2 = Cut((LLAMA3,)), Cut((GPT2,)), Cut((DIGITS, GPT2)), Cut((QWEN2,))
_begins = replace(_llama3, whole=True, begins=True)
_deepseek3 = Cut((r"\p{N}{1,3}", CJK, DEEPSEEK3))
_gpt4o, _bloom = Cut((GPT4O,)), Cut((BLOOM,))
_bailing = Cut(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
)
_aya = Cut((r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O))
_deepseek_han = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

CUTS: dict[str, Cut] = {
    "gpt-2": _gpt2,
    "qwen2": replace(_qwen2, normal="NFC"),
    "llama-bpe": _begins,
    "smollm": _digits,
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _begins),
    "jina-v5-nano": _begins,
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), _llama3),
    **dict.fromkeys(("glm4", "glm5"), replace(_llama3, whole=True)),
    **dict.fromkeys(("phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0"), _gpt2),
    **dict.fromkeys(("mellum", "exaone4", "jais", "trillion", "granite-docling"), _gpt2),
    **dict.fromkeys(("jina-v1-en", "jina-v2-code", "roberta-bpe"), _gpt2),
    **dict.fromkeys(("mpt", "olmo", "modern-bert"), replace(_gpt2, normal="NFC")),
    **dict.fromkeys(("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), _digits),
    "command-r": replace(_digits, normal="NFC"),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez"), replace(_qwen2, normal="NFC")),
    **dict.fromkeys(("kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "grok-2"), _qwen2),
    "qwen35": Cut((QWEN35,)),
    "deepseek-llm": Cut(
        (
            "[\r\n]",
            LETTERS,
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            "\\s+$",
            _deepseek_han,
            DIGITS,
        )
    ),
    "deepseek-coder": Cut(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _deepseek_han, DIGITS)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _deepseek3),
    "falcon": Cut((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), _bloom),
    "viking": Cut((BLOOM, r"\p{N}")),
    "tekken": Cut((TEKKEN,), whole=True, begins=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _gpt4o),
    "granite-embed-multi-97m": replace(_gpt4o, whole=True),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _aya),
    "chameleon": Cut(
        ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", DIGITS, PUNCTUATION, GPT2),
        begins=True,
    ),
    "kimi-k2": Cut((KIMI_K2,)),
    "superbpe": Cut((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _bailing),
    "seed-coder": Cut(
        (ENDING + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)
    ),
    "ufakzeka": Cut((QWEN2.removeprefix(ENDING + "|"),)),
    "laguna": Cut((r"[^\n]+|[\n]+", QWEN2)),
    "minicpm5": Cut((r"\p{N}{1,3}", LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), whole=True),
    "exaone-moe": Cut(
        (
            ENDING + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "youtu": Cut(
        (
            "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
            "\ufe30-\ufe4f]+|[\u3105-\u312f]+|" + CJK,
            CASES % (f"{ENDING}?", f"{ENDING}?") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL,
        ),
        whole=True,
    ),
    "spark2_5": Cut((r"\p{N}{1,3}", CJK, CODE_WORD + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    "jais-2": Cut(
        (
            LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
            + "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
            + r"|\s{1}",
        )
    ),
    "afmoe": Cut(
        (
            THREES,
            "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
            "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
            DEEPSEEK3,
        )
    ),
    "default": Cut((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
"""The last is what files from before the key were read with."""

MASKS = ("jina-v2-de", "jina-v2-es", "jina-v2-code", "modern-bert")
"""Those whose mask takes the white space before it."""
