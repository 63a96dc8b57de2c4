import numpy as np
import pytest
import torch

from niwaki.errors import DataError
from niwaki.ground.stream import Rows

TOKENS = np.arange(101, dtype=np.uint16)


def test_targets_are_the_inputs_one_to_the_right():
    batch = Rows(TOKENS, sequence_length=10).take(3, 2)
    assert batch["inputs"][0].tolist() == list(range(30, 40))
    assert batch["targets"][0].tolist() == list(range(31, 41))
    assert batch["mask"].all()
    assert batch["inputs"].dtype == batch["targets"].dtype == torch.int64


def test_an_epoch_visits_every_row_once_and_the_next_one_in_another_order():
    rows = Rows(TOKENS, sequence_length=10, seed=7)
    first, second = (rows.take(start, 10)["inputs"][:, 0].tolist() for start in (0, 10))
    assert sorted(first) == sorted(second) == list(range(0, 100, 10))
    assert first != second


def test_a_row_does_not_depend_on_how_the_stream_is_cut():
    rows, again = (Rows(TOKENS, sequence_length=10, seed=3) for _ in range(2))
    whole = rows.take(5, 20)["inputs"]
    parts = torch.cat([again.take(5 + i, 4)["inputs"] for i in range(0, 20, 4)])
    assert torch.equal(whole, parts)


def test_another_seed_is_another_order():
    orders = [Rows(TOKENS, sequence_length=10, seed=s).take(0, 10)["inputs"][:, 0].tolist() for s in (0, 1)]
    assert orders[0] != orders[1]


def test_a_place_finds_the_row_in_the_text_whatever_the_order():
    text, shuffled = Rows(TOKENS, sequence_length=10), Rows(TOKENS, sequence_length=10, seed=7)
    for index in range(25):
        row = shuffled.take(index, 1)["inputs"]
        assert torch.equal(row, text.take(shuffled.place(index), 1)["inputs"])


def test_too_few_tokens_are_refused_with_their_number():
    with pytest.raises(DataError, match="10 tokens are too few for one row of 10"):
        Rows(TOKENS[:10], sequence_length=10)
