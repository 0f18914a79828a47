"""A plugin's options: a frozen dataclass whose fields are either identity (they change the output) or runtime (they do not).

::

    @dataclass(frozen=True)
    class SDXL:
        checkpoint: str = checkpoint("stabilityai/stable-diffusion-xl-base-1.0")   # identity: by revision or content
        steps: int = option(30, help="denoising steps", ge=1)                      # identity
        offload: bool = runtime(False, help="keep idle parts off the device")      # not part of the identity

A plain default (``steps: int = 30``) is an identity field too.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import hashlib
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from synthvlm.errors import OptionError

_KEY = "synthvlm"


def option(default: Any, *, help: str = "", **constraints: Any) -> Any:
    """Return an identity field: changing it makes other output. ``constraints``: pydantic's (``ge``, ``le``, ``gt``, ``lt`` …)."""
    return _field(default, "identity", help, constraints)


def runtime(default: Any, *, help: str = "", **constraints: Any) -> Any:
    """Return a runtime field: changing it changes speed or place, never the output."""
    return _field(default, "runtime", help, constraints)


def checkpoint(
    default: str | None, *, help: str = "checkpoint: a local directory or a hub id (name or name@revision)", layout: str = "any"
) -> Any:
    """Return a field that names a checkpoint.

    It is resolved and fetched once, before workers start; it counts in the identity by its hub revision or by the content
    of the local directory, never by its path. ``layout`` tells what to fetch of a hub repository: ``diffusers``,
    ``open_clip`` or ``any``.
    """
    return _field(default, "checkpoint", help, {}, layout=layout)


def _field(default: Any, role: str, help: str, constraints: Mapping[str, Any], **extra: Any) -> Any:
    metadata = {_KEY: {"role": role, "help": help, "constraints": dict(constraints), **extra}}
    if isinstance(default, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """What there is to know of one option, for help, listing and checking."""

    name: str
    type: Any
    default: Any
    role: str
    help: str
    constraints: Mapping[str, Any]
    layout: str = "any"

    @property
    def type_name(self) -> str:
        """Return the type as a user would read it: ``int``, ``a | b | c`` for a choice."""
        return _type_name(self.type)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(str(a) for a in typing.get_args(kind))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " | ".join(_type_name(a) for a in typing.get_args(kind))
    return "none" if kind is type(None) else getattr(kind, "__name__", str(kind))


def describe(cls: type) -> list[OptionInfo]:
    """List the options of an options class, in order of definition."""
    hints = typing.get_type_hints(cls)
    infos = []
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        meta = f.metadata.get(_KEY, {"role": "identity", "help": "", "constraints": {}})
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if type(default) is int and hints[f.name] is not int and float in (hints[f.name], *typing.get_args(hints[f.name])):
            default = float(default)  # `guidance: float = 7` and -o guidance=7 are one identity
        infos.append(OptionInfo(f.name, hints[f.name], default, meta["role"], meta["help"], meta["constraints"], meta.get("layout", "any")))
    return infos


def build(cls: type, values: Mapping[str, Any], owner: str, preset: str | None = None) -> Any:
    """Make an options object of ``cls`` from ``values`` (strings from the command line or typed values from a recipe).

    Raises OptionError, naming ``owner``, for an unknown preset or option, an ill-typed value, or one out of range.
    """
    known = {info.name: info for info in describe(cls)}
    merged: dict[str, Any] = {}
    if preset is not None:
        presets: Mapping[str, Mapping[str, Any]] = getattr(cls, "presets", {})
        if preset not in presets:
            way_on = f"it has: {', '.join(presets)}" if presets else "it has none"
            raise OptionError(f"{owner} has no preset {preset!r}", way_on)
        merged.update(presets[preset])
    merged.update(values)
    checked: dict[str, Any] = {}
    for name, value in merged.items():
        name = name.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            way_on = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'no options'}"
            raise OptionError(f"{owner} has no option {name!r}", way_on)
        checked[name] = _validate(known[name], value, owner)
    defaults = {n: info.default for n, info in known.items() if info.default is not dataclasses.MISSING}
    missing = [n for n in known if n not in defaults and n not in checked]
    if missing:
        raise OptionError(f"{owner} needs the option {missing[0]!r}", f"give it with -o {missing[0]}=…")
    try:
        return cls(**defaults | checked)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{owner}: {error}") from error


def _validate(info: OptionInfo, value: Any, owner: str) -> Any:
    from pydantic import Field, TypeAdapter, ValidationError

    optional = type(None) in typing.get_args(info.type)
    if isinstance(value, str) and optional and value.lower() in ("none", "null", ""):
        return None
    kind: Any = typing.Annotated[info.type, Field(**info.constraints)] if info.constraints else info.type
    try:
        return TypeAdapter[Any](kind).validate_python(value, strict=False)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise OptionError(f"{owner}: option {info.name}={value!r} is not right: {reason}", f"it wants {info.type_name}") from error


def as_dict(options: Any, roles: Iterable[str] = ("identity", "checkpoint", "runtime")) -> dict[str, Any]:
    """Return the values of an options object whose role is in ``roles``, as JSON-able data."""
    wanted = set(roles)
    return {info.name: _plain(getattr(options, info.name)) for info in describe(type(options)) if info.role in wanted}


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON would give it back: what is read from a run must equal what was written."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def digest(data: Any) -> str:
    """Return the SHA-256 (hex) of ``data`` as canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
