import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from niwaki.errors import DataError
from niwaki.ground.text import Document, read_documents, split_of, stdlib_documents

TEXTS = ["first text", "second text"]


def test_every_local_form_gives_the_same_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.txt").write_text(text)
    for source in ("a.jsonl", "a.parquet", "folder"):
        assert [d.text for d in read_documents(str(tmp_path / source))] == TEXTS


def test_a_folder_in_hub_form_is_read_as_a_dataset(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "data" / "train-00000-of-00001.parquet")
    assert [d.text for d in read_documents(str(tmp_path), text_column="body")] == TEXTS


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "novel.txt").write_text("Chapter 1", encoding="utf-8-sig")
    assert next(read_documents(str(tmp_path))).text == "Chapter 1"


def test_a_missing_column_is_named_with_those_there(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(DataError, match=r"column 'text' \(columns: content\)"):
        list(read_documents(str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("source", ["./nothing-here", "/nothing/here"])
def test_a_missing_path_is_not_taken_for_a_hub_name(source):
    with pytest.raises(DataError, match="nothing is there"):
        list(read_documents(source))


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(DataError, match="no file of a known form"):
        list(read_documents(str(tmp_path)))


def test_the_split_goes_by_group_and_is_nested():
    documents = [Document(str(i), "", f"g{i % 50}") for i in range(200)]
    small, large = ({d.name for d in documents if split_of(d, f) == "held_out"} for f in (0.1, 0.4))
    assert small < large
    for group in range(50):
        assert len({split_of(d, 0.4) for d in documents if d.group == f"g{group}"}) == 1


def test_copies_of_a_text_share_a_group_whatever_their_spacing(tmp_path):
    (tmp_path / "a.txt").write_text("same words")
    (tmp_path / "b.txt").write_text("same  words\n")
    assert len({d.group for d in read_documents(str(tmp_path))}) == 1


def test_standard_library_modules_are_never_on_both_sides():
    train, held_out = ({d.group for d in stdlib_documents(side)} for side in ("train", "held_out"))
    assert "cpython:json" in held_out
    assert "cpython:asyncio" in train
    assert not train & held_out
