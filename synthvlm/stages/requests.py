"""From a shard's rows to requests: each image read and decoded once, ahead of the model, with the prompts of all its perspectives."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from synthvlm import images, perspectives
from synthvlm.perspectives import RenderError
from synthvlm.run import Stage
from synthvlm.sample import CaptionRequest, Failed
from synthvlm.stages.pixels import image_bytes

if TYPE_CHECKING:
    from synthvlm.worker import Commands, Context

Row = dict[str, Any]
MOST_PIXELS = 400_000_000
"""Decoded pixels that may wait for their captions (1.2 GB), and half as many for their turn."""


@dataclass(slots=True)
class Item:
    """A caption to be made."""

    row: Row
    shard: int
    request: CaptionRequest
    bucket: Hashable = None
    again: bool = False
    """It is asked for the second time."""


@dataclass(slots=True)
class Held:
    """Decoded pixels that are waited for, each image counted once."""

    pixels: int = 0
    _uses: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item, sign: int) -> None:
        """Take (1) or let go of (-1) an item's images."""
        for image, name in zip(item.request.images, item.request.image_ids, strict=True):
            before = self._uses[name]
            self._uses[name] += sign
            if not before or not self._uses[name]:
                self.pixels += sign * image.width * image.height
            if not self._uses[name]:
                del self._uses[name]


class Requests:
    """The captions to make, one after another, over all shards at hand.

    ``next`` and all other methods are for one thread; only reading and decoding goes on in others. What cannot be asked for
    (an image that cannot be read, say) is told to ``failed(shard, row, why)``; ``why`` is None where the image's part is damaged.
    """

    def __init__(self, context: Context, stage: Stage, captioner: Any, failed: Callable[[int, Row, Failed | None], None]) -> None:
        self._context, self._stage, self._failed = context, stage, failed
        self.perspectives = {name: perspectives.from_record(record) for name, record in stage.perspectives.items()}
        self._bucket: Callable[[CaptionRequest], Hashable] = getattr(captioner, "bucket", lambda _: None)
        self._pool = ThreadPoolExecutor(context.threads, thread_name_prefix="decode")
        self._ahead = max(4, min(64, context.threads + (captioner.batch_size or 32)))
        self._usual_pixels = 1.0
        self._groups: deque[tuple[int, list[Row]]] = deque()
        self._decoding: deque[tuple[int, list[Row], Future[Any]]] = deque()
        self._ready: deque[Item] = deque()
        self.alone: list[tuple[int, Row]] = []
        """Rows to be done one by one when nothing else is left: they may have killed a worker."""
        self.held = Held()

    def take(self, commands: Commands, shard: int, suspects: frozenset[str]) -> int:
        """Put a shard's rows at the end of the queue and return how many they are; ``commands`` may have more shards at hand later."""
        self._commands = commands
        rows = self._context.pending(self._stage, shard)
        self.alone += [(shard, row) for row in rows if row["key"] in suspects]
        calm = [row for row in rows if row["key"] not in suspects]
        self._groups.extend((shard, list(group)) for _, group in groupby(calm, lambda r: (r["row"], r["candidate"])))
        return len(rows)

    @property
    def waiting(self) -> bool:
        """Say whether there are captions to make beside those to be done alone."""
        return bool(self._groups or self._decoding or self._ready)

    def next(self, take: Callable[[int, frozenset[str]], None]) -> Item | None:
        """Return the next caption to make; None if there is nothing now. A further shard that is at hand is given to ``take``."""
        while not self._ready:
            while len(self._decoding) < self._room():
                if self._groups:
                    shard, rows = self._groups.popleft()
                    self._decoding.append((shard, rows, self._pool.submit(self._requests, shard, rows)))
                    continue
                command = None if self._context.stopping() else self._commands.poll()
                if command is None:
                    break
                take(*command)
            if not self._decoding:
                return None
            shard, rows, future = self._decoding.popleft()
            self._accept(shard, rows, future.result())
        return self._ready.popleft()

    def alone_next(self, shard: int, row: Row) -> Item | None:
        """Return the request for one row, while nothing else is decoded; None if it cannot be asked for."""
        self._accept(shard, [row], self._requests(shard, [row]))
        return self._ready.popleft() if self._ready else None

    def again(self, item: Item, changed: CaptionRequest) -> None:
        """Ask for an item once more, soon."""
        self._ready.append(second := Item(item.row, item.shard, changed, self._bucket(changed), again=True))
        self.held.add(second, 1)

    def coming(self) -> list[str]:
        """Return the keys of the rows whose images are being decoded, or that wait for their turn after that."""
        decoding = [row["key"] for _, rows, _ in self._decoding for row in rows]
        return [item.row["key"] for item in self._ready] + decoding

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _room(self) -> int:
        return max(2, min(self._ahead, int(MOST_PIXELS / 2 / self._usual_pixels)))

    def _accept(self, shard: int, rows: list[Row], made: list[Item | tuple[Row, Failed]] | None) -> None:
        if made is None:
            for row in rows:
                self._failed(shard, row, None)
        for one in made or ():
            if isinstance(one, Item):
                self.held.add(one, 1)
                image = one.request.images[0]
                self._usual_pixels += (image.width * image.height - self._usual_pixels) / 16
                self._ready.append(one)
            else:
                self._failed(shard, *one)

    def _requests(self, shard: int, rows: list[Row]) -> list[Item | tuple[Row, Failed]] | None:
        """Return the requests for one image's rows (in another thread), or what stands in their way; None if its part is damaged."""
        image = _decoded(self._context, rows[0])
        if image is None:
            return None
        if isinstance(image, Failed):
            return [(row, image) for row in rows]
        made: list[Item | tuple[Row, Failed]] = []
        for row in rows:
            perspective = self.perspectives[row["perspective"]]
            try:
                prompt = perspective.render(perspectives.quoted(self._stage.perspectives[row["perspective"]], row))
                request = CaptionRequest(
                    row["id"],
                    prompt,
                    (image,),
                    (row["sha256"],),
                    max_new_tokens=perspective.max_new_tokens,
                    repetition_penalty=perspective.repetition_penalty,
                )
                made.append(Item(row, shard, request, self._bucket(request)))
            except RenderError as error:
                made.append((row, Failed(str(error), "MissingField")))
            except Exception as error:  # the captioner's own preparing
                made.append((row, Failed(str(error).strip() or type(error).__name__, type(error).__name__)))
        return made


def _decoded(context: Context, row: Row) -> Any:
    """Return a row's image, decoded, or why there is none; None if its part is damaged."""
    data = image_bytes(context, row)
    if data is None or isinstance(data, Failed):
        return data
    try:
        return images.decode(data)
    except Exception as error:
        return Failed(f"{row['image_uri'] or 'the image'} {error}", type(error).__name__)
