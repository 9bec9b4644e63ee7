"""Branches behind a shared prefix: what each begins with, which rows are whose, and who sees whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from osprey_ros.decoding.kv_cache import KeyValueRows

HIDDEN = np.float32(-1e9)  # finite: a row that sees nothing must not become NaN
MAX_ROWS = 2048  # of one run over branches: scores and mask grow with its square

_NOBODY = -1
_FIRST_STEM = -2  # stems own rows, too: the first under this number, the next under the one below
_FEW_ROWS = 64  # so few rows of ended branches are not worth moving others


@dataclass(frozen=True)
class Branches:
    """What each branch begins with: rows of its own, and before them those of a stem that it may share with others.

    ``questions``: float32 [T_i, hidden] for each branch, T_i at least 1. ``stems``: float32 [U_j, hidden];
    ``stem_of``: for each branch the index of its stem, or -1; empty where no branch has one.
    """

    questions: Sequence[np.ndarray]
    stems: Sequence[np.ndarray] = ()
    stem_of: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Integers [N]: rows of each question."""
        return np.array([len(rows) for rows in self.questions], dtype=np.intp)

    @cached_property
    def stem_lengths(self) -> np.ndarray:
        """Integers [N]: how many rows come before each branch's own."""
        lengths = np.array([len(stem) for stem in self.stems] + [0], dtype=np.intp)  # -1 is the last one
        return lengths[np.asarray(self.stem_of, dtype=np.intp)] if len(self.stem_of) else np.zeros(len(self), np.intp)

    @property
    def stem_rows(self) -> int:
        """Rows of all stems."""
        return sum(len(stem) for stem in self.stems)

    @property
    def rows(self) -> int:
        """Rows of all questions and stems."""
        return int(self.lengths.sum()) + self.stem_rows

    @property
    def longest(self) -> int:
        """Most rows of a branch, those of its stem included."""
        return int((self.lengths + self.stem_lengths).max())

    def part(self, which: slice) -> Branches:
        """Some of the branches, with the stems that they have."""
        stem_of = self.stem_of[which]
        used = sorted(set(stem_of) - {-1})
        places = {stem: place for place, stem in enumerate(used)} | {-1: -1}
        return Branches(self.questions[which], [self.stems[s] for s in used], [places[stem] for stem in stem_of])

    def stem_owners(self) -> np.ndarray:
        """Integers [N]: the number under which the rows of each branch's stem are owned, its own where it has none."""
        own = np.arange(len(self), dtype=np.intp)
        stems = np.asarray(self.stem_of, dtype=np.intp)
        return np.where(stems >= 0, _FIRST_STEM - stems, own) if len(stems) else own


class RowsOfBranches:
    """Collects rows for one run of the engine: the rows [S, hidden], their positions [S] and their owners [S]."""

    def __init__(self) -> None:
        self.count = 0
        self._pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, owners: np.ndarray, positions: np.ndarray) -> None:
        """Rows [n, hidden] with the branch and the position of each."""
        self._pieces.append((rows, positions, owners))
        self.count += len(rows)

    def add_stems(self, branches: Branches, position: int) -> None:
        """All stems, which begin at a position."""
        for index, rows in enumerate(branches.stems):
            self.add(rows, np.full(len(rows), _FIRST_STEM - index), position + np.arange(len(rows)))

    def add_questions(self, branches: Branches, which: np.ndarray, positions: np.ndarray) -> None:
        """The questions of some branches, integers [n] at least one, and where each begins."""
        questions = [branches.questions[branch] for branch in which]
        lengths = branches.lengths[which]
        starts = np.cumsum(lengths) - lengths
        each = np.repeat(positions - starts, lengths) + np.arange(lengths.sum())
        self.add(np.concatenate(questions), np.repeat(which, lengths), each)

    def take(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, positions and owners in the order in which they were added; none are left."""
        pieces, self._pieces, self.count = self._pieces, [], 0
        if len(pieces) == 1:
            return pieces[0]
        rows, positions, owners = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        return rows, positions, owners


def parts(rows: Sequence[int], count: int, besides: int, most: int) -> Iterator[slice]:
    """Cuts a sequence of things with so many rows each into parts of at most ``count`` things and ``most`` rows.

    Each part has ``besides`` rows more. There is at least one thing in each.
    """
    start, total = 0, besides
    for index, own in enumerate(rows):
        if index > start and (index - start == count or total + own > most):
            yield slice(start, index)
            start, total = index, besides
        total += own
    if start < len(rows):
        yield slice(start, len(rows))


def sees(owners: np.ndarray) -> np.ndarray:
    """Bool [S, S] for rows packed one branch behind the other: whether a row sees another.

    ``owners``: integers [S], the branch of each row. A row sees itself and the earlier ones of its branch.
    """
    return np.tril(owners[:, None] == owners)


class BranchRows:
    """Keys and values of the branches' rows in the order in which they were computed, behind those of a prefix.

    Rows of branches that have ended stay until they are as many as the others; then the others move together. So the
    buffers hold at most twice what the living branches need, and every row is moved about once. They move earlier
    where there would be more rows than the engine takes: ``most``.
    """

    def __init__(self, rows: KeyValueRows, most: int) -> None:
        self._rows = rows
        self._most = most
        self.first = 0  # where they begin: behind the rows of the prefix
        self._owners = np.full(0, _NOBODY, dtype=np.intp)  # of all rows there is room for
        self._stem_owners = np.zeros(0, dtype=np.intp)
        self._stems = False
        self._ended = 0
        # Of the last run, if it had one row of each branch: owners, mask with room for more columns, columns so far.
        self._last: tuple[np.ndarray, np.ndarray, int] | None = None

    def forget(self) -> None:
        """Forgets all rows; their memory stays."""
        self._rows.length = self.first
        self._ended = 0
        self._last = None

    def follow(self, first: int) -> None:
        """Forgets all rows; those to come lie behind the first ``first`` ones of the buffers."""
        self.first = first
        self.forget()

    def begin(self, branches: Branches) -> None:
        """Forgets all rows, for branches with these stems."""
        self.forget()
        self._stem_owners = branches.stem_owners()
        self._stems = len(branches.stems) > 0

    def reserve(self, count: int) -> None:
        """Makes room for ``count`` more rows."""
        length = self._length
        if self._ended and (self._ended >= max(_FEW_ROWS, length - self._ended) or length > self._most):
            living = np.flatnonzero(self._owners[:length] != _NOBODY)
            self._rows.keep(living, self.first)
            self._owners[: len(living)] = self._owners[living]
            self._ended = 0
            self._last = None
        if self._rows.length + count > self._rows.capacity:
            self._rows.reserve(max(self._rows.length + count, self._rows.capacity * 3 // 2))
        if self._rows.capacity - self.first > len(self._owners):
            owners = np.full(self._rows.capacity, _NOBODY, dtype=np.intp)
            owners[: self._length] = self._owners[: self._length]
            self._owners = owners

    def append(self, owners: np.ndarray) -> None:
        """Counts in rows that the engine has written behind those there are: ``owners`` [S] says whose each is."""
        length = self._length
        self._owners[length : length + len(owners)] = owners
        self._rows.length += len(owners)

    def drop(self, branches: np.ndarray) -> None:
        """The rows of these branches are not needed any more."""
        ended = np.zeros(len(self._stem_owners), dtype=bool)
        ended[branches] = True
        owned = self._owners[: self._length]
        gone = ended[np.maximum(owned, 0)] & (owned >= 0)
        owned[gone] = _NOBODY
        self._ended += int(np.count_nonzero(gone))
        if self._last is not None:
            owners, mask, columns = self._last
            stay = ~ended[np.maximum(owners, 0)]
            self._last = owners[stay], mask[stay], columns

    def mask(self, owners: np.ndarray, own: np.ndarray | None = None, prefix: int | None = None) -> np.ndarray:
        """Float32 [S, B + S]: which of the rows there are and of the new ones each new row sees.

        ``owners``: integers [S], the branch (or stem) of each new row, whose earlier rows and stem it sees. Rows of one
        branch come in their order, stems before the branches. ``own``: bool [S, S], who sees whom among the new ones
        where that is not simply so. ``prefix``: with the rows before those of the branches, of which all see so many.
        The mask is a view of memory that the next call writes to.
        """
        count, length = len(owners), self._length
        before = 0 if prefix is None else self.first
        past = before + length
        end = past + count
        if own is None and self._last is not None:
            last_owners, mask, columns = self._last
            same = owners is last_owners or np.array_equal(owners, last_owners)
            if same and columns == past and end <= mask.shape[1]:
                # A step like the one before: each row sees what its predecessor saw, that one and itself.
                mask.reshape(-1)[past :: mask.shape[1] + 1][:count] = 0
                self._last = owners, mask, end
                return mask[:, :end]
        everyone = np.concatenate([self._owners[:length], owners])
        seen = owners[:, None] == everyone
        if self._stems:
            stems = np.where(owners >= 0, self._stem_owners[np.maximum(owners, 0)], owners)
            seen |= stems[:, None] == everyone
        seen[:, length:] &= np.tri(count, dtype=bool) if own is None else own
        one_each = own is None and count <= len(self._stem_owners) and len(set(owners.tolist())) == count
        mask = np.full((count, before + len(self._owners) if one_each else end), HIDDEN)
        mask[:, : prefix or 0] = 0
        mask[:, before:end][seen] = 0
        self._last = (owners, mask, end) if one_each else None
        return mask[:, :end]

    @property
    def _length(self) -> int:
        return self._rows.length - self.first
