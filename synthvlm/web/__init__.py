"""The local web pages: a guarded FastAPI application on 127.0.0.1, and plain HTML, CSS and ES modules that need no build and no network.

- ``guard``: who may ask at all (token, Host, Origin), and the headers of every answer. No page has to think of it.
- ``app``: the application of a run, from pages; ``serve``: uvicorn on a free port, and the link with the token.
- ``catalogue``, ``pairs``, ``trial``, ``pictures``, ``live``: what the page of ``synthvlm view`` asks for; ``browse`` is its routes.

A further page is added thus:

1. its files go into ``static/`` (``judge.html``, ``judge.js`` …). A page links ``/static/base.css`` (colours, type, buttons, focus rings,
   light and dark) and its own module ``<script type="module" src="/static/judge.js">``; scripts, styles or event handlers inside the HTML do not
   run (Content-Security-Policy). ``static/dom.js`` builds elements from text, never from HTML; ``static/api.js`` asks and posts JSON.
2. its routes are an ``APIRouter`` that a function makes of the run and whatever else it needs: ``def routes(run, ...) -> APIRouter``, with paths
   under ``/api/NAME``. Routes that change something take POST with a JSON body. Raise SynthVLMError for what a user can mend: the
   application answers 400 (423 for RunLocked) with ``{"error", "hint"}``.
3. ``create_app(run, [Page("judge", "judge.html", routes(run))], token)`` serves it at ``/judge``; the page named ``""`` is the one at ``/``.
   ``serve(app, token, page="judge")`` prints its link.
4. images of the run: ``pictures.Pictures(run)`` gives bytes by place in a part or by sample; no route takes a path or URL.
"""
