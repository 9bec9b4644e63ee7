"""Answers held to a list or a pattern, in the same decode as free ones."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Picture, TinyModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from osprey_ros import Describer
from osprey_ros.decoding.constraints import ListGuide, Matching, OneOf, PatternGuide, Vocabulary
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.decoding.sampling import Sampling
from osprey_ros.errors import InputError, PromptError

COLOURS = ("red", "green", "a short red phrase")


@pytest.fixture(scope="module")
def describer(tiny_model: TinyModel) -> Describer:
    return Describer(tiny_model.bundle, threads=1)


@pytest.fixture
def ready(describer: Describer, picture: Picture) -> Describer:
    describer.set_image(picture.rgb)
    return describer


def _vocabulary(size: int) -> Vocabulary:
    """Single characters and words of three letters, each with and without a space, up to `size` tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<unk>", "<s>", "</s>", "▁", *"0123456789.-", *letters]
    tokens += [f"{space}{a}{b}{c}" for space in ("▁", "") for a in letters for b in letters for c in letters]
    model = models.WordLevel({token: number for number, token in enumerate(tokens[:size])}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Vocabulary(tokenizer, size, eos_id=2)


def _say(guide: PatternGuide, vocabulary: Vocabulary, logits: np.ndarray, most: int = 40) -> str:
    walk, said = guide.begin(), []
    for _ in range(most):
        token, logprob = walk(logits)
        assert logprob <= 0
        if token == vocabulary.eos_id:
            break
        said.append(vocabulary.pieces[token])
    return "".join(said)


def test_a_list_is_kept_to_beside_free_answers(ready: Describer, picture: Picture) -> None:
    questions = [QUESTIONS["short"], "What colour is it?"]
    free = ready.answer(picture.ids, questions, max_new_tokens=6)
    held = ready.answer(picture.ids, questions, max_new_tokens=6, constraints=[None, OneOf(COLOURS)])
    for a, b in zip(held[0], free[0], strict=True):  # beside held ones the free answers are what they were
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
    assert {d.text for d in held[1]} <= set(COLOURS)
    assert not {d.text for d in free[1]} & set(COLOURS)
    for answer in held[1]:
        assert answer.ended
        assert answer.tokens[-1] == ready.spec.eos_id
        assert 1 / len(COLOURS) <= answer.confidence <= 1


def test_the_likeliest_of_the_list_is_taken_with_its_probability_among_them() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    walk = ListGuide([(5, 6, 2), (5, 7, 2), (8, 2), (9, 2)]).begin()
    logits[0, 5], logits[0, 3] = 4.0, 9.0  # 3 begins no phrase
    weights = np.exp(logits[0, [5, 8, 9]].astype(np.float64))
    token, logprob = walk(logits[0])
    assert (token, np.exp(logprob)) == (5, pytest.approx(weights[0] / weights.sum()))
    token, logprob = walk(logits[1])
    six_or_seven = np.exp(logits[1, [6, 7]].astype(np.float64))
    assert (token, np.exp(logprob)) == (
        6 + int(six_or_seven.argmax()),
        pytest.approx(max(six_or_seven) / sum(six_or_seven)),
    )
    assert walk(logits[2]) == (2, 0.0)  # nothing else can follow


def test_an_answer_from_a_list_is_never_cut(ready: Describer, picture: Picture) -> None:
    (held,) = ready.answer(picture.ids, ["What colour is it?"], max_new_tokens=1, constraints=[OneOf(COLOURS[2:])])
    assert {d.text for d in held} == {COLOURS[2]}
    assert [d.confidence for d in held] == [1.0] * 5


def test_held_answers_are_not_drawn(ready: Describer, picture: Picture) -> None:
    questions = [QUESTIONS["short"], "What colour is it?"]
    hot = Sampling(temperature=30.0, seed=5)
    constraints = [None, OneOf(COLOURS)]
    drawn = ready.answer(picture.ids, questions, max_new_tokens=6, sampling=hot, constraints=constraints)
    plain = ready.answer(picture.ids, questions, max_new_tokens=6, constraints=constraints)
    free = ready.answer(picture.ids, questions[:1], max_new_tokens=6, sampling=hot)
    assert [d.text for d in drawn[1]] == [d.text for d in plain[1]]
    assert [d.text for d in drawn[0]] == [d.text for d in free[0]] != [d.text for d in plain[0]]


@pytest.mark.parametrize("pattern", [r"\d{2,3}-[a-c]{2}", r"(red|green) [a-z]{3,5}", r"-?\d+(\.\d)?"])
def test_a_pattern_is_kept_to(ready: Describer, picture: Picture, pattern: str) -> None:
    (held,) = ready.answer(picture.ids, ["How much is it?"], max_new_tokens=40, constraints=[Matching(pattern)])
    whole = [d for d in held if d.tokens[-1] == ready.spec.eos_id]
    assert whole
    assert all(Matching(pattern).accepts(d.text) for d in whole)
    assert not any(d.listed for d in held)


def test_a_pattern_over_a_large_vocabulary_compares_few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = _vocabulary(32000)
    guide = PatternGuide(r"[a-d]{3} \d{4}-\d{2} z+", vocabulary)
    compared: list[str] = []
    compare = PatternGuide._compare
    monkeypatch.setattr(
        PatternGuide, "_compare", lambda self, text, partial: compared.append(text) or compare(self, text, partial)
    )
    rng = np.random.default_rng(1)
    logits = rng.normal(size=32000).astype(np.float32) * 5
    logits[2] = -20.0  # the end is the least likely
    logits[4:14] -= 100.0  # digits come last of all tokens, and still only they can come
    logits[3] -= 100.0
    said = _say(guide, vocabulary, logits, most=14)
    assert Matching(r"[a-d]{3} \d{4}-\d{2} z+").accepts(said.strip())
    assert len(compared) < 14 * 300


def test_the_end_comes_only_where_the_pattern_is_matched() -> None:
    vocabulary = _vocabulary(200)
    logits = np.zeros(200, dtype=np.float32)
    logits[2], logits[5] = 50.0, 10.0  # "1" after the end
    assert _say(PatternGuide(r"\d{3,}", vocabulary), vocabulary, logits) == "111"
    logits[3] = 20.0  # one space may come before the first word, and no more
    assert _say(PatternGuide(r"\d{3,}", vocabulary), vocabulary, logits) == " 111"


def test_what_cannot_be_said_is_refused(ready: Describer, picture: Picture) -> None:
    with pytest.raises(PromptError, match="empty"):
        OneOf(())
    with pytest.raises(PromptError, match=r"'red', ' '"):
        OneOf(("red", " "))
    with pytest.raises(PromptError, match=r"'\(' is not a regular expression"):
        Matching("(")
    with pytest.raises(PromptError, match="pattern is empty"):
        Matching(" ")
    with pytest.raises(PromptError, match="'Zürich' cannot be said"):
        ready.check([None, OneOf(("red", "Zürich"))])
    with pytest.raises(PromptError, match="'<mask>' cannot be said"):
        ready.check([OneOf(("<mask>",))])
    with pytest.raises(InputError, match="1 constraints for 2 questions"):
        ready.answer(picture.ids, ["What?", "Why?"], constraints=[None])
    # Where the tokenizer has no token for what must come, the answer ends, and is not accepted.
    (held,) = ready.answer(picture.ids, ["What?"], max_new_tokens=8, constraints=[Matching("aü+")])
    assert {d.text for d in held} == {"a"}


@pytest.mark.parametrize("pattern", ["ü+", "^$", "()", "x{0}", "(?!)a", r"\s+"])
def test_a_pattern_that_no_answer_can_begin_is_refused(ready: Describer, picture: Picture, pattern: str) -> None:
    for ask in (
        lambda held: ready.check(held),
        lambda held: ready.answer(picture.ids, ["What?"], constraints=held),
    ):
        with pytest.raises(PromptError, match=r"no answer of this model can match the pattern") as refused:
            ask([Matching(pattern)])
        assert repr(pattern) in str(refused.value)


def test_a_pattern_that_takes_for_ever_is_refused() -> None:
    with pytest.raises(PromptError, match="repeats inside repeats"):
        Matching(r"(a|a|ab?a)*(a+)+(b+)+c").accepts("a" * 4000 + "!")
