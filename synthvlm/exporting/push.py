"""An export to a data set repository on the Hugging Face Hub. Unless told otherwise it only says what it would send."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from typing import Any

from synthvlm.errors import OptionError, RunError
from synthvlm.exporting.formats import FOLDERS, FORMATS
from synthvlm.storage import Store

_TARGET = r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)/?"
_MANY_FILES = 100_000
"""Files that the Hub advises a repository not to exceed."""


def push(out: str, format: str, target: str, *, dry: bool = True, private: bool = False, message: str | None = None) -> dict[str, Any]:
    """Send the export of ``format`` in the local folder ``out`` to ``target`` (``hf://user/name``); return what was, or would be, sent.

    Files of an earlier push of this format that the export no longer has go; others in the repository stay. The token is the one
    that ``hf auth login`` keeps, or ``HF_TOKEN``; ``HF_ENDPOINT`` names another hub. Raises OptionError for what is no target, RunError if
    the export is not whole or not on a local disk, or the Hub refuses.
    """
    repository = repository_of(target)
    store = Store(out)
    if not store.is_local:
        raise RunError(f"{out} is not on a local disk", "export into a local folder, and push that")
    whole = FORMATS[format].file if format in FOLDERS else f"{format}.sha256"
    if not store.size(whole):
        raise RunError(f"{out} holds no whole export in the format {format}", "export again: it goes on where it was")
    data, beside = patterns(format)
    files, size = _measure(out, [*data, *beside])
    told = {"repository": repository, "files": files, "bytes": size, "private": private, "dry": dry, "many_files": files > _MANY_FILES}
    if dry:
        return told | {"token": _token() is not None}
    return told | _send(out, repository, data, beside, private, message or f"SynthVLM export ({format})", files)


def repository_of(target: str) -> str:
    """Return the repository that ``target`` names. Raises OptionError."""
    found = re.fullmatch(_TARGET, target)
    if not found:
        raise OptionError(f"--push {target} is no data set repository", "write hf://user/name")
    return found[1]


def patterns(format: str) -> tuple[list[str], list[str]]:
    """Return patterns of the files that belong to an export: those that go when an export no longer has them, and the others."""
    layout = FORMATS[format]
    data = [f"{layout.images}/[0-9]*/*"] if layout.images else []
    beside = {"llamafactory": ["dataset_info.json"], "recipe": ["recipe.json"]}.get(format, [])
    return [*data, layout.file], [*beside, f"{format}.sha256", "README.md"]


def _measure(out: str, wanted: list[str]) -> tuple[int, int]:
    """Return how many files of a folder match, and their bytes."""
    count = size = 0
    for folder, _, names in os.walk(out):
        for name in names:
            path = os.path.join(folder, name)
            if any(fnmatch(os.path.relpath(path, out), p) for p in wanted):
                count, size = count + 1, size + os.path.getsize(path)
    return count, size


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _send(out: str, repository: str, data: list[str], beside: list[str], private: bool, message: str, files: int) -> dict[str, Any]:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    kind = "dataset"
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        settings: dict[str, Any] = {"allow_patterns": [*data, *beside], "delete_patterns": data, "commit_message": message}
        commit = api.upload_folder(repo_id=repository, repo_type=kind, folder_path=out, **settings)
        there = sum(any(fnmatch(name, p) for p in (*data, *beside)) for name in api.list_repo_files(repository, repo_type=kind))
    except LocalTokenNotFoundError as error:
        raise RunError("there is no token for the Hub", "run: hf auth login, or set HF_TOKEN") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "log in with a token that may write (hf auth login, or HF_TOKEN), and give the same command again: what was sent is not sent twice"
        raise RunError(f"the Hub did not take {repository}: {reason}", hint) from error
    if there != files:
        raise RunError(f"{repository} has {there:,} of the {files:,} files that were sent", "give the same command again")
    return {"commit": str(getattr(commit, "oid", "")), "url": f"{api.endpoint}/datasets/{repository}"}
