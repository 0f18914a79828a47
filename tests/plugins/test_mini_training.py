"""The training of the miniature models: every step runs for a few iterations, is resumable, and its models load as users load them."""

import json
import random

import pytest

torch = pytest.importorskip("torch")

from synthvlm_mini.book.scene import sample
from synthvlm_mini.train import card, evaluate, loop, truth


def test_labels_tell_the_whole_scene():
    rng = random.Random(3)
    for _ in range(500):
        scene = sample(rng)
        assert truth.scene_of(truth.labels(scene)) == scene


def test_labels_of_a_partial_scene_are_unknown_where_it_tells_nothing():
    scene = sample(random.Random(4)).without("style", "setting", "color")
    row = dict(zip(truth.HEADS, truth.labels(scene), strict=True))
    assert row["style"] == row["setting"] == row["color0"] == -1
    assert row["count"] == len(scene.things) - 1


def test_an_impossible_answer_is_no_scene():
    row = dict(zip(truth.HEADS, truth.labels(sample(random.Random(5))), strict=True))
    row |= {"count": 0, "layout": truth.HEADS["layout"] - 1}  # a square of one thing
    assert truth.scene_of(list(row.values())) is None


def test_patches_show_the_things_of_the_grid():
    rows = torch.tensor([truth.labels(sample(random.Random(6)))])
    shown = truth.of_patches(torch.tensor([[[0, 1], [0, 1]]]), rows)
    assert shown.shape == (1, 2, 2, 3)
    assert shown[0, 0, 0].tolist() == [0, 0, 0]
    assert shown[0, 0, 1].tolist() == [int(v) + 1 for v in rows[0, 4:7]]


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path, stop):
    class Stopped(Exception):
        pass

    def train(folder, most):
        torch.manual_seed(0)
        model, steps = torch.nn.Linear(3, 1), 0

        def loss(rng):
            nonlocal steps
            if steps == most:
                raise Stopped
            steps += 1
            x = torch.randn(4, 3) * rng.random()
            return (model(x) - x.sum(1, keepdim=True)).pow(2).mean(), {"spread": float(x.std())}

        folder.mkdir(exist_ok=True)
        return loop.fit("line", folder, {"model": model}, loss, loop.Schedule(steps=12, rate=0.1, warmup=3), save_every=0, log_every=1)

    whole = train(tmp_path / "whole", 99)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", stop)
    resumed = train(tmp_path / "stopped", 99)
    assert all(torch.equal(whole["model"][k], resumed["model"][k]) for k in whole["model"])
    curve = [json.loads(line) for line in (tmp_path / "stopped" / "line.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve] == list(range(1, 13))


def test_the_card_names_what_falls_short(tmp_path):
    good = dict.fromkeys(card.FLOORS["checker"], 1.0)
    figures = {"scenes": 8, "checker": good | {"kind": 0.5}}
    assert card.missed(figures) == ["checker: kind is 0.5, meant to be 0.97"]
    text = card.write(tmp_path, figures, tmp_path / "models", "two cores").read_text()
    assert "kind is 0.5, meant to be 0.97" in text
    assert json.loads((tmp_path / "models" / "figures.json").read_text()) == figures


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_step_runs_and_its_models_are_measured_as_users_run_them(tmp_path):
    from click.testing import CliRunner
    from synthvlm_mini.train.__main__ import main

    out, models = str(tmp_path / "training"), str(tmp_path / "models")

    def run(*arguments):
        result = CliRunner().invoke(main, [*arguments, "--out", out], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run("train", "--scale", "0.0004", "--device", "cpu")
    run("export", models)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"checker.safetensors", "clip", "captioner", "generator"}
    said = run("evaluate", models, "--scenes", "2", "--selection", "1", "--hardware", "a test")
    figures = json.loads((tmp_path / "models" / "figures.json").read_text())
    assert set(figures) == {"scenes", "checker", "clip", "captioner", "generator", "selection"}
    assert set(figures["captioner"]) >= set(evaluate.QUESTIONS)
    assert "Not reached yet" in said  # nobody learns this world in two steps
    assert "resumed" in run("train", "text", "--scale", "0.0004", "--device", "cpu")
