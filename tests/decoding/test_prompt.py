"""Prompts: the published text, tokenized around the image, with placeholders for image and region."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.prompt import (
    IMAGE,
    MASK,
    OSPREY_V1,
    POSITION,
    QUESTIONS,
    PromptBuilder,
    common_prefix,
    template_named,
)
from osprey_ros.errors import PromptError
from training.tokenizer import train_tokenizer

TEXTS = [*QUESTIONS.values(), "a small red mug on the left", "The red mug stands beside a green bowl."] * 4


def _llama_like() -> Tokenizer:
    """A BPE tokenizer that puts a space in front of every text, as LLaMA's does, trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=list("\n:▁"), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS + [f"{OSPREY_V1.system} USER: {OSPREY_V1.overview} ASSISTANT: "] * 4, trainer)
    tokenizer.add_special_tokens(["<mask>", "<pos>"])
    return tokenizer


@pytest.fixture(params=["nano", "llama"])
def builder(request: pytest.FixtureRequest, spec: ModelSpec) -> PromptBuilder:
    tokenizer = train_tokenizer(TEXTS, vocab_size=400) if request.param == "nano" else _llama_like()
    mask_id = tokenizer.token_to_id("<mask>")
    return PromptBuilder(tokenizer, replace(spec, vocab_size=mask_id, mask_id=mask_id, pos_id=mask_id + 1))


def _words(builder: PromptBuilder, ids: tuple[int, ...]) -> str:
    return " ".join(builder.decode(ids).split())


@pytest.mark.parametrize("style", QUESTIONS)
def test_prompt_is_the_published_conversation(builder: PromptBuilder, style: str) -> None:
    ids = builder.prompt(QUESTIONS[style])
    assert ids[0] == builder.spec.bos_id
    assert ids.count(builder.spec.bos_id) == 1
    assert builder.spec.eos_id not in ids
    assert [i for i in ids if i < 0] == [IMAGE, MASK, POSITION]
    image, mask = ids.index(IMAGE), ids.index(MASK)
    assert ids[mask + 1] == POSITION
    before, after = QUESTIONS[style].split("<mask><pos>")
    assert _words(builder, ids[1:image]) == f"{OSPREY_V1.system} USER:"
    assert _words(builder, ids[image + 1 : mask]) == f"This provides an overview of the picture. {before.strip()}"
    assert _words(builder, ids[mask + 2 :]) == f"{after.strip()} ASSISTANT:".strip()


def test_text_on_both_sides_of_the_image_is_tokenized_on_its_own(builder: PromptBuilder) -> None:
    ids = builder.prompt(QUESTIONS["short"])
    image, mask = ids.index(IMAGE), ids.index(MASK)
    encode = builder.tokenizer.encode
    assert list(ids[1:image]) == encode(f"{OSPREY_V1.system} USER: ", add_special_tokens=False).ids
    after = encode(OSPREY_V1.overview.removeprefix("<image>") + QUESTIONS["short"], add_special_tokens=False).ids
    assert list(ids[image + 1 : mask]) == after[: mask - image - 1]


def test_question_without_a_region_gets_one_in_front(builder: PromptBuilder) -> None:
    assert builder.prompt(" What is it? ") == builder.prompt("Regarding <mask><pos>: What is it?")


def test_text_that_is_not_utf8_is_refused(builder: PromptBuilder) -> None:
    for text in ("caf\udce9?", "\ud83d"):
        with pytest.raises(PromptError, match=r"the question .* is not UTF-8") as refused:
            builder.prompt(text)
        assert ascii(text) in str(refused.value)  # and so it can be printed
        with pytest.raises(PromptError, match=r"the answer .* is not UTF-8"):
            builder.answer(text)


@pytest.mark.parametrize("marker", ["<region1>", "<region>", "<Region1>"])
def test_markers_of_the_paper_name_the_region(builder: PromptBuilder, marker: str) -> None:
    assert builder.region_prompt(f"What is {marker}?") == builder.region_prompt("What is <mask><pos>?")
    with pytest.raises(PromptError, match="must contain <mask><pos> once"):
        builder.region_prompt(f"Is {marker} on <region2>?")
    pair = builder.region_prompt("Is <mask><pos> on <mask><pos>?", regions=2)
    assert builder.region_prompt(f"Is {marker} on <region2>?", regions=2) == pair


def test_comparisons_are_not_taken_for_markers(builder: PromptBuilder) -> None:
    for question in ("Is <mask><pos> < 5 cm > 2 cm?", "What is 1<2>?"):
        assert MASK in builder.prompt(question)


def test_several_regions_are_kept_in_order(builder: PromptBuilder) -> None:
    ids = builder.prompt("region1<mask><pos>, region2<mask><pos> beside?")
    assert [i for i in ids if i < 0] == [IMAGE, MASK, POSITION, MASK, POSITION]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("  ", "question is empty"),
        ("what is <mask>?", "the two together"),
        ("what is <pos><mask>?", "the two together"),
        ("<image> what is <mask><pos>?", "the template inserts the image; name a region as <mask><pos>"),
        ("what is <region2>?", "must name each region as <mask><pos>, in the order"),
        ("is <region2> on <region1>?", "must name each region as <mask><pos>, in the order"),
        ("is <region1> on <mask><pos>?", "must name each region as <mask><pos>, in the order"),
        ("what is <box>?", "contains <box>, which is no marker of this model: name each region as <mask><pos>"),
        ("what is <mask><pos>?</s>", "contains </s>"),
        ("<|im_start|>what is <mask><pos>?", r"contains <\|im_start\|>"),
    ],
)
def test_questions_that_cannot_be_asked(builder: PromptBuilder, question: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        builder.prompt(question)


def test_answer_continues_the_prompt_and_is_read_back(builder: PromptBuilder) -> None:
    text = "a small red mug on the left"
    answer = builder.answer(text)
    assert answer[-1] == builder.spec.eos_id
    assert builder.decode(answer) == text
    # Tokens of prompt and answer are those of the whole conversation in one piece.
    whole = builder.tokenizer.encode(f"USER: what? ASSISTANT: {text}", add_special_tokens=False).ids
    assert tuple(whole[-len(answer) + 1 :]) == answer[:-1]


def test_tokenizer_of_another_model_is_refused(builder: PromptBuilder) -> None:
    with pytest.raises(PromptError, match=r"<pos> the id .* expects 7"):
        PromptBuilder(builder.tokenizer, replace(builder.spec, pos_id=7))


def test_unknown_template_is_named() -> None:
    assert template_named("osprey_v1") is OSPREY_V1
    with pytest.raises(PromptError, match="'osprey_v9'"):
        template_named("osprey_v9")


def test_common_prefix_ends_before_the_region(builder: PromptBuilder) -> None:
    short, category = builder.prompt(QUESTIONS["short"]), builder.prompt(QUESTIONS["category"])
    assert common_prefix([short]) == short.index(MASK)
    shared = common_prefix([short, category])
    assert short.index(IMAGE) < shared < short.index(MASK)
    assert short[:shared] == category[:shared]
    assert short[shared] != category[shared]
    assert common_prefix([(1, 2, MASK, 5), (1, 2, MASK, 6)]) == 2
    assert common_prefix([(1, 2), (1, 2, 3)]) == 2
    assert common_prefix([]) == 0


def test_dialogue_of_one_turn_is_the_prompt_and_its_answer(builder: PromptBuilder) -> None:
    question = QUESTIONS["short"]
    ids, is_answer = builder.dialogue([(question, "a red mug")])
    prompt, answer = builder.prompt(question), builder.answer("a red mug")
    assert ids == prompt + answer
    assert is_answer == (False,) * len(prompt) + (True,) * len(answer)


def test_dialogue_of_several_turns_marks_every_answer(builder: PromptBuilder) -> None:
    turns = [("What is <mask><pos> beside <mask><pos>?", "a red mug"), ("The red mug?", "a bowl")]
    ids, is_answer = builder.dialogue(turns)
    assert [i for i in ids if i < 0] == [IMAGE, MASK, POSITION, MASK, POSITION]
    assert ids.count(builder.spec.bos_id) == ids.count(IMAGE) == 1
    ends = [place for place, token in enumerate(ids) if token == builder.spec.eos_id]
    assert len(ends) == 2
    assert all(is_answer[end] for end in ends)
    # The words between the first answer's end and the second answer are the second question.
    second = [i for i, learned in zip(ids[ends[0] + 1 :], is_answer[ends[0] + 1 :], strict=True) if not learned]
    assert _words(builder, tuple(second)) == "USER: The red mug? ASSISTANT:"
    learned = [i for i, answer in zip(ids, is_answer, strict=True) if answer and i != builder.spec.eos_id]
    assert _words(builder, tuple(learned)).replace(" ", "") == "aredmugabowl"


@pytest.mark.parametrize(
    ("turns", "message"), [([], "at least one question"), ([("a red mug", "a bowl"), (" ", "a bowl")], "empty")]
)
def test_dialogues_that_cannot_be(builder: PromptBuilder, turns: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        builder.dialogue(turns)
