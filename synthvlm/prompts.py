"""Prompts as data: where they lie, and reading them strictly. ``prompts/<kind>/<name>.yaml`` ships with the package; a path serves as well."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthvlm.errors import InputError, OptionError
from synthvlm.resources import shipped

_ENDINGS = (".yaml", ".yml")


def names(kind: str) -> list[str]:
    """List the prompts of a kind (``instructions``, ``perspectives`` …) that ship with the package."""
    folder = shipped("prompts") / kind
    return sorted(p.stem for p in folder.glob("*.yaml")) if folder.is_dir() else []


def find(kind: str, name: str | os.PathLike[str]) -> Path:
    """Return the file of a prompt: ``name`` is one that ships with the package, or the path of a YAML file of the user's own.

    Raises OptionError if there is none.
    """
    text = os.fspath(name)
    if text.endswith(_ENDINGS) or os.sep in text:
        path = Path(text)
        if not path.is_file():
            raise OptionError(f"there is no file {text}", "give the path of a YAML file, or the name of one that ships with SynthVLM")
        return path
    known = names(kind)
    if text not in known:
        close = difflib.get_close_matches(text, known, n=1)
        there_are = f"there are: {', '.join(known) or 'none'}; or give the path of a YAML file"
        raise OptionError(f"{kind} has no {text!r}", f"did you mean {close[0]!r}? {there_are}" if close else there_are)
    return shipped("prompts") / kind / f"{text}.yaml"


def read(path: Path, fields: Mapping[str, type], optional: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Read a prompt file strictly: exactly ``fields``, each of its type, and perhaps some of ``optional``.

    Raises InputError, naming file and field, for whatever else is in it, a field that stands twice included.
    """
    import yaml

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}", "mend the file; indentation counts in YAML") from error
    wanted = {**fields, **(optional or {})}
    has = f"it has the fields: {', '.join(wanted)}"
    if not isinstance(data, dict):
        raise InputError(f"{path} does not hold fields and their values", has)
    for name in data:
        if name not in wanted:
            raise InputError(f"{path} has an unknown field {name!r}", has)
    for name in fields:
        if name not in data:
            raise InputError(f"{path} lacks the field {name!r}", has)
    for name, value in data.items():
        if not isinstance(value, wanted[name]) or not value:
            raise InputError(f"{path}: {name} is not a {wanted[name].__name__} with something in it", "see prompts/ for examples")
    return data


def instructions(name: str | os.PathLike[str] = "llava") -> list[str]:
    """Return the instruction wordings of ``name``, a shipped list or a path; raises OptionError or InputError."""
    path = find("instructions", name)
    wordings = read(path, {"instructions": list}, {"description": str})["instructions"]
    for wording in wordings:
        if not isinstance(wording, str) or not wording.strip():
            raise InputError(
                f"{path}: {wording!r} is not an instruction", "each is a line of text; put it in quotation marks if it holds a colon"
            )
        if "<image>" in wording:
            raise InputError(f"{path}: {wording!r} holds <image>, which the export adds itself", "leave it out")
    if len(set(wordings)) < len(wordings):
        raise InputError(f"{path} has an instruction twice", "leave one of them out")
    return [wording.strip() for wording in wordings]


def _loader() -> type:
    """Return YAML's safe loader, made to refuse a key that stands twice (it would silently take the last)."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping is no name of a field", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader
