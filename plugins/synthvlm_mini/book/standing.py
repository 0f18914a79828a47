"""How things stand, from the order in which a caption names them and tells of relations, places and arrangements."""

from __future__ import annotations

from collections.abc import Sequence

from synthvlm_mini.book.scene import LAYOUTS
from synthvlm_mini.book.words import PLACES


class Outside(Exception):
    """The caption tells of something that the world does not have, or cannot be read."""


Event = tuple[str, str]
"""What was read and its value: ``T`` a thing (its index), ``R`` a relation, ``I`` a relation to the thing named before,
``P`` a place, ``A`` an arrangement."""
Layout = tuple[list[int], str | None]
"""The things' indices in the order of the layout, and the layout."""

# Of two things: which of the named is the subject of the relation and which its object.
_SUBJECT_OBJECT = {"TRT": (0, 1), "RTT": (1, 0), "TTR": (1, 0), "TTI": (1, 0), "TIT": (1, 0)}


def layout(sentences: Sequence[Sequence[Event]], count: int) -> Layout:
    """Return how ``count`` things stand that were named in these sentences.

    Raises :class:`Outside` for what no layout can be, or what tells too little to be sure.
    """
    events = _of_use(sentences)
    arranged = {value for kind, value in events if kind == "A"}
    events = [event for event in events if event[0] != "A"]
    pattern = "".join(kind for kind, _ in events)
    named = [int(value) for kind, value in events if kind == "T"]
    if sorted(named) != list(range(count)):
        raise Outside
    if not pattern.strip("T"):
        order, found = named, None
    elif "P" in pattern:
        order, found = _placed(events, count)
    else:
        order, found = _related(pattern, named, [value for kind, value in events if kind in "RI"])
    if len(arranged | ({found} if found else set())) > 1:
        raise Outside
    return order, found or next(iter(arranged), None)


def _of_use(sentences: Sequence[Sequence[Event]]) -> list[Event]:
    """Leave out every mention of a thing but the one that tells how it stands: the last with a relation or place, or else the first."""
    telling = [sentence for sentence in sentences if any(kind != "T" for kind, _ in sentence)]
    told = {event for sentence in telling for event in sentence}
    events: list[Event] = []
    for sentence in sentences:
        for event in sentence:
            if sentence in telling or event not in told.union(events):
                events.append(event)
    return [event for i, event in enumerate(events) if event[0] != "T" or event not in events[i + 1 :]]


def _related(pattern: str, named: list[int], relations: list[str]) -> Layout:
    if len(set(relations)) > 1:
        raise Outside
    relation, _, turned = relations[0].partition(" ")
    if pattern in _SUBJECT_OBJECT:
        subject, object_ = (named[i] for i in _SUBJECT_OBJECT[pattern])
        return [object_, subject] if turned else [subject, object_], relation
    if pattern == "TRTRT" and relation in LAYOUTS[3]:
        return named[::-1] if turned else named, relation
    if pattern in ("TTRTT", "RTTTT") and relation == "column":
        upper, lower = named[:2], named[2:]
        return lower + upper if (pattern[0] == "R") != bool(turned) else named, "square"
    if pattern in ("TR", "RT") and relation == "row":  # "a ball to the left"
        return named, "right" if turned else "left"
    raise Outside


def _placed(events: Sequence[Event], count: int) -> Layout:
    """Order the things by "A on the left and B on the right", "on the left A, …", or two of four at each place."""
    step = -1 if events[0][0] == "P" else 1
    groups: dict[str, list[int]] = {}
    waiting: list[int] = []
    for kind, value in events[::step]:
        if kind == "T":
            waiting.append(int(value))
        elif kind == "P" and waiting and value not in groups:
            groups[value], waiting = waiting[::step], []
        else:
            raise Outside
    if waiting or len({len(group) for group in groups.values()}) > 1:
        raise Outside
    for name in LAYOUTS[count]:
        wanted = ("top", "bottom") if name == "square" and len(groups) == 2 else PLACES[count, name]
        if sorted(wanted) == sorted(groups):
            return [thing for place in wanted for thing in groups[place]], name
    raise Outside
