import numpy as np
import pytest

from niwaki.errors import DataError
from niwaki.ground.corpus import prepare
from niwaki.ground.text import read_documents, split_of


def test_both_halves_decode_to_the_documents_of_their_side(text_folder, tokenizer):
    corpus = prepare(str(text_folder), tokenizer, held_out=0.3)
    for side, tokens in (("train", corpus.train), ("held_out", corpus.held_out)):
        expected = [d.text for d in read_documents(str(text_folder)) if split_of(d, 0.3) == side]
        assert tokenizer.decode(tokens.ids).split("<|endoftext|>")[:-1] == expected
        num_bytes = sum(len(text.encode()) for text in expected)
        assert tokens.bytes_per_token == pytest.approx(num_bytes / len(tokens.ids))


def test_the_second_call_reads_the_cache(text_folder, tokenizer, tmp_path, monkeypatch):
    first = prepare(str(text_folder), tokenizer, held_out=0.3, cache=tmp_path / "cache")
    monkeypatch.setattr("niwaki.ground.corpus.read_documents", lambda *_, **__: pytest.fail("read again"))
    second = prepare(str(text_folder), tokenizer, held_out=0.3, cache=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.train.ids, first.train.ids)


def test_changed_text_is_another_corpus(text_folder, tokenizer):
    first = prepare(str(text_folder), tokenizer, held_out=0.3)
    (text_folder / "more.txt").write_text("One more text.")
    assert prepare(str(text_folder), tokenizer, held_out=0.3).fingerprint != first.fingerprint


def test_reading_stops_at_max_tokens(text_folder, tokenizer):
    whole = prepare(str(text_folder), tokenizer, held_out=0.3)
    part = prepare(str(text_folder), tokenizer, held_out=0.3, max_tokens=100)
    assert 100 <= len(part.train.ids) <= len(whole.train.ids)


def test_an_empty_half_is_refused_and_leaves_no_cache(tmp_path, tokenizer):
    (tmp_path / "only.txt").write_text("One text cannot be on both sides.")
    with pytest.raises(DataError, match=r"no text in its (held-out|train) half"):
        prepare(str(tmp_path), tokenizer, held_out=0.3, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "tokens").iterdir())


def test_empty_data_is_refused(tmp_path, tokenizer):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no text"):
        prepare(str(tmp_path), tokenizer, held_out=0.3)
