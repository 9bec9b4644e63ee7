"""Verification of the decoder engine: the prefix's logits and greedy answers against PyTorch, one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from export.figures import StageFigures, TokenFigures
from export.streamed import PackedRows, StreamedDecoder
from export.verify_encoders import Tokens
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.kv_cache import HIDDEN, Prefix
from osprey_ros.decoding.loop import DecodeRequest
from osprey_ros.decoding.prompt import common_prefix
from osprey_ros.decoding.prompt_batch import Branches

_PREFIX_ROWS = 32  # compare logits of this many rows at the end of the prefix; all would be a gigabyte at 32000 tokens


@dataclass(frozen=True)
class Conversation:
    """The prompt about each region and how many tokens of an answer are compared."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    eos_id: int

    @property
    def prefix(self) -> tuple[int, ...]:
        """What all regions share."""
        return self.prompt[: common_prefix([self.prompt])]

    @property
    def question(self) -> tuple[int, ...]:
        """What is left, from the region on."""
        return self.prompt[common_prefix([self.prompt]) :]


@dataclass(frozen=True)
class Answers:
    """What a decoder said about the regions of one image.

    tokens: one array for each region. prefix_logits: [R, V] of the prefix's last rows. logits: for each answer of n
    tokens those [n, V] from which they were chosen.
    """

    tokens: list[np.ndarray]
    prefix_logits: np.ndarray
    logits: list[np.ndarray]


def ask_engine(decoder: Decoder, tokens: Tokens, table: np.ndarray, conversation: Conversation) -> Answers:
    """Return the greedy answers of the engine about every region, and their logits from one run over all."""
    prefix, prefix_logits = _prefill(decoder, tokens.rows(conversation.prefix, table))
    branches = Branches([tokens.rows(conversation.question, table, n) for n in range(len(tokens.mask))])
    generations = decoder.generate(
        DecodeRequest(
            prefix,
            branches,
            lambda ids: table[np.asarray(ids)].astype(np.float32),
            conversation.max_new_tokens,
            conversation.eos_id,
        )
    )
    answers = [np.asarray(generation.tokens) for generation in generations]
    return Answers(answers, prefix_logits, _logits_along(decoder, prefix, tokens, table, conversation, answers))


def follow_with_engine(
    decoder: Decoder, tokens: Tokens, table: np.ndarray, conversation: Conversation, answers: Sequence[np.ndarray]
) -> Answers:
    """Run the engine along given answers about the regions; return the tokens that it would choose next."""
    prefix, prefix_logits = _prefill(decoder, tokens.rows(conversation.prefix, table))
    logits = _logits_along(decoder, prefix, tokens, table, conversation, answers)
    return Answers([one.argmax(axis=-1) for one in logits], prefix_logits, logits)


def _prefill(decoder: Decoder, rows: np.ndarray) -> tuple[Prefix, np.ndarray]:
    """Return the prefix of rows [P, H], and the logits of its last rows."""
    split = max(0, len(rows) - _PREFIX_ROWS)
    end = np.arange(len(rows) - split)
    head = decoder.prefill(rows[:split])
    logits = decoder.run(rows[split:], split + end, causal_mask(np.zeros_like(end)), end, head)
    return decoder.prefill(rows[split:], behind=head), logits


def _logits_along(
    decoder: Decoder,
    prefix: Prefix,
    tokens: Tokens,
    table: np.ndarray,
    conversation: Conversation,
    answers: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Return logits [n, V] for every answer of n tokens, all in one run behind the prefix."""
    branches = [_answered(tokens, table, conversation, answer, n) for n, answer in enumerate(answers)]
    owners = np.repeat(np.arange(len(branches)), [len(branch) for branch in branches])
    places = np.concatenate([np.arange(len(branch)) for branch in branches])
    wanted = np.concatenate(_answer_rows(branches, answers))
    logits = decoder.run(np.concatenate(branches), prefix.length + places, causal_mask(owners), wanted, prefix)
    return np.split(logits, np.cumsum([len(answer) for answer in answers])[:-1])


@dataclass(frozen=True)
class Script:
    """What PyTorch reads to follow the engine about one image.

    rows: the prefix and a branch for every answer. wanted: which rows' logits are compared, of the prefix, then of each
    answer.
    """

    rows: PackedRows
    wanted: list[np.ndarray]

    @classmethod
    def of(cls, tokens: Tokens, answers: Answers, table: np.ndarray, conversation: Conversation) -> Script:
        """Build from the tokens and embedding table [V, H] of one side, and the answers of the engine."""
        prefix = tokens.rows(conversation.prefix, table)
        branches = [_answered(tokens, table, conversation, answer, n) for n, answer in enumerate(answers.tokens)]
        end = np.arange(max(0, len(prefix) - _PREFIX_ROWS), len(prefix))
        return cls(
            PackedRows.pack(torch.from_numpy(prefix), [torch.from_numpy(branch) for branch in branches]),
            [end, *(len(prefix) + rows for rows in _answer_rows(branches, answers.tokens))],
        )


def follow(streamed: StreamedDecoder, scripts: Sequence[Script]) -> list[Answers]:
    """Run PyTorch along the answers of the engine, all images in one pass over the layers.

    Returned are the tokens that PyTorch would say next at every step, and its logits.
    """
    states = streamed.run([script.rows for script in scripts])
    wanted = [torch.from_numpy(np.concatenate(script.wanted)) for script in scripts]
    result = []
    for script, logits in zip(
        scripts, streamed.logits([state[rows] for state, rows in zip(states, wanted, strict=True)]), strict=True
    ):
        lengths = [len(rows) for rows in script.wanted]
        prefix_logits, *answer_logits = np.split(logits.numpy(), np.cumsum(lengths)[:-1])
        result.append(Answers([one.argmax(axis=-1) for one in answer_logits], prefix_logits, answer_logits))
    return result


def compare_graph(engine: Answers, reference: Answers, stages: Mapping[str, StageFigures]) -> None:
    """Add the answers of the engine and of PyTorch on the engine's own inputs and weights."""
    for own, other in zip(
        [engine.prefix_logits, *engine.logits], [reference.prefix_logits, *reference.logits], strict=True
    ):
        stages["decoder_graph"].add(own, other)


def compare_words(
    engine: Answers, reference: Answers, stages: Mapping[str, StageFigures], tokens: TokenFigures, margin: float
) -> None:
    """Add the answers of the engine and of PyTorch in fp32."""
    stages["prefix_logits"].add(engine.prefix_logits, reference.prefix_logits)
    for answer, own, other in zip(engine.tokens, engine.logits, reference.logits, strict=True):
        stages["answer_logits"].add(own, other)
        tokens.add(answer, own, other, margin)


def causal_mask(owners: np.ndarray) -> np.ndarray:
    """The decoder's mask, float32 [S, S], for rows of sequences packed one behind the other with no earlier rows.

    owners: [S], which sequence a row is of, ascending. A row sees its own sequence up to itself.
    """
    result: np.ndarray = np.where(np.tril(owners[:, None] == owners[None, :]), np.float32(0), HIDDEN)
    return result


def _answered(
    tokens: Tokens, table: np.ndarray, conversation: Conversation, answer: np.ndarray, region: int
) -> np.ndarray:
    """Return the rows of the question and the answer, without the last token, which is never an input."""
    return tokens.rows((*conversation.question, *answer[:-1].tolist()), table, region)


def _answer_rows(branches: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return for each branch the rows from which the tokens of its answer are chosen, counted over all branches."""
    ends = np.cumsum([len(branch) for branch in branches])
    return [np.arange(end - len(answer), end) for end, answer in zip(ends, answers, strict=True)]
