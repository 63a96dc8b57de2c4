"""Repair by least squares: what must not change, what must come back, what must not get worse."""

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from niwaki.errors import DataError
from niwaki.ground.axes import parse
from niwaki.ground.family import FAMILIES
from niwaki.pruning.repair import repair
from niwaki.pruning.rotate import rotate

WITH_FFN = [name for name, family in FAMILIES.items() if "ffn" in family.axes]
BIASES = dict.fromkeys(tiny.OPTIONAL_BIASES, tiny.WITH_BIASES)
NUM_ROWS = 12


class RandomRows:
    """Rows of sixteen random tokens, each its own."""

    def take(self, start, count):
        generators = (torch.Generator().manual_seed(row) for row in range(start, start + count))
        rows = torch.stack([torch.randint(3, 90, (16,), generator=g) for g in generators])
        return {"inputs": rows, "mask": torch.ones_like(rows, dtype=torch.bool)}


def repaired(student, teacher, keep, **options):
    return repair(student, teacher, RandomRows(), keep=keep, num_samples=NUM_ROWS, batch_rows=3, **options)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_model_that_lost_nothing_stays_as_it_is(model_type):
    family, config, model = tiny.tiny(model_type, **BIASES.get(model_type, {}))
    student = tiny.trimmed(family, config, model.state_dict(), {})
    repairs = repaired(student, model, {})
    modules = [
        name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in name
    ]
    assert {repair.name for repair in repairs} == set(modules)
    assert max(repair.error_before for repair in repairs) < 1e-10
    torch.testing.assert_close(tiny.logits(student), tiny.logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_matrix_gets_worse_whatever_is_cut(model_type):
    family, config, model = tiny.tiny(model_type, **BIASES.get(model_type, {}))
    sizes = family.axis_sizes(config)
    generator = torch.Generator().manual_seed(3)
    keep = {a: tiny.subset(a, n, sizes, generator) for a, n in tiny.smaller(family, sizes).items()}
    student = tiny.trimmed(family, config, model.state_dict(), keep)
    repairs = repaired(student, model, keep)
    assert all(repair.error_after <= repair.error_before * (1 + 1e-9) for repair in repairs)
    assert sum(repair.error_after for repair in repairs) < 0.95 * sum(r.error_before for r in repairs)
    assert tiny.logits(student).isfinite().all()


@pytest.mark.parametrize("model_type", WITH_FFN)
def test_neurons_that_have_a_double_can_go(model_type):
    """Where the lost units are linear functions of kept ones, the teacher comes back."""
    family, config, model = tiny.tiny(model_type, **BIASES.get(model_type, {}))
    sizes = family.axis_sizes(config)
    half = sizes["ffn"] // 2
    double = {"ffn": (torch.arange(sizes["ffn"]) % half).expand(sizes["layer"], -1)}
    state = {name: t.clone() for name, t in model.state_dict().items()}
    for name, tensor in model.state_dict().items():
        dims = parse(family.match(name).expr)
        if "ffn" in str(dims[0]):  # what makes neurons; what reads them keeps both halves
            state[name] = family.take(name, tensor, sizes, double)[1]
    model.load_state_dict(state)
    keep = {"ffn": torch.arange(half).expand(sizes["layer"], -1)}
    student = tiny.trimmed(family, config, state, keep)
    expected = tiny.logits(model)
    assert (tiny.logits(student) - expected).abs().max() > 0.1
    repairs = repaired(student, model, keep)
    outputs = [r for r in repairs if r.error_before > 1e-3]
    assert len(outputs) >= sizes["layer"]
    torch.testing.assert_close(tiny.logits(student), expected, rtol=1e-2, atol=1e-2)


def test_layers_are_those_of_the_original_model():
    """Dropping a layer that adds nothing leaves nothing to repair."""
    family, config, model = tiny.tiny("llama")
    with torch.no_grad():
        for matrix in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
            matrix.weight.zero_()
    keep = {"layer": torch.tensor([0, 2, 3])}
    student = tiny.trimmed(family, config, model.state_dict(), keep)
    assert max(r.error_before for r in repaired(student, model, keep)) < 1e-10


def test_a_rotated_student_is_compared_with_a_rotated_teacher(tmp_path):
    _, config, model = tiny.tiny("llama")
    model.save_pretrained(tmp_path / "source")
    generator = torch.Generator().manual_seed(5)
    size = config.hidden_size
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    rotate(tmp_path / "source", tmp_path / "rotated", basis=basis)
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "rotated", attn_implementation="eager").eval()
    repairs = repaired(student, model, {"hidden": torch.arange(size)}, basis=basis)
    assert max(r.error_before for r in repairs) < 1e-8


def test_what_a_dropped_layer_added_is_asked_of_the_next():
    """Attention that adds next to nothing in the teacher closes the gap that the dropped layer left."""
    family, config, model = tiny.tiny("llama")
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.mul_(0.01)
    keep = {"layer": torch.tensor([0, 2, 3])}
    student = tiny.trimmed(family, config, model.state_dict(), keep)
    found = {r.name: r for r in repaired(student, model, keep)}["model.layers.1.self_attn.o_proj"]
    assert found.error_before == pytest.approx(1.0, rel=0.1)
    assert found.error_after < 0.95


def test_too_few_rows_are_refused():
    family, config, model = tiny.tiny("llama")
    student = tiny.trimmed(family, config, model.state_dict(), {})
    with pytest.raises(DataError, match="not two batches of 3"):
        repair(student, model, RandomRows(), keep={}, num_samples=5, batch_rows=3)
