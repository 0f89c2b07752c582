"""Structures to TOML text, with their descriptions as comments: what `smpc-fl init` and a local federation write.

Covers the flat structures of `config.py`: strings, numbers, booleans, paths, lists of strings, one level of tables and
lists of tables. (The standard library reads TOML and does not write it.)
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta

WIDTH = 100


def toml_value(value: object) -> str:
    """One TOML value. Strings in JSON's escaping, which TOML's basic strings share."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML spelling for {type(value).__name__}")


def _meta(hint: object) -> list[Meta]:
    return [extra for extra in get_args(hint)[1:] if isinstance(extra, Meta)] if get_origin(hint) is Annotated else []


def _description(hint: object) -> str:
    return next((meta.description for meta in _meta(hint) if meta.description), "")


def description_of(kind: type[msgspec.Struct], key: str) -> str:
    """What the field `key`, such as "policy.k_min", is about; "" if there is no such field."""
    name, _, rest = key.partition(".")
    hint = get_type_hints(kind, include_extras=True).get(name)
    if not rest:
        return _description(hint)
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return description_of(inner, rest) if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else ""


def _comment(hint: object) -> list[str]:
    """A field's description in comment lines."""
    return [f"# {line}" for line in textwrap.wrap(_description(hint), WIDTH - 2)]


def _example(hint: object, value: object) -> object:
    """What to show for a field that is not set: its description's example, or the default itself."""
    return next((meta.examples[0] for meta in _meta(hint) if meta.examples), value)


def _is_table(value: object) -> bool:
    return isinstance(value, msgspec.Struct)


def _is_table_list(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(_is_table(item) for item in value)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def _lines(struct: msgspec.Struct, comments: bool, prefix: str = "") -> list[str]:
    hints = get_type_hints(type(struct), include_extras=True)
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    plain: list[str] = []
    tables: list[str] = []
    for name in (hint for hint in hints if hint in fields):
        value, default = getattr(struct, name), _default(fields[name])
        note = _comment(hints[name]) if comments else []
        if isinstance(value, msgspec.Struct):
            if comments or value != default:
                tables += ["", *note, f"[{prefix}{name}]", *_lines(value, comments, f"{prefix}{name}.")]
        elif _is_table_list(value):
            for number, item in enumerate(value):
                first = note if number == 0 else []
                tables += ["", *first, f"[[{prefix}{name}]]", *_lines(item, comments, f"{prefix}{name}.")]
        elif value is None or value == () or (value == default and default is not NODEFAULT):
            if comments:
                plain += [*note, f"# {name} = {toml_value(_example(hints[name], value))}", ""]
        else:
            plain += [*note, f"{name} = {toml_value(value)}", *([""] if comments else [])]
    return plain + tables


def struct_to_toml(struct: msgspec.Struct, *, comments: bool = False) -> str:
    """TOML text of a structure. Fields that have their default are left out, or, with `comments`, commented out."""
    lines = []
    config = struct.__struct_config__
    if config.tag_field is not None:
        lines.append(f"{config.tag_field} = {toml_value(config.tag)}")
        if comments:
            lines.append("")
    text = "\n".join(lines + _lines(struct, comments))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
