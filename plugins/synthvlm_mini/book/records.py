"""Scenes as plain values, for JSON, and captions in files with the scene that each tells of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synthvlm_mini.book.scene import Scene, Thing

_OF_A_SCENE = ("layout", "setting", "time", "style")


def as_dict(scene: Scene) -> dict[str, Any]:
    """Return what is known of a scene, ready for JSON; what is unknown is left out."""
    things = [{name: value for name in ("size", "color", "kind") if (value := getattr(thing, name)) is not None} for thing in scene.things]
    return {"things": things} | {name: value for name in _OF_A_SCENE if (value := getattr(scene, name)) is not None}


def from_dict(values: dict[str, Any]) -> Scene:
    """Return the scene that :func:`as_dict` gave. Raises ValueError or TypeError for what is none."""
    rest = {name: value for name, value in values.items() if name != "things"}
    return Scene(tuple(Thing(**thing) for thing in values["things"]), **rest)


def load(path: Path) -> list[tuple[str, Scene]]:
    """Read captions and their scenes from a JSON list of ``{"caption": …, "scene": …}``."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [(row["caption"], from_dict(row["scene"])) for row in rows]
