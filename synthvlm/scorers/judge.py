"""An LLM that says of each caption whether to keep it: any captioner, on any engine, given text alone.

With several prompts (``prompts/curate/``) each is asked; ``judge`` is the share of the answers that say keep. What cannot be read as a verdict
counts in ``judge_unparsable`` and says neither; where two answers differ, ``judge_disagrees`` is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthvlm import prompts
from synthvlm.answers import ask, objects
from synthvlm.errors import InputError, OptionError
from synthvlm.options import checkpoint, option, runtime
from synthvlm.perspectives import Perspective
from synthvlm.sample import Caption, CaptionRequest, Failed

if TYPE_CHECKING:
    from synthvlm.sample import ScoreRequest

REASONS = ("none", "advertisement", "boilerplate", "repetition", "grammar", "nothing to see")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["keep", "drop"]}, "reason": {"type": "string", "enum": list(REASONS)}},
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
"""Of an answer; vLLM and most servers hold a model to it."""


@dataclass(frozen=True)
class Judge:
    """An LLM's verdict on each caption, through any captioner, on any engine, given text alone."""

    model: str = option("transformers", help="the captioner that is asked: see `synthvlm plugins`")
    checkpoint: str | None = checkpoint(None, help="its checkpoint, or a server's name of it")
    engine: str | None = option(None, help="its engine, if not its own default: transformers, vllm or openai")
    options: dict[str, Any] = option({}, help="its other options, such as {temperature: 0.2}")
    prompts: list[Any] = option(["quality"], help="what is asked: names in prompts/curate, or YAML files; one answer each")
    max_new_tokens: int = option(64, help="of an answer", ge=8)
    base_url: str | None = runtime(None, help="the server's address")
    api_key_env: str = runtime("OPENAI_API_KEY", help="the environment variable that holds the server's key")
    batch_size: int = runtime(256, help="captions handed over at a time", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"
    wants_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Read the prompts, so that a judge is known by what it asks and not by the names of files."""
        read = [p if isinstance(p, dict) else _read(p) for p in self.prompts]
        if not read:
            raise OptionError("the judge asks nothing", f"there are: {', '.join(prompts.names('curate'))}")
        object.__setattr__(self, "prompts", read)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Return the fields that name what a server has."""
        return ("checkpoint",) if "openai" in (self.engine, self.model) else ()

    def load(self, devices: Sequence[str]) -> LLMJudge:
        """Load the captioner on ``devices``."""
        from synthvlm.plugins import discover

        registry = discover()
        given = {"checkpoint": self.checkpoint, "engine": self.engine, "base_url": self.base_url, "api_key_env": self.api_key_env}
        options = self.options | {k: v for k, v in given.items() if v is not None}
        return LLMJudge(self, registry.create("captioner", self.model, options).load(devices))


class LLMJudge:
    """Captions → ``judge``, ``judge_reason``, ``judge_unparsable`` and ``judge_disagrees``."""

    columns = ("judge", "judge_reason", "judge_unparsable", "judge_disagrees")

    def __init__(self, options: Judge, captioner: Any) -> None:
        self.batch_size = options.batch_size
        self._captioner, self._limit = captioner, options.max_new_tokens
        self._asks = [Perspective(p["name"], p["prompt"]) for p in options.prompts]
        card = {"model": options.model, "checkpoint": options.checkpoint, "prompts": [p["name"] for p in options.prompts]}
        self.cards: Mapping[str, Mapping[str, Any]] = {
            "judge": {"metric": "share of an LLM's verdicts that say keep", **card},
            "judge_reason": {"metric": "its reason to drop", "type": "string", **card},
            "judge_unparsable": {"metric": "answers that are no verdict", **card},
            "judge_disagrees": {"metric": "1 where its verdicts differ", **card},
        }

    def score(self, batch: Sequence[ScoreRequest]) -> Iterable[Mapping[str, Any] | Failed]:
        """Ask every question of every caption."""
        asked = [self._request(one, r.id, r.caption or "") for r in batch for one in self._asks]
        answers = ask(self._captioner, asked)
        each = len(self._asks)
        return [_verdict(answers[n : n + each]) for n in range(0, len(answers), each)]

    def _request(self, question: Perspective, name: str, caption: str) -> CaptionRequest:
        return CaptionRequest(name, question.render({"caption": caption}), max_new_tokens=self._limit, json_schema=SCHEMA)

    def close(self) -> None:
        """Let go of the captioner."""
        if close := getattr(self._captioner, "close", None):
            close()


def parse(text: str) -> tuple[bool, str] | None:
    """Return (keep, reason) of an answer, or None if it is no verdict. Words around the JSON are passed over."""
    for said in objects(text):
        verdict = str(said.get("verdict", "")).strip().lower()
        if verdict in ("keep", "drop"):
            reason = str(said.get("reason", "none")).strip().lower()
            return verdict == "keep", reason if reason in REASONS else "none"
    return None


def _verdict(answers: Sequence[Any]) -> Mapping[str, Any] | Failed:
    """Put the answers on one caption together; a request that failed fails the caption."""
    failed = next((a for a in answers if isinstance(a, Failed)), None)
    if failed:
        return failed
    said = [v for v in (parse(a.text if isinstance(a, Caption) else str(a)) for a in answers) if v]
    keeps = [keep for keep, _ in said]
    return {
        "judge": sum(keeps) / len(keeps) if keeps else None,
        "judge_reason": next((reason for keep, reason in said if not keep), None),
        "judge_unparsable": len(answers) - len(said),
        "judge_disagrees": int(len(set(keeps)) > 1),
    }


def _read(name: str) -> dict[str, str]:
    """Return a prompt as data. Raises OptionError or InputError."""
    path = prompts.find("curate", name)
    data = prompts.read(path, {"prompt": str}, {"description": str})
    prompt = data["prompt"].strip()
    if "caption" not in Perspective(path.stem, prompt).fields:
        raise InputError(f"{path}: the prompt does not quote the caption", "write {{ caption }} where it is to stand")
    return {"name": path.stem, "prompt": prompt}
