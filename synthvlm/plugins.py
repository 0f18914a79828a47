"""Find plugins, load each on its own, and make their options objects. One broken plugin never stops the others."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from synthvlm import hookspecs
from synthvlm.errors import PluginError, SynthVLMError
from synthvlm.options import build, describe

RESERVED = ("image", "reads", "asked", "human")
"""Names that stand beside those of models in a stage's identity."""
KINDS = {"generator": "register_generators", "captioner": "register_captioners", "scorer": "register_scorers"}


@dataclasses.dataclass(frozen=True)
class Registration:
    """One name that a plugin registered."""

    kind: str
    name: str
    cls: type
    plugin: str
    distribution: str
    version: str

    @property
    def missing(self) -> list[str]:
        """Return the modules that ``load`` needs and that are not installed."""
        return [m for m in getattr(self.cls, "requires", ()) if importlib.util.find_spec(m.split(".")[0]) is None]


@dataclasses.dataclass(frozen=True)
class Broken:
    """A plugin, or one of its names, that cannot be used, with the reason; raised only when asked for."""

    plugin: str
    reason: str
    kind: str | None = None
    name: str | None = None
    distribution: str = "?"


class Registry:
    """Everything that the installed plugins register. Built afresh per call: nothing global, nothing stale."""

    def __init__(self) -> None:
        self.registrations: dict[tuple[str, str], Registration] = {}
        self.broken: list[Broken] = []

    def add_plugin(self, name: str, module: object, distribution: str = "?", version: str = "?") -> None:
        """Register what ``module`` offers; whatever is wrong with it is kept in ``broken``."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        hooks = {h: kind for kind, h in KINDS.items()}
        try:
            marked = [a for a in dir(module) if hasattr(getattr(module, a, None), f"{hookspecs.PROJECT}_impl")]
            for attribute in marked:
                if attribute not in hooks:
                    close = difflib.get_close_matches(attribute, hooks, n=1)
                    also = f"; did you mean {close[0]}?" if close else f"; hooks are {', '.join(hooks)}"
                    self.broken.append(Broken(name, f"implements an unknown hook {attribute!r}{also}", distribution=distribution))
                    return
            if not marked:
                reason = f"implements no hook: mark {', '.join(hooks)} with @synthvlm.hookimpl"
                self.broken.append(Broken(name, reason, distribution=distribution))
                return
            manager.register(module, name)
        except Exception as error:  # pluggy validates signatures: whatever it finds is the plugin's fault
            reason = " ".join(str(error).split())
            self.broken.append(Broken(name, f"cannot be registered: {reason}", distribution=distribution))
            return
        for hook, kind in hooks.items():

            def register(label: str, cls: type, kind: str = kind) -> None:
                self._add(Registration(kind, label, cls, name, distribution, version))

            try:
                getattr(manager.hook, hook)(register=register)
            except Exception as error:
                self.broken.append(Broken(name, f"{hook} raised {type(error).__name__}: {error}", distribution=distribution))

    def _add(self, new: Registration) -> None:
        problem = None
        if not isinstance(new.name, str) or not new.name:
            problem = f"registers a {new.kind} under {new.name!r}, which is not a name"
        elif new.name in RESERVED:
            problem = f"registers a {new.kind} under {new.name!r}, a name that runs keep for themselves"
        elif not (isinstance(new.cls, type) and dataclasses.is_dataclass(new.cls)):
            problem = f"registers {new.cls!r} as {new.kind} {new.name!r}: expected an options class (a frozen dataclass)"
        elif not callable(getattr(new.cls, "load", None)):
            problem = f"registers {new.cls.__name__} as {new.kind} {new.name!r}, which has no load(devices) method"
        else:
            try:
                describe(new.cls)
            except Exception as error:
                problem = f"registers {new.cls.__name__} as {new.kind} {new.name!r}, whose options cannot be read: {error}"
        if problem:
            self.broken.append(Broken(new.plugin, problem, new.kind, str(new.name), new.distribution))
            return
        for kind in _name_space(new.kind):
            old = self.registrations.pop((kind, new.name), None)
            if old or any(b.name == new.name and b.kind == kind for b in self.broken):
                first = old.plugin if old else next(b.plugin for b in self.broken if b.name == new.name and b.kind == kind)
                if first == new.plugin:
                    reason = f"registers the name {new.name!r} twice"
                else:
                    reason = f"and {first} both register the name {new.name!r}; uninstall one of them"
                self.broken.append(Broken(new.plugin, reason, new.kind, new.name, new.distribution))
                return
        self.registrations[new.kind, new.name] = new

    def names(self, kind: str) -> list[str]:
        """Return the usable names of a kind, sorted."""
        return sorted(n for k, n in self.registrations if k == kind)

    def get(self, kind: str, name: str) -> Registration:
        """Return what is registered; raises PluginError with the reason if it is broken or unknown."""
        found = self.registrations.get((kind, name))
        if found:
            return found
        for b in self.broken:
            if b.name == name and b.kind in (None, *_name_space(kind)):
                raise PluginError(f"plugin {b.plugin} {b.reason}")
        close = difflib.get_close_matches(name, self.names(kind), n=1)
        hint = (f"did you mean {close[0]!r}? " if close else "") + f"there are: {', '.join(self.names(kind)) or 'none'}"
        if self.broken:
            hint += "; broken plugins: " + "; ".join(f"{b.plugin} {b.reason}" for b in self.broken)
        raise PluginError(f"there is no {kind} {name!r}", hint)

    def create(self, kind: str, name: str, values: Mapping[str, Any] | None = None, preset: str | None = None) -> Any:
        """Return the options object of a registered name; raises PluginError or OptionError."""
        return build(self.get(kind, name).cls, values or {}, name, preset)


def _name_space(kind: str) -> tuple[str, ...]:
    """Return the kinds among which a name is unique: captioners and generators share one, since ``--model NAME`` decides the direction."""
    return ("scorer",) if kind == "scorer" else ("generator", "captioner")


def discover() -> Registry:
    """Load every installed plugin (entry-point group ``synthvlm``), one by one."""
    registry = Registry()
    points: list[EntryPoint] = sorted(entry_points(group=hookspecs.PROJECT), key=lambda p: (p.dist.name if p.dist else "", p.name))
    # The project's own come first, so that a clash names the newcomer second.
    for point in sorted(points, key=lambda p: not (p.dist and p.dist.name == "synthvlm")):
        dist, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, SynthVLMError) else f"{type(error).__name__}: {error}"
            registry.broken.append(Broken(point.name, f"cannot be imported: {reason}", name=point.name, distribution=dist))
            continue
        registry.add_plugin(point.name, module, dist, version)
    return registry
