"""Calls of functions in the text of a model: the forms of the families, and one for models that know none.

A form says how a call is written, which gives a grammar that keeps names and arguments to the tools' schemas, and a
parser. Adding a form is one object in FORMS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggq.serve.turn.braced import QUOTE, braced, braced_rule, braced_rules
from ggq.serve.turn.closed import closed
from ggq.serve.turn.lark import TokenOf, escaped, json_of, marked, quoted
from ggq.serve.turn.reasoning import Tags
from ggq.serve.turn.turn import Call, Tool

MOST_CALLS = 8
"""Calls of one answer: a small model would go on for ever."""


@dataclass(frozen=True)
class Form:
    """How calls are written.

    Args:
        name: Of the form.
        marks: A template that contains one of these texts uses the form.
        begin: Before a call.
        end: Behind it.
        between: Before every call but the first.
        listed: Whether `begin` and `end` enclose a JSON array of all calls.
        arguments: The key of a call's arguments.
        written: Writes a call's grammar otherwise than as JSON with a name and arguments.
        parsed: Reads what is between `begin` and `end` otherwise than as JSON.
        rules: More rules that `written` refers to.
        inside: Texts between `begin` and `end` that may be added tokens.
    """

    name: str
    marks: tuple[str, ...]
    begin: str
    end: str
    between: str = "\n"
    listed: bool = False
    arguments: str = "arguments"
    written: Callable[[Tool, TokenOf], str] | None = None
    parsed: Callable[[str], list[Call]] | None = None
    rules: Callable[[TokenOf], list[str]] | None = None
    inside: tuple[str, ...] = ()

    def calls(self, text: str) -> list[Call]:
        """The calls in what is between `begin` and `end`; none where that is no call."""
        if self.parsed is not None:
            return self.parsed(text)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return []
        several = found if isinstance(found, list) else [found]
        return [call for each in several if (call := json_call(each)) is not None]


def json_call(value: Any) -> Call | None:
    """A call in parsed JSON: an object with a name and arguments, which some write as parameters."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if key in value), {})
    return Call(value["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


def named_json(text: str) -> list[Call]:
    """name[ARGS]{...}"""
    name, mark, arguments = text.partition("[ARGS]")
    return [Call(name.strip(), arguments.strip())] if mark and is_object(arguments) else []


FUNCTION = re.compile(r"<function=([^>]+)>(.*?)</function>", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
PAIR = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def tagged(text: str) -> list[Call]:
    """<function=name><parameter=key>value</parameter></function>"""
    return [Call(name.strip(), _joined(PARAMETER.findall(body))) for name, body in FUNCTION.findall(text)]


def paired(text: str) -> list[Call]:
    """name, then <arg_key>key</arg_key><arg_value>value</arg_value>"""
    name = text.split("<arg_key>")[0].strip()
    return [Call(name, _joined(PAIR.findall(text)))] if name else []


def _joined(pairs: Sequence[tuple[str, str]]) -> str:
    """Arguments whose values are JSON, or else text."""
    found = {}
    for key, value in pairs:
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return json.dumps(found, ensure_ascii=False)


def is_object(text: str) -> bool:
    """Whether a text is an object in JSON."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _named_rule(tool: Tool, token: TokenOf) -> str:
    return f"{quoted(tool.name)} {marked('[ARGS]', token)} %json {json_of(closed(tool.parameters))}"


def _each_argument(tool: Tool, token: TokenOf, before: Callable[[str], Sequence[str]], after: Sequence[str]) -> str:
    """The arguments of a tool one after the other: those required, and of the others any.

    Args:
        tool: The tool.
        token: See `grammar`.
        before: What stands before the value of a key, in pieces of which each may be a token.
        after: What stands behind it.
    """
    required, parts = tool.parameters.get("required", ()), []
    for key, schema in tool.parameters.get("properties", {}).items():
        start, end = (" ".join(marked(piece, token) for piece in pieces) for pieces in (before(key), after))
        value = f"%json {json_of(schema)}"
        if schema.get("type") == "string" and "enum" not in schema:
            mark = escaped(after[0])
            value = "/(?s:[^<]+)/?"
            if token(after[0]) is None:  # one terminal, or the text would take the beginning of the mark too
                value = rf"/(?s:[^<]*){mark}/"
                end = " ".join(marked(piece, token) for piece in after[1:])
        parts.append(f"({start} {value} {end}){'' if key in required else '?'}")
    return " ".join(parts)


def _tagged_rule(tool: Tool, token: TokenOf) -> str:
    inside = _each_argument(tool, token, lambda key: [f"<parameter={key}>\n"], ["\n</parameter>", "\n"])
    return f'{quoted(f"<function={tool.name}>" + chr(10))} {inside} "</function>"'


def _paired_rule(tool: Tool, token: TokenOf) -> str:
    def before(key: str) -> list[str]:
        return ["<arg_key>", key, "</arg_key>", "\n", "<arg_value>"]

    return f"{quoted(tool.name + chr(10))} {_each_argument(tool, token, before, ['</arg_value>', chr(10)])}"


GENERIC = Form("generic", (), "<tool_call>\n", "\n</tool_call>")
"""For templates that know no tools; the system message tells the model of it."""

FORMS = (
    Form(
        *("braced", ("<|tool_call>",), "<|tool_call>", "<tool_call|>", ""),
        written=braced_rule,
        parsed=braced,
        rules=braced_rules,
        inside=(QUOTE,),
    ),
    Form("tagged", ("<function=",), "<tool_call>\n", "\n</tool_call>", written=_tagged_rule, parsed=tagged),
    Form("paired", ("<arg_key>",), "<tool_call>", "</tool_call>", written=_paired_rule, parsed=paired),
    Form("named", ("[ARGS]",), "[TOOL_CALLS]", "", "", written=_named_rule, parsed=named_json, inside=("[ARGS]",)),
    Form("list", ("[TOOL_CALLS]",), "[TOOL_CALLS]", "", listed=True),
    Form("granite", ("<|tool_call|>",), "<|tool_call|>", "", listed=True),
    Form("tags", ("<tool_call>",), "<tool_call>\n", "\n</tool_call>"),
    Form("bare", ("<|python_tag|>", '"parameters"'), "", "", arguments="parameters"),
)
"""The forms of the families; the first one with a mark in the template is taken."""

INSTRUCTIONS = """You may call functions. They are described by JSON, one a line:
{tools}
To call one, write nothing but
<tool_call>
{{"name": the function's name, "arguments": an object of its arguments}}
</tool_call>"""


def form_of(template: str) -> Form:
    """The form that a chat template uses."""
    if "tools" not in template:
        return GENERIC
    return next((form for form in FORMS if any(mark in template for mark in form.marks)), GENERIC)


def explained(tools: Sequence[Tool]) -> str:
    """What the system message says of tools where the template does not."""
    return INSTRUCTIONS.format(tools="\n".join(json.dumps(tool.document["function"]) for tool in tools))


def grammar(
    form: Form,
    tools: Sequence[Tool],
    *,
    must: bool,
    parallel: bool,
    token: TokenOf,
    tags: Tags | None = None,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """A Lark grammar, in llguidance's form, of answers that call tools.

    Args:
        form: How calls are written.
        tools: Those that may be called.
        must: Whether the answer is calls and nothing else; else any text may come before them.
        parallel: Whether there may be several.
        token: The id of a text that is one added token, None where it is not.
        tags: Of thoughts that may come first.
        answer: The schema of an answer without calls; None for any text.
    """
    begin, end, between = (marked(text, token) for text in (form.begin, form.end, form.between + form.begin))
    if form.listed:
        schema: Any = {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_CALLS,
            "items": {"anyOf": [_call(form, tool) for tool in tools]},
        }
        if not parallel:
            schema["maxItems"] = 1
        body, more = f"%json {json_of(schema)}", ""
    elif form.written is not None:
        rules = [f"({form.written(tool, token)})" for tool in tools]
        body, more = " | ".join(rules), f"({between} call {end}){{0,{MOST_CALLS - 1}}}" if parallel else ""
    else:
        body = f"%json {json_of({'anyOf': [_call(form, tool) for tool in tools]})}"
        more = f"({between} call {end}){{0,{MOST_CALLS - 1}}}" if parallel and form.begin else ""
    calls = f"{begin} call {end} {more}"
    rules = [f"call: {body}", *(() if form.rules is None else form.rules(token))]
    if must or answer is not None:
        other = "" if must else " | answer"
        rules += [] if answer is None or must else [f"answer: %json {json_of(answer)}"]
        return "\n".join([f"start: {calls}{other}", *rules])
    either, terminals = _text_or(form, calls, end, more, token)
    return "\n".join([f"start: {_thoughts(tags, token)}({either})", *rules, *terminals])


def _text_or(form: Form, calls: str, end: str, more: str, token: TokenOf) -> tuple[str, list[str]]:
    """Any text, or calls, maybe behind some text: the alternatives and the terminals that they name."""
    if not form.begin:
        return f"{calls} | FREE", [r"FREE: /(?s:[^{].*)/"]
    mark = form.begin.strip()
    if token(mark) is not None:
        return f"FREE | FREE? {calls}", [r"FREE: /(?s:.+)/"]
    known, rest = escaped(mark), form.begin[form.begin.index(mark) + len(mark) :]
    free = rf"/(?s:.*)/ & ~/(?s:.*){known}(?s:.*)/"
    before = rf"/(?s:.*){known}/ & ~/(?s:.*){known}(?s:.+)/"
    follow = f"{marked(rest, token)} " if rest else ""
    return f"FREE | BEFORE {follow}call {end} {more}", [f"FREE: {free}", f"BEFORE: {before}"]


def _thoughts(tags: Tags | None, token: TokenOf) -> str:
    """Thoughts between tokens of their own, which a text may not contain."""
    begin, end = ("", "") if tags is None else (marked(each, token) for each in tags)
    return f"({begin} /(?s:.*)/ {end})? " if begin.startswith("<[") and end.startswith("<[") else ""


def _call(form: Form, tool: Tool) -> dict[str, Any]:
    properties = {"name": {"const": tool.name}, form.arguments: closed(tool.parameters)}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", form.arguments],
        "additionalProperties": False,
    }
