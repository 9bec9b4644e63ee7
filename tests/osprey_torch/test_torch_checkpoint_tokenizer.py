"""Tokenizers of published folders: SentencePiece's own pieces, the region tokens at their ids, text around them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from tiny import TINY
from tokenizers import Tokenizer

from benchmarks.make_checkpoint import make_tokenizer, write_checkpoint
from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION, QUESTIONS, PromptBuilder
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OSPREY_7B, OspreyConfig
from osprey_torch.tokenizer_files import read_tokenizer

VOCABULARY = 600
CONFIG = TINY.with_vocabulary(VOCABULARY)
TEXTS = [
    "Please give me a short description of the object. Using a short phrase.",
    "A chat between a curious human and an artificial intelligence assistant.\nThis provides an overview.\n",
    "Can you give me a detailed description of region1, region2 and region37?  It has  two   spaces. ",
    " leading and trailing ",
    "aaaaaaaaaaaaaaaa bbbbbabbbab ababababab",
    "häßlich ☃ 𝄞 \t\x00 日本",
    "",
    " ",
    "▁▁x",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model trained with the options of LLaMA's."""
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    sentences = [text.strip() for text in TEXTS[:5]] + list(QUESTIONS.values())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 3 + [f"{a}{b} of {b}{a}" for a in "abcdefgh" for b in "aeiou"]),
        model_prefix=str(path),
        vocab_size=VOCABULARY,
        hard_vocab_limit=True,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return path.with_suffix(".model")


def published(folder: Path, model_file: Path, added: dict[str, int] | None = None) -> Path:
    (folder / "tokenizer.model").write_bytes(model_file.read_bytes())
    if added is not None:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_a_sentencepiece_model_gives_the_tokens_of_sentencepiece(model_file: Path, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(published(tmp_path, model_file), CONFIG)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    for text in TEXTS:
        expected = reference.encode(text)
        assert encode(tokenizer, text) == expected, text
        assert tokenizer.decode(expected) == reference.decode(expected), text


def test_each_piece_around_region_tokens_is_tokenized_on_its_own_with_its_spaces(model_file: Path, tmp_path) -> None:
    # What transformers 4.31's fast LLaMA tokenizer does, with which the published weights were trained.
    tokenizer = read_tokenizer(published(tmp_path, model_file), CONFIG)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    before, after = "a short description of ", ". Using a short phrase."
    expected = [*reference.encode(before), CONFIG.mask_id, CONFIG.pos_id, *reference.encode(after)]
    assert encode(tokenizer, f"{before}<mask><pos>{after}") == expected
    pieces = [reference.id_to_piece(i) for i in reference.encode(before)]
    assert pieces[-1] == "▁"  # the space before the mask is a token of its own
    assert reference.id_to_piece(reference.encode(after)[0]).startswith("▁")  # and one is put behind the position

    prompt = PromptBuilder(tokenizer, CONFIG.model_spec()).prompt(QUESTIONS["short"])
    image, mask = prompt.index(IMAGE), prompt.index(MASK)
    assert prompt[0] == CONFIG.bos_id
    assert prompt[mask + 1] == POSITION
    text = "\nThis provides an overview of the picture.\nPlease give me a short description of "
    assert list(prompt[image + 1 : mask]) == reference.encode(text)


def test_added_tokens_get_their_published_ids(model_file: Path, tmp_path: Path) -> None:
    added = {"<more>": VOCABULARY + 2, "<pos>": VOCABULARY + 1, "<mask>": VOCABULARY, "<unk>": 0}
    tokenizer = read_tokenizer(published(tmp_path, model_file, added), CONFIG)
    assert {text: tokenizer.token_to_id(text) for text in added} == added
    assert tokenizer.get_vocab_size() == VOCABULARY + 3


@pytest.mark.parametrize(
    ("added", "config", "words"),
    [
        ({"<pad>": VOCABULARY, "<mask>": VOCABULARY + 1}, CONFIG, f"<mask> the id {VOCABULARY + 1}"),
        ({"<pos>": VOCABULARY, "<mask>": VOCABULARY + 1}, CONFIG, f"<mask> the id {VOCABULARY + 1}"),
        ({"<mask>": VOCABULARY + 5}, CONFIG, f"id {VOCABULARY + 5}, but the tokenizer beside it gives {VOCABULARY}"),
        (None, TINY.with_vocabulary(VOCABULARY + 1), "of different models"),
    ],
    ids=["behind another token", "swapped", "gap", "other vocabulary"],
)
def test_region_tokens_at_other_ids_are_refused(
    added: dict[str, int] | None, config: OspreyConfig, words: str, model_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        read_tokenizer(published(tmp_path, model_file, added), config)


def test_other_tokens_before_the_region_tokens_count_as_vocabulary(model_file: Path, tmp_path: Path) -> None:
    # With an image-patch token the embedding table has one more row, and config.json says so.
    added = {"<im_patch>": VOCABULARY, "<mask>": VOCABULARY + 1, "<pos>": VOCABULARY + 2}
    tokenizer = read_tokenizer(published(tmp_path, model_file, added), TINY.with_vocabulary(VOCABULARY + 1))
    assert tokenizer.token_to_id("<mask>") == VOCABULARY + 1


def test_tokenizer_json_comes_first_and_gets_region_tokens_if_it_has_none(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    without = read_tokenizer(published(tmp_path / "other", model_file), CONFIG)
    data = json.loads(without.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < VOCABULARY]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer.model").write_bytes(b"never read")
    tokenizer = read_tokenizer(tmp_path, CONFIG)
    text = "a short description of <mask><pos>. Using"
    assert encode(tokenizer, text) == encode(without, text)


def test_damaged_tokenizer_files_are_named(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json and no tokenizer\.model"):
        read_tokenizer(tmp_path, CONFIG)
    data = model_file.read_bytes()
    for damaged in (data[:-100], data[: len(data) // 3], b"<html>", b"", b"\xff" * 50):
        (tmp_path / "tokenizer.model").write_bytes(damaged)
        with pytest.raises(InputError, match=r"tokenizer\.model"):
            read_tokenizer(tmp_path, CONFIG)
    published(tmp_path, model_file)
    for text in ("[1]", "{", '{"<mask>": "x", "<pos>": 1}'):
        (tmp_path / "added_tokens.json").write_text(text)
        with pytest.raises(InputError, match=r"added_tokens\.json"):
            read_tokenizer(tmp_path, CONFIG)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer"):
        read_tokenizer(tmp_path, CONFIG)


def test_a_folder_with_only_a_sentencepiece_model_opens(model_file: Path, tmp_path: Path) -> None:
    write_checkpoint(CONFIG, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    published(tmp_path, model_file)
    assert Checkpoint.open(tmp_path).tokenizer.token_to_id("<pos>") == VOCABULARY + 1


def test_the_made_up_tokenizer_has_the_published_size_and_keeps_texts() -> None:
    tokenizer = make_tokenizer(OSPREY_7B)
    assert tokenizer.get_vocab_size(with_added_tokens=False) == OSPREY_7B.vocab_size
    assert tokenizer.token_to_id("<mask>") == OSPREY_7B.mask_id
    assert tokenizer.token_to_id("<pos>") == OSPREY_7B.pos_id
    for text in ("Please give me a short description of it.\n", "Größe ☃", "a small red mug, behind a hat"):
        assert tokenizer.decode(encode(tokenizer, text)) == text
    # About as fine as LLaMA's own: most words of a question are one token.
    assert len(encode(tokenizer, "Please give me a short description of")) <= 10
