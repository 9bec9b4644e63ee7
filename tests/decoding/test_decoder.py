"""The decoder: packed branches give what each gives alone, whatever their number, order, lengths and ends."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from conftest import TinyModel

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import DECODER
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding import runner as decoder_engine
from osprey_ros.decoding.config import Sampling
from osprey_ros.decoding.decoder import Decoder, Token
from osprey_ros.decoding.kv_cache import HIDDEN, Prefix
from osprey_ros.decoding.logits import NextTokenLogits
from osprey_ros.decoding.loop import DecodeRequest, Generation
from osprey_ros.decoding.prompt_batch import Branches
from osprey_ros.decoding.sampling import TokenSelector
from osprey_ros.engines.base import UNBOUNDED, BoundRun, Buffer, Engine, load_engine
from osprey_ros.engines.onnx_binding import HostBuffer
from osprey_ros.errors import EngineError, InputError, StoppedError
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken, PolledToken

NEVER = -1  # an end-of-sequence id that is never chosen


class CountingEngine:
    """Passes everything on to an engine, keeps the number of rows of each run, counts buffers and bound runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: list[int] = []
        self.buffers = 0
        self.bound = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def buffer(self, *arguments: Any) -> Buffer:
        self.buffers += 1
        return self.engine.buffer(*arguments)

    def bind(self, inputs: Mapping[str, Any], into: Mapping[str, Buffer]) -> BoundRun:
        self.bound += 1
        bound = self.engine.bind(inputs, into)

        def run(cancel: CancellationToken | None = None) -> None:
            self.rows.append(len(inputs["inputs_embeds"]))
            bound(cancel)

        return run


class LiveBuffer:
    """Zeros that say by a token, which all views share, whether their memory is still held by anybody."""

    def __init__(self, array: np.ndarray, token: _Token) -> None:
        self.array, self.token = array, token
        self.shape, self.dtype = array.shape, array.dtype

    def read(self) -> np.ndarray:
        return self.array

    def write(self, array: np.ndarray, row: int = 0) -> None:
        self.array[row : row + len(array)] = array

    def copy(self, source: LiveBuffer, row: int = 0) -> None:
        self.write(source.array, row)

    def rows(self, start: int, stop: int, batch: bool = False) -> LiveBuffer:
        return LiveBuffer(self.array[None, start:stop] if batch else self.array[start:stop], self.token)


class _Token:
    """Lives as long as the memory of a buffer."""


class IdleEngine:
    """Compute nothing, read prefix and branches separately, and limit the number of live buffers.

    ``most`` is their greatest number so far, ``live()`` the present one.
    """

    interruptible = True

    def __init__(self, layers: int) -> None:
        names = [f"prefix_{kind}.{layer}" for layer in range(layers) for kind in ("key", "value")]
        self.input_names = ("inputs_embeds", *names)
        self.input_dtypes = dict.fromkeys(self.input_names, np.dtype(np.float32))
        self.most = 0
        self._tokens: list[weakref.ref[_Token]] = []

    def most_rows(self, name: str) -> int:
        return UNBOUNDED

    def live(self) -> int:
        return sum(token() is not None for token in self._tokens)

    def buffer(self, shape: tuple[int, ...], dtype: np.dtype) -> LiveBuffer:
        token = _Token()
        self._tokens.append(weakref.ref(token))
        self.most = max(self.most, self.live())
        return LiveBuffer(np.zeros(shape, dtype), token)

    def bind(self, inputs: Mapping[str, Any], into: Mapping[str, LiveBuffer]) -> BoundRun:
        return partial(_nothing, (inputs, into))  # holds them, as engines do


def _nothing(_: object, cancel: CancellationToken | None = None) -> None:
    pass


class ElsewhereEngine(CountingEngine):
    """As another engine, on another device."""

    device = "cuda"


@pytest.fixture(scope="module")
def bundle(tiny_model: TinyModel) -> Bundle:
    return Bundle.open(tiny_model.bundle)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return load_engine(bundle.path(DECODER), threads=1)


@pytest.fixture
def counting(engine: Engine) -> CountingEngine:
    return CountingEngine(engine)


@pytest.fixture
def decoder(bundle: Bundle, counting: CountingEngine) -> Decoder:
    return Decoder(counting, bundle.manifest.model)


@pytest.fixture(scope="module")
def embeddings(bundle: Bundle) -> np.ndarray:
    return bundle.embeddings().astype(np.float32)


@pytest.fixture(scope="module")
def rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows [120, hidden] to cut prefix and branches from."""
    return embeddings[np.random.default_rng(1).integers(0, len(embeddings), 120)]


def _branches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[30 + 3 * i : 30 + 3 * i + length] for i, length in enumerate((5, 1, 9, 2, 7, 12))]


def _generate(
    decoder: Decoder,
    prefix: Prefix,
    branches: list[np.ndarray],
    embeddings: np.ndarray,
    eos: int = NEVER,
    new: int = 20,
) -> list[Generation]:
    return decoder.generate(_request(prefix, branches, embeddings, new, eos))


def _request(
    prefix: Prefix,
    branches: list[np.ndarray] | Branches,
    embeddings: np.ndarray,
    new: int | np.ndarray,
    eos: int = NEVER,
    **settings: Any,
) -> DecodeRequest:
    if not isinstance(branches, Branches):
        branches = Branches(branches)
    return DecodeRequest(prefix, branches, lambda ids: embeddings[ids], new, eos, **settings)


def _assert_same(ours: list[Generation], others: list[Generation]) -> None:
    for a, b in zip(ours, others, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_packed_equals_alone(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    # 20 tokens each: more than the first buffer holds, so that it grows on the way.
    packed = _generate(decoder, prefix, branches, embeddings)
    alone = [_generate(decoder, prefix, [branch], embeddings)[0] for branch in branches]
    assert len({tuple(g.tokens) for g in alone}) > 3  # the branches do differ
    assert all(g.tokens.dtype == np.int32 and g.logprobs.dtype == np.float32 for g in packed)
    _assert_same(packed, alone)


def test_prefix_may_be_split_anywhere(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    branches = _branches(rows)
    expected = _generate(decoder, decoder.prefill(rows[:30]), branches, embeddings)
    extended = decoder.prefill(rows[11:30], behind=decoder.prefill(rows[:11]))
    _assert_same(_generate(decoder, extended, branches, embeddings), expected)
    cut = replace(decoder.prefill(rows[:50]), length=30)
    _assert_same(_generate(decoder, cut, branches, embeddings), expected)
    shorter = decoder.prefill(rows[:20])
    longer_branches = [np.concatenate([rows[20:30], branch]) for branch in branches]
    _assert_same(_generate(decoder, shorter, longer_branches, embeddings), expected)


def test_long_prefix_is_computed_in_pieces(
    decoder: Decoder,
    counting: CountingEngine,
    rows: np.ndarray,
    embeddings: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = _generate(decoder, decoder.prefill(rows[:100]), _branches(rows), embeddings)
    monkeypatch.setattr(decoder_engine, "PREFILL_ROWS", 30)
    counting.rows.clear()
    prefix = decoder.prefill(rows[10:100], behind=decoder.prefill(rows[:10]))
    assert counting.rows == [10, 30, 30, 30]
    _assert_same(_generate(decoder, prefix, _branches(rows), embeddings), expected)


def test_order_and_bounds_change_nothing(
    bundle: Bundle, engine: Engine, decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    expected = _generate(decoder, prefix, branches, embeddings)
    _assert_same(_generate(decoder, prefix, branches[::-1], embeddings), expected[::-1])
    for max_parallel in (1, 2, 4):
        bounded = Decoder(engine, bundle.manifest.model, max_parallel=max_parallel)
        _assert_same(_generate(bounded, bounded.prefill(rows[:30]), branches, embeddings), expected)


def test_waiting_branches_take_the_place_of_ended_ones(
    bundle: Bundle, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    decoder = Decoder(counting, bundle.manifest.model, max_parallel=2)
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)  # of 5, 1, 9, 2, 7 and 12 rows
    limits = np.array([3, 1, 2, 2, 1, 1])
    counting.rows.clear()
    answers = decoder.generate(_request(prefix, branches, embeddings, limits))
    assert [len(answer.tokens) for answer in answers] == limits.tolist()
    # In pairs: 0 and 1; 0 and 2; 0 and 2; then 3 and 4, the latter for one step; 3 and 5.
    assert counting.rows == [5 + 1, 1 + 9, 1 + 1, 2 + 7, 1 + 12]
    alone = [_generate(decoder, prefix, [b], embeddings, new=int(n))[0] for b, n in zip(branches, limits, strict=True)]
    _assert_same(answers, alone)


def test_rows_of_ended_branches_make_room(
    bundle: Bundle, engine: Engine, decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    """Many more branches than fit at once, of unequal length and end: those that live are moved together, unharmed."""
    rng = np.random.default_rng(7)
    branches = [
        rows[at : at + length] for at, length in zip(rng.integers(0, 90, 60), rng.integers(1, 30, 60), strict=True)
    ]
    limits = rng.integers(1, 25, 60)
    bounded = Decoder(engine, bundle.manifest.model, max_parallel=5)
    answers = bounded.generate(_request(bounded.prefill(rows[:30]), branches, embeddings, limits))
    prefix = decoder.prefill(rows[:30])
    alone = [_generate(decoder, prefix, [b], embeddings, new=int(n))[0] for b, n in zip(branches, limits, strict=True)]
    _assert_same(answers, alone)


def test_buffers_are_allocated_once(
    bundle: Bundle, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    decoder = Decoder(counting, bundle.manifest.model)
    first = _generate(decoder, decoder.prefill(rows[:30]), _branches(rows), embeddings)
    allocated = counting.buffers
    again = _generate(decoder, decoder.prefill(rows[:30]), _branches(rows), embeddings)
    fewer = _generate(decoder, decoder.prefill(rows[:25]), _branches(rows)[:3], embeddings, new=5)
    assert counting.buffers == allocated > 0
    _assert_same(again, first)
    assert len(fewer) == 3


def test_runs_like_earlier_ones_are_not_bound_again(
    bundle: Bundle,
    decoder: Decoder,
    counting: CountingEngine,
    rows: np.ndarray,
    embeddings: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [(rows[:30], _branches(rows)), (rows[1:31], _branches(rows)[::-1])]
    found = [_generate(decoder, decoder.prefill(first), branches, embeddings) for first, branches in frames]
    bound, counting.rows = counting.bound, []
    for (first, branches), expected in zip(frames[::-1], found[::-1], strict=True):  # of the same numbers of rows
        _assert_same(_generate(decoder, decoder.prefill(first), branches, embeddings), expected)
    assert counting.bound == bound
    assert len(counting.rows) == 2 * 21
    for length in (20, 21, 22):  # others push them out: no more are kept
        _generate(decoder, decoder.prefill(rows[:length]), _branches(rows), embeddings)
    assert len(decoder._runner._bound) == decoder_engine.KEPT_RUNS == 32
    monkeypatch.setattr(decoder_engine, "KEPT_RUNS", 2)  # none is left when it could be used again
    forgetful, counting.bound, counting.rows = Decoder(counting, bundle.manifest.model), 0, []
    for (first, branches), expected in zip(frames, found, strict=True):
        _assert_same(_generate(forgetful, forgetful.prefill(first), branches, embeddings), expected)
    assert counting.bound == len(counting.rows)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_too_little_memory_for_more_branches_spoils_nothing(
    bundle: Bundle,
    decoder: Decoder,
    counting: CountingEngine,
    rows: np.ndarray,
    embeddings: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
) -> None:
    branches = [rows[at : at + 2] for at in range(40, 48)]
    decoder.prefill(rows[:100])  # room for all rows, so that only what is said of them has to grow
    _generate(decoder, decoder.prefill(rows[:30]), branches[:2], embeddings, new=4)
    first, allocate = counting.buffers, counting.engine.buffer

    def buffer(*arguments: Any) -> Buffer:
        if counting.buffers == first + failing:
            raise EngineError("out of memory")
        return allocate(*arguments)

    prefix = decoder.prefill(rows[:30])
    with monkeypatch.context() as patch:
        patch.setattr(counting.engine, "buffer", buffer)
        with pytest.raises(EngineError, match="out of memory"):
            _generate(decoder, prefix, branches, embeddings, new=4)
    fresh = Decoder(counting, bundle.manifest.model)
    for some in (branches[:2], branches[:6], branches):
        answers = _generate(decoder, decoder.prefill(rows[:30]), some, embeddings, new=4)
        _assert_same(answers, _generate(fresh, fresh.prefill(rows[:30]), some, embeddings, new=4))


def test_buffers_that_have_grown_are_held_once(spec: ModelSpec) -> None:
    engine = IdleEngine(spec.num_layers)
    decoder = Decoder(engine, spec)
    rows = np.zeros((60, spec.hidden_size), np.float32)
    prefix = decoder.prefill(rows)
    all_ = 2 * spec.num_layers + 3  # keys and values of each layer; logits, likeliest tokens and their probabilities
    assert engine.live() == all_
    tokens = decoder.stream(_request(prefix, [rows[:10]] * 9, rows, 5))
    next(tokens)
    assert engine.live() == all_
    list(tokens)
    decoder.score(prefix, Branches([rows[:10]] * 40), [[1, 2], [3]], lambda ids: rows[ids])
    assert engine.live() == all_
    assert engine.most == all_ + 1  # one buffer after another grew


def test_long_questions_join_as_rows_allow(
    decoder: Decoder, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix = decoder.prefill(rows[:30])
    branches = [np.repeat(rows[i : i + 1], 150, axis=0) for i in range(20)]  # 3000 rows in all
    counting.rows.clear()
    answers = _generate(decoder, prefix, branches, embeddings, new=2)
    assert counting.rows == [13 * 150, 13 + 7 * 150, 7]
    _assert_same(answers[12:14], [_generate(decoder, prefix, [b], embeddings, new=2)[0] for b in branches[12:14]])


def test_stems_are_computed_once_for_their_branches(
    decoder: Decoder, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    stems, stem_of = [rows[60:66], rows[70:71]], [0, 1, -1, 0, 0, 1]
    whole = [
        np.concatenate([stems[stem], own]) if stem >= 0 else own for own, stem in zip(branches, stem_of, strict=True)
    ]
    expected = _generate(decoder, prefix, whole, embeddings)
    counting.rows.clear()
    shared = Branches(branches, stems, stem_of)
    answers = decoder.generate(_request(prefix, shared, embeddings, 20))
    assert counting.rows[0] == shared.rows == sum(len(b) for b in branches) + 7
    _assert_same(answers, expected)
    scores = decoder.score(prefix, shared, [[5, 6, 7], [8]], lambda ids: embeddings[ids])
    for ours, other in zip(
        scores, decoder.score(prefix, Branches(whole), [[5, 6, 7], [8]], lambda ids: embeddings[ids]), strict=True
    ):
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(other), atol=1e-4)


def test_more_stems_than_branches(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    prefix, stems = decoder.prefill(rows[:30]), [rows[60:63], rows[70:74], rows[80:82]]
    shared = Branches([rows[40:45], rows[50:51]], stems, [2, 1])
    whole = [np.concatenate([stems[2], rows[40:45]]), np.concatenate([stems[1], rows[50:51]])]
    answers = decoder.generate(_request(prefix, shared, embeddings, 8))
    _assert_same(answers, _generate(decoder, prefix, whole, embeddings, new=8))


def test_prefix_that_was_written_over_is_refused(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    opening = decoder.prefill(rows[:10])
    first = decoder.prefill(rows[10:30], behind=opening)
    second = decoder.prefill(rows[40:60], behind=opening)
    with pytest.raises(InputError, match="prefix of 30 tokens was overwritten"):
        _generate(decoder, first, _branches(rows), embeddings)
    with pytest.raises(InputError, match="prefix of 15 tokens was overwritten"):
        decoder.prefill(rows[:3], behind=replace(first, length=15))
    assert len(_generate(decoder, second, _branches(rows), embeddings, new=2)) == 6
    assert (
        len(_generate(decoder, replace(first, length=10), _branches(rows), embeddings, new=2)) == 6
    )  # the opening, still good


def test_sampling_depends_on_seed_and_key_alone(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    keys = [(index,) for index in range(6)]

    def sample(which: list[int], sampling: Sampling) -> list[Generation]:
        own = [branches[index] for index in which]
        chosen = [keys[index] for index in which]
        return decoder.generate(_request(prefix, own, embeddings, 12, sampling=sampling, keys=chosen))

    hot = Sampling(temperature=20.0, seed=3)
    together = sample([0, 1, 2, 3, 4, 5], hot)
    _assert_same(sample([4, 1], hot), [together[4], together[1]])
    other = sample([0, 1, 2, 3, 4, 5], Sampling(temperature=20.0, seed=4))
    assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(together, other, strict=True))
    greedy = _generate(decoder, prefix, branches, embeddings, new=12)
    assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(together, greedy, strict=True))
    # So little that only the most likely token is left.
    _assert_same(sample([0, 1, 2, 3, 4, 5], Sampling(temperature=20.0, top_p=1e-6)), greedy)
    _assert_same(sample([0, 1, 2, 3, 4, 5], Sampling(temperature=1e-3)), greedy)


def test_drawn_tokens_follow_the_distribution() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32))
    predicted = NextTokenLogits(np.array([0]), logits[:, 0], HostBuffer(logits))
    plain = TokenSelector(Sampling(seed=1), [(0,)])
    cut = TokenSelector(Sampling(top_p=0.75, seed=1), [(0,)])
    cold = TokenSelector(Sampling(temperature=0.5, seed=1), [(0,)])
    counts = {name: np.zeros(4) for name in ("plain", "cut", "cold")}
    for _ in range(4000):
        for name, choose in (("plain", plain), ("cut", cut), ("cold", cold)):
            (token,), (logprob,) = choose.select(predicted, np.array([0]))
            assert logprob == pytest.approx(logits[0, token], abs=1e-6)
            counts[name][token] += 1 / 4000
    np.testing.assert_allclose(counts["plain"], [0.5, 0.3, 0.15, 0.05], atol=0.03)
    np.testing.assert_allclose(counts["cut"], [0.625, 0.375, 0, 0], atol=0.03)
    squared = np.array([0.25, 0.09, 0.0225, 0.0025])
    np.testing.assert_allclose(counts["cold"], squared / squared.sum(), atol=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "temperature is 0.0"), ({"top_p": 1.5}, "top_p is 1.5"), ({"seed": -1}, "seed is -1")],
)
def test_sampling_that_cannot_be_done_is_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]


def test_stream_gives_the_tokens_as_they_come(
    decoder: Decoder, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    expected = _generate(decoder, prefix, branches, embeddings, new=6)
    counting.rows.clear()
    stream = decoder.stream(_request(prefix, branches, embeddings, 6))
    got: dict[int, list[Token]] = {b: [] for b in range(6)}
    for _ in range(6):
        token = next(stream)
        got[token.branch].append(token)
    assert len(counting.rows) == 1  # the first token of every branch came with the first run
    for token in stream:
        got[token.branch].append(token)
    for branch, tokens in got.items():
        assert [t.id for t in tokens] == expected[branch].tokens.tolist()
        assert [t.last for t in tokens] == [False] * 5 + [True]
    # Closing stops it: nothing runs any more. Another call voids it.
    stopped = decoder.stream(_request(prefix, branches, embeddings, 6))
    next(stopped)
    stopped.close()
    assert len(counting.rows) == 7
    voided = decoder.stream(_request(prefix, branches, embeddings, 6))
    for _ in range(6):
        next(voided)
    _generate(decoder, prefix, branches[:1], embeddings, new=1)
    with pytest.raises(InputError, match="used for another call"):
        next(voided)


def test_a_stream_that_was_never_begun_harms_no_other(
    decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)

    def stream() -> Iterator[Token]:
        return decoder.stream(_request(prefix, branches, embeddings, 6))

    expected = list(stream())
    idle, running = stream(), stream()
    tokens = [next(running)]
    with pytest.raises(InputError, match="used for another call"):
        next(idle)
    tokens += running
    assert [(t.branch, t.id) for t in tokens] == [(t.branch, t.id) for t in expected]


def test_canceling_ends_decoding_before_the_next_run(
    decoder: Decoder, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    expected = _generate(decoder, prefix, branches, embeddings, new=6)
    counting.rows.clear()
    request = _request(prefix, branches, embeddings, 6)
    answers = decoder.generate(request, Call(PolledToken(lambda: len(counting.rows) == 4)))
    assert len(counting.rows) == 4
    _assert_same(answers, [Generation(g.tokens[:4], g.logprobs[:4]) for g in expected])
    assert not any(answer.ended for answer in answers)
    assert all(answer.ended for answer in expected)
    canceled = CancellationToken()
    canceled.cancel()
    assert [len(answer.tokens) for answer in decoder.generate(request, Call(canceled))] == [0] * 6
    _assert_same(decoder.generate(request, Call(CancellationToken())), expected)


def test_a_canceled_prefix_is_not_kept(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    opening, branches = decoder.prefill(rows[:10]), _branches(rows)
    expected = _generate(decoder, decoder.prefill(rows[10:30], opening), branches, embeddings)
    canceled = CancellationToken()
    canceled.cancel()
    with pytest.raises(StoppedError, match="decoder was canceled"):
        decoder.prefill(rows[40:60], opening, Call(canceled))
    _assert_same(_generate(decoder, decoder.prefill(rows[10:30], opening), branches, embeddings), expected)


@pytest.mark.parametrize("max_parallel", [2, 64])
def test_scores_are_those_of_teacher_forcing(
    bundle: Bundle, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray, max_parallel: int
) -> None:
    decoder = Decoder(counting, bundle.manifest.model, max_parallel)
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    phrases = [[17], [9, 21, 4, 2], [9, 21], [33, 2]]
    counting.rows.clear()
    scores = decoder.score(prefix, Branches(branches), phrases, lambda ids: embeddings[ids])
    if max_parallel == 64:  # the rows of each question once, then five for each: what the phrases feed back
        assert counting.rows == [36, 6 * 5]
    for branch, row in zip(branches, scores, strict=True):
        for phrase, found in zip(phrases, row, strict=True):
            whole = np.concatenate([branch, embeddings[phrase[:-1]]])
            count = len(whole)
            causal = np.triu(np.full((count, count), HIDDEN), k=1)
            wanted = np.arange(len(branch) - 1, count)
            logits = decoder.run(whole, prefix.length + np.arange(count), causal, wanted, prefix)
            logits = logits.astype(np.float64)
            expected = logits[np.arange(len(phrase)), phrase] - np.log(np.exp(logits).sum(axis=1))
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(InputError, match="a phrase is empty"):
        decoder.score(prefix, Branches(branches), [[1], []], lambda ids: embeddings[ids])


def test_score_of_a_greedy_answer_is_its_log_probability(
    decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    for branch, answer in enumerate(_generate(decoder, prefix, branches, embeddings, new=8)):
        (found,) = decoder.score(prefix, Branches(branches), [answer.tokens], lambda ids: embeddings[ids])[branch]
        np.testing.assert_allclose(found, answer.logprobs, atol=1e-4)


def test_meter_counts_every_step(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    timer = Call()
    prefix = decoder.prefill(rows[:30], call=timer)
    assert timer.engine_seconds > 0
    assert timer.step_seconds == []
    decoder.generate(_request(prefix, _branches(rows), embeddings, 7), timer)
    assert len(timer.step_seconds) == 7
    assert min(timer.step_seconds) > 0


def test_finished_branches_send_no_more_rows(
    decoder: Decoder, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    free = _generate(decoder, prefix, branches, embeddings)
    # Take as end of sequence a token that some branches reach early and others late or never.
    candidates = np.unique(np.concatenate([g.tokens for g in free]))
    ends = {int(t): [np.flatnonzero(g.tokens == t)[:1] for g in free] for t in candidates}
    eos = max(ends, key=lambda t: len({int(e[0]) for e in ends[t] if len(e)}))
    expected_lengths = [int(e[0]) + 1 if len(e) else 20 for e in ends[eos]]
    assert len(set(expected_lengths)) > 2

    counting.rows.clear()
    answers = _generate(decoder, prefix, branches, embeddings, eos=eos)
    assert [len(g.tokens) for g in answers] == expected_lengths
    _assert_same(
        answers, [Generation(g.tokens[:n], g.logprobs[:n]) for g, n in zip(free, expected_lengths, strict=True)]
    )
    steps = range(1, max(expected_lengths))
    assert counting.rows == [sum(len(b) for b in branches)] + [
        sum(n > step for n in expected_lengths) for step in steps
    ]


def test_logprobs_are_those_of_a_softmax(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    # The log-probability of the second token, computed from the logits of a prefix that holds the first.
    prefix, branch = decoder.prefill(rows[:30]), rows[40:45]
    answer = _generate(decoder, prefix, [branch], embeddings, new=2)[0]
    sequence = np.concatenate([rows[:30], branch, embeddings[answer.tokens[:1]]])
    causal = np.triu(np.full((36, 36), HIDDEN), k=1)
    logits = decoder.run(sequence, np.arange(36), causal, np.array([35]))[0].astype(np.float64)
    expected = logits[answer.tokens[1]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert answer.tokens[1] == logits.argmax()
    assert answer.logprobs[1] == pytest.approx(expected, abs=1e-4)


def test_too_many_positions_are_refused(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    prefix = decoder.prefill(rows[:30])
    room = decoder.room(prefix, Branches([rows[:12], rows[:5]]))
    assert room == 256 - 30 - 12 + 1
    with pytest.raises(InputError, match=r"prefix of 30, a question of 12 .* need 257 positions, but the model has"):
        _generate(decoder, prefix, [rows[:5], rows[:12]], embeddings, new=room + 1)
    with pytest.raises(InputError, match="prefix of 257 tokens"):
        decoder.prefill(np.repeat(rows[:1], 257, axis=0))
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        _generate(decoder, prefix, [rows[:5]], embeddings, new=0)


def test_no_branch_gives_no_answer(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    assert _generate(decoder, decoder.prefill(rows[:3]), [], embeddings) == []


def test_decoder_for_the_cpu_is_refused_elsewhere(bundle: Bundle, engine: Engine) -> None:
    with pytest.raises(EngineError, match="built for the CPU, not for 'cuda'"):
        Decoder(ElsewhereEngine(engine), bundle.manifest.model)
