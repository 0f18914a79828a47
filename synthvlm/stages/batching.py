"""Run requests through a model in batches of constant size; halve on running out of memory, go one by one on an error."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from synthvlm.errors import SynthVLMError
from synthvlm.sample import Failed

log = logging.getLogger(__name__)
Request = TypeVar("Request")
Row = dict[str, Any]


class DeviceLost(Exception):
    """The device cannot be used any more by this process; only a new worker can go on."""


class Model(Protocol):
    """Anything with a batch size that may be lowered."""

    batch_size: Any


class Monitor(Protocol):
    """What the worker tells while it works."""

    def begin(self, keys: Sequence[str]) -> None:
        """Say that these rows are in flight: if the worker dies now, one of them may be why."""
        ...

    def stopping(self) -> bool:
        """Say whether to stop after this batch."""
        ...


def run_batches(
    rows: Sequence[Row],
    make_request: Callable[[Row], Request],
    call: Callable[[Sequence[Request]], Iterable[Any]],
    model: Model,
    monitor: Monitor,
    bucket: Callable[[Request], Hashable] | None = None,
    suspects: frozenset[str] = frozenset(),
    pad: bool = True,
) -> Iterator[list[tuple[Row, Any, int]]]:
    """Yield, per batch, (row, result or Failed, batch size). Stops early, between batches, when the monitor says so.

    The last batch of a bucket is padded by repeating its last request, so that the model always sees its batch size.
    Suspects (rows that were in flight when a worker died) go last and alone.
    """
    calm = [r for r in rows if r["key"] not in suspects]
    buckets: dict[Hashable, list[Row]] = {}
    for row in calm:
        buckets.setdefault(bucket(make_request(row)) if bucket else None, []).append(row)
    for queue in buckets.values():
        at = 0
        while at < len(queue):
            if monitor.stopping():
                return
            size = model.batch_size or len(queue)
            yield _run([(r, make_request(r)) for r in queue[at : at + size]], call, model, monitor, pad)
            at += size
    for row in rows:
        if row["key"] in suspects:
            if monitor.stopping():
                return
            yield _run([(row, make_request(row))], call, model, monitor, pad)


def _run(
    batch: list[tuple[Row, Any]], call: Callable[[Sequence[Any]], Iterable[Any]], model: Model, monitor: Monitor, pad: bool
) -> list[tuple[Row, Any, int]]:
    """Run one batch, whatever happens; every row gets a result or a Failed."""
    size = model.batch_size or len(batch)
    if len(batch) > size:  # the size was halved meanwhile
        return [r for at in range(0, len(batch), size) for r in _run(batch[at : at + size], call, model, monitor, pad)]
    monitor.begin([row["key"] for row, _ in batch])
    outcome = _attempt([q for _, q in batch], size, call, pad)
    if not isinstance(outcome, Failed):
        return [(row, result, size) for (row, _), result in zip(batch, outcome, strict=False)]
    # Outside of the handler: an exception's traceback would keep the failed batch's tensors alive.
    if outcome.error_class == "OutOfMemory":
        _free_memory()
        if size > 1 and model.batch_size:
            model.batch_size = size // 2
            log.warning("out of memory at batch size %d: going on with %d", size, model.batch_size)
            return _run(batch, call, model, monitor, pad)
    if len(batch) == 1:
        return [(batch[0][0], outcome, size)]
    return [r for one in batch for r in _run([one], call, model, monitor, pad)]


def _attempt(requests: list[Any], size: int, call: Callable[[Sequence[Any]], Iterable[Any]], pad: bool) -> list[Any] | Failed:
    """Call the model; return its results, or why there are none. Raises DeviceLost."""
    try:
        padded = requests + requests[-1:] * (size - len(requests)) if pad else requests
        results = list(call(padded))
        if len(results) != len(padded):
            raise SynthVLMError(f"the model returned {len(results)} results for {len(padded)} requests")
        return results
    except Exception as error:
        failed = _failed(error)
        if failed.error_class != "OutOfMemory":
            if device_lost(error):
                raise DeviceLost(str(error)) from error
            log.exception("a batch of %d failed%s", len(requests), "; trying its rows one by one" if len(requests) > 1 else "")
        return failed


def _failed(error: Exception) -> Failed:
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Failed("out of memory even at batch size 1", "OutOfMemory")
    text = str(error).strip().splitlines()
    return Failed(text[0][:500] if text else type(error).__name__, type(error).__name__)


def device_lost(error: Exception) -> bool:
    """Say whether CUDA has failed for good in this process (an illegal access, an assert on the device), or an engine has died."""
    return type(error).__name__ in ("AcceleratorError", "EngineDeadError") or any(
        s in str(error) for s in ("CUDA error", "device-side assert", "cudaError")
    )


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
