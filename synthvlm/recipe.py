"""A run's settings as data: typed, read strictly (an unknown key is an error), written back resolved.

::

    input: captions.json
    out: runs/demo
    steps:
      - generate: {model: sdxl, repeat: 4}
      - score: {}
      - select: {top: 10%}
      - export: {formats: [llava]}
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synthvlm.errors import OptionError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class CurateStep(_Strict):
    """Captions → the ones to keep."""

    scorers: dict[str, dict[str, Any]] | None = Field(None, description="name → options; None: text, the plain rules")
    limits: dict[str, list[float | None] | str | None] = Field(
        {}, description="column → [least, most], MIN..MAX, or off; over the defaults"
    )
    languages: list[str] = Field([], description="keep captions in these languages (ISO 639-1); none: any")
    blocklists: list[str] = Field([], description="files with a word or phrase a line")
    duplicates: Literal["off", "exact", "near"] = "exact"
    similarity: float = Field(0.8, gt=0, le=1, description="of near-duplicates: Jaccard similarity of word trigrams")
    pairs: str | float | int | None = Field(
        None, description="share or number of pairs of caption and raw image to keep, by the first pair scorer"
    )
    name: str = "default"

    def settings(self) -> dict[str, Any]:
        """Return what :meth:`synthvlm.pipeline.Run.curate` takes."""
        return self.model_dump(exclude={"blocklists", "scorers"}) | {"scorers": self.with_blocklists()}

    def with_blocklists(self) -> dict[str, dict[str, Any]] | None:
        """Return the scorers, with the words of the blocklists among the options of ``text``. Raises OptionError for a file that cannot be read."""
        if not self.blocklists:
            return self.scorers
        scorers = dict(self.scorers or {"text": {}})
        text = dict(scorers.get("text") or {})
        scorers["text"] = text | {"blocklist": [*text.get("blocklist", []), *(w for path in self.blocklists for w in _phrases(path))]}
        return scorers


def _phrases(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the blocklist {path} cannot be read: {error}", "give a text file with a word or phrase a line") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


class GenerateStep(_Strict):
    """Captions → images."""

    model: str = "mini"
    preset: str | None = None
    options: dict[str, Any] = {}
    repeat: int | None = Field(None, ge=1, description="candidates per caption; None: what the model recommends, else 1")
    store: Literal["all", "best", "top"] = "all"
    keep_top: str | float | int | None = Field(
        None, description="with store: top, share or number of captions; None: the select step's top"
    )
    image_format: Literal["jpeg", "png", "webp"] = "jpeg"
    quality: int = Field(95, ge=1, le=100)
    curation: str | None = Field(
        None, description="take what this curation keeps; None: the run's default one, if it has it; off: every caption"
    )
    name: str | None = None


class ScoreStep(_Strict):
    """Images and captions → named numbers."""

    scorers: dict[str, dict[str, Any]] | None = Field(
        None, description="name → options; None: what the image model recommends, else clip and ssim"
    )
    images: str | None = None
    name: str | None = None


class SelectStep(_Strict):
    """Scores → the kept pairs."""

    weights: dict[str, float] | None = None
    top: str | float | int | None = Field(
        None, description="share or number of captions, of each group; None: 10%, or all that reach the threshold"
    )
    threshold: float | None = Field(None, description="least total")
    group_by: str | None = Field(None, description="source, or a field of the input: top is then each group's")
    normalise: Literal["none", "rank"] = Field("none", description="rank: a score counts by its percent rank among all candidates")
    limits: dict[str, list[float | None] | str | None] = Field(
        {}, description="score → MIN..MAX outside of which a pair is not chosen, or off"
    )
    max_similarity: float | None = Field(None, gt=0, le=1, description="cosine of two images from which only the better one is kept")
    clusters: int | None = Field(None, ge=1, description="of images that are alike; they take turns")
    scores: list[str] | None = None
    name: str = "default"


ExportFormat = Literal["llava", "jsonl", "imagefolder", "webdataset", "parquet", "llamafactory", "recipe"]


class ExportStep(_Strict):
    """The kept pairs → a data set in a consumer's format."""

    formats: list[ExportFormat] = ["llava"]
    selection: str | None = Field(None, description="None: default, or of a run that has none but captions images, these captions")
    captions: bool | list[str] | None = Field(None, description="images with their captions: of all caption stages, or of these")
    out: str | None = None
    instructions: str = Field("llava", description="wordings of human turns: a shipped list, or a YAML file")
    keep_original: bool = True
    limits: dict[str, list[float | None] | str | None] = Field(
        {}, description="score → MIN..MAX outside of which an image is kept out, or off"
    )
    shard: int = Field(1000, ge=1, description="images in a shard, of webdataset and parquet")
    licence: str | None = Field(None, description="of the data set, as the Hub names licences; for the card")
    title: str | None = None


class CaptionStep(_Strict):
    """Images → captions, one per perspective."""

    model: str = "mini-captioner"
    preset: str | None = Field(None, description="of the model, or clip-training: 77 new tokens for every perspective")
    options: dict[str, Any] = {}
    perspectives: list[str] = Field(["detail"], min_length=1, description="names, files, or folders of files")
    max_new_tokens: int | None = Field(None, ge=1, description="for every perspective; None: what each says")
    images: str | None = Field(None, description="an image stage; None: the run's own images, else those of its only image stage")
    selection: str | None = Field(None, description="caption only the images of this selection")
    name: str | None = None


class MergeStep(_Strict):
    """Captions → one line per image with all of them."""

    stages: list[str] | None = Field(None, description="caption stages, in order; None: all of the run's")
    out: str | None = Field(None, description="None: merged.jsonl in the run")
    order: list[str] = Field([], description="stages, STAGE/PERSPECTIVE or original, that come first in a line")
    missing: Literal["skip", "drop", "empty"] = Field("skip", description="what an image gets that lacks a caption")
    keep_original: bool = True
    dedupe: bool = False
    provenance: bool = True


class ReportStep(_Strict):
    """Everything → one page."""

    selection: str = "default"
    compare: list[str] = Field([], description="other runs, and files of pairs that carry scores, to put into the table")


class Step(_Strict):
    """One step: exactly one of the verbs."""

    curate: CurateStep | None = None
    generate: GenerateStep | None = None
    score: ScoreStep | None = None
    select: SelectStep | None = None
    export: ExportStep | None = None
    caption: CaptionStep | None = None
    merge: MergeStep | None = None
    report: ReportStep | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_settings(cls, data: Any) -> Any:
        return {k: {} if v is None else v for k, v in data.items()} if isinstance(data, dict) else data  # YAML's `- score:`

    @model_validator(mode="after")
    def _one_verb(self) -> Step:
        if len(self.model_fields_set) != 1:
            raise ValueError("a step is one verb with its settings, such as: - score: {}")
        return self

    @property
    def verb(self) -> str:
        """Return the step's verb."""
        return next(iter(self.model_fields_set))

    @property
    def settings(self) -> Any:
        """Return the verb's settings."""
        return getattr(self, self.verb)


class Input(_Strict):
    """How to read the captions or images."""

    path: str | None = None
    kind: Literal["captions", "images"] | None = Field(None, description="None: images if the steps caption and do not generate")
    format: str | None = None
    caption_column: str | None = None
    id_column: str | None = None
    image_column: str | None = None
    image_root: str | None = Field(None, description="where relative paths of images start from, if not from the list's own folder")
    on_duplicate: Literal["error", "first", "number"] = "error"
    limit: int | None = Field(None, ge=1)


class Recipe(_Strict):
    """A whole line."""

    input: Input = Field(default_factory=lambda: Input.model_validate({}))
    out: str | None = None
    seed: int | None = Field(None, ge=0)
    steps: list[Step]

    @model_validator(mode="before")
    @classmethod
    def _short_input(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("input"), str):
            return data | {"input": {"path": data["input"]}}
        return data

    def first(self, verb: str) -> Any | None:
        """Return the settings of the first step of that verb, or None."""
        return next((s.settings for s in self.steps if s.verb == verb), None)

    def all(self, verb: str) -> list[Any]:
        """Return the settings of every step of that verb."""
        return [s.settings for s in self.steps if s.verb == verb]

    @property
    def reads_images(self) -> bool:
        """Say whether the input is images."""
        return self.input.kind == "images" if self.input.kind else bool(self.all("caption")) and not self.all("generate")

    @property
    def reader(self) -> dict[str, Any]:
        """Return the settings of the input as :meth:`synthvlm.pipeline.Run.add` and ``add_images`` take them."""
        return self.input.model_dump(exclude={"path", "kind"}, exclude_none=True)

    def to_yaml(self) -> str:
        """Write the recipe with every setting that differs from its default."""
        data = self.model_dump(mode="json", exclude_defaults=True, exclude={"steps"})
        data["steps"] = [{s.verb: s.settings.model_dump(mode="json", exclude_none=True)} for s in self.steps]
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def parse(data: Any, where: str) -> Recipe:
    """Check recipe data; raises OptionError naming the field."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "recipe"
        if first["type"] == "extra_forbidden":
            there = _fields_beside(first["loc"])
            close = difflib.get_close_matches(str(first["loc"][-1]), there, n=1)
            raise OptionError(
                f"{where}: {field}: there is no such field", f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(there)}"
            ) from error
        raise OptionError(
            f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}", "the fields are described in docs/recipes.md"
        ) from error


def _fields_beside(location: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Recipe
    for name in location[:-1]:
        if isinstance(name, str):
            kind = model.model_fields[name].annotation
            model = next(k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel))
    return list(model.model_fields)


def load(path: str) -> Recipe:
    """Read a recipe file; raises OptionError if it cannot be read or is not one."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}", "give the path of a recipe (YAML)") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not YAML: {str(error).splitlines()[0]}", "see docs/recipes.md for an example") from error
    return parse(data, path)


def builtin(name: str) -> Recipe:
    """Return a line that ships with the package: ``synth``, ``recaption``, or ``demo``, which is both."""
    return parse(yaml.safe_load((files("synthvlm") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")), name)
