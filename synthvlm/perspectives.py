"""Perspectives: named captioning prompts as data. ``prompts/perspectives/*.yaml`` ship; a user's own file or folder serves as well.

A file, of which only ``prompt`` is required::

    description: the things in the picture, as a list
    prompt: |                       # Jinja2 over the sample: caption, id, image, and every other field that the input had
      Which things does this image show? …
    families:                       # other words for some models: text, or any of prompt, max_new_tokens
      minigpt4: Please list …
    max_new_tokens: 64              # 256
    repetition_penalty: 1.0
    script: latin                   # in which writing the answer should be: a name of synthvlm.screening.SCRIPTS, or any
    checks: {list: true, max_item_words: 3}     # fields of synthvlm.screening.Shape
    policy: {cut: trim, shape: retry}           # see synthvlm.screening
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synthvlm import prompts, screening
from synthvlm.errors import InputError, OptionError
from synthvlm.options import digest
from synthvlm.screening import Rules, Shape

DEFAULT = ("detail",)
MAX_NEW_TOKENS = 256
PRESETS: Mapping[str, Mapping[str, Any]] = {"clip-training": {"max_new_tokens": 77}}
"""Named settings for every perspective of a call: 77 new tokens, the context of CLIP's text tower."""
OWN_FIELDS = ("caption", "id", "image")
"""What a prompt can quote of every sample, where it has it; anything else is looked for among its other fields."""
RETRY_PENALTY = 1.15
"""Repetition penalty of the second try where the first looped, was empty or out of shape."""

_OPTIONAL: dict[str, type] = {
    "description": str,
    "families": dict,
    "max_new_tokens": int,
    "repetition_penalty": float,
    "script": str,
    "checks": dict,
    "policy": dict,
}


class RenderError(Exception):
    """A prompt cannot be put into words for a sample: it quotes a field that the sample lacks, say."""


@dataclasses.dataclass(frozen=True)
class Perspective:
    """A perspective as one family of models gets it: everything that its captions depend on."""

    name: str
    prompt: str
    max_new_tokens: int = MAX_NEW_TOKENS
    repetition_penalty: float = 1.0
    rules: Rules = dataclasses.field(default_factory=Rules)

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the sample's fields that the prompt quotes, sorted."""
        from jinja2 import meta

        environment = _environment()
        return tuple(sorted(meta.find_undeclared_variables(environment.parse(self.prompt)) - environment.globals.keys()))

    def render(self, sample: Mapping[str, Any]) -> str:
        """Return the prompt for a sample (field → value, None where it has none). Raises RenderError, for a field that it lacks, say."""
        if "{" not in self.prompt:
            return self.prompt
        try:
            return self._template.render({n: v for n, v in sample.items() if v is not None}).strip()
        except Exception as error:  # the file's own code, on whatever the field holds
            raise RenderError(f"the perspective {self.name} cannot be put into words for this image: {error}") from error

    @functools.cached_property
    def _template(self) -> Any:
        return _environment().from_string(self.prompt)

    def record(self) -> dict[str, Any]:
        """Return the perspective as data, with its digest: what a stage keeps of it."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "rules"}
        shape = {k: v for k, v in dataclasses.asdict(self.rules.shape).items() if v not in (0, False, ())}
        data |= {"checks": {k: list(v) if isinstance(v, tuple) else v for k, v in shape.items()}}
        data |= {"script": self.rules.script, "policy": dict(self.rules.policy), "screening": screening.REVISION}
        return data | {"fields": list(self.fields), "digest": digest({k: v for k, v in data.items() if k != "name"})[:32]}


def from_record(record: Mapping[str, Any]) -> Perspective:
    """Return the perspective that a stage keeps as ``record``."""
    rules = Rules(_shape(record["checks"]), record["script"], dict(record["policy"]))
    return Perspective(record["name"], record["prompt"], record["max_new_tokens"], record["repetition_penalty"], rules)


def resolve(
    names: Iterable[str | os.PathLike[str]], family: str = "", preset: str | None = None, max_new_tokens: int | None = None
) -> dict[str, Perspective]:
    """Return the perspectives, by name, as ``family`` gets them, in the order asked for.

    Each of ``names`` is one that ships, the path of a YAML file, or a folder of them. ``preset`` is a name of PRESETS;
    ``max_new_tokens`` overrides every limit. Raises OptionError or InputError, naming file and field.
    """
    found: dict[str, Perspective] = {}
    for path in files(names):
        if path.stem in found:
            raise OptionError(f"two perspectives are named {path.stem!r}", "rename one of the files: captions are told apart by that name")
        found[path.stem] = load(
            path, family, {**PRESETS.get(preset or "", {}), **({"max_new_tokens": max_new_tokens} if max_new_tokens else {})}
        )
    if not found:
        raise OptionError("no perspective is asked for", f"there are: {', '.join(prompts.names('perspectives'))}")
    return found


def files(names: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the file of each name, all of a folder's for a folder. Raises OptionError for a name that is none."""
    paths = []
    for name in names:
        folder = Path(name)
        if folder.is_dir() and os.fspath(name) not in prompts.names("perspectives"):
            inside = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
            if not inside:
                raise OptionError(f"there is no perspective in the folder {folder}", "each is a YAML file with a prompt")
            paths += inside
        else:
            paths.append(prompts.find("perspectives", name))
    return paths


def load(path: Path, family: str = "", overrides: Mapping[str, Any] | None = None) -> Perspective:
    """Read a perspective strictly, as ``family`` gets it. Raises InputError, naming file and field."""
    data = prompts.read(path, {"prompt": str}, _OPTIONAL)
    own = _own(path, data.get("families", {}), family)
    data |= own | dict(overrides or {})
    limit, penalty = data.get("max_new_tokens", MAX_NEW_TOKENS), float(data.get("repetition_penalty", 1.0))
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"{path}: max_new_tokens is {limit!r}", "give a whole number from 1")
    if penalty < 1.0:
        raise InputError(f"{path}: repetition_penalty is {penalty}", "1.0 is none; 1.1 to 1.3 is usual")
    script = data.get("script", "latin")
    if script != "any" and script not in screening.SCRIPTS:
        raise InputError(f"{path}: script is {script!r}", f"there are: {', '.join(screening.SCRIPTS)}, any")
    try:
        rules = Rules(_shape(data.get("checks", {})), script, _policy(data.get("policy", {})))
        perspective = Perspective(path.stem, data["prompt"].strip(), limit, penalty, rules)
        _ = perspective.fields  # parses the template
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}", "see prompts/perspectives for examples") from error
    except Exception as error:  # Jinja2's syntax errors
        raise InputError(f"{path}: the prompt is no template: {error}", "write {{ caption }} to quote a field") from error
    return perspective


def quoted(record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row (caption, id, image, and ``meta`` as JSON text) that the perspective of ``record`` quotes."""
    import json

    meta = json.loads(row["meta"]) if row.get("meta") else {}
    return {n: row.get(n) if n in OWN_FIELDS else meta.get(n) for n in record["fields"]}


def _own(path: Path, families: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Return what the file says for ``family``, after a look at all of them."""
    settings: dict[str, dict[str, Any]] = {}
    for name, value in families.items():
        value = {"prompt": value} if isinstance(value, str) else value
        known = isinstance(value, dict) and value and set(value) <= {"prompt", "max_new_tokens"}
        if not known or not isinstance(value.get("prompt", "x"), str):
            raise InputError(
                f"{path}: families.{name} is neither a prompt nor a mapping of prompt and max_new_tokens", "see prompts/perspectives"
            )
        settings[name] = value
    return settings.get(family, {})


def _shape(checks: Mapping[str, Any]) -> Shape:
    kinds = {f.name: type(f.default) for f in dataclasses.fields(Shape)}
    values: dict[str, Any] = {}
    for name, value in checks.items():
        if name not in kinds:
            raise ValueError(f"checks has an unknown field {name!r}; it has: {', '.join(kinds)}")
        value = tuple(value) if isinstance(value, list) else value
        texts = not isinstance(value, tuple) or all(isinstance(v, str) for v in value)
        if type(value) is not kinds[name] or not texts:
            raise ValueError(
                f"checks.{name} is {value!r}, not {'a list of words' if kinds[name] is tuple else 'a ' + kinds[name].__name__}"
            )
        values[name] = tuple(v.casefold() for v in value) if isinstance(value, tuple) else value
    return Shape(**values)


def _policy(given: Mapping[str, Any]) -> dict[str, str]:
    for problem, choice in given.items():
        if choice not in screening.CHOICES.get(problem, ()):
            allowed = ", ".join(screening.CHOICES.get(problem, ())) or f"no such problem; there are {', '.join(screening.POLICY)}"
            raise ValueError(f"policy.{problem} is {choice!r}; it may be: {allowed}")
    return {**screening.POLICY, **given}


@functools.cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
