"""A Python function as a tool for a chat model: its JSON schema, from type hints and a Google-style docstring."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from glassformer.errors import InputError

SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
BASIC: dict[Any, dict[str, Any]] = {
    **{kind: {"type": name} for kind, name in SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}


def get_json_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of a function, for `apply_chat_template(tools=...)`.

    Args:
        function: Has a docstring with an `Args:` section that describes every argument, and a type hint for each.
            A description that ends in `(choices: ["a", "b"])` lists the values allowed.

    Raises:
        InputError: A description or a type hint is missing, or a type has no form in JSON.

    Example:
        >>> get_json_schema(multiply)["function"]["parameters"]["required"]
        ['x', 'y']
    """
    name = getattr(function, "__name__", "operation")
    doc = inspect.getdoc(function)
    if not doc:
        raise InputError(f"{name} cannot be a tool without a docstring: describe it and its arguments there.")
    description, arguments, returned = _sections(doc.strip())
    schema = _parameters(function, name)
    result = schema["properties"].pop("return", None)
    for argument, entry in schema["properties"].items():
        if argument not in arguments:
            raise InputError(f"{name} cannot be a tool: its docstring's Args section lacks {argument!r}.")
        text = arguments[argument]
        if choices := re.search(r"\(choices:\s*(.*?)\)\s*$", text, flags=re.IGNORECASE):
            entry["enum"] = [item.strip() if isinstance(item, str) else item for item in json.loads(choices[1])]
            text = text[: choices.start()].strip()
        entry["description"] = text
    output = {"name": name, "description": description, "parameters": schema}
    if result is not None:
        output["return"] = result if returned is None else {**result, "description": returned}
    return {"type": "function", "function": output}


def tool_schemas(tools: list[Any] | None) -> list[dict[str, Any]] | None:
    """Functions become their schemas; schemas stay."""
    if tools is None:
        return None
    if wrong := [
        tool for tool in tools if not (isinstance(tool, dict) or inspect.isfunction(tool) or inspect.ismethod(tool))
    ]:
        raise InputError(f"A tool is a JSON schema or a function, not a {type(wrong[0]).__name__}.")
    return [tool if isinstance(tool, dict) else get_json_schema(tool) for tool in tools]


def _parameters(function: Callable[..., Any], name: str) -> dict[str, Any]:
    parameters = dict(inspect.signature(function).parameters)
    first = next(iter(parameters), None)
    if first in ("self", "cls") and parameters[first].annotation is inspect.Parameter.empty:
        del parameters[first]
    if bare := [key for key, parameter in parameters.items() if parameter.annotation is inspect.Parameter.empty]:
        raise InputError(f"{name} cannot be a tool: its argument {bare[0]!r} has no type hint.")
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise InputError(f"{name} cannot be a tool: a type hint is unknown ({error}).") from error
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {key: _schema(hint, name) for key, hint in hints.items() if key in parameters},
    }
    if "return" in hints:
        with suppress(InputError):  # a model never writes what a function returns: a type unknown to JSON stays out
            schema["properties"]["return"] = _schema(hints["return"], name)
    required = [key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    if required:
        schema["required"] = required
    return schema


def _schema(hint: Any, name: str) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        if isinstance(hint, type) and issubclass(hint, Enum):
            return _enum([member.value for member in hint], name)
        if hint in BASIC:
            return dict(BASIC[hint])
        if (media := _media(hint)) is not None:
            return {"type": media}
    elif origin is Union or origin is types.UnionType:
        return _union(arguments, name)
    elif origin is Literal:
        return _enum(list(arguments), name)
    elif origin is list:
        return {"type": "array", "items": _schema(arguments[0], name)} if arguments else {"type": "array"}
    elif origin is dict:
        values = {"additionalProperties": _schema(arguments[1], name)} if len(arguments) == 2 else {}
        return {"type": "object", **values}
    elif origin is tuple and not arguments:
        return {"type": "array"}
    elif origin is tuple and len(arguments) > 1 and ... not in arguments:
        return {"type": "array", "prefixItems": [_schema(argument, name) for argument in arguments]}
    raise InputError(f"{name} cannot be a tool: {hint} has no JSON schema; write the schema and pass that instead.")


def _union(arguments: tuple[Any, ...], name: str) -> dict[str, Any]:
    kinds = [_schema(argument, name) for argument in arguments if argument is not type(None)]
    if len(kinds) == 1:
        schema = kinds[0]
    elif all(kind.keys() == {"type"} and isinstance(kind["type"], str) for kind in kinds):
        names = sorted({kind["type"] for kind in kinds})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": kinds}
    return {**schema, "nullable": True} if type(None) in arguments else schema


def _enum(values: list[Any], name: str) -> dict[str, Any]:
    if not values or any(type(value) not in SCALARS for value in values):
        raise InputError(f"{name} cannot be a tool: the choices {values} are not all JSON values.")
    kinds = list(dict.fromkeys(SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _media(hint: Any) -> str | None:
    """Audio is a tensor and an image is a PIL image; neither library is imported to find out."""
    for module, kind, name in (("torch", "Tensor", "audio"), ("PIL.Image", "Image", "image")):
        if module in sys.modules and hint is getattr(sys.modules[module], kind, None):
            return name
    return None


def _sections(doc: str) -> tuple[str, dict[str, str], str | None]:
    """The description, the arguments' descriptions, and the description of the result."""
    end = r"[\n\s]*(?:Returns:|Raises:|\Z)"
    description = re.search(r"^(.*?)[\n\s]*(?:Args:|Returns:|Raises:|\Z)", doc, re.DOTALL)
    arguments = re.search(r"\n\s*Args:\n(.*?)" + end, doc, re.DOTALL)
    returned = re.search(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(?:Raises:|\Z)", doc, re.DOTALL)
    entries: dict[str, str] = {}
    indent: int | None = None
    current = ""
    for line in (arguments[1] if arguments else "").split("\n"):
        entry = re.match(r"([ \t]*)(\w+):\s*(.*)", line)
        # A line that is indented deeper than the entries continues the description above it.
        if entry and (indent is None or len(entry[1]) <= indent):
            indent, current = len(entry[1]), entry[2]
            entries[current] = entry[3].strip()
        elif line.strip() and current:
            entries[current] = f"{entries[current]} {line.strip()}".strip()
    return (description[1].strip() if description else ""), entries, (returned[1].strip() if returned else None)
