"""The application of a run: its pages, their routes, the static files, all behind the guard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from synthvlm.errors import RunLocked, SynthVLMError
from synthvlm.run import RunDirectory
from synthvlm.web.guard import Guard

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Page:
    """A page: ``name`` is its address (``""``: the one at ``/``), ``file`` its HTML in ``static/``, ``routes`` what it asks for."""

    name: str
    file: str
    routes: APIRouter


def create_app(run: RunDirectory, pages: Sequence[Page], token: str) -> FastAPI:
    """Return the application that shows ``pages`` of ``run`` to who has ``token``."""
    app = FastAPI(title="SynthVLM", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.run = run
    for page in pages:
        app.include_router(page.routes)
        app.add_api_route(f"/{page.name}", _file(STATIC / page.file), methods=["GET"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(SynthVLMError, _complain)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_middleware(Guard, token=token)
    return app


def _file(path: Path) -> Callable[[], FileResponse]:
    def page() -> FileResponse:
        return FileResponse(path, media_type="text/html", headers={"cache-control": "no-cache"})

    return page


def _complain(_: Request, error: Exception) -> JSONResponse:
    """Answer with what a user can mend."""
    assert isinstance(error, SynthVLMError)
    return JSONResponse({"error": error.message, "hint": error.hint}, 423 if isinstance(error, RunLocked) else 400)


def _refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer a request that is not as it must be, without repeating what it held."""
    assert isinstance(error, RequestValidationError)
    what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return JSONResponse({"error": what, "hint": None}, 422)
