"""The command line. One file per command, imported when it is asked for, so that ``synthvlm --help`` is instant."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from synthvlm import __version__
from synthvlm.errors import SynthVLMError

COMMANDS = {
    "synth": "Captions in, the best image-caption pairs out: the whole line, resumable.",
    "recaption": "Images in, captions from several perspectives and models out: the whole line, resumable.",
    "make": "Either line, as the model's kind decides; with nothing given, both on the examples.",
    "run": "Do the steps of a recipe (YAML).",
    "plan": "Check everything before spending: recipe, input, plugins, checkpoints, disk.",
    "preview": "Take a few captions or images through the line and make a page of pictures.",
    "curate": "Choose the captions to keep: rules, duplicates, language, perplexity, a judge.",
    "generate": "Make the images of a run.",
    "score": "Score the images of a run (CLIP, SSIM …).",
    "select": "Choose the pairs to keep.",
    "prune": "Drop the pixels that can no longer be selected.",
    "regenerate": "Make images again whose pixels were not kept.",
    "caption": "Caption the images of a run.",
    "merge": "Put all captions of an image into one line.",
    "export": "Write the chosen pairs as a data set.",
    "decontaminate": "Find captions and images of a run that stand in benchmark files.",
    "judge": "Which of two sets is better aligned with its captions? Models and people judge pair by pair.",
    "report": "Write a page on runs: scores before and after, pictures.",
    "view": "Look at a run in a browser: page, filter, compare weights, mark pairs.",
    "status": "Show what a run has and what it lacks.",
    "compact": "Merge a run's small files into large ones.",
    "convert": "Turn a published checkpoint (InternVL2, MiniGPT-4) into a directory that loads without its own code.",
    "plugins": "List models and scorers, their options, and what is wrong with any.",
    "doctor": "Check this machine: packages, GPUs, disk.",
}


class _Late(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"synthvlm.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Late, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="synthvlm")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Turn captions into training images and images into training captions; score every pair, keep the best.

    Begin with: synthvlm synth CAPTIONS --out RUN --model sdxl, or synthvlm recaption IMAGES --out RUN --model internvl2
    """
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Errors that a user can cause are a line and a way on; exit code 2, or 3 for too many failures."""
    signal.signal(signal.SIGTERM, _interrupt)
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given  # wherever it stands
    try:
        code: Any = cli.main([a for a in given if a != "--debug"], prog_name="synthvlm", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except SynthVLMError as error:
        if debug:
            raise
        _complain(f"Error: {error}")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain("\nStopped. What was finished is saved; the same command goes on from there.")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _complain(f"Error: {type(error).__name__}: {error}\n  this is a fault of SynthVLM or of a plugin; --debug shows where")
        sys.exit(1)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _complain(text: str) -> None:
    click.echo(text, err=True)
