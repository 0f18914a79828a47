"""What a model said, without what is not part of the caption: polite beginnings, quotation marks, markup, the question said again."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\ufffd\x00-\x08\x0b-\x1f\x7f]")
_SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>|</?s>|<(?:pad|unk|eos|bos|image)>|\[/?INST\]", re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\n?(.*?)\n?```$", re.DOTALL)
_MARKUP = (
    (re.compile(r"^ {0,3}#{1,6} +", re.MULTILINE), ""),
    (re.compile(r"(\*\*\*|\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!`)`([^`\n]+)`(?!`)"), r"\1"),
    (re.compile(r"^\s*(?:[-*_]\s*){3,}$", re.MULTILINE), ""),
)
_BULLET = re.compile(r"^[ \t]*(?:[-*–•·‣][ \t]+|[•·‣]|\(?\d{1,3}(?:[.)][ \t]+|[、．)]))(?=\S)", re.MULTILINE)
_QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("‘", "’"), ("'", "'"), ("«", "»"), ("「", "」"), ("『", "』"), ("《", "》"))
_YES = (
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|yes|great|no problem|gladly|当然(?:可以)?|好的|没问题|可以|"
    r"はい|もちろん(?:です)?|네|물론(?:입니다|이죠)?|natürlich|gerne?|klar|bien sûr|certainement|d'accord|claro|por supuesto|certo|конечно|хорошо)"
)
_SAID = (  # what an announcement announces
    r"(?:descriptions?|captions?|lists?|nouns?|answers?|sentences?|summar(?:y|ies)|(?:key)?words?|objects?|response|breakdown|overview|"
    r"描述|说明|標題|标题|名词|回答|列表|句子|キャプション|説明|リスト|설명|목록|캡션|(?:bild)?beschreibung|liste|satz|bildunterschrift|"
    r"légende|phrase|descripción|lista|frase|leyenda|descrição|legenda|descrizione|elenco|описание|список|подпись)"
)
_HERE = (
    r"(?:here(?:['’]s| is| are| you go| you are)|below (?:is|are)|(?:the following|this) (?:is|are)|以下は?是?|这是|下面是|こちらは|次は|다음은|여기|"
    r"hier (?:ist|sind)|voici|aqu[ií] (?:tienes?|est[áa]n?|hay)|ecco|вот|ниже)"
)
_POLITE = re.compile(rf"^{_YES}\s*(?:[!.,，。！、:：—]+|\s[-–]\s)\s*(?=\S)", re.IGNORECASE)
_ANNOUNCED = re.compile(
    rf"^(?:{_YES}\s*[!.,，。！、—-]*\s*)?{_HERE}[^.:：。\n]{{0,80}}?{_SAID}[^.:：。\n]{{0,60}}[:：]\s*(?=\S)", re.IGNORECASE
)
_LABEL = re.compile(
    r"^(?:assistant|answer|response|output|(?:(?:image|photo|short|brief|detailed|long|one-sentence)\s+)*(?:caption|description)(?:\s+of\s+(?:the|this)\s+\w+)?|"
    r"nouns|style|background|回答|答案|描述|图片描述|答)\s*[:：]\s*(?=\S)",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"(?:^|(?<=[.!?。！？])\s*)(?:I hope (?:this|that) (?:description |caption )?helps|(?:please )?let me know if|feel free to (?:ask|let)|"
    r"if you (?:have|need|would like|want) (?:any|more|further|me)|is there anything else|希望(?:这|以上)|如果(?:您|你)(?:还)?(?:有|需要)|"
    r"ich hoffe, das hilft|n'hésitez pas|espero que (?:esto|isso))[^.!?。！？]*[.!?。！？]?\s*$",
    re.IGNORECASE,
)


def clean(answer: str, prompt: str = "", as_items: bool = False) -> tuple[str, list[str]]:
    """Return ``answer`` as one line without what is not part of it, and what was taken off. ``as_items``: lines are items of a list."""
    text = unicodedata.normalize("NFC", _SPECIAL.sub("", _INVISIBLE.sub("", answer))).strip()
    flags: list[str] = []

    def now(new: str, flag: str) -> str:
        if new != text and flag not in flags:
            flags.append(flag)
        return new

    text = now(_without_echo(text, prompt), "echo")
    fenced = _FENCE.match(text)
    text = now(fenced[1].strip() if fenced else text, "markup")
    for pattern, kept in _MARKUP:
        text = now(pattern.sub(kept, text).strip(), "markup")
    for _ in range(3):  # 'Sure! Here is a caption: "Caption: …"'
        before = text
        announced = _ANNOUNCED.match(text)
        text = now(text[announced.end() :] if announced else _POLITE.sub("", text), "preamble")
        text = now(_LABEL.sub("", text), "preamble")
        text = now(_unquoted(text), "unwrapped")
        if text == before:
            break
    text = now(_OFFER.sub("", text).rstrip(), "afterword")
    bulleted = bool(_BULLET.search(text))
    lines = [line for line in (x.strip() for x in _BULLET.sub("", text).splitlines()) if line]
    text = now(text if not bulleted else "\n".join(lines), "markup")
    if bulleted or (as_items and "," not in text):
        text = " ".join(x if x.endswith(_ENDINGS) or x is lines[-1] else f"{x}," for x in lines)
    return " ".join(text.split()), flags


_ENDINGS = (".", "!", "?", ":", ",", ";", "。", "！", "？", "：", "，", "；", "、")


def _without_echo(text: str, prompt: str) -> str:
    """Take the question off the answer's beginning, whatever its spacing and case."""
    words = prompt.split()
    if not words:
        return text
    said = re.match(r"\s*['\"“]?" + r"\s+".join(map(re.escape, words)) + r"['\"”]?[\s:：]*", text, re.IGNORECASE)
    return text[said.end() :].strip() if said else text


def _unquoted(text: str) -> str:
    """Take off quotation marks around the whole; those of two quotations stay."""
    for left, right in _QUOTES:
        inner = text[len(left) : -len(right)]
        apart = re.sub(r"(?<=\w)['’](?=\w)", "", inner)  # apostrophes
        if len(text) > 2 and text.startswith(left) and text.endswith(right) and left not in apart and right not in apart:
            return inner.strip()
    return text


_SEPARATORS = (",", "，", "、", ";", "；", "|")
_AND = re.compile(r"\s+(?:and|und|et|y|e)\s+|(?:以及|和)", re.IGNORECASE)
_AND_FIRST = re.compile(r"^(?:and|und|et|y|e)\s+|^(?:以及|和)", re.IGNORECASE)


def as_list(text: str, drop_last: bool = False) -> tuple[str, list[str]]:
    """Return the items of a list with commas between them, each once, and what that took. ``drop_last``: the last one was cut off."""
    separator = next((s for s in _SEPARATORS if s in text), ",")
    items = [_AND_FIRST.sub("", i.strip()).rstrip(".。;；!").strip() for i in text.split(separator)]
    flags = []
    if drop_last and len(items) > 1:
        items, flags = items[:-1], ["trimmed"]
    else:
        items[-1:] = _AND.split(items[-1])
    items = [i for i in items if i]
    once: dict[str, str] = {}
    for item in items:
        once.setdefault(item.casefold(), item)
    if len(once) < len(items):
        flags.append("repeats")
    return ", ".join(once.values()), flags
