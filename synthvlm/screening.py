"""What a model said → a caption, or why it is none: cleaned, then screened, by text alone and in microseconds.

Cleaning takes off what is not part of the caption (a polite beginning, quotation marks, markup, the question said again) and is
noted in ``flags``. Screening looks for answers that must not reach a data set; each kind of problem has its policy:

========== ============================================== ======== =================================
problem    is                                             default  may be
========== ============================================== ======== =================================
empty      nothing is left after cleaning                 retry    retry, fail
refusal    the model declines, or sees no image           fail     retry, fail, keep
loop       words or sentences over and over               retry    retry, fail, keep
script     not the writing that was asked for             fail     retry, fail, keep
cut        the token limit came before the end            trim     trim, retry, fail, keep
length     fewer or more words than it should have        keep     retry, fail, keep
shape      no list where one is asked for; a word that    fail     retry, fail, keep
           it should not name
========== ============================================== ======== =================================

``retry`` asks once more, with a higher token limit or a penalty on repetition, and then sets aside (of a cut answer, trims);
``fail`` sets aside; ``keep`` keeps the text and notes the problem; ``trim`` keeps the whole sentences (of a list, the whole items),
and an answer without a whole sentence as it is, with the note ``cut``.
"""

from __future__ import annotations

import functools
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from synthvlm.cleaning import as_list, clean

REVISION = 1
"""Raised when the same answer comes out otherwise: it is part of each perspective's digest."""
POLICY: Mapping[str, str] = {
    "empty": "retry",
    "refusal": "fail",
    "loop": "retry",
    "script": "fail",
    "cut": "trim",
    "length": "keep",
    "shape": "fail",
}
"""Problem → what is done about it by default; in the order in which they are looked for."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "empty": ("retry", "fail"),
    "refusal": ("retry", "fail", "keep"),
    "loop": ("retry", "fail", "keep"),
    "script": ("retry", "fail", "keep"),
    "cut": ("trim", "retry", "fail", "keep"),
    "length": ("retry", "fail", "keep"),
    "shape": ("retry", "fail", "keep"),
}
CLASSES = {
    "empty": "Empty",
    "refusal": "Refused",
    "loop": "Loop",
    "script": "OtherScript",
    "cut": "CutOff",
    "length": "OutOfLength",
    "shape": "OutOfShape",
}
"""Problem → the ``error_class`` of its row."""
SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "latin": ("LATIN",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "thai": ("THAI",),
    "han": ("CJK", "IDEOGRAPHIC"),
    "japanese": ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "korean": ("HANGUL", "CJK"),
}
_OWN_SCRIPT = 0.7
"""Share of the letters that must be of the script: a sign in another one may be quoted."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer should look like; 0 and empty ask for nothing."""

    min_words: int = 0
    max_words: int = 0
    list: bool = False
    """Comma-separated items; other separators, numbering and bullets are turned into commas, equal items are dropped."""
    max_item_words: int = 4
    without: tuple[str, ...] = ()
    """Words that it should not name, in the singular and in small letters."""


@dataclass(frozen=True, slots=True)
class Rules:
    """By what an answer is judged."""

    shape: Shape = field(default_factory=Shape)
    script: str = "latin"
    """A name of ``SCRIPTS``, or ``any``."""
    policy: Mapping[str, str] = field(default_factory=lambda: POLICY)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an answer."""

    text: str
    flags: tuple[str, ...] = ()
    """What cleaning did, and problems that the policy lets pass."""
    problem: str | None = None
    """The problem that stands in the way, and ``reason`` in words."""
    reason: str = ""
    retry: bool = False
    """It may be asked once more."""


def judge(answer: str, finish_reason: str | None, prompt: str, rules: Rules, last: bool = False) -> Verdict:
    """Return the caption in ``answer`` to ``prompt``, or its problem. ``last``: it was asked again already."""
    shape = rules.shape
    text, flags = clean(answer, prompt, shape.list)
    cut = finish_reason == "length"
    if shape.list and text:
        text, done = as_list(text, cut and rules.policy["cut"] in ("trim", "retry"))
        flags += done
    for problem in POLICY:
        reason = _found(problem, text, cut, rules)
        policy = rules.policy[problem]
        if reason is None:
            continue
        if policy == "retry" and not last:
            return Verdict(text, tuple(flags), problem, reason, retry=True)
        if problem == "cut" and policy in ("trim", "retry"):
            whole = text if shape.list else whole_sentences(text)
            if whole != text:
                flags.append("trimmed")
                text = whole
            elif not shape.list and not _END.search(text[-3:]):
                flags.append("cut")
        elif policy == "keep":
            flags.append(problem)
        else:
            return Verdict(text, tuple(flags), problem, reason)
    return Verdict(text, tuple(flags))


def _found(problem: str, text: str, cut: bool, rules: Rules) -> str | None:
    """Return what is wrong with the cleaned text in the way of ``problem``, or None."""
    shape, words = rules.shape, words_of(text)
    if problem == "empty":
        return None if words else "the answer is empty"
    if problem == "refusal":
        return f"the model declined: {_start(text)}" if refuses(text) else None
    if problem == "loop":
        unit = None if shape.list else loop(text)
        return f"it repeats itself: {_start(unit)}" if unit else None
    if problem == "script":
        share = 1.0 if rules.script == "any" else script_share(text, rules.script)
        return f"only {share:.0%} of its letters are {rules.script}: {_start(text)}" if share < _OWN_SCRIPT else None
    if problem == "cut":
        return "the token limit came before the end of the answer" if cut else None
    if problem == "length":
        if len(words) < shape.min_words:
            return f"it has {len(words)} words, fewer than {shape.min_words}: {_start(text)}"
        return f"it has {len(words)} words, more than {shape.max_words}" if shape.max_words and len(words) > shape.max_words else None
    long = [i for i in text.split(", ") if len(words_of(i)) > shape.max_item_words] if shape.list else []
    if long:
        return f"it is no list of short items: {_start(long[0])}"
    named = _named(words, shape.without) if shape.without else None
    return f"it names {named!r}: {_start(text)}" if named else None


_NOT = r"(?:can(?:no|')t|can\ not|(?:am|'m)\ (?:not\ able|unable)|do(?:n't|\ not)\ have|won't|will\ not|could(?:n't|\ not)|must\ decline)"
_SEEN = r"(?:image|picture|photo(?:graph)?|attachment)s?"
_REFUSAL = re.compile(
    rf"""^\W*(?:
      (?:i'm|i\ am|we're|(?:my\ |i\ )?apologi[sz]e|(?:my\ )?apologies|sorry|unfortunately)\b[^.!?]{{0,60}}?\b(?:i|as\ an\ ai)\b.{{0,20}}?\s*{_NOT}
    | (?:i\ am|i'm)\ (?:so\ |very\ |really\ )?sorry(?:[.!]|\W*$|,?\ but\ (?:there|it|this|no)\b|,?\ for\ (?:the|any)\b)
    | (?:as|i\ am|i'm)\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model|text-based\ (?:ai|model|assistant))\b
    | i\ ?{_NOT}(?:\ to)?\ (?:see|view|access|open|assist|help|provide|describe|identify|process|comply|the\ ability|answer|determine|create|generate|discuss)\b
    | (?:there(?:\ is|'s)|i\ see)\ no\ {_SEEN}\b | i\ do(?:n't|\ not)\ (?:actually\ )?see\ (?:any|an?)\ {_SEEN}\b
    | no\ {_SEEN}\ (?:was|is|has\ been|provided|attached)
    | (?:the|your)\ {_SEEN}\ (?:(?:was|has)(?:n't|\ not)\ (?:been\ )?(?:provided|attached|uploaded|loaded)|did(?:n't|\ not)\ (?:load|upload|come\ through))
    | (?:please|could\ you|can\ you)\ (?:please\ )?(?:provide|upload|attach|share|send)\b.{{0,40}}\b{_SEEN}
    | this\ (?:request|content)\ (?:violates|goes\ against)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_REFUSAL_ELSEWHERE = re.compile(
    r"""^\W*(?:
      (?:很)?(?:抱歉|对不起|不好意思).{0,12}(?:我|无法|不能|没有|没能) | 我(?:无法|不能|没有办法|没办法)(?:看到|查看|识别|描述|提供|处理|回答|访问|满足|协助)
    | 作为(?:一个|一名)?(?:ai|人工智能|(?:大型?)?语言模型) | 请(?:您)?(?:提供|上传)(?:一张|您的)?(?:图片|图像|照片)
    | (?:抱歉|對不起).{0,12}(?:我|無法|不能) | 申し訳(?:ありません|ございません) | すみませんが | 画像が(?:見え|表示|提供)
    | 죄송(?:합니다|하지만) | 이미지를\s?(?:볼|확인할)\s?수\s?없
    | (?:es\ tut\ mir\ leid|entschuldigung|tut\ mir\ leid|leider)\b.{0,30}\b(?:kann\ ich|ich\ kann) | ich\ kann\ (?:das|dieses|kein|leider)\b.{0,30}\bnicht
    | (?:je\ suis\ désolée?|désolée?)\b.{0,30}\bje\ ne\ (?:peux|suis|vois) | (?:lo\ siento|lo\ lamento|perdón)\b.{0,30}\bno\ puedo
    | (?:desculpe|sinto\ muito|lamento)\b.{0,30}\bnão\ (?:posso|consigo) | mi\ dispiace\b.{0,30}\bnon\ posso
    | (?:извините|простите|к\ сожалению|прошу\ прощения)\b.{0,20}\b(?:я\ )?не\ (?:могу|вижу|имею) | (?:عذر|آسف|أعتذر)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_SENTENCES = re.compile(r"(?<=[.!?。！？])[\"'”’」』)]*\s*")
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W_]+(?:['’-][^\W_]+)*")
_END = re.compile(r"(?:[.!?…](?![\w.])|[。！？])[\"'”’»」』)\]]*")
_SHORT = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|vs|etc|e\.g|i\.e|approx|[A-Z])\.$")


def refuses(text: str) -> bool:
    """Say whether the answer begins by declining, by being an AI, or by seeing no image."""
    head = text[:300].replace("’", "'")
    return bool(_REFUSAL.search(head) or _REFUSAL_ELSEWHERE.search(head))


def loop(text: str) -> str | None:
    """Return what is said over and over, or None.

    That is: up to 30 words three times in a row (of one or two words six times; four where the text ends so), a sentence
    of four words or more three times, or two thirds of all runs of four words said before.
    """
    words = [w.casefold() for w in words_of(text)]
    for size in range(1, min(30, len(words) // 3) + 1):
        same = bytes(map(operator.eq, words[size:], words))  # 1 where a word equals the one ``size`` before it
        times = 6 if size <= 2 else 3
        at = same.find(b"\1" * (size * (times - 1)))
        if at < 0 and size <= 2 and same.endswith(b"\1" * (size * 3)):
            at = len(same) - size * 3
        if at >= 0:
            return " ".join(words[at : at + size])
    sentences = Counter(s.strip().casefold() for s in _SENTENCES.split(text))
    for sentence, count in sentences.items():
        if count >= 3 and len(words_of(sentence)) >= 4:
            return sentence
    grams = Counter(tuple(words[n : n + 4]) for n in range(len(words) - 3))
    if sum(grams.values()) >= 40 and len(grams) < sum(grams.values()) / 3:
        return " ".join(grams.most_common(1)[0][0])
    return None


@functools.lru_cache(maxsize=4)
def words_of(text: str) -> tuple[str, ...]:
    """Return the words; a character is a word where words are not spaced (Chinese, Japanese, Korean, Thai)."""
    return tuple(_WORDS.findall(text))


def script_share(text: str, script: str) -> float:
    """Return the share of the letters that belong to ``script``, a name of ``SCRIPTS``; 1 where there is no letter."""
    if script == "latin" and text.isascii():
        return 1.0
    letters = [c for c in text if c.isalpha()]
    return sum(unicodedata.name(c, "").split(" ")[0] in SCRIPTS[script] for c in letters) / len(letters) if letters else 1.0


def whole_sentences(text: str) -> str:
    """Return ``text`` up to the end of its last whole sentence, or all of it if it has none."""
    ends = [m.end() for m in _END.finditer(text) if not _SHORT.search(text[: m.start() + 1])]
    return text[: ends[-1]] if ends else text


def _named(words: Sequence[str], forbidden: Sequence[str]) -> str | None:
    """Return the first forbidden word that is named, in the singular or a regular plural."""
    wanted = set(forbidden)
    for word in (w.casefold() for w in words):
        for form in (word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"):
            if form in wanted:
                return word
    return None


def _start(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
