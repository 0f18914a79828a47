"""What a plugin provides: an options dataclass whose ``load`` returns one of the objects below.

An options class is a frozen dataclass (see :mod:`synthvlm.options`). Beside its fields it may carry these class variables, all optional:

- ``output_revision`` (int, 1): raised when the same options give other output;
- ``requires`` (tuple of module names): what ``load`` imports; reported by ``synthvlm plugins`` when missing;
- ``extra`` (str): the ``synthvlm[...]`` extra, or package, that brings them;
- ``presets`` (name → options): named settings, chosen by ``--preset``;
- ``recommended`` (mapping): what suits the model in a whole line: ``repeat`` and ``scorers`` (name → options);
- ``is_right`` (static method, of a captioner whose world is known): ``is_right(perspective, caption, truth)`` says whether a caption is right
  about an image whose own caption is ``truth``, None where that cannot be said; the report counts them;
- ``judge_prompt`` (str), of a captioner that judges pairs without being a language model: the Jinja2 template of what it wants to be
  asked, over ``caption`` (two images) or ``caption_a`` and ``caption_b`` (two captions); others are asked in words, by ``prompts/judge``;
- ``conversion`` (class): what ``synthvlm convert NAME`` runs, see :mod:`synthvlm.converting`;
- ``reads`` (str, ``"pair"``), of a scorer: ``"text"`` if it reads captions alone; no image is then decoded, and it runs on CPUs;
- ``wants_device`` (bool, False), of a text scorer: it runs where models run all the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthvlm.sample import Caption, CaptionRequest, Failed, GeneratedImage, ImageRequest, ScoreRequest


@runtime_checkable
class Options(Protocol):
    """An options class: data until ``load`` is called on a worker's device."""

    def load(self, devices: Sequence[str]) -> Any:
        """Load the model on ``devices`` (``["cuda:0"]``, ``["cpu"]``) and return the object that does the work."""
        ...


class ImageGenerator(Protocol):
    """A text-to-image model.

    The worker calls ``generate`` with exactly ``batch_size`` requests (the last batch is padded), since pixels depend on
    the batch size; on running out of memory it lowers ``batch_size`` and calls again.
    """

    batch_size: int

    def generate(self, batch: Sequence[ImageRequest]) -> Iterable[Image | GeneratedImage | Failed]:
        """Return one result per request, in order. An image depends on its own request alone, not on its neighbours."""
        ...

    # Optional: def bucket(self, request: ImageRequest) -> Hashable
    #   Requests of one batch share a bucket (e.g. the number of text chunks), so that no image depends on its neighbours.


class Captioner(Protocol):
    """A multimodal language model: requests of 0..n images and a prompt → captions.

    With a ``batch_size`` the worker calls ``caption`` with exactly that many requests of one bucket (the last batch is padded
    by repeating its last request), and lowers it on running out of memory, as for an image generator; a caption must then not
    depend on its neighbours. With None it hands over an iterator, requests on one image adjacent: taking the next one decodes its
    image, so take as many as keep the model busy and yield results meanwhile, in order. It goes on from shard to shard while one
    is at hand, and where it ends every result is wanted; ``caption`` is then called again for what comes later.
    """

    batch_size: int | None

    def caption(self, batch: Sequence[CaptionRequest]) -> Iterable[Caption | str | Failed]:
        """Return one result per request, in order; a generator may yield each as soon as it is there."""
        ...

    # Optional: def bucket(self, request: CaptionRequest) -> Hashable
    #   Requests of one batch share a bucket (e.g. the padded length in tokens, and max_new_tokens).
    # Optional: def close(self) -> None
    #   Give back what the model holds; called once, when the worker ends well.


class Scorer(Protocol):
    """Rows → named numbers."""

    batch_size: int
    columns: Sequence[str]
    cards: Mapping[str, Mapping[str, Any]]
    """Column → what the numbers are: metric, weights hash, preprocessing, prefix, text policy."""

    def score(self, batch: Sequence[ScoreRequest]) -> Iterable[Mapping[str, float | bool | int] | Failed]:
        """Return one mapping with every name of ``columns`` per request, in order. A text scorer's requests have no image.

        A column whose card says ``type: string`` holds text, and a value may be None where there is nothing to measure; ``type: flag``
        says something of another column (``of``). Beside the columns there may be vectors, under names of cards of ``type: embedding``.
        """
        ...

    # Optional: def prepare(self, request: ScoreRequest) -> Any
    #   Work for a CPU thread (resizing, what is computed from pixels alone), done ahead while the device scores others, in several
    #   threads at a time; `score` finds it in `request.prepared`, and must do without where that is None.
    # Optional: def expect(self, captions: Sequence[str]) -> None
    #   Captions, each once, of the rows that come next, so that texts can be encoded in batches however many candidates share one.

    # Optional, of a text scorer: def measure(self, captions: Sequence[str]) -> Mapping[str, Sequence[Any]]
    #   Whole columns for thousands of captions at a time (lists, NumPy or Arrow arrays), as cheap rules want it. Used instead of
    #   ``score`` where every scorer of the stage has it; what a caption measures must not depend on the others.


Bucket = Hashable
