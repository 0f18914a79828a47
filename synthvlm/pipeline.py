"""The verbs, on a run: ``Run.create("runs/x", "captions.json").generate("sdxl", repeat=4).score().select(top=0.1)``, or
``Run.create("runs/y", images="photos").caption("internvl2", ["detail", "nouns"]).merge()``.

Each verb does what is still to be done and returns the run; the command line and recipes call the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from synthvlm import select as selecting
from synthvlm.errors import RunError
from synthvlm.execution import Execution, execute
from synthvlm.perspectives import DEFAULT, resolve
from synthvlm.plugins import discover
from synthvlm.preparing import fetch_all, prepare_caption, prepare_generate, prepare_score, presets, recommended_scorers, split_preset
from synthvlm.recipe import CaptionStep, GenerateStep, Recipe, ScoreStep
from synthvlm.run import RunDirectory, Stage
from synthvlm.samples import Ingested, ingest


class Run(RunDirectory):
    """A run and what can be done with it. ``results`` holds, by verb, what the last call of each came to."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self.results: dict[str, Any] = {}
        self.execution = Execution()

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        captions: str | os.PathLike[str] | None = None,
        *,
        images: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        **reader: Any,
    ) -> Self:
        """Open the run in ``root``, or make it, and read ``captions``, or ``images`` (a list, a folder, a pattern, tars), into it.

        ``reader``: ``format``, ``caption_column``, ``id_column``, ``on_duplicate``, ``limit``; for images also ``image_column`` and
        ``image_root``. Raises InputError or RunError.
        """
        run = super().create(root, seed=seed)
        if captions is not None:
            run.add(captions, **reader)
        if images is not None:
            run.add_images(images, **reader)
        return run

    def add(self, captions: str | os.PathLike[str], **reader: Any) -> Self:
        """Read captions into the run: new ones are added, edited ones taken over."""
        result: Ingested = ingest(self, os.fspath(captions), **reader)
        self.results["add"] = result
        return self

    def add_images(self, images: str | os.PathLike[str], **reader: Any) -> Self:
        """Read images into the run: new ones are added, those that were replaced on the disk are taken over."""

        def tell(looked: int, hashed: int) -> None:
            if self.execution.listener:
                self.execution.listener.event("reading", {"looked": looked, "hashed": hashed})

        self.results["add"] = ingest(self, os.fspath(images), images=True, tell=tell, **reader)
        return self

    def using(self, **settings: Any) -> Self:
        """Set where and how shards run: fields of :class:`synthvlm.execution.Execution`."""
        self.execution = Execution(**settings)
        return self

    def generate(
        self,
        model: str = "mini",
        *,
        repeat: int | None = None,
        preset: str | None = None,
        name: str | None = None,
        store: str = "all",
        image_format: str = "jpeg",
        quality: int = 95,
        scorers: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, float] | None = None,
        **options: Any,
    ) -> Self:
        """Make the images that are still to be made. ``options`` are the model's.

        With ``store="best"`` each caption's candidates are scored (by ``scorers`` and ``weights``) as they are made, and
        only the best one's pixels are kept.
        """
        shared: dict[str, Any] = {"preset": preset, "repeat": repeat, "image_format": image_format, "quality": quality, "name": name}
        return self._generate(model, options, store, scorers, weights, **shared)

    def _generate(
        self,
        model: str,
        options: Mapping[str, Any],
        store: str = "all",
        scorers: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, float] | None = None,
        score_as: str | None = None,
        **shared: Any,
    ) -> Self:
        best_by = dict(weights or {}) if store == "best" else None
        made = prepare_generate(self, model, options=options, keep_best_by=best_by, execution=self.execution, **shared)
        prepared = [made]
        if best_by is not None:
            prepared.append(prepare_score(self, made.stage.name, scorers, name=score_as, execution=self.execution))
        self.results["generate"] = execute(self, prepared, self.execution) | {"stage": made.stage.name}
        return self

    def score(self, scorers: Mapping[str, Mapping[str, Any]] | None = None, *, images: str | None = None, name: str | None = None) -> Self:
        """Score the images that are still to be scored (by default of the only image stage, or the last made)."""
        source = images or self._images()
        prepared = prepare_score(self, source, scorers, name=name, execution=self.execution)
        self.results["score"] = execute(self, [prepared], self.execution) | {"stage": prepared.stage.name}
        return self

    def select(
        self,
        *,
        top: str | float | int = selecting.TOP,
        weights: Mapping[str, float] | None = None,
        scores: Sequence[str] | None = None,
        name: str = "default",
    ) -> Self:
        """Choose the pairs to keep; see :func:`synthvlm.select.select`."""
        self.results["select"] = selecting.select(self, self._scores(scores), weights=weights, top=top, name=name)
        return self

    def caption(
        self,
        model: str,
        perspectives: Sequence[str | os.PathLike[str]] = DEFAULT,
        *,
        preset: str | None = None,
        images: str | None = None,
        selection: str | None = None,
        max_new_tokens: int | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Self:
        """Make the captions that are still to be made; ``options`` are the model's.

        ``perspectives`` are names, files or folders; ``images`` names an image stage, ``selection`` a selection of its images (by
        default the run's own images are captioned, or if it has none, those of its only image stage).
        """
        return self._caption(
            model, options, perspectives, preset=preset, images=images, selection=selection, max_new_tokens=max_new_tokens, name=name
        )

    def _caption(
        self, model: str, options: Mapping[str, Any], perspectives: Sequence[str | os.PathLike[str]], images: str | None, **settings: Any
    ) -> Self:
        source = images or self._images_to_caption()
        prepared = prepare_caption(self, model, perspectives, options=options, images=source, execution=self.execution, **settings)
        self.results["caption"] = execute(self, [prepared], self.execution) | {"stage": prepared.stage.name}
        return self

    def merge(self, stages: Sequence[str] | None = None, *, out: str | None = None, **options: Any) -> Self:
        """Write one line per image with all its captions; see :func:`synthvlm.merge.merge_run`."""
        from synthvlm import merge as merging

        self.results["merge"] = merging.merge_run(self, stages, out, **options)
        return self

    def export(self, format: str = "llava", *, selection: str = "default", out: str | None = None) -> Self:
        """Write the selection as a data set; see :func:`synthvlm.export.export`."""
        from synthvlm import export as exporting

        with self.store.lock(f"exporting {selection}", wait=600):  # nobody may merge pixels away meanwhile
            self.results.setdefault("export", {})[format] = exporting.export(self, format, selection=selection, out=out)
        return self

    def report(self, *, selection: str = "default") -> Self:
        """Write the page; see :func:`synthvlm.report.report`."""
        from synthvlm import report as reporting

        self.results["report"] = str(reporting.report(self, selection=selection))
        return self

    def _stages(self, kind: str) -> list[Stage]:
        return [s for s in (self.stage(n) for n in self.stage_names()) if s.kind == kind]

    def _images(self) -> str:
        if "generate" in self.results:
            return self.results["generate"]["stage"]
        names = [s.name for s in self._stages("generate")]
        if len(names) != 1:
            hint = f"name one with --images: {', '.join(names)}" if names else "run: synthvlm generate RUN --model MODEL"
            raise RunError(f"{self.root} has {len(names) or 'no'} image stages", hint)
        return names[0]

    def _images_to_caption(self) -> str:
        with self.connect(1) as db:
            own = db.execute(f"SELECT count(*) FROM (SELECT 1 FROM {self.samples_sql()} WHERE image_sha256 IS NOT NULL LIMIT 1)").fetchall()
        if own[0][0]:
            return "samples"
        if not self._stages("generate"):
            raise RunError(f"{self.root} has no images to caption", "read some in: synthvlm recaption IMAGES --out RUN --model MODEL")
        return self._images()

    def _scores(self, names: Sequence[str] | None) -> list[Stage]:
        if names:
            return [self.stage(n) for n in names]
        if "score" in self.results:
            return [self.stage(self.results["score"]["stage"])]
        found = self._stages("score")
        if not found:
            raise RunError(f"{self.root} has no scores yet", "run: synthvlm score RUN")
        if len({s.reads["image"] for s in found}) > 1:
            raise RunError(
                f"{self.root} has scores of several image stages", f"name which with --scores: {', '.join(s.name for s in found)}"
            )
        return found


def follow(recipe: Recipe, run: Run, on_step: Any = None, only: str | None = None) -> Run:
    """Do a recipe's steps in order. Images that turn out damaged while they are scored or captioned are made again.

    ``only``: one verb's steps; the others still tell what it needs of them (what ``store: best`` scores by).
    """
    _check_first(recipe, run, only)
    scoring: ScoreStep = recipe.first("score") or ScoreStep.model_validate({})
    selection = recipe.first("select")
    for step in recipe.steps:
        if only and step.verb != only:
            continue
        if on_step:
            on_step("begin", step.verb, run)
        s = step.settings
        if step.verb == "generate":
            _generate(run, s, scoring, selection.weights if selection else None)
        elif step.verb in ("score", "caption"):
            work = _score if step.verb == "score" else _caption
            work(run, s)
            made: GenerateStep | None = recipe.first("generate")
            if run.results[step.verb]["damaged_parts"] and made is not None:
                _generate(run, made, scoring, selection.weights if selection else None)
                work(run, s)
        elif step.verb == "select":
            run.select(top=s.top, weights=s.weights, scores=s.scores, name=s.name)
        elif step.verb == "export":
            for kind in s.formats:
                run.export(kind, selection=s.selection, out=s.out)
        elif step.verb == "merge":
            run.merge(**s.model_dump())
        else:
            run.report(selection=s.selection)
        if on_step:
            on_step("end", step.verb, run)
    return run


def _check_first(recipe: Recipe, run: Run, only: str | None) -> None:
    """Fail before spending: a line whose scorer cannot be fetched must not begin with a day of images."""
    registry = discover()
    models: list[tuple[str, str, Mapping[str, Any], str | None]] = []
    making: GenerateStep | None = recipe.first("generate")
    scoring: ScoreStep | None = recipe.first("score")
    if making is not None:
        models.append(("generator", making.model, making.options, making.preset))
    if scoring is not None and (only != "generate" or (making is not None and making.store == "best")):
        source = making.model if making else run.stage(scoring.images or run._images()).plugins[0]["name"]
        for name, options in (scoring.scorers or recommended_scorers(registry, source)).items():
            models.append(("scorer", name, *split_preset(options)))
    if only != "generate":
        models += captioners(recipe)
    fetch_all(registry, models, run.execution)


def captioners(recipe: Recipe) -> list[tuple[str, str, Mapping[str, Any], str | None]]:
    """Return (kind, name, options, preset) of the captioners, as far as a look at what is named tells: nothing is read or fetched.

    Raises PluginError, OptionError or InputError for a captioner, an option or a perspective that is none.
    """
    registry, found = discover(), []
    for step in recipe.all("caption"):
        of_model, of_perspectives = presets(registry, step.model, step.preset)
        registry.create("captioner", step.model, step.options, of_model)
        resolve(step.perspectives, preset=of_perspectives)
        found.append(("captioner", step.model, step.options, of_model))
    return found


def _score(run: Run, s: ScoreStep) -> None:
    run.score(s.scorers, images=s.images, name=s.name)


def _caption(run: Run, s: CaptionStep) -> None:
    settings = s.model_dump(include={"preset", "images", "selection", "max_new_tokens", "name"})
    run._caption(s.model, s.options, s.perspectives, **settings)


def _generate(run: Run, s: GenerateStep, scoring: ScoreStep, weights: Mapping[str, float] | None) -> None:
    settings = s.model_dump(include={"repeat", "preset", "name", "image_format", "quality"})
    run._generate(s.model, s.options, s.store, scoring.scorers, weights, scoring.name, **settings)
