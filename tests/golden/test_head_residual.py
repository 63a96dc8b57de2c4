"""The residual of pruned heads (minitron.md 2.7 rows 7 to 9, golden pairs of 5.4)."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from niwaki.errors import FamilyError, RecipeError
from niwaki.pruning.residual import head_residual, pairs
from niwaki.pruning.trim import trim

L, KV, GROUP, DIM, HIDDEN = 2, 2, 3, 4, 24
IMPORTANCE = torch.tensor([[[1.0, 3.0, 2.0], [5.0, 5.0, 4.0]], [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]])
# Of three heads two stay, so the second in rank is paired with the third: (kept, lost) per layer and kv.
PAIRED = {(0, 0): (2, 0), (0, 1): (1, 2), (1, 0): (1, 2), (1, 1): (1, 0)}


def test_pairs_of_the_paper():
    assert pairs(48, 32) == [(17 + i, 48 - i) for i in range(16)]
    assert pairs(48, 32)[-1] == (32, 33)
    assert pairs(48, 24) == [(1 + i, 48 - i) for i in range(24)]
    assert pairs(48, 48) == []


def test_more_lost_heads_than_kept_ones_are_refused():
    with pytest.raises(RecipeError, match=r"23 of 48 .* not half.*at least 24"):
        pairs(48, 23)


def build(folder, model_type, **changes):
    torch.manual_seed(0)
    fields = {
        "vocab_size": 32, "hidden_size": HIDDEN, "intermediate_size": 20, "num_hidden_layers": L,
        "num_attention_heads": KV * GROUP, "num_key_value_heads": KV, "head_dim": DIM, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("direction, sign", [("away", 1), ("towards", -1)])
@pytest.mark.parametrize("model_type, name", [("qwen2", "q_proj"), ("phi3", "qkv_proj"), ("olmo2", "q_proj")])
def test_only_query_rows_of_paired_kept_heads_change(tmp_path, model_type, name, direction, sign):
    before = build(tmp_path / "source", model_type)
    edit = head_residual(tmp_path / "source", importance=IMPORTANCE, num_kept=2, direction=direction)
    trim(tmp_path / "source", tmp_path / "out", keep={}, edits=[edit])
    after = load_file(tmp_path / "out" / "model.safetensors")
    queries = {n for n in before if f".{name}." in n}
    assert len(queries) == L * (2 if model_type == "qwen2" else 1)
    for other in before.keys() - queries:
        assert after[other].equal(before[other]), other
    for query in queries:
        layer = int(query.split(".")[2])
        rows = KV * GROUP * DIM
        assert after[query][rows:].equal(before[query][rows:])
        old, new = (t[query][:rows].reshape(KV, GROUP, DIM, -1) for t in (before, after))
        expected = old.clone()
        for kv in range(KV):
            kept, lost = PAIRED[layer, kv]
            expected[kv, kept] += sign * (old[kv, kept] - old[kv, lost])
        torch.testing.assert_close(new, expected)


def test_a_family_without_groups_is_refused(tmp_path):
    build(tmp_path / "source", "gpt_neox", head_dim=None)
    with pytest.raises(FamilyError, match="gpt_neox: no query heads share"):
        head_residual(tmp_path / "source", importance=IMPORTANCE, num_kept=2, direction="away")
