"""Pairs in, verdicts out: a captioner is asked of each pair in both orders, in the same stream as captions are made.

Two pictures and the caption in one request, or one picture and two captions. An answer that is no verdict is asked for once more.
"""

from __future__ import annotations

from typing import Any

from synthvlm import images
from synthvlm.judging import verdicts
from synthvlm.judging.pictures import Pictures
from synthvlm.perspectives import Perspective, RenderError
from synthvlm.sample import Caption, CaptionRequest, Failed
from synthvlm.stages.caption import Captioning
from synthvlm.stages.requests import Item, Requests

Row = dict[str, Any]


class PairRequests(Requests):
    """The questions to ask, one after another; a pair's pictures are decoded once for both orders."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        asked = self._stage.identity["asked"]
        self._prompt = Perspective("judge", asked["prompt"], asked["max_new_tokens"])
        self._sides = "a" if asked["kind"] == "captions" else "ab"
        self._pictures = Pictures(self._context.run)

    def _requests(self, shard: int, rows: list[Row]) -> list[Item | tuple[Row, Failed]]:
        """Return the requests for one pair's rows (in another thread), or what stands in their way."""
        shown: dict[str, Any] = {}
        for side in self._sides:
            picture = self._decoded(rows[0], side)
            if isinstance(picture, Failed):
                return [(row, picture) for row in rows]
            shown[side] = picture
        made: list[Item | tuple[Row, Failed]] = []
        for row in rows:
            order = self._sides[::-1] if row["flipped"] else self._sides
            texts = (row["b_text"], row["a_text"]) if row["flipped"] else (row["a_text"], row["b_text"])
            try:
                request = CaptionRequest(
                    row["id"],
                    self._prompt.render({"caption": row["caption"], "caption_a": texts[0], "caption_b": texts[1]}),
                    tuple(shown[side] for side in order),
                    tuple(row[f"{side}_sha256"] for side in order),
                    max_new_tokens=self._prompt.max_new_tokens,
                    json_schema=verdicts.SCHEMA,
                )
                made.append(Item(row, shard, request, self._bucket(request)))
            except RenderError as error:
                made.append((row, Failed(str(error), "MissingField")))
            except Exception as error:  # the captioner's own preparing
                made.append((row, Failed(str(error).strip() or type(error).__name__, type(error).__name__)))
        return made

    def _decoded(self, row: Row, side: str) -> Any:
        data = self._pictures.read(row, side)
        if isinstance(data, Failed):
            return data
        try:
            return images.decode(data)
        except Exception as error:
            return Failed(f"{row[f'{side}_uri'] or 'the image'} {error}", type(error).__name__)


class Judging(Captioning):
    """Judges what is pending of one shard after another."""

    requests = PairRequests
    keeps = ("key", "row", "id", "candidate", "flipped")

    def _read(self, item: Item, caption: Caption, size: int | None) -> None:
        """Make the verdict's row, or ask once more."""
        said = verdicts.read(caption.text)
        if said is None and not item.again:
            self._requests.again(item, verdicts.repair(item.request, caption.text))
            return
        done = self._row(item.row, size) | {
            "repaired": item.again,
            "finish_reason": caption.finish_reason,
            "tokens": caption.tokens,
            "prompt_tokens": caption.prompt_tokens,
        }
        if said is None:
            done |= {
                "raw": caption.text,
                "error": "the answer is no verdict, and neither was the one before it",
                "error_class": "Unparsable",
            }
        else:
            done |= {"verdict": verdicts.of_sets(said[0], item.row["flipped"]), "reason": said[1] or None}
        self._finish(item.shard, done)
