"""Names of regions from a tree of kinds: the probability of every node as the answer to one question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.calibration import KIND, Calibration
from osprey_ros.bundle.manifest import KINDS
from osprey_ros.decoding.constraints import ConstraintState
from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.errors import BundleError
from osprey_ros.kinds.back_off import NamedKind, back_off
from osprey_ros.kinds.tree import KindTree


class KindNames:
    """The names of a tree of kinds in the tokens of a model.

    The root is not among the answers that are compared: it is true of everything.

    Args:
        tree: The kinds.
        builder: Has the tokenizer.
        calibration: Its curve "kind" calibrates the probabilities of the nodes.

    Attributes:
        phrases: Token ids of each node but the root, in the order of ``tree.names``, ending with the end-of-sequence
            id.
        one_token: Whether each of these names is a single token. One decoding step gives all probabilities then.

    Raises BundleError for a name that the tokenizer cannot spell.
    """

    def __init__(self, tree: KindTree, builder: PromptBuilder, calibration: Calibration) -> None:
        self._tree, self._calibration = tree, calibration
        answers = {name: builder.answer(name) for name in tree.names}
        for name, ids in answers.items():
            spelled = builder.decode(ids) if min(ids) >= 0 else "a region"
            if spelled != name:
                raise BundleError(
                    f"the tokenizer of the bundle spells the kind {name!r} as {spelled!r}; write the kind differently, "
                    "or add it to the tokenizer"
                )
        self._tokens = {name: np.array(ids[:-1], dtype=np.int32) for name, ids in answers.items()}
        self.phrases = [answers[name] for name in tree.names[1:]]
        self.one_token = all(len(ids) == 2 for ids in self.phrases)

    @classmethod
    def of(cls, bundle: Bundle, builder: PromptBuilder, calibration: Calibration) -> KindNames | None:
        """Return the names of a bundle's tree, None if it has none. Raises BundleError if the tree cannot be used."""
        tree = bundle.kinds()
        if tree is None:
            return None
        try:
            return cls(tree, builder, calibration)
        except BundleError as error:
            raise BundleError(f"{bundle.path(KINDS)} does not fit the bundle: {error}") from error

    def choice(self) -> KindChoice:
        """Return a constraint for one question of one call, if each name is a single token."""
        return KindChoice(np.array([ids[0] for ids in self.phrases], dtype=np.intp))

    def named(
        self, log_likelihoods: np.ndarray, threshold: float | None, trust: np.ndarray | None = None
    ) -> list[NamedKind]:
        """Return the name of each region.

        Args:
            log_likelihoods: float [regions, nodes but the root], up to a constant for each region.
            threshold: Least probability of a name. None: that of the tree.
            trust: As for `back_off`.
        """
        shifted = log_likelihoods.astype(np.float64)
        own = np.zeros((len(shifted), len(self._tree)))  # the root has none of its own
        own[:, 1:] = np.exp(shifted - shifted.max(axis=1, keepdims=True))
        own /= own.sum(axis=1, keepdims=True)
        least = self._tree.threshold if threshold is None else threshold
        return back_off(self._tree, own, lambda raw: self._calibration.apply_all(KIND, raw), least, trust)

    def tokens(self, name: str) -> np.ndarray:
        """Return the token ids of a node, int32 [n], without the end-of-sequence id."""
        return self._tokens[name]


class KindChoice:
    """A constraint to a single token, the most likely name, that records the logits of all names for each branch.

    Use a new one for each question of a call. `start` is called for its branches in their order.
    """

    longest = 1
    normalized = True

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens
        self._states: list[_KindState] = []

    def start(self) -> ConstraintState:
        """Begin an answer."""
        self._states.append(_KindState(self.tokens))
        return self._states[-1]

    def logits(self, branches: Sequence[int]) -> np.ndarray:
        """Return the logits of the names, float32 [branches, names], of branches that have their token."""
        logits = [self._states[branch].logits for branch in branches]
        return np.array(logits, dtype=np.float32).reshape(-1, len(self.tokens))


class _KindState:
    """See `ConstraintState`."""

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens = tokens
        self.logits = np.zeros(0, np.float32)

    def next_token(self, logits: np.ndarray) -> tuple[int, float]:
        self.logits = logits[self._tokens]
        best = int(self.logits.argmax())
        shifted = self.logits.astype(np.float64) - self.logits[best]
        return int(self._tokens[best]), float(-np.log(np.exp(shifted).sum()))
