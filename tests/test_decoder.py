"""The decoder: packed branches give what each gives alone, whatever their number, order, lengths and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from conftest import TinyModel

from osprey_ros.bundle import DECODER, Bundle
from osprey_ros.decoder import Decoder, DecoderError, Generation, Prefix
from osprey_ros.engines import Engine, EngineError, load_engine

NEVER = -1  # an end-of-sequence id that is never chosen


class CountingEngine:
    """Passes everything on to an engine and keeps the number of rows of each run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.input_names, self.output_names = engine.input_names, engine.output_names
        self.rows: list[int] = []

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        self.rows.append(len(inputs["inputs_embeds"]))
        return self.engine.run(inputs, outputs)


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
    return decoder.generate(prefix, branches, lambda ids: embeddings[ids], new, eos)


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
    cut = decoder.prefill(rows[:50]).head(30)
    _assert_same(_generate(decoder, cut, branches, embeddings), expected)
    shorter = decoder.prefill(rows[:20])
    longer_branches = [np.concatenate([rows[20:30], branch]) for branch in branches]
    _assert_same(_generate(decoder, shorter, longer_branches, embeddings), expected)


def test_order_and_waves_change_nothing(
    bundle: Bundle, engine: Engine, decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix, branches = decoder.prefill(rows[:30]), _branches(rows)
    expected = _generate(decoder, prefix, branches, embeddings)
    _assert_same(_generate(decoder, prefix, branches[::-1], embeddings), expected[::-1])
    waves = Decoder(engine, bundle.manifest.model, max_parallel=4)
    answers = _generate(waves, prefix, branches, embeddings)
    _assert_same(answers, expected)
    assert waves.steps(branches, answers) == 40
    assert decoder.steps(branches, expected) == 20


def test_long_questions_are_decoded_in_smaller_waves(
    decoder: Decoder, counting: CountingEngine, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    prefix = decoder.prefill(rows[:30])
    branches = [np.repeat(rows[i : i + 1], 150, axis=0) for i in range(20)]  # 3000 rows in all
    counting.rows.clear()
    answers = _generate(decoder, prefix, branches, embeddings, new=2)
    assert counting.rows == [13 * 150, 13, 7 * 150, 7]
    assert decoder.steps(branches, answers) == 4
    _assert_same(answers[12:14], [_generate(decoder, prefix, [b], embeddings, new=2)[0] for b in branches[12:14]])


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


def test_logprobs_are_those_of_a_softmax(
    decoder: Decoder, engine: Engine, bundle: Bundle, rows: np.ndarray, embeddings: np.ndarray
) -> None:
    # The log-probability of the second token, computed from the logits of a prefix that holds the first.
    prefix, branch = decoder.prefill(rows[:30]), rows[40:45]
    answer = _generate(decoder, prefix, [branch], embeddings, new=2)[0]
    sequence = np.concatenate([rows[:30], branch, embeddings[answer.tokens[:1]]])
    spec = bundle.manifest.model
    empty = np.zeros((spec.num_heads, 0, spec.head_dim), np.float32)
    past = {f"{kind}.{i}": empty for i in range(spec.num_layers) for kind in _PAST}
    causal = np.triu(np.full((36, 36), -1e9, np.float32), 1)
    logits = engine.run(
        {
            "inputs_embeds": sequence,
            "position_ids": np.arange(36),
            "mask": causal,
            "logit_rows": np.array([35]),
            **past,
        }
    )["logits"][0].astype(np.float64)
    expected = logits[answer.tokens[1]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert answer.tokens[1] == logits.argmax()
    assert answer.logprobs[1] == pytest.approx(expected, abs=1e-4)


_PAST = ("prefix_key", "prefix_value", "branch_key", "branch_value")


def test_too_many_positions_are_refused(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    prefix = decoder.prefill(rows[:30])
    room = decoder.room(prefix, [rows[:12], rows[:5]])
    assert room == 256 - 30 - 12 + 1
    with pytest.raises(DecoderError, match=r"prefix of 30, a question of 12 .* need 257 positions, the model has 256"):
        _generate(decoder, prefix, [rows[:5], rows[:12]], embeddings, new=room + 1)
    with pytest.raises(DecoderError, match="prefix of 257 tokens"):
        decoder.prefill(np.repeat(rows[:1], 257, axis=0))
    with pytest.raises(DecoderError, match="max_new_tokens is 0"):
        _generate(decoder, prefix, [rows[:5]], embeddings, new=0)


def test_no_branch_gives_no_answer(decoder: Decoder, rows: np.ndarray, embeddings: np.ndarray) -> None:
    assert _generate(decoder, decoder.prefill(rows[:3]), [], embeddings) == []


def test_engines_that_cannot_be_loaded_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    broken = tmp_path_factory.mktemp("engines") / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        load_engine(broken)
    with pytest.raises(EngineError, match="unknown engine runtime 'abacus'"):
        load_engine(broken, runtime="abacus")
    with pytest.raises(EngineError, match="threads is 0"):
        load_engine(broken, threads=0)
