"""Resolve checkpoints once, before workers start: what to load (a local directory) and what it is (revision or content)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from synthvlm.errors import CheckpointError
from synthvlm.options import describe

log = logging.getLogger(__name__)
_HUB_ID = r"^\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?$"
_SMALL = (".json", ".txt", ".model", ".jinja")


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A checkpoint that is at hand."""

    asked: str
    path: str
    revision: str
    """Commit of a hub repository, ``content:<sha256>`` of a local directory, or ``name:<asked>`` of a model that a server has."""


def resolve(options: Any, fetch: bool = True) -> tuple[Any, dict[str, Resolved]]:
    """Return ``options`` with every checkpoint field pointing to a local path, and what each resolved to.

    ``variant``, ``unneeded_folders`` and ``gated_page`` of the options, where they have them, tell what to fetch, and ``elsewhere``
    which fields name what a server has: those stay as they are. A checkpoint of which ``needs_conversion(path)`` says so is converted
    once, by the options' ``conversion``, into the cache. Raises CheckpointError if something is not there. With ``fetch`` false nothing
    is downloaded or converted.
    """
    elsewhere: tuple[str, ...] = getattr(options, "elsewhere", ())
    found: dict[str, Resolved] = {}
    for info in describe(type(options)):
        asked = getattr(options, info.name)
        if info.role == "checkpoint" and asked and info.name in elsewhere:
            found[info.name] = Resolved(asked, asked, f"name:{asked}")
        elif info.role == "checkpoint" and asked:
            found[info.name] = _loadable(options, _resolve_one(asked, info.layout, options, fetch), fetch)
    local = dataclasses.replace(options, **{name: r.path for name, r in found.items()})
    return local, found


def _resolve_one(asked: str, layout: str, options: Any, fetch: bool) -> Resolved:
    if os.path.exists(asked):
        path = os.path.abspath(asked)
        return Resolved(asked, path, f"content:{content_hash(path)}")
    if not re.match(_HUB_ID, asked):
        raise CheckpointError(
            f"there is no checkpoint at {asked}", "give a local directory, or a hub id such as org/name or org/name@revision"
        )
    return _from_hub(asked, layout, options, fetch)


def _loadable(options: Any, found: Resolved, fetch: bool) -> Resolved:
    """Return where the checkpoint loads from: as it is, or converted, once for all runs; it stays what it was made of."""
    if not fetch or not getattr(options, "needs_conversion", lambda path: False)(found.path):
        return found
    name = re.sub(r"[^\w.-]+", "--", found.asked.partition("@")[0].strip("/"))[-64:]
    target = _cache().parent / "converted" / f"{name}-{hashlib.sha256(found.revision.encode()).hexdigest()[:12]}"
    if not target.exists():
        log.warning("converting %s, once, into %s", found.asked, target)
    options.conversion().convert(found.path, str(target), log.info)
    return dataclasses.replace(found, path=str(target))


def _from_hub(asked: str, layout: str, options: Any, fetch: bool) -> Resolved:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = asked.partition("@")
    variant: str | None = getattr(options, "variant", None)
    code: bool = getattr(options, "trust_remote_code", False)
    unneeded: tuple[str, ...] = getattr(options, "unneeded_folders", ())
    what = ("code",) if code else ()
    cached = None
    try:
        # What is in the cache serves first, so that a run never depends on the network once its weights are here.
        path = snapshot_download(name, revision=revision or None, local_files_only=True)
        if any(Path(path).rglob("*.safetensors")) or any(Path(path).glob("open_clip_pytorch_model.bin")):
            cached = Resolved(asked, path, Path(path).name)
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    if cached and (not fetch or _whole(name, cached.revision, layout, variant, unneeded, *what).exists()):
        return cached
    if not fetch:
        raise CheckpointError(f"{asked} is not in the cache", "it will be downloaded when a run needs it")
    try:
        info = HfApi().model_info(name, revision=cached.revision if cached else revision or None)
        files = [s.rfilename for s in info.siblings or []]
        path = snapshot_download(name, revision=info.sha, allow_patterns=files_to_fetch(files, layout, variant, unneeded, code))
        with contextlib.suppress(OSError):
            mark = _whole(name, str(info.sha), layout, variant, unneeded, *what)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return Resolved(asked, path, str(info.sha))
    except GatedRepoError as error:
        page = getattr(options, "gated_page", None) or f"https://huggingface.co/{name}"
        raise CheckpointError(
            f"{name} is gated: its licence must be accepted first",
            f"accept it at {page}, then set HF_TOKEN (or run: hf auth login) and run the same command again",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if cached:  # a private one, without its token
            return cached
        raise CheckpointError(f"the hub has no {asked}", "check its name and revision; a private one needs HF_TOKEN") from error
    except Exception as error:  # network trouble has many classes; all mean the same to the user
        if cached:
            return cached
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{asked} could not be fetched: {reason}", "check the network, or give a local directory: -o checkpoint=DIR"
        ) from error


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "synthvlm" / "checkpoints"


def _whole(name: str, revision: str, *what: Any) -> Path:
    """Return the file that says that a download came to its end: the hub's cache looks the same when it was cut short."""
    return _cache() / f"whole-{hashlib.sha256(repr((name, revision, *what)).encode()).hexdigest()}"


def files_to_fetch(files: list[str], layout: str, variant: str | None, unneeded: tuple[str, ...] = (), code: bool = False) -> list[str]:
    """Choose the files of a hub repository to fetch: configuration and safetensors, one precision, no other frameworks' weights.

    ``unneeded``: folders that the options leave out (SD3 without T5). ``code``: Python files too.
    """
    files = [f for f in files if f.split("/", 1)[0] not in unneeded]
    weights = [f for f in files if f.endswith(".safetensors")]
    if layout == "diffusers":
        # Single-file copies, at the top or in folders that are no component (SD3.5's text_encoders), hold the same again.
        weights = [f for f in weights if "/" in f]
        weights = [f for f in weights if f"{f.rsplit('/', 1)[0]}/config.json" in files] or weights
        chosen = []
        for folder in sorted({f.rsplit("/", 1)[0] for f in weights}):
            here = [f for f in weights if f.rsplit("/", 1)[0] == folder]
            # model.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, model-00001-of-00002.fp16.safetensors
            kinds = {f: re.sub(r"-\d{5}-of-\d{5}", "", f.rsplit("/", 1)[-1]).split(".")[1:-1] for f in here}
            precise = [f for f in here if variant and kinds[f] == [variant]]
            plain = [f for f in here if not kinds[f]]
            chosen += precise or plain or here
        weights = chosen
    elif layout == "open_clip":
        # One copy of the weights in open_clip's own naming; others in the repository are for other libraries.
        weights = [f for f in weights if f.startswith("open_clip")] or [f for f in files if f == "open_clip_pytorch_model.bin"] or weights
    small = [f for f in files if f.endswith((*_SMALL, ".py") if code else _SMALL) and not f.startswith(("onnx", "openvino"))]
    return sorted({*weights, *small})


def content_hash(path: str) -> str:
    """Return the SHA-256 of a file's or directory's names and bytes; remembered by size and time, since checkpoints are large."""
    root = Path(path)
    # Hidden files and folders are no part of a model: the hub's client keeps times of download in `.cache`.
    seen = [root] if root.is_file() else root.rglob("*")
    files = sorted(p for p in seen if p.is_file() and not any(x.startswith(".") for x in p.relative_to(root).parts))
    if not files:
        raise CheckpointError(f"{path} is empty", "give the directory that holds the model's files")
    stamp = hashlib.sha256(
        json.dumps([(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]).encode()
    ).hexdigest()
    cache = _cache()
    remembered = cache / hashlib.sha256(f"{root.resolve()}\n{stamp}".encode()).hexdigest()
    try:
        return remembered.read_text()
    except OSError:
        pass
    whole = hashlib.sha256()
    for f in files:
        one = hashlib.sha256()
        with f.open("rb") as stream:
            while block := stream.read(1 << 22):
                one.update(block)
        whole.update(f"{f.relative_to(root).as_posix()}\0{one.hexdigest()}\n".encode())
    try:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = remembered.with_suffix(f".{os.getpid()}")
        temporary.write_text(whole.hexdigest())
        temporary.replace(remembered)
    except OSError:  # a read-only home only costs the next start some time
        pass
    return whole.hexdigest()
