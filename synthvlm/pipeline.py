"""The verbs, on a run: ``Run.create("runs/x", "captions.json").generate("sdxl", repeat=4).score().select(top=0.1)``, or
``Run.create("runs/y", images="photos").caption("internvl2", ["detail", "nouns"]).merge()``.

Each verb does what is still to be done and returns the run; the command line and recipes call the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from synthvlm import curation as curating
from synthvlm import select as selecting
from synthvlm.errors import RunError
from synthvlm.execution import Execution, execute
from synthvlm.perspectives import DEFAULT
from synthvlm.plugins import discover
from synthvlm.preparing import (
    prepare_caption,
    prepare_generate,
    prepare_score,
    wants_device,
)
from synthvlm.run import RunDirectory, Stage
from synthvlm.samples import Ingested, ingest
from synthvlm.selecting import sweep as sweeping


class Run(RunDirectory):
    """A run and what can be done with it. ``results`` holds, by verb, what the last call of each came to."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self.results: dict[str, Any] = {}
        self._scored: list[str] = []
        """Score stages that this object has seen through, of the images that were made last."""
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

    def curate(
        self,
        scorers: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        limits: Mapping[str, Any] | None = None,
        languages: Sequence[str] = (),
        duplicates: str = "exact",
        similarity: float = 0.8,
        pairs: str | float | int | None = None,
        name: str = "default",
        dry: bool = False,
    ) -> Self:
        """Measure the captions that are still to be measured and decide which to keep; see :func:`synthvlm.curation.curate`.

        ``scorers`` (by default ``text``, the plain rules) may read captions or, with the raw images beside them, pairs; those that run a
        model are given only what the others leave. ``dry`` decides and writes no decision.
        """
        from synthvlm.curating.measuring import measure

        registry = discover()
        asked = {s: dict(o) for s, o in (scorers or {"text": {}}).items()} | (
            {} if not languages or "language" in (scorers or {}) else {"language": {}}
        )
        settings = curating.Settings(dict(limits or {}), list(languages), duplicates, similarity, pairs)
        costly = [s for s in asked if wants_device(registry, s)]
        cheap = {s: o for s, o in asked.items() if s not in costly}
        measured = [measure(self, s, o, registry=registry) for s, o in cheap.items()]
        if costly:
            pool = None
            if measured:
                pool = f"{name}.pool"
                here = {c: v for c, v in settings.limits.items() if any(c in s.columns for s in measured)}
                curating.curate(self, measured, curating.Settings(here, settings.languages, duplicates, similarity), name=pool)
            measured += [measure(self, s, asked[s], pool, registry) for s in costly]
        self.results["curate"] = curating.curate(self, measured, settings, name=name, dry=dry)
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
        keep_top: str | float | int | None = None,
        curation: str | None = None,
        **options: Any,
    ) -> Self:
        """Make the images that are still to be made. ``options`` are the model's.

        Captions that the run's curation (``curation``, or ``default`` if there is one) drops are left out; ``curation="off"`` takes all.

        With ``store="best"`` each caption's candidates are scored (by ``scorers`` and ``weights``) as they are made, and
        only the best one's pixels are kept; with ``store="top"`` those of the ``keep_top`` best captions (a share or number) alone.
        """
        shared: dict[str, Any] = {"preset": preset, "repeat": repeat, "image_format": image_format, "quality": quality, "name": name}
        shared |= {"curation": curation, "keep_top": keep_top}
        return self.generate_with(model, options, store, scorers, weights, **shared)

    def generate_with(
        self,
        model: str,
        options: Mapping[str, Any],
        store: str = "all",
        scorers: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, float] | None = None,
        score_as: str | None = None,
        curation: str | None = None,
        keep_top: str | float | int | None = None,
        **shared: Any,
    ) -> Self:
        """Do as :meth:`generate` does, with the model's ``options`` in a mapping and the scores' stage named ``score_as``."""
        if curation is None and curating.record(self) is not None:
            curation = "default"
        shared["curation"] = None if curation == "off" else curation
        best_by = dict(weights or {}) if store in ("best", "top") else None
        if store == "top":
            shared["keep_top"] = selecting.TOP if keep_top is None else keep_top
        made = prepare_generate(self, model, options=options, keep_best_by=best_by, execution=self.execution, **shared)
        prepared = [made]
        if best_by is not None:
            prepared.append(prepare_score(self, made.stage.name, scorers, name=score_as, execution=self.execution))
        self.results["generate"] = execute(self, prepared, self.execution) | {"stage": made.stage.name}
        self._scored = []
        return self

    def score(self, scorers: Mapping[str, Mapping[str, Any]] | None = None, *, images: str | None = None, name: str | None = None) -> Self:
        """Score the images that are still to be scored (by default of the only image stage, or the last made)."""
        source = images or self.image_stage()
        prepared = prepare_score(self, source, scorers, name=name, execution=self.execution)
        self.results["score"] = execute(self, [prepared], self.execution) | {"stage": prepared.stage.name}
        self._scored = [n for n in self._scored if self.stage(n).reads == prepared.stage.reads and n != prepared.stage.name]
        self._scored.append(prepared.stage.name)
        return self

    def select(
        self,
        *,
        top: str | float | int | None = None,
        weights: Mapping[str, float] | None = None,
        scores: Sequence[str] | None = None,
        name: str = "default",
        **settings: Any,
    ) -> Self:
        """Choose the pairs to keep; ``settings`` (threshold, limits, group_by, normalise, max_similarity, clusters): :func:`synthvlm.select.select`."""
        self.results["select"] = selecting.select(self, self._scores(scores), weights=weights, top=top, name=name, **settings)
        return self

    def sweep(self, axis: str, *, scores: Sequence[str] | None = None, **settings: Any) -> dict[str, Any]:
        """Return what would be selected at each of the weights that ``axis`` (``weight.ssim=0:1:0.1``) names; nothing is written.

        ``settings``: those of :meth:`select` that rank (weights, top, threshold, limits, group_by, normalise).
        """
        stages = self._scores(scores)
        return sweeping.sweep(self, stages, selecting.ranked(stages, **settings), axis)

    def prune(
        self,
        keep_top: str | float | int,
        *,
        weights: Mapping[str, float] | None = None,
        scores: Sequence[str] | None = None,
        dry: bool = False,
    ) -> Self:
        """Drop the pixels that can no longer be selected; see :func:`synthvlm.pruning.prune`."""
        from synthvlm import pruning

        self.results["prune"] = pruning.prune(self, self._scores(scores), keep_top, weights=weights, dry=dry)
        return self

    def regenerate(
        self,
        ids: Sequence[str] = (),
        *,
        candidate: int | None = None,
        top: str | float | int | None = None,
        weights: Mapping[str, float] | None = None,
        selection: str | None = None,
        images: str | None = None,
        **options: Any,
    ) -> Self:
        """Make images again whose pixels were not kept: of captions ``ids``, of a ``selection``, or what ``select(top=top)`` would take.

        ``options`` are laid over the recorded ones of the model, where a checkpoint lies elsewhere now. Raises RunError if one comes out
        with other bytes; see :mod:`synthvlm.regenerating`.
        """
        from synthvlm import regenerating

        stage = self.stage(images or self.image_stage())
        if selection is not None:
            rows = regenerating.of_selection(self, stage, selection)
        elif top is not None:
            rows = regenerating.of_top(self, self._scores(None), stage, top, weights)
        else:
            rows = regenerating.by_ids(self, stage, [str(i) for i in ids], candidate)
        self.results["regenerate"] = regenerating.regenerate(self, stage, rows, self.execution, options)
        return self

    @classmethod
    def from_recipe(
        cls, export: str | os.PathLike[str], out: str | os.PathLike[str], *, execution: Execution | None = None, **options: Any
    ) -> Self:
        """Make the run ``out`` that a ``recipe`` export describes: captions, images bit for bit, selection. Resumable."""
        from synthvlm import regenerating

        run = cls.create(out, seed=regenerating.open_recipe(export)[1]["run_seed"])
        run.execution = execution or run.execution
        run.results["regenerate"] = regenerating.from_recipe(export, run, run.execution, options)
        return run

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
        return self.caption_with(
            model, options, perspectives, preset=preset, images=images, selection=selection, max_new_tokens=max_new_tokens, name=name
        )

    def caption_with(
        self, model: str, options: Mapping[str, Any], perspectives: Sequence[str | os.PathLike[str]], images: str | None, **settings: Any
    ) -> Self:
        """Do as :meth:`caption` does, with the model's ``options`` in a mapping."""
        source = images or self._images_to_caption()
        prepared = prepare_caption(self, model, perspectives, options=options, images=source, execution=self.execution, **settings)
        self.results["caption"] = execute(self, [prepared], self.execution) | {"stage": prepared.stage.name}
        return self

    def judge(
        self, a: Any, b: Any, model: str, *, drawing: Mapping[str, Any] | None = None, judge: str | None = None, **options: Any
    ) -> Self:
        """Have a captioner judge pairs of two sets, in both orders; ``options`` are the model's.

        ``a`` and ``b``: what of this run (``"best"``, ``"worst"``, a stage, a selection), or a :class:`synthvlm.judging.sides.Side`;
        ``drawing``: options of :func:`synthvlm.judging.pairs.draw` (name, limit, seed …). The figures: :meth:`judged`.
        """
        from synthvlm.judging import pairs, sides

        a, b = (side if isinstance(side, sides.Side) else sides.Side(self.root, side) for side in (a, b))
        comparison = pairs.draw(self, a, b, overwrite=self.execution.overwrite, **(drawing or {}))
        return self.judge_with(comparison, model, options, judge=judge)

    def judge_with(self, comparison: Mapping[str, Any], model: str, options: Mapping[str, Any], **settings: Any) -> Self:
        """Do as :meth:`judge` does, on a comparison that is drawn; ``settings``: judge, prompt, max_new_tokens, preset."""
        from synthvlm.judging.prepare import prepare_judge

        prepared = prepare_judge(self, comparison, model, options=options, execution=self.execution, **settings)
        self.results["judge"] = execute(self, [prepared], self.execution) | {"stage": prepared.stage.name, "comparison": comparison["name"]}
        return self

    def judged(self, comparison: str | None = None) -> dict[str, Any]:
        """Return the figures of a comparison, by default the one judged last; see :func:`synthvlm.judging.summary.summarise`."""
        from synthvlm.judging.summary import summarise

        return summarise(self, comparison or self.results["judge"]["comparison"])

    def merge(self, stages: Sequence[str] | None = None, *, out: str | None = None, **options: Any) -> Self:
        """Write one line per image with all its captions; see :func:`synthvlm.merge.merge_run`."""
        from synthvlm import merge as merging

        self.results["merge"] = merging.merge_run(self, stages, out, **options)
        return self

    def export(self, format: str = "llava", **settings: Any) -> Self:
        """Write the selection, or images with their captions, as a data set; see :func:`synthvlm.export.export`."""
        from synthvlm import export as exporting

        with self.store.lock(f"exporting {format}", wait=600):  # nobody may merge pixels away meanwhile
            self.results.setdefault("export", {})[format] = exporting.export(self, format, **settings)
        return self

    def report(self, *, selection: str = "default", compare: Sequence[str | os.PathLike[str]] = ()) -> Self:
        """Write the page; see :func:`synthvlm.report.report`."""
        from synthvlm import report as reporting

        self.results["report"] = str(reporting.report(self, selection=selection, compare=compare))
        return self

    def _stages(self, kind: str) -> list[Stage]:
        """Return the stages of a kind; scores of samples (captions, raw pairs) are curation's, and not among them."""
        stages = [s for s in (self.stage(n) for n in self.stage_names()) if s.kind == kind]
        return [s for s in stages if kind != "score" or s.reads_pixels]

    def image_stage(self) -> str:
        """Return the image stage that was made last, or the only one. Raises RunError if it is not clear which."""
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
        return self.image_stage()

    def _scores(self, names: Sequence[str] | None) -> list[Stage]:
        if names:
            return [self.stage(n) for n in names]
        if self._scored:
            return [self.stage(n) for n in self._scored]
        found = self._stages("score")
        if not found:
            raise RunError(f"{self.root} has no scores yet", "run: synthvlm score RUN")
        if len({s.reads["image"] for s in found}) > 1:
            raise RunError(
                f"{self.root} has scores of several image stages", f"name which with --scores: {', '.join(s.name for s in found)}"
            )
        return found
