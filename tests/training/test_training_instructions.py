"""Instruction data: true by templates, checked and paid for once by an endpoint, read back by the project's readers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import model_server
from PIL import Image

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_sim import words
from osprey_sim.catalog import CLASSES
from osprey_sim.scene import sample_scene
from osprey_torch.readers import coco, osprey724k
from osprey_torch.readers.records import Record, Skipped
from training.instructions import __main__ as command

ROOT = Path(__file__).parents[2]
READERS = {
    "detail_description": osprey724k.detailed_descriptions,
    "conversations": osprey724k.conversations,
    "short_form": osprey724k.short_form,
    "part_level": osprey724k.part_level,
    "lvis_positive_negative": osprey724k.lvis_positive_negative,
}
SCENES = 3


def _read(folder: Path, kind: str, images: Path) -> list[Record]:
    skipped = Skipped(strict=True)
    return list(READERS[kind](folder / f"osprey_{kind}.json", images, skipped))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert command.main(["--scenes", str(SCENES), "--templates", "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("kind", list(READERS))
def test_every_kind_is_read_back_whole(scenes: Path, kind: str) -> None:
    written = json.loads((scenes / f"osprey_{kind}.json").read_text())
    records = _read(scenes, kind, scenes / "images")
    assert len(records) == len(written) > 0
    for record, entry in zip(records, written, strict=True):
        assert record.image.is_file()
        assert len(record.masks) == len(entry["annotation"]) <= 8
        with Image.open(record.image) as image:
            assert record.masks[0].decode().shape == image.size[::-1]
        said = entry.get("description") or [t["value"] for t in entry["conversations"][1::2]]
        answers = [turn.answer for turns in record.dialogues for turn in turns]
        assert [text.split(": ", 1)[-1].replace("<", "").replace(">", "") for text in said] == answers


def test_what_is_said_of_scenes_is_true(scenes: Path) -> None:
    answers = Counter()
    for record in _read(scenes, "lvis_positive_negative", scenes / "images"):
        scene = sample_scene(int(record.image.stem.removeprefix("train")), "train")
        present = {obj.category for obj in scene.objects}
        for (turn,) in record.dialogues:
            asked = turn.question.removesuffix("?").split()[-1]
            answers[turn.answer] += 1
            assert asked in present if turn.answer == "Yes." else asked in CLASSES
    assert answers["Yes."] == answers["No."] > 10
    for record in _read(scenes, "detail_description", scenes / "images"):
        scene = sample_scene(int(record.image.stem.removeprefix("train")), "train")
        for (turn,) in record.dialogues:
            assert any(turn.answer.startswith(words.short(obj)) for obj in scene.objects)
    for record in _read(scenes, "short_form", scenes / "images"):
        middles = [np.argwhere(mask.decode())[:, 1].mean() for mask in record.masks]
        (turns,) = record.dialogues
        for turn in turns:
            if "On which side" in turn.question:
                said = turn.question.split("On which side of region")[1].split()
                other, one = int(said[0]) - 1, int(said[2].rstrip("?")[len("region") :]) - 1
                assert (middles[one] < middles[other]) == (turn.answer == "left")


def test_the_masks_file_is_a_data_set_of_its_own(scenes: Path, tmp_path: Path) -> None:
    skipped = Skipped(strict=True)
    records = list(coco.own_masks(scenes / "masks.json", scenes / "images", skipped))
    assert len(records) == SCENES
    questions = {turn.question for record in records for (turn,) in record.dialogues}
    assert questions == {*QUESTIONS.values(), "What color is <mask><pos>?"}
    # What is known of it survives another pass: made from its own masks, the same descriptions come out.
    source = ["--source", "own_masks", str(scenes / "masks.json"), str(scenes / "images")]
    kinds = ["--kinds", "detail_description", "short_form"]
    assert command.main([*source, "--templates", *kinds, "--output", str(tmp_path)]) == 0
    again, before = (
        {
            turn.answer
            for record in _read(folder, "detail_description", scenes / "images")
            for (turn,) in record.dialogues
        }
        for folder in (tmp_path, scenes)
    )
    assert before <= again


HEIGHT, WIDTH = 40, 60
LEFT = [[2, 3, 12, 3, 12, 13, 2, 13]]


@pytest.fixture
def cups(tmp_path: Path) -> Path:
    """A data set of three images with a cup on the left of a bowl; the file lists one of them twice."""
    images, annotations = [], []
    for number in (1, 2, 3, 3):
        identity = len(images) + 1
        images.append({"id": identity, "file_name": f"my_photo_{number}.jpg", "height": HEIGHT, "width": WIDTH})
        # The sizes differ from image to image, because images with the same facts share their answers.
        bottom = 32 + number
        for category, mask in ((1, LEFT), (2, [[30, 3, 55, 3, 55, bottom, 30, bottom]])):
            annotations.append(
                {"id": len(annotations), "image_id": identity, "category_id": category, "segmentation": mask}
            )
    for number in (1, 2, 3):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"my_photo_{number}.jpg")
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "bowl"}, {"id": 3, "name": "dog"}]
    annotations.append({"id": 99, "image_id": 1, "category_id": 3, "segmentation": LEFT, "ignore": 1})
    data = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "cups.json").write_text(json.dumps(data))
    return tmp_path


def _source(folder: Path, *rest: str) -> list[str]:
    return [
        "--source",
        "coco_instances",
        str(folder / "cups.json"),
        str(folder),
        "--output",
        str(folder / "out"),
        *rest,
    ]


def test_templates_say_what_masks_tell(cups: Path) -> None:
    assert command.main(_source(cups, "--templates")) == 0
    records = _read(cups / "out", "detail_description", cups)
    assert [record.image.name for record in records] == [f"my_photo_{n}.jpg" for n in (1, 2, 3)]
    cup, bowl = (turns[0].answer for turns in records[0].dialogues)
    assert cup == (
        "A cup, at the top left of the picture. It takes up about 4 percent of the picture. "
        "It is to the left of a bowl."
    )
    assert bowl.startswith("A bowl, on the right of the picture. It takes up about 31 percent")
    assert not (cups / "out" / "osprey_part_level.json").read_text().strip("[]\n"), "nothing is known of parts"


def test_parts_are_parts_of_their_objects(cups: Path) -> None:
    data = json.loads((cups / "cups.json").read_text())
    data["categories"] = [{"id": 1, "name": "cow:ear"}, {"id": 2, "name": "cow:leg"}, {"id": 3, "name": "dog:ear"}]
    (cups / "cups.json").write_text(json.dumps(data))
    arguments = _source(cups, "--templates")
    arguments[1] = "pascal_part"
    assert command.main(arguments) == 0
    ((*turns,),) = _read(cups / "out", "part_level", cups)[0].dialogues
    assert [turn.answer for turn in turns] == ["ear", "cow", "leg", "cow"]


GOOD = {
    "descriptions": {"1": "A white cup to the left of <region2>.", "2": "A large bowl beside the cup of <region1>."},
    "turns": [{"question": "What is <region1>?", "answer": "A cup."}, {"question": "And beside?", "answer": "A bowl."}],
}


def _good(body: dict, number: int) -> tuple[int, dict[str, str], str]:
    return 200, {}, "```json\n" + json.dumps(GOOD) + "\n```"


def _ask(server: Any, folder: Path, *rest: str) -> int:
    options = ["--endpoint", server.url, "--model", "small", "--backoff", "0.01", "--parallel", "2", *rest]
    return command.main(_source(folder, *options))


def _summary(folder: Path) -> dict:
    return json.loads((folder / "out" / "summary.json").read_text())


def test_an_endpoint_is_asked_once_for_each_kind_and_image(cups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with model_server(_good) as server:
        assert _ask(server, cups, "--key-variable", "MY_KEY", "--price-sent", "1", "--price-received", "10") == 0
        assert len(server.asked) == 3 * 3
        assert {request["path"] for request in server.asked} == {"/v1/chat/completions"}
        assert {request["key"] for request in server.asked} == {"Bearer secret"}
        assert _ask(server, cups) == 0
        assert len(server.asked) == 3 * 3, "a second run has its answers in the journal"
    assert "secret" not in "".join(path.read_text() for path in (cups / "out").iterdir())
    records = _read(cups / "out", "detail_description", cups)
    assert [turns[0].answer for turns in records[0].dialogues] == [
        "A white cup to the left of region2.",
        "A large bowl beside the cup of region1.",
    ]
    assert [turn.answer for turn in _read(cups / "out", "conversations", cups)[0].dialogues[0]] == ["A cup.", "A bowl."]
    # Yes and no come from the masks, also if an endpoint writes the other answers.
    assert len(_read(cups / "out", "lvis_positive_negative", cups)[0].dialogues) == 4


def test_tokens_and_dollars_are_counted_over_all_runs(cups: Path) -> None:
    prices = ["--price-sent", "1", "--price-received", "10"]
    with model_server(_good) as server:
        assert _ask(server, cups, *prices, "--kinds", "conversations") == 0
        first = _summary(cups)
        assert (first["tokens_sent"], first["tokens_received"]) == (600, 150)
        assert first["dollars"] == pytest.approx((600 * 1 + 150 * 10) / 1e6)
        assert _ask(server, cups, *prices, "--kinds", "conversations", "short_form") == 0
    assert _summary(cups)["tokens_sent"] == 1200


def test_the_bound_is_never_passed_and_a_higher_one_goes_on(cups: Path) -> None:
    with model_server(_good) as server:
        assert _ask(server, cups, "--most-tokens", "2100", "--kinds", "conversations", "masks") == command.BOUND_REACHED
        told = _summary(cups)
        # A request is made only if the most it could cost still fits; afterwards it counts what it did cost.
        assert 0 < len(server.asked) < 3
        assert told["not_asked"] == 3 - len(server.asked)
        assert told["tokens_sent"] + told["tokens_received"] <= 2100
        assert len(_read(cups / "out", "conversations", cups)) == len(server.asked)
        assert _ask(server, cups, "--most-tokens", "100000", "--kinds", "conversations") == 0
        assert len(server.asked) == 3
        assert _ask(server, cups, "--most-dollars", "1") == 2, "dollars need prices"


def test_it_waits_and_asks_again_after_answers_that_pass(cups: Path) -> None:
    def busy(body: dict, number: int) -> tuple[int, dict[str, str], str]:
        if number in (1, 2):
            return (429, {"Retry-After": "0.05"}, "slow down") if number == 1 else (503, {}, "overloaded")
        return _good(body, number)

    with model_server(busy) as server:
        started = time.monotonic()
        assert _ask(server, cups, "--kinds", "conversations", "--parallel", "1") == 0
        assert time.monotonic() - started >= 0.05
        assert len(server.asked) == 3 + 2
    assert _summary(cups)["samples"] == {"conversations": 6}


@pytest.mark.parametrize(
    ("status", "attempts", "message"),
    [
        (401, 1, "HTTP 401.*--key-variable"),
        (404, 1, "--endpoint"),
        (500, 3, "no answer in 3 attempts.*HTTP 500: .*why"),
    ],
)
def test_refusals_say_what_to_do(
    cups: Path, capsys: pytest.CaptureFixture[str], status: int, attempts: int, message: str
) -> None:
    with model_server(lambda body, number: (status, {}, "why")) as server:
        assert _ask(server, cups, "--kinds", "conversations", "--parallel", "1", "--attempts", "3") == 2
        assert len(server.asked) == attempts
    assert re.search(f"instructions: .*{message}", capsys.readouterr().err)


def test_a_request_without_an_answer_counts_as_spent(cups: Path) -> None:
    held = threading.Event()

    def silent(body: dict, number: int) -> tuple[int, dict[str, str], str]:
        if number == 1:
            held.wait(60)
        return _good(body, number)

    with model_server(silent) as server:
        options = ["--timeout", "0.2", "--kinds", "conversations", "--parallel", "1", "--pictures", "1"]
        status = _ask(server, cups, *options, "--attempts", "30")
        held.set()
        assert status == 0
    spent = _summary(cups)
    assert spent["tokens_received"] >= 50 + 900, "as much as the lost request could have cost"


def _changed(**values: Any) -> str:
    return json.dumps({**GOOD, **values})


BAD = [
    ("I cannot do that.", "not the JSON"),
    ("", "empty"),
    ("[1, 2]", "not the JSON"),
    (_changed(descriptions={"1": "A white cup on the left."}), "empty"),
    (_changed(descriptions={"1": "", "2": "A large bowl, empty."}), "empty"),
    (_changed(descriptions={"1": "A cup beside two dogs.", "2": "A large bowl, empty."}), "names another object"),
    (_changed(descriptions={"1": "A large bowl, empty.", "2": "A white cup, empty."}), "names another object"),
    (_changed(descriptions={"1": "A cup left of <region7>.", "2": "A large bowl."}), "region that is not there"),
    (_changed(descriptions={"1": "A cup in the bounding box.", "2": "A large bowl."}), "speaks of the notes"),
]


@pytest.mark.parametrize(("content", "reason"), BAD)
def test_bad_answers_are_counted_and_never_written(cups: Path, content: str, reason: str) -> None:
    # A class of the data set that is only in the third image: naming it for others is a mistake.
    data = json.loads((cups / "cups.json").read_text())
    data["annotations"].append({"id": 100, "image_id": 3, "category_id": 3, "segmentation": [[20, 20, 28, 20, 28, 30]]})
    (cups / "cups.json").write_text(json.dumps(data))

    def say(body: dict, number: int) -> tuple[int, dict[str, str], str]:
        return 200, {}, content

    with model_server(say) as server:
        assert _ask(server, cups, "--kinds", "detail_description", "--pictures", "2") == 0
        assert _ask(server, cups, "--kinds", "detail_description", "--pictures", "2") == 0
        assert len(server.asked) == 2, "a bad answer is not asked for again"
    assert json.loads((cups / "out" / "osprey_detail_description.json").read_text()) == []
    ((told, count),) = _summary(cups)["left_out"].items()
    assert reason in told
    assert count == 2


def test_short_answers_must_be_short(cups: Path) -> None:
    long = _changed(turns=[{"question": "What is <region1>?", "answer": "A cup that someone has left there."}])
    with model_server(lambda body, number: (200, {}, long)) as server:
        assert _ask(server, cups, "--kinds", "short_form", "conversations") == 0
    assert _summary(cups)["samples"] == {"conversations": 3}
    assert _summary(cups)["left_out"] == {"short_form: too long for a short answer": 3}


def test_a_killed_run_goes_on_without_asking_twice(cups: Path) -> None:
    """Killed while its third request is on the way, and with half a line in its journal."""
    third = threading.Event()

    def say(body: dict, number: int) -> tuple[int, dict[str, str], str]:
        if number == 3:
            third.set()
            never.wait(5)
        return _good(body, number)

    never = threading.Event()
    with model_server(say) as server:
        options = ["--endpoint", server.url, "--model", "small", "--parallel", "1"]
        arguments = _source(cups, *options, "--kinds", "conversations", "short_form")
        running = subprocess.Popen([sys.executable, "-m", "training.instructions", *arguments], cwd=ROOT)
        assert third.wait(60)
        running.kill()
        running.wait()
        never.set()
        with (cups / "out" / "answers.jsonl").open("a") as journal:
            journal.write('{"request": "12')
        assert command.main(arguments) == 0
        users = Counter(request["messages"][1]["content"] for request in server.asked)
    assert len(users) == 6
    assert sorted(users.values()) == [1, 1, 1, 1, 1, 2], "only the one on the way was asked for again"
    assert _summary(cups)["samples"] == {"conversations": 6, "short_form": 6}


def test_sources_that_say_nothing_of_regions_are_refused(cups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cups / "cups.json").write_text(json.dumps([]))
    arguments = _source(cups, "--templates")
    arguments[1] = "conversations"
    assert command.main(arguments) == 2
    assert "nothing to make words from" in capsys.readouterr().err
    arguments[1] = "imagenet"
    assert command.main(arguments) == 2
    assert "unknown reader 'imagenet'; known are image_text_pairs" in capsys.readouterr().err
