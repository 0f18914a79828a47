"""``synthvlm view``: a local page to look at a run and mark its pairs."""

from __future__ import annotations

import click

from synthvlm.cli import common


@click.command("view")
@common.run_argument
@click.option("--images", metavar="STAGE", help="Which image stage, if the run has several; samples: the input's own images.")
@click.option("--selection", default="default", show_default=True, help="Which selection the sliders start from.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port. [a free one]")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser too.")
def command(run_dir: str, images: str | None, selection: str, port: int, open_browser: bool) -> None:
    """Look at RUN in a browser: page, filter, sort, compare weights, mark pairs; also while it is being made.

    Serves on 127.0.0.1 until Ctrl-C, to whoever has the link that is printed.
    """
    common.need_web()
    from synthvlm.pipeline import Run
    from synthvlm.web.app import Page, create_app
    from synthvlm.web.browse import Browser, routes
    from synthvlm.web.serve import new_token, serve

    def tell(link: str) -> None:
        click.echo(f"Look at: {link}\nCtrl-C ends it. From another machine: ssh -L PORT:127.0.0.1:PORT, with the port of the link.")
        if open_browser:
            click.launch(link)

    browser = Browser(Run.open(run_dir), images, selection)
    try:
        browser.start()
        token = new_token()
        serve(create_app(browser.run, [Page("", "view.html", routes(browser))], token), token, port=port, tell=tell)
    except KeyboardInterrupt:
        pass  # the way it ends
    finally:
        browser.close()
