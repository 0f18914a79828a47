"""The openai engine against a server that answers well, late, cut short, wrongly, or not at all."""

from __future__ import annotations

import base64
import email.utils
import io
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthvlm_openai import AnyServer

from synthvlm import Caption, CaptionRequest, Failed, OptionError, WorkerError
from synthvlm.engines import openai, openai_client
from synthvlm.engines.openai import ServerCaptioner
from synthvlm.options import as_dict, build
from tests.engines.stand_in_server import Reply, Server, answer, prompt_of, refuse

KEY = "sk-very-secret-1234"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, and a key."""
    monkeypatch.setattr(openai_client, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(openai_client, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def captioner() -> Iterator[Callable[..., ServerCaptioner]]:
    """Connect to a server; closed at the end."""
    made: list[ServerCaptioner] = []

    def connect(server: Server, **options: Any) -> ServerCaptioner:
        made.append(build(AnyServer, {"checkpoint": "m", "base_url": server.url} | options, "openai").load(["cpu"]))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def ask(*prompts: str, **more: Any) -> list[CaptionRequest]:
    return [CaptionRequest(p, p, **more) for p in prompts]


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# What is sent.


def test_a_request_holds_the_image_before_the_prompt_and_every_parameter(captioner):
    image = picture()
    with Server() as server:
        request = CaptionRequest("1", "What is this?", (image,), ("a" * 64,), max_new_tokens=33, json_schema={"type": "object"})
        [caption] = captioner(server).caption([request])
    assert caption == Caption("seen: What is this?", "stop", 7, 20)
    [body] = server.bodies
    shown, asked = body["messages"][0]["content"]
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert asked == {"type": "text", "text": "What is this?"}
    head, data = shown["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(image))
    assert {k: body[k] for k in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "m",
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 33,
    }
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert not {"seed", "top_k", "repetition_penalty"} & set(body)  # words that a hosted server may refuse
    assert server.keys == {f"Bearer {KEY}"}


def test_a_server_that_takes_defaults_from_the_checkpoint_is_told_everything(captioner):
    models = Reply(body={"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "vllm"}]})
    with Server(models=models) as server:
        list(captioner(server, temperature=0.5, seed=3).caption(ask("a", repetition_penalty=1.2)))
    assert {k: server.bodies[0][k] for k in ("top_k", "min_p", "repetition_penalty", "seed", "temperature")} == {
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.2, "seed": 3, "temperature": 0.5,
    }  # fmt: skip


def test_images_as_jpeg_and_no_larger_than_asked(captioner):
    with Server() as server:
        list(captioner(server, image_format="jpeg", max_side=20).caption(ask("a", images=(picture(),), image_ids=("a",))))
    head, data = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"].split(",")
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, sent.format, sent.size) == ("data:image/jpeg;base64", "JPEG", (20, 15))


def test_prompts_on_one_image_share_its_encoding(captioner, monkeypatch):
    prepared = []
    monkeypatch.setattr(AnyServer, "prepare", lambda _, image: prepared.append(image) or image)
    first, second = picture(0), picture(1)
    requests = [CaptionRequest(f"{n}{p}", p + n, (image,), (n,)) for n, image in (("x", first), ("y", second)) for p in "abc"]
    with Server() as server:
        assert [c.text for c in captioner(server).caption(requests)] == [f"seen: {p}{n}" for n in "xy" for p in "abc"]
    assert prepared == [first, second]
    urls = [b["messages"][0]["content"][0]["image_url"]["url"] for b in sorted(server.bodies, key=lambda b: prompt_of(b)[::-1])]
    assert len(set(urls)) == 2 and urls[0] == urls[2] and urls[3] == urls[5]


def test_further_arguments_are_passed_on(captioner):
    with Server() as server:
        list(captioner(server, arguments='{"reasoning_effort": "low", "extra_body": {"mine": 1}}').caption(ask("a")))
    assert (server.bodies[0]["reasoning_effort"], server.bodies[0]["mine"]) == ("low", 1)
    with pytest.raises(OptionError, match="is not JSON"):
        build(AnyServer, {"checkpoint": "m", "arguments": "{"}, "openai")
    with pytest.raises(OptionError, match="needs the option 'checkpoint'"):
        build(AnyServer, {}, "openai")


# What comes back.


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(" cut of", "length"), Caption("cut of", "length", 7, 20)),
        (answer("", "stop"), Caption("", "stop", 7, 20)),
        (answer(None, "stop", refusal="I cannot"), Caption("I cannot", "stop", 7, 20)),  # type: ignore[arg-type]
        (answer("x", "tool_calls"), Caption("x", None, 7, 20)),
        (answer("x", "content_filter"), Failed("the server's content filter held the answer back", "ContentFilter")),
    ],
)
def test_what_an_answer_means(captioner, reply, expected):
    with Server(lambda *_: reply) as server:
        assert list(captioner(server).caption(ask("a"))) == [expected]


def test_answers_come_in_order_and_while_later_ones_are_in_flight(captioner, monkeypatch):
    """The source has no end: answers must come before it is exhausted, and no more may be taken than are held."""
    monkeypatch.setattr(openai, "_HELD", 30)
    waits = {"0": 0.3, "3": 0.2}
    with Server(lambda body, _: answer(prompt_of(body)) if not time.sleep(waits.get(prompt_of(body), 0.0)) else None) as server:
        endless = (CaptionRequest(str(n), str(n)) for n in itertools.count())
        answers = captioner(server, concurrency=8).caption(endless)
        assert [next(answers).text for _ in range(60)] == [str(n) for n in range(60)]
        answers.close()
        asked = len(server.bodies)
        assert 60 <= asked <= 60 + 30
        assert server.most > 1


def test_an_empty_shard(captioner):
    with Server() as server:
        assert list(captioner(server).caption([])) == []


# Trouble.


def flaky(bad: Reply, times: int = 1) -> Callable[[dict[str, Any], int], Reply]:
    return lambda body, attempt: bad if attempt <= times else answer("seen: " + prompt_of(body))


@pytest.mark.parametrize(
    "bad",
    [
        refuse(500, "stumbled"),
        refuse(503, "loading"),
        refuse(408, "slow"),
        Reply(502, "<html>Bad gateway</html>", {"Content-Type": "text/html"}),
        Reply(body=answer("x").body, cut=30),  # half a body
        Reply(cut=0),  # nothing
        Reply(body="{not json"),
        Reply(body="<html>a login page</html>", headers={"Content-Type": "text/html"}),
        Reply(body={"no": "choices"}),
        Reply(body={"choices": []}),
        Reply(body=["a list"]),
        Reply(body={"choices": [{"message": {"role": "assistant", "content": {"a": 1}}}]}),
        Reply(body=answer("late").body, delay=5),
        Reply(body=answer("byte by byte").body, drip=0.05),
    ],
)
def test_what_may_pass_is_tried_again(captioner, bad):
    with Server(flaky(bad)) as server:
        assert list(captioner(server, request_timeout=0.6).caption(ask("a"))) == [Caption("seen: a", "stop", 7, 20)]
        assert server.attempts == {"a": 2}


@pytest.mark.parametrize(
    "wish", [lambda: "1", lambda: email.utils.formatdate(time.time() + 2.5, usegmt=True)], ids=["seconds", "date in whole seconds"]
)
def test_a_wait_that_the_server_wishes_for_is_kept(captioner, wish):
    with Server(flaky(refuse(429, "slow down", Retry_After=wish()))) as server:
        assert [c.text for c in captioner(server).caption(ask("a"))] == ["seen: a"]
        assert 0.9 < server.times[1] - server.times[0] < 3.5


def test_a_wait_beyond_all_patience_is_not_begun(captioner):
    with Server(flaky(refuse(429, "tomorrow", Retry_After="86400"))) as server:
        began = time.monotonic()
        [failed] = captioner(server, request_timeout=5).caption(ask("a"))
        assert failed == Failed("the server has too much to do (429): tomorrow", "Overloaded")
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("bad", "attempts", "error_class", "says"),
    [
        (refuse(500, "CUDA error"), 5, "ServerError", "the server failed (500): CUDA error (tried 5 times)"),
        (Reply(body={"no": "choices"}), 5, "UnusableAnswer", "no chat completion"),
        (refuse(400, "the image is too large"), 1, "Refused", "the server refused it (400): the image is too large"),
        (refuse(422, "no such field"), 1, "Refused", "(422): no such field"),
        (refuse(404, "no such model"), 1, "Refused", "(404): no such model"),
        (refuse(429, "you have no money", "insufficient_quota"), 1, "NoQuota", "you have no money"),
    ],
)
def test_a_row_is_set_aside_alone(captioner, bad, attempts, error_class, says):
    with Server(lambda body, _: bad if prompt_of(body) == "b" else answer(prompt_of(body))) as server:
        a, b, c = captioner(server).caption(ask("a", "b", "c"))
        assert (a.text, c.text) == ("a", "c")
        assert b.error_class == error_class and says in b.error
        assert server.attempts["b"] == attempts


@pytest.mark.parametrize(
    ("bad", "error_class"), [(Reply(delay=9, body={}), "Timeout"), (Reply(cut=0), "NoConnection"), (refuse(429, "no"), "Overloaded")]
)
def test_patience_has_an_end(captioner, bad, error_class):
    with Server(lambda *_: bad) as server:
        began = time.monotonic()
        [failed] = captioner(server, request_timeout=0.4).caption(ask("a"))
        assert failed.error_class == error_class and "tried" in failed.error
        assert 0.5 < time.monotonic() - began < 5  # three time-outs, or as long
        assert server.attempts["a"] > 1


def test_a_server_that_stops_and_comes_back_costs_no_row(captioner):
    down = threading.Event()
    with Server(lambda body, _: Reply(cut=0) if down.is_set() else answer(prompt_of(body))) as server:
        answers = captioner(server).caption(ask(*map(str, range(40))))
        got = [next(answers).text]
        down.set()
        threading.Timer(0.4, down.clear).start()
        assert got + [c.text for c in answers] == list(map(str, range(40)))


def test_the_other_name_for_the_token_limit(captioner):
    def behave(body: dict[str, Any], _: int) -> Reply:
        if "max_tokens" in body:
            return refuse(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return answer(str(body["max_completion_tokens"]))

    with Server(behave) as server:
        one = captioner(server, concurrency=1)
        assert [c.text for c in one.caption(ask("a", "b", max_new_tokens=9))] == ["9", "9"]
        assert server.attempts == {"a": 2, "b": 1}


# Pace.


def test_concurrency_rises_to_what_is_allowed(captioner):
    def behave(body: dict[str, Any], _: int) -> Reply:
        time.sleep(0.25)
        return answer(prompt_of(body))

    with Server(behave) as server:
        one = captioner(server, concurrency=24)
        assert one.concurrency == 8
        list(one.caption(ask(*map(str, range(150)))))
        assert one.concurrency == 24
        assert 16 <= server.most <= 24


def test_concurrency_falls_to_what_the_server_bears(captioner):
    """It bears four: rows are never lost, and in the end it is asked for little more than that."""
    refused = []

    def behave(body: dict[str, Any], _: int) -> Reply:
        if server.running > 4:
            refused.append(prompt_of(body))
            return refuse(429, "slow down")
        time.sleep(0.02)
        return answer(prompt_of(body))

    with Server(behave) as server:
        one = captioner(server, concurrency=64, request_timeout=20)
        assert [c.text for c in one.caption(ask(*map(str, range(300))))] == list(map(str, range(300)))
        assert refused and 1 <= one.concurrency <= 12
        assert sum(server.attempts.values()) - 300 < 150  # it learnt


# The key, and the first word with the server.


def test_the_key_is_nowhere_but_in_the_header(captioner, caplog):
    caplog.set_level(logging.INFO)  # as in a worker
    with Server(lambda *_: refuse(400, f"Incorrect API key provided: {KEY}")) as server:
        one = captioner(server)
        [failed] = one.caption(ask("a"))
        assert failed.error == "the server refused it (400): Incorrect API key provided: ***"
        assert server.keys == {f"Bearer {KEY}"}
    with Server(models=refuse(401, f"Incorrect API key provided: {KEY}")) as server, pytest.raises(WorkerError) as caught:
        captioner(server)
    assert "does not let us in: Incorrect API key provided: ***\n  check the key in the environment variable OPENAI_API_KEY" in str(
        caught.value
    )
    assert KEY not in caplog.text
    assert not any("HTTP Request" in r.getMessage() for r in caplog.records)
    assert KEY not in json.dumps(as_dict(build(AnyServer, {"checkpoint": "m"}, "openai")))


def test_another_variable_may_hold_the_key(captioner, monkeypatch):
    monkeypatch.setenv("MY_KEY", "other")
    with Server() as server:
        list(captioner(server, api_key_env="MY_KEY").caption(ask("a")))
    assert server.keys == {"Bearer other"}


def test_what_is_wrong_with_the_server_is_said_before_any_row(captioner, monkeypatch):
    with pytest.raises(WorkerError, match="no server answers at"):
        build(AnyServer, {"checkpoint": "m", "base_url": "http://127.0.0.1:9/v1"}, "openai").load(["cpu"])
    with Server() as server, pytest.raises(WorkerError, match=r"has no model 'n'\n  it has: m\."):
        captioner(server, checkpoint="n")
    monkeypatch.delenv("OPENAI_API_KEY")
    with (
        Server(models=refuse(401, "no key")) as server,
        pytest.raises(WorkerError, match="it wants a key: put it into the environment variable"),
    ):
        captioner(server)
    for url, says in (("http://me:pass@host/v1", "holds a password"), ("localhost:8000", "is no address")):
        with pytest.raises(OptionError, match=says) as caught:
            build(AnyServer, {"checkpoint": "m", "base_url": url}, "openai").load(["cpu"])
        assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "models", [refuse(404, "no such page"), Reply(body="hello", headers={"Content-Type": "text/plain"}), Reply(body={"data": None})]
)
def test_a_server_that_does_not_list_its_models_serves_too(captioner, models):
    with Server(models=models) as server:
        assert [c.text for c in captioner(server).caption(ask("a"))] == ["seen: a"]


def test_the_address_may_come_from_the_environment(monkeypatch):
    with Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        one = build(AnyServer, {"checkpoint": "m"}, "openai").load(["cpu"])
        assert [c.text for c in one.caption(ask("a"))] == ["seen: a"]
        one.close()
