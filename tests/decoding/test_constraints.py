"""Answers held to a list or a pattern, in the same decode as free ones."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from conftest import SampleImage, up_to
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from osprey_ros import Describer
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.config import Sampling
from osprey_ros.decoding.constraints import Matching, OneOf, TokenPattern, TokenTree, Vocabulary
from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_ros.errors import InputError, PromptError

COLORS = ("red", "green", "a short red phrase")


def _builder(spec: ModelSpec, size: int) -> PromptBuilder:
    """Single characters and words of three letters, each with and without a space, up to `size` tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<unk>", "<s>", "</s>", "▁", *"0123456789.-", *letters]
    tokens += [f"{space}{a}{b}{c}" for space in ("▁", "") for a in letters for b in letters for c in letters]
    model = models.WordLevel({token: number for number, token in enumerate(tokens[:size])}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<mask>", "<pos>"])
    return PromptBuilder(tokenizer, replace(spec, vocab_size=size, mask_id=size, pos_id=size + 1))


def _say(pattern: str, vocabulary: Vocabulary, logits: np.ndarray, most: int = 40) -> str:
    state, said = TokenPattern(pattern, vocabulary).start(), []
    for _ in range(most):
        token, logprob = state.next_token(logits)
        assert logprob <= 0
        if token == vocabulary.eos_token_id:
            break
        said.append(vocabulary.pieces[token])
    return "".join(said)


def test_a_list_is_kept_to_beside_free_answers(ready: Describer, sample: SampleImage) -> None:
    questions = [QUESTIONS["short"], "What color is it?"]
    free = ready.answer(sample.ids, questions, config=up_to(6))
    held = ready.answer(sample.ids, questions, config=up_to(6), constraints=[None, OneOf(COLORS)])
    for a, b in zip(held[0], free[0], strict=True):  # beside held ones the free answers are what they were
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
    assert {d.text for d in held[1]} <= set(COLORS)
    assert not {d.text for d in free[1]} & set(COLORS)
    for answer in held[1]:
        assert answer.ended
        assert answer.tokens[-1] == ready.spec.eos_id
        assert 1 / len(COLORS) <= answer.confidence <= 1


def test_the_likeliest_of_the_list_is_taken_with_its_probability_among_them() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    state = TokenTree([(5, 6, 2), (5, 7, 2), (8, 2), (9, 2)]).start()
    logits[0, 5], logits[0, 3] = 4.0, 9.0  # 3 begins no phrase
    weights = np.exp(logits[0, [5, 8, 9]].astype(np.float64))
    token, logprob = state.next_token(logits[0])
    assert (token, np.exp(logprob)) == (5, pytest.approx(weights[0] / weights.sum()))
    token, logprob = state.next_token(logits[1])
    six_or_seven = np.exp(logits[1, [6, 7]].astype(np.float64))
    assert (token, np.exp(logprob)) == (
        6 + int(six_or_seven.argmax()),
        pytest.approx(max(six_or_seven) / sum(six_or_seven)),
    )
    assert state.next_token(logits[2]) == (2, 0.0)  # nothing else can follow


def test_an_answer_from_a_list_is_never_cut(ready: Describer, sample: SampleImage) -> None:
    (held,) = ready.answer(sample.ids, ["What color is it?"], config=up_to(1), constraints=[OneOf(COLORS[2:])])
    assert {d.text for d in held} == {COLORS[2]}
    assert [d.confidence for d in held] == [1.0] * 5


def test_held_answers_are_not_drawn(ready: Describer, sample: SampleImage) -> None:
    questions = [QUESTIONS["short"], "What color is it?"]
    hot = Sampling(temperature=30.0, seed=5)
    constraints = [None, OneOf(COLORS)]
    drawn = ready.answer(sample.ids, questions, config=up_to(6, hot), constraints=constraints)
    plain = ready.answer(sample.ids, questions, config=up_to(6), constraints=constraints)
    free = ready.answer(sample.ids, questions[:1], config=up_to(6, hot))
    assert [d.text for d in drawn[1]] == [d.text for d in plain[1]]
    assert [d.text for d in drawn[0]] == [d.text for d in free[0]] != [d.text for d in plain[0]]


@pytest.mark.parametrize("pattern", [r"\d{2,3}-[a-c]{2}", r"(red|green) [a-z]{3,5}", r"-?\d+(\.\d)?"])
def test_a_pattern_is_kept_to(ready: Describer, sample: SampleImage, pattern: str) -> None:
    (held,) = ready.answer(sample.ids, ["How much is it?"], config=up_to(40), constraints=[Matching(pattern)])
    whole = [d for d in held if d.tokens[-1] == ready.spec.eos_id]
    assert whole
    assert all(Matching(pattern).accepts(d.text) for d in whole)
    assert all(d.constrained for d in held)
    for d in held:  # relative to all tokens
        assert d.raw_confidence == pytest.approx(np.exp(d.logprobs.mean()), rel=1e-5)


def test_a_pattern_over_a_large_vocabulary(spec: ModelSpec) -> None:
    vocabulary = Vocabulary(_builder(spec, 32000))
    rng = np.random.default_rng(1)
    logits = rng.normal(size=32000).astype(np.float32) * 5
    logits[2] = -20.0  # the end is the least likely
    logits[4:14] -= 100.0  # digits come last of all tokens, and still only they can come
    logits[3] -= 100.0
    said = _say(r"[a-d]{3} \d{4}-\d{2} z+", vocabulary, logits, most=14)
    assert Matching(r"[a-d]{3} \d{4}-\d{2} z+").accepts(said.strip())


def test_the_end_comes_only_where_the_pattern_is_matched(spec: ModelSpec) -> None:
    vocabulary = Vocabulary(_builder(spec, 200))
    logits = np.zeros(200, dtype=np.float32)
    logits[2], logits[5] = 50.0, 10.0  # "1" after the end
    assert _say(r"\d{3,}", vocabulary, logits) == "111"
    logits[3] = 20.0  # one space may come before the first word, and no more
    assert _say(r"\d{3,}", vocabulary, logits) == " 111"


def test_anchors_at_both_ends_are_allowed() -> None:
    assert Matching("^red$").accepts("red")
    assert Matching("^red|blue$").accepts("blue")
    assert not Matching("^red$").accepts("reddish")


def test_what_cannot_be_said_is_refused(ready: Describer, sample: SampleImage) -> None:
    with pytest.raises(PromptError, match="empty"):
        OneOf(())
    with pytest.raises(PromptError, match=r"'red', ' '"):
        OneOf(("red", " "))
    with pytest.raises(PromptError, match=r"'\(' is not a regular expression that can be used: error: unclosed"):
        Matching("(")
    with pytest.raises(PromptError, match="pattern is empty"):
        Matching(" ")
    with pytest.raises(PromptError, match="cannot give the answer 'Zürich'"):
        ready.check([None, OneOf(("red", "Zürich"))])
    with pytest.raises(PromptError, match="cannot give the answer '<mask>'"):
        ready.check([OneOf(("<mask>",))])
    with pytest.raises(InputError, match="1 constraints for 2 questions"):
        ready.answer(sample.ids, ["What?", "Why?"], constraints=[None])
    # Where the tokenizer has no token for what must come, the answer ends, and is not accepted.
    (held,) = ready.answer(sample.ids, ["What?"], config=up_to(8), constraints=[Matching("aü+")])
    assert {d.text for d in held} == {"a"}


@pytest.mark.parametrize("pattern", ["ü+", "^$", "()", "x{0}", r"\s+"])
def test_a_pattern_that_no_answer_can_begin_is_refused(ready: Describer, sample: SampleImage, pattern: str) -> None:
    for ask in (
        lambda held: ready.check(held),
        lambda held: ready.answer(sample.ids, ["What?"], constraints=held),
    ):
        with pytest.raises(PromptError, match=r"no answer of this model can match the pattern") as refused:
            ask([Matching(pattern)])
        assert repr(pattern) in str(refused.value)


@pytest.mark.parametrize("pattern", ["(?!)a", r"\bred", r"(a)\1", "a^b", "["])
def test_syntax_without_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(PromptError, match="not a regular expression that can be used") as refused:
        Matching(pattern)
    assert repr(pattern) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_repeats_inside_repeats_take_linear_time() -> None:
    start = perf_counter()
    assert not Matching(r"(a|a|ab?a)*(a+)+(b+)+c").accepts("a" * 4000 + "!")
    assert perf_counter() - start < 5  # a backtracking matcher does not end
