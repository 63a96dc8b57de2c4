"""Which layers go: what a model does without them, measured in memory, and the choice from it."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from niwaki.errors import EvaluationError, RecipeError, RunError
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.model import load_model
from niwaki.ground.stream import Rows
from niwaki.pruning import depth
from niwaki.pruning.depth import best_removal, measure_on_rows, measure_score, removals, usual_pattern
from niwaki.pruning.depth_record import DepthRecord
from niwaki.pruning.trim import trim

NUM_LAYERS, ROW_TOKENS, NUM_ROWS = 6, 8, 6


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def rows():
    tokens = torch.randint(0, 90, (NUM_ROWS * ROW_TOKENS + 1,), generator=torch.Generator().manual_seed(1))
    return Rows(tokens.numpy(), sequence_length=ROW_TOKENS)


@pytest.fixture
def record(tmp_path):
    return open_record(tmp_path)


def open_record(folder, measure="loss", num_samples=NUM_ROWS, higher_is_better=False):
    return DepthRecord.open(
        folder / "depth.json", measure=measure, num_samples=num_samples, higher_is_better=higher_is_better
    )


def measured(model, rows, record, removed, measure="loss", batch_rows=4):
    arguments = {"num_rows": NUM_ROWS, "batch_rows": batch_rows, "record": record}
    measure_on_rows(model, removed, rows, measure=measure, **arguments)
    return record.values


def kept(removed):
    return torch.tensor([layer for layer in range(NUM_LAYERS) if layer not in removed])


# --- what is measured ---


def test_the_loss_is_that_of_the_trimmed_folder(model, rows, record, tmp_path):
    sets = [(), *removals(NUM_LAYERS, 2, "block"), *removals(NUM_LAYERS, 4, "block")]
    values = measured(model, rows, record, sets)
    model.save_pretrained(tmp_path / "whole")
    for removed in sets:
        folder = tmp_path / f"without {removed}"
        trim(tmp_path / "whole", folder, keep={"layer": kept(removed)} if removed else {})
        expected = held_out_loss(load_model(folder), rows, num_rows=NUM_ROWS, batch_rows=4)
        assert values[removed] == pytest.approx(expected.nats_per_token.mean, rel=1e-6), removed


def test_only_scored_positions_count(model, record):
    class Masked:
        def take(self, start, count):
            ids = torch.arange(count * (ROW_TOKENS + 1)).reshape(count, -1) % 90
            mask = torch.zeros(count, ROW_TOKENS, dtype=torch.bool)
            mask[:, 3] = True
            return {"inputs": ids[:, :-1], "targets": ids[:, 1:], "mask": mask}

    loss = measured(model, Masked(), record, [()], batch_rows=NUM_ROWS)[()]
    batch = Masked().take(0, NUM_ROWS)
    with torch.no_grad():
        logits = model(batch["inputs"]).logits[:, 3]
    assert loss == pytest.approx(
        torch.nn.functional.cross_entropy(logits, batch["targets"][:, 3]).item(), rel=1e-5
    )


def test_only_the_layers_behind_a_block_run_again(model, rows, record):
    calls = [0] * NUM_LAYERS
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, n=number: calls.__setitem__(n, calls[n] + 1))
    measured(model, rows, record, [(), (1, 2), (3, 4)], batch_rows=NUM_ROWS)
    checks = 2  # of the head, with layer 0 alone
    assert calls == [1 + checks, 1, 1, 2, 2, 3]


def test_influence_is_one_minus_the_cosine_of_what_goes_in_and_what_comes_out(model, rows, record):
    """Minitron, section 2.2, extended to a block: x_i against x_{i+n}."""
    values = measured(model, rows, record, [(), (1,), (1, 2, 3)], measure="influence")
    with torch.no_grad():
        hidden = model(rows.take(0, NUM_ROWS)["inputs"], output_hidden_states=True).hidden_states
    for removed in ((1,), (1, 2, 3)):
        cosine = torch.cosine_similarity(
            hidden[removed[0]].double(), hidden[removed[-1] + 1].double(), dim=-1
        )
        assert values[removed] == pytest.approx(1 - cosine.mean().item(), rel=1e-5)
    assert values[()] == 0


def test_influence_of_the_published_pair(monkeypatch):
    """(1, 0) -> (1, 1): 0.292893."""
    inputs = {0: torch.tensor([[[1.0, 0.0]]]), 1: torch.tensor([[[1.0, 1.0]]])}
    monkeypatch.setattr(depth, "_run_whole", lambda *_: (inputs, None))
    batch = {"inputs": torch.zeros(1, 1, dtype=torch.long), "mask": torch.ones(1, 1, dtype=torch.bool)}
    model = type("Model", (), {"device": torch.device("cpu")})()
    assert depth._influences(model, batch, [(0,)]).tolist() == pytest.approx([0.292893], abs=1e-6)


def test_a_layer_that_does_nothing_has_no_influence_and_can_go(model, rows, record):
    torch.nn.init.zeros_(model.model.layers[2].self_attn.o_proj.weight)
    torch.nn.init.zeros_(model.model.layers[2].mlp.down_proj.weight)
    values = measured(model, rows, record, [(), *removals(NUM_LAYERS, 1, "single")])
    assert values[2,] == pytest.approx(values[()], rel=1e-6)


def test_a_score_sees_a_model_of_fewer_layers(model, record):
    measure_score(
        model, [(), (1, 2)], lambda m: float(m.config.num_hidden_layers), name="layers", record=record
    )
    assert record.values == {(): 6.0, (1, 2): 4.0}
    assert len(model.model.layers) == NUM_LAYERS


def test_values_that_are_not_finite_are_refused(model, rows, record):
    model.model.layers[5].mlp.down_proj.weight.data[:] = float("nan")
    with pytest.raises(EvaluationError, match=r"without layers \[\] is nan"):
        measure_score(model, [()], lambda m: float("nan"), name="loss", record=record)


# --- the choice ---


def test_singles_for_one_or_two_and_a_block_for_more():
    assert [usual_pattern(n) for n in (1, 2, 3, 16)] == ["single", "single", "block", "block"]


def test_the_last_layer_is_in_no_set():
    assert removals(4, 2, "block") == [(0, 1), (1, 2)]
    assert removals(4, 2, "single") == [(0,), (1,), (2,)]
    assert removals(4, 3, "block") == [(0, 1, 2)]
    assert (15, *range(16, 31)) in removals(32, 16, "block")  # arXiv 2408.11796: 16 to 31, counted from 1
    for num_dropped in (0, 4):
        with pytest.raises(RecipeError, match="of 4 layers"):
            removals(4, num_dropped, "block")


def test_the_best_block_goes_or_the_best_single_layers(record):
    record.values = {(0,): 3.0, (1,): 1.0, (2,): 9.0, (0, 1): 5.0, (1, 2): 4.0}
    assert best_removal(record, 4, 2, "block") == (1, 2)
    assert best_removal(record, 4, 2, "single") == (0, 1)
    record.higher_is_better = True
    assert best_removal(record, 4, 2, "block") == (0, 1)
    assert best_removal(record, 4, 2, "single") == (0, 2)


def test_of_equal_sets_the_earlier_goes(record):
    record.values = {(2,): 1.0, (1,): 1.0, (0,): 2.0}
    assert best_removal(record, 4, 1, "single") == (1,)


# --- the record ---


def test_a_killed_measurement_goes_on_to_the_same_values(model, rows, tmp_path, monkeypatch):
    class Killed:
        def take(self, start, count):
            if start >= 4:
                raise KeyboardInterrupt
            return rows.take(start, count)

    sets = [(), (1,), (2,)]
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    expected = measured(model, rows, open_record(tmp_path / "straight"), sets, batch_rows=2)
    with pytest.raises(KeyboardInterrupt):
        measured(model, Killed(), open_record(tmp_path / "killed"), sets, batch_rows=2)
    assert json.loads((tmp_path / "killed" / "depth.json").read_text())["unfinished"]["num_rows"] == 4

    take, starts = rows.take, []
    monkeypatch.setattr(rows, "take", lambda start, count: starts.append(start) or take(start, count))
    assert measured(model, rows, open_record(tmp_path / "killed"), sets, batch_rows=2) == expected
    assert starts == [4]
    assert (tmp_path / "killed" / "depth.json").read_text() == (
        tmp_path / "straight" / "depth.json"
    ).read_text()


def test_a_score_that_is_known_is_not_measured_again(model, tmp_path):
    record = open_record(tmp_path)
    measure_score(model, record.missing([(1,)]), lambda m: 1.0, name="task", record=record)
    again = open_record(tmp_path)
    assert again.values == {(): 1.0, (1,): 1.0}
    assert again.missing([(1,), (2,)]) == [(2,)]


def test_a_record_of_another_measure_or_damaged_is_refused(tmp_path):
    open_record(tmp_path).add((), 1.0)
    for changes in ({"measure": "influence"}, {"num_samples": 3}):
        with pytest.raises(RunError, match="holds loss on 6 samples"):
            open_record(tmp_path, **changes)
    (tmp_path / "depth.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        open_record(tmp_path)
