"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from synthvlm.errors import OptionError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _together(*options: Decorator) -> Decorator:
    def apply(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


run_argument = click.argument("run_dir", metavar="RUN")

input_options = _together(
    click.option(
        "--format", "input_format", help="Format of the input, where its name does not tell: json, jsonl, csv, tsv, parquet, txt."
    ),
    click.option("--caption-column", help="Field or column that holds the caption."),
    click.option("--id-column", help="Field or column that holds the id."),
    click.option("--on-duplicate", type=click.Choice(["error", "first", "number"]), help="What to do with an id that stands twice."),
    click.option("--limit", type=click.IntRange(1), help="Read only so many records."),
)

image_input_options = _together(
    click.option("--image-column", help="Field or column that holds the image's path. [image, path, file_name …]"),
    click.option("--image-root", metavar="DIR", help="Where relative paths start from, if not from the list's own folder."),
)

_SHARED = (
    click.option(
        "--preset", help="Named settings of the model (sdxl: paper, authors-code), or of perspectives: clip-training (77 new tokens)."
    ),
    click.option("--batch-size", help="Images or captions at a time on a device."),
    click.option("--dtype", help="auto, bfloat16, float16 or float32."),
    click.option(
        "-o",
        "--option",
        "options",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any option of the model; repeatable. NAME.KEY=VALUE sets a scorer's, or that of one of several models.",
    ),
    click.option("--as", "name", help="Name of the stage, to keep several settings side by side."),
)
_GENERATE = (
    click.option("--repeat", type=click.IntRange(1), help="Candidates per caption."),
    click.option("--width", help="Pixels."),
    click.option("--height", help="Pixels."),
    click.option("--steps", help="Denoising steps."),
    click.option("--guidance", help="Guidance scale."),
    click.option("--negative-prompt", help="What to steer away from."),
    click.option(
        "--image-format", type=click.Choice(["jpeg", "png", "webp"]), help="How pixels are stored (JPEG 4:4:4; WebP is lossless)."
    ),
    click.option("--quality", type=click.IntRange(1, 100), help="JPEG quality. [95]"),
    click.option(
        "--store",
        type=click.Choice(["all", "best", "top"]),
        help="best: keep only each caption's best candidate; losers never reach the disk. top: only those that --top will select.",
    ),
)
_ENGINE = (
    click.option("--engine", help="What runs the captioner: transformers, vllm or openai (a server)."),
    click.option("--base-url", help="The server's address, with --engine openai."),
    click.option("--quantization", help="none, int8 or int4."),
    click.option("--temperature", help="0: always the likeliest token. [0]"),
    click.option(
        "--trust-remote-code", is_flag=True, default=None, help="Run code that comes with the checkpoint; its revision must be pinned."
    ),
)
_CAPTION = (
    click.option(
        "--perspective",
        "perspectives",
        multiple=True,
        metavar="NAME|FILE|DIR",
        help="A captioning prompt; repeatable: detail, brief, sentence, nouns, style, background, main, or a YAML file or a folder of your own. [detail]",
    ),
    click.option("--max-new-tokens", type=click.IntRange(1), help="For every perspective. [what each says]"),
    *_ENGINE,
)
_CAPTIONERS = click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A captioner; repeatable, a stage each: see `synthvlm plugins`."
)
_EITHER = click.option(
    "--model", "models", multiple=True, metavar="NAME", help="The image model, or a captioner (repeatable): see `synthvlm plugins`."
)

model_options = _together(click.option("--model", help="The image model: see `synthvlm plugins`."), *_SHARED, *_GENERATE)
caption_options = _together(_CAPTIONERS, *_CAPTION, *_SHARED)
either_options = _together(_EITHER, *_SHARED, *_GENERATE, *_CAPTION)

judge_options = _together(
    click.option("--model", help="The captioner that judges: one that takes several images, for images; see `synthvlm plugins`."),
    click.option("--prompt", metavar="NAME|FILE", help="What is asked: a name in prompts/judge, or a YAML file. [alignment, captions]"),
    click.option("--max-new-tokens", type=click.IntRange(1), help="Of an answer. [what the prompt says]"),
    *_ENGINE,
    *_SHARED[:-1],
)

made_images_options = _together(
    click.option("--images", metavar="STAGE", help="Of a run that made images: which image stage, if it has several."),
    click.option("--selection", metavar="NAME", help="Of a run that made images: caption only those of this selection."),
)

curate_options = _together(
    click.option(
        "--rule",
        "rules",
        multiple=True,
        metavar="COLUMN=MIN..MAX|off",
        help="Another limit for what is measured of a caption (words=3..200, urls=off); repeatable. All of them: docs/curation.md.",
    ),
    click.option("--language", "languages", metavar="CODES", help="Keep captions in these languages, such as en or en,de. [any]"),
    click.option("--duplicates", type=click.Choice(["off", "exact", "near"]), help="Which to drop all but the first of. [exact]"),
)

score_options = _together(
    click.option(
        "--scorer", "scorers", multiple=True, metavar="NAME", help="A scorer; repeatable. [clip, ssim, or what the model recommends]"
    ),
)

weight_option = _together(
    click.option("--weight", "weights", multiple=True, metavar="SCORE=VALUE", help="Weight of a score in the total. [clip=1 ssim=0.5]"),
)

select_options = _together(
    click.option("--top", help="Share (10%) or number of captions whose best pair is kept. [10%, or with --threshold all]"),
    weight_option,
    click.option("--threshold", type=float, help="Keep only pairs of at least this total."),
    click.option("--group-by", metavar="FIELD", help="source, or a field of the input: --top is then each group's."),
    click.option("--normalise", type=click.Choice(["none", "rank"]), help="rank: a score counts by its percent rank. [none]"),
    click.option("--within", "limits", multiple=True, metavar="SCORE=MIN..MAX|off", help="Choose only pairs within it (nsfw=..0.3)."),
    click.option(
        "--max-similarity", type=click.FloatRange(0, 1, min_open=True), help="Of two images with this cosine or more keep the better."
    ),
    click.option("--clusters", type=click.IntRange(1), help="Group the images by likeness into so many clusters, which take turns."),
)
SELECTION = ("top", "threshold", "group_by", "normalise", "max_similarity", "clusters")


def selection(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a selection that the flags give."""
    limits = rules(flags.get("limits") or (), "--within")
    return given(weights=weights(flags.get("weights") or ()), limits=limits or None, **{f: flags.get(f) for f in SELECTION})


execution_options = _together(
    click.option("--gpus", help="Which GPUs: 0-7, or 0,2,5. [all]"),
    click.option("--gpus-per-worker", type=click.IntRange(1), help="GPUs that each worker spreads its model over. [1]"),
    click.option("--workers", type=click.IntRange(1), help="CPU workers, where there is no GPU. [1]"),
    click.option("--threads", type=click.IntRange(1), help="CPU threads per worker. [the machine's, divided]"),
    click.option("--python", help="Python of another environment for the workers."),
    click.option("--retry-failed", is_flag=True, help="Try the rows that failed again."),
    click.option(
        "--max-failures",
        type=click.FloatRange(0, 1),
        default=0.5,
        show_default=True,
        help="Stop when more than this share of the last 100 rows failed for one reason.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a stage that was made with other settings."),
)

_EXAMPLES = {"--weight": "ssim=0.5", "--rule": "words=3..200"}
SUGAR = ("width", "height", "steps", "guidance", "negative_prompt", "batch_size", "dtype")
CAPTION_SUGAR = ("engine", "base_url", "quantization", "temperature", "trust_remote_code")
INPUT = {
    "input_format": "format",
    "caption_column": "caption_column",
    "id_column": "id_column",
    "image_column": "image_column",
    "image_root": "image_root",
    "on_duplicate": "on_duplicate",
    "limit": "limit",
}


def key_values(pairs: Sequence[str], what: str) -> dict[str, str]:
    """Turn KEY=VALUE pairs into a dict; raises OptionError for anything else."""
    out = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key:
            raise OptionError(f"{what} {pair!r} is not KEY=VALUE", f"write for example {what} {_EXAMPLES.get(what, 'steps=30')}")
        out[key.strip()] = value
    return out


def rules(pairs: Sequence[str], flag: str = "--rule") -> dict[str, str]:
    """Return the limits that FLAG COLUMN=MIN..MAX|off sets. Raises OptionError for what is no limit."""
    from synthvlm.curating.rules import parse

    limits = key_values(pairs, flag)
    for column, limit in limits.items():
        parse(column, limit)
    return limits


def weights(pairs: tuple[str, ...]) -> dict[str, float] | None:
    """Return the weights, or None if none were given."""
    try:
        return {k: float(v) for k, v in key_values(pairs, "--weight").items()} or None
    except ValueError as error:
        raise OptionError(f"--weight wants numbers: {error}", "write for example --weight ssim=0.5") from error


def split_options(flags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the model's options (sugar flags and -o) and those of a scorer, or of one of several models (-o NAME.KEY=VALUE)."""
    model: dict[str, Any] = {k: flags[k] for k in (*SUGAR, *CAPTION_SUGAR) if flags.get(k) is not None}
    scorers: dict[str, dict[str, Any]] = {}
    for key, value in key_values(flags.get("options", ()), "-o").items():
        scorer, dot, name = key.partition(".")
        if dot:
            scorers.setdefault(scorer, {})[name] = _value(value)
        else:
            model[key.replace("-", "_")] = _value(value)
    return model, scorers


def _value(text: str) -> Any:
    """Read a JSON object or list as such; everything else is text that the option's type reads."""
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise OptionError(f"{text!r} is not JSON: {error}", """write for example -o KEY='["a", "b"]'""") from error
    return text


def execution(flags: dict[str, Any], quiet: bool = False) -> Any:
    """Return the Execution that the flags ask for."""
    from synthvlm.execution import Execution
    from synthvlm.progress import Reporter

    devices = _devices(flags.get("gpus"))
    if devices is None and flags.get("workers"):
        from synthvlm.executors.local import gpus

        found = gpus()
        devices = [str(n) for n in range(min(flags["workers"], len(found)))] if found else ["cpu"] * flags["workers"]
    return Execution(
        devices=devices,
        gpus_per_worker=flags.get("gpus_per_worker") or 1,
        threads=flags.get("threads"),
        python=flags.get("python"),
        retry_failed=flags.get("retry_failed", False),
        max_failures=flags.get("max_failures", 0.5),
        overwrite=flags.get("overwrite", False),
        listener=None if quiet else Reporter(),
    )


def _devices(text: str | None) -> list[str] | None:
    if text is None:
        return None
    out: list[str] = []
    try:
        for piece in text.split(","):
            first, dash, last = piece.strip().partition("-")
            out += [str(n) for n in range(int(first), int(last) + 1)] if dash else [str(int(first))]
    except ValueError:
        raise OptionError(f"--gpus {text} is not a list of GPU numbers", "write 0-7 or 0,2,5") from None
    if not out or len(set(out)) != len(out):
        raise OptionError(f"--gpus {text} names no GPU, or one twice", "write 0-7 or 0,2,5")
    return out


def direction(models: Sequence[str]) -> str:
    """Return the line that the models are for: ``synth`` or ``recaption``. An unknown one is taken for what its name is nearest to."""
    from synthvlm.plugins import discover

    captioners, generators = (discover().names(kind) for kind in ("captioner", "generator"))
    near = [(difflib.get_close_matches(m, [*generators, *captioners], n=1) or [""])[0] for m in models]
    lines = {"recaption" if m in captioners else "synth" for m in near}
    if len(lines) > 1 or (lines == {"synth"} and len(models) > 1):
        raise OptionError(f"{' and '.join(models)} cannot go together", "one command takes one image model, or captioners")
    return lines.pop() if lines else "synth"


def one_line(flags: dict[str, Any], line: str | None = None) -> str:
    """Return the line that ``--model`` is for, or ``line``; refuse flags of the other one, and make flags as its commands have them."""
    line = line or direction(flags["models"])
    of_others = ("repeat", "image_format", "quality", "store") if line == "recaption" else ("perspectives", "max_new_tokens", "image_root")
    wrong = next((f for f in of_others if flags.get(f)), None)
    if wrong:
        name = f"--{wrong.removesuffix('s').replace('_', '-')}"
        raise OptionError(
            f"{name} is for {'image models' if line == 'recaption' else 'captioners'}", "leave it out, or name another --model"
        )
    flags["model"] = flags["models"][0] if flags["models"] else None
    return line


def need_web() -> None:
    """Raise OptionError, with the command that installs it, if the web server is not there."""
    import importlib.util

    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"the page needs {' and '.join(missing)}, not installed here", "pip install 'synthvlm[web]'")


def given(**values: Any) -> dict[str, Any]:
    """Return the values that the user gave (neither None nor empty)."""
    return {k: v for k, v in values.items() if v is not None and v != () and v != {}}
