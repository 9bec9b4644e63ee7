"""Verification of the decoder engine: the prefix's logits and greedy answers against PyTorch, one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from export.figures import StageFigures, TokenFigures
from export.verify_encoders import Tokens
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.kv_cache import HIDDEN, Prefix
from osprey_ros.decoding.loop import DecodeRequest
from osprey_ros.decoding.prompt import common_prefix
from osprey_ros.decoding.prompt_batch import Branches
from osprey_torch.model import Osprey
from osprey_torch.packing import NO_TARGET, PREFIX, Sample, collate, pack

_PREFIX_ROWS = 32  # compare logits of this many rows at the end of the prefix; all would be a gigabyte at 32000 tokens


@dataclass(frozen=True)
class Conversation:
    """The prompt about each region and how many tokens of an answer are compared."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    eos_id: int

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens that all regions share."""
        return self.prompt[: common_prefix([self.prompt])]

    @property
    def question(self) -> tuple[int, ...]:
        """Tokens from the region on."""
        return self.prompt[common_prefix([self.prompt]) :]


@dataclass(frozen=True)
class Answers:
    """Answers of a decoder about the regions of one image.

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
    # The last token of an answer is never an input.
    branches = [
        tokens.rows((*conversation.question, *answer[:-1].tolist()), table, n) for n, answer in enumerate(answers)
    ]
    lengths = [len(branch) for branch in branches]
    owners = np.repeat(np.arange(len(branches)), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    ends = np.cumsum(lengths)
    wanted = np.concatenate([np.arange(end - len(answer), end) for end, answer in zip(ends, answers, strict=True)])
    logits = decoder.run(np.concatenate(branches), prefix.length + places, causal_mask(owners), wanted, prefix)
    return np.split(logits, np.cumsum([len(answer) for answer in answers])[:-1])


@torch.inference_mode()
def follow(
    model: Osprey, images: Sequence[Tokens], answers: Sequence[Answers], conversation: Conversation
) -> list[Answers]:
    """Run PyTorch along the answers of the engine, all images in one pass over the layers.

    Returned are the tokens that PyTorch would choose next at every step, and its logits.
    """
    sequences = [
        pack(
            [Sample.of(conversation.prompt, tuple(tokens.tolist()), n) for n, tokens in enumerate(answer.tokens)],
            len(one.image),
        )
        for one, answer in zip(images, answers, strict=True)
    ]
    image, mask, position = (
        pad_sequence([torch.from_numpy(getattr(one, part)) for one in images], batch_first=True)
        for part in ("image", "mask", "position")
    )
    hidden = model.hidden_states(image, mask, position, collate(sequences))
    # The last rows of each prefix, then the rows that predict the tokens of its answers.
    wanted = [
        np.append(np.flatnonzero(one.branches == PREFIX)[-_PREFIX_ROWS:], np.flatnonzero(one.targets != NO_TARGET))
        for one in sequences
    ]
    logits = model.lm_head(torch.cat([states[rows] for states, rows in zip(hidden, wanted, strict=True)])).numpy()
    result = []
    for own, answer in zip(np.split(logits, np.cumsum([len(rows) for rows in wanted])[:-1]), answers, strict=True):
        starts = len(own) - np.cumsum([len(tokens) for tokens in answer.tokens[::-1]])[::-1]
        prefix, *steps = np.split(own, starts)
        result.append(Answers([one.argmax(axis=-1) for one in steps], prefix, steps))
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

    owners: [S], the sequence of each row, ascending. A row attends to its own sequence up to itself.
    """
    result: np.ndarray = np.where(np.tril(owners[:, None] == owners[None, :]), np.float32(0), HIDDEN)
    return result
