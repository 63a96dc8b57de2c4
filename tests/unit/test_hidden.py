"""Hidden-state losses: what is measured, its weight, the map that lifts it, and what is refused."""

import copy
import json
from typing import get_args

import numpy as np
import pytest
import torch
from tests.families.tiny import PROMPT, tiny
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from niwaki.distillation.criteria import LogitLoss
from niwaki.distillation.hidden import (
    HiddenLoss,
    Lifted,
    Part,
    check_hidden,
    check_layers,
    hidden_term,
    listening,
    relation_kl,
)
from niwaki.distillation.train import distill, distillation_loss
from niwaki.errors import FamilyError, RecipeError, TrainingError
from niwaki.ground.family import FAMILIES
from niwaki.ground.saved import verify_saved
from niwaki.ground.stream import Rows
from niwaki.pipelines.inputs import Inputs
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.distill import Distill, Hidden

ROWS = Rows(np.random.default_rng(0).integers(0, 90, 4000), sequence_length=16, seed=0)
PARTS = ("embedding", "output", "mlp_input", "attention")


def llama(hidden, layers, heads, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    sizes = {"intermediate_size": 40, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 90}
    config = LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, **sizes)
    model = LlamaForCausalLM(config).to(dtype)
    for parameter in model.parameters():  # gains of one would hide whether a norm was passed
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def teacher():
    return llama(48, 4, 6, seed=1)


@pytest.fixture
def student():
    return llama(32, 3, 4)


@pytest.fixture
def batch():
    batch = ROWS.take(0, 3)
    batch["mask"] = torch.rand(batch["mask"].shape, generator=torch.Generator().manual_seed(0)) < 0.6
    return batch


def lifted(student, teacher):
    return Lifted(student, teacher=teacher.config, seed=0)


def states(model, inputs, layer):
    """By the model's own report: embedding, output and queries of a layer; the MLP input by its norm."""
    seen = {}
    blocks = model.model.layers
    module = blocks[layer].post_attention_layernorm
    handle = module.register_forward_hook(lambda m, a, out: seen.update(mlp_input=out))
    found = model(inputs, output_hidden_states=True).hidden_states
    handle.remove()
    last = layer == len(blocks) - 1
    queries = blocks[layer].self_attn.q_proj(blocks[layer].input_layernorm(found[layer]))
    return seen | {
        "embedding": blocks[0].input_layernorm(found[0]),
        "output": found[-1] if last else blocks[layer + 1].input_layernorm(found[layer + 1]),
        "attention": queries.unflatten(-1, (-1, 8)),
    }


@pytest.mark.parametrize("measure", ["cosine", "mse"])
@pytest.mark.parametrize("pair", [(3, 2), (2, 0), (-1, -2)])
def test_every_part_is_that_of_the_stock_models(student, teacher, batch, measure, pair):
    model, mask = lifted(student, teacher), batch["mask"]
    hidden = HiddenLoss(parts=PARTS, layers={pair[0]: pair[1]}, measure=measure, alpha=2.0)
    total, metrics = distillation_loss(teacher, hidden=hidden)(model, batch)
    ours = states(student, batch["inputs"], pair[1] % 3)
    theirs = states(teacher, batch["inputs"], pair[0] % 4)
    expected = {"attention": (relation_kl(ours["attention"], theirs["attention"]) * mask).sum()}
    for part in PARTS[:3]:
        up = ours[part] @ model.lift.weight.T
        if measure == "cosine":
            distance = 1 - (F.normalize(up, dim=-1) * F.normalize(theirs[part], dim=-1)).sum(-1)
        else:
            distance = ((up - theirs[part]) ** 2).sum(-1) / 48
        expected[part] = (distance * mask).sum()
    for part, value in expected.items():
        torch.testing.assert_close(metrics[f"hidden_{part}"], value.detach())
    torch.testing.assert_close(total, metrics["kl"] + 2 * sum(expected.values()))


def test_dynamic_alpha_doubles_the_loss_and_weighs_the_gradient_by_the_ratio(student, teacher, batch):
    model = lifted(student, teacher)
    hidden = HiddenLoss(parts=("output", "embedding"), layers={-1: -1, -2: -2})
    leaves = list(model.parameters())

    def gradients(**options):
        total, metrics = distillation_loss(teacher, **options)(model, batch)
        return total, metrics, torch.autograd.grad(total, leaves, allow_unused=True)

    total, metrics, found = gradients(hidden=hidden)
    torch.testing.assert_close(total.detach(), 2 * metrics["kl"])
    kl = distillation_loss(teacher)(student, batch)[0]
    logit_part = torch.autograd.grad(kl, leaves, allow_unused=True)
    with_one, parts, plain = gradients(hidden=HiddenLoss(hidden.parts, hidden.layers, alpha=1.0))
    lis = parts["hidden_output"] + parts["hidden_embedding"]
    torch.testing.assert_close(with_one.detach(), kl.detach() + lis)
    torch.testing.assert_close(metrics["alpha"] / batch["mask"].sum(), kl.detach() / lis)
    for ours, logits, both in zip(found, logit_part, plain, strict=True):
        logits = 0 if logits is None else logits
        torch.testing.assert_close(ours, logits + (kl / lis).detach() * (both - logits))


def test_the_language_model_loss_is_no_part_of_alpha(student, teacher, batch):
    hidden = HiddenLoss(layers={-1: -1})
    total, metrics = distillation_loss(teacher, hidden=hidden, lm_weight=0.5)(lifted(student, teacher), batch)
    torch.testing.assert_close(total.detach(), 2 * metrics["kl"] + 0.5 * metrics["cross_entropy"])


def test_two_pairs_of_layers_are_summed_and_the_embedding_counts_once(student, teacher, batch):
    model = lifted(student, teacher)

    def metrics(layers):
        return distillation_loss(teacher, hidden=HiddenLoss(layers=layers))(model, batch)[1]

    one, two, both = metrics({3: 2}), metrics({1: 0}), metrics({3: 2, 1: 0})
    torch.testing.assert_close(both["hidden_output"], one["hidden_output"] + two["hidden_output"])
    torch.testing.assert_close(both["hidden_embedding"], one["hidden_embedding"])


def test_tokens_outside_the_mask_count_for_nothing_and_no_token_at_all_is_a_loss_of_zero(
    student, teacher, batch
):
    model = lifted(student, teacher)
    of_batch = distillation_loss(teacher, hidden=HiddenLoss(parts=PARTS, layers={-1: -1}))
    batch["mask"][:, 10:] = False
    total = of_batch(model, batch)[0]
    batch["inputs"][:, 10:] = 7
    torch.testing.assert_close(of_batch(model, batch)[0], total)
    batch["mask"][:] = False
    total, metrics = of_batch(model, batch)
    assert total.item() == metrics["alpha"].item() == 0
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_in_every_family_a_model_is_no_distance_from_itself_and_some_from_another(model_type):
    _, config, teacher = tiny(model_type)
    twin, other = copy.deepcopy(teacher), tiny(model_type)[2]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    hidden = HiddenLoss(parts=PARTS, layers={0: 0, 2: 2, -1: -1}, measure="mse", alpha=1.0)
    check_hidden(hidden, student=config, teacher=config)
    batch = {"inputs": PROMPT, "targets": PROMPT, "mask": torch.ones_like(PROMPT, dtype=torch.bool)}
    of_batch = distillation_loss(teacher, hidden=hidden)
    same, different = (of_batch(lifted(m, teacher), batch)[1] for m in (twin, other))
    for part in PARTS:
        assert same[f"hidden_{part}"].abs() < 1e-4, part
        assert different[f"hidden_{part}"] > 1e-2, part


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_stream_is_heard_behind_the_norm_where_there_is_one(model_type):
    family, _, model = tiny(model_type)
    hidden = HiddenLoss(parts=("embedding", "output", "mlp_input"), layers={1: 1, -1: -1})
    norms = [model.get_submodule(name.format(layer=1)) for name in family.sites.norms]
    normed = []
    handle = norms[1].register_forward_hook(lambda module, args, output: normed.append(output))
    with torch.no_grad(), listening(model, hidden, role="teacher") as heard:
        states = model(PROMPT, output_hidden_states=True).hidden_states
    handle.remove()
    assert len(heard) == 5
    torch.testing.assert_close(heard["output", 1], states[-1])
    if model_type in ("olmo2", "olmo3"):
        torch.testing.assert_close(heard["embedding", 0], states[0])
        torch.testing.assert_close(heard["output", 0], states[2])
        assert (heard["mlp_input", 0] - normed[0]).abs().max() > 0.1
    else:
        with torch.no_grad():
            for key, layer, state in ((("embedding", 0), 0, states[0]), (("output", 0), 2, states[2])):
                norm = model.get_submodule(family.sites.norms[0].format(layer=layer))
                torch.testing.assert_close(heard[key], norm(state))
        torch.testing.assert_close(heard["mlp_input", 0], normed[0])


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt_neox"])
def test_the_attention_part_hears_the_queries(model_type):
    family, config, model = tiny(model_type)
    hidden = HiddenLoss(parts=("attention",), layers={1: 1})

    def heard():
        with torch.no_grad(), listening(model, hidden, role="student") as found:
            model(PROMPT)
        return found["attention", 0]

    before = heard()
    sizes = family.axis_sizes(config)
    heads, dim = sizes["kv"] * sizes["group"], sizes["dim"]
    assert before.shape == (*PROMPT.shape, heads, dim)
    weight = model.get_submodule(family.sites.queries.format(layer=1)).weight
    # Head 1, entry 2, of the queries, as each of the three lays them out.
    row = (1 * 3 * dim if model_type == "gpt_neox" else dim) + 2
    with torch.no_grad():
        weight[row] += 1
    changed = (heard() != before).any(dim=0).any(dim=0).nonzero().tolist()
    assert changed == [[1, 2]]


def test_relations_by_hand():
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]], dtype=torch.float64)  # one head of two entries
    student = torch.tensor([[[[1.0]], [[1.0]]]], dtype=torch.float64)  # another size of head
    p = torch.tensor([0.0, 4.0], dtype=torch.float64).div(2**0.5).softmax(0)
    expected = (p * (p / 0.5).log()).sum()
    found = relation_kl(student, teacher)
    torch.testing.assert_close(found, torch.tensor([[0.0, expected]], dtype=torch.float64))


def test_relations_do_not_see_later_tokens_and_take_different_numbers_of_heads():
    student, teacher = torch.randn(2, 5, 4, 3), torch.randn(2, 5, 6, 8)
    whole = relation_kl(student, teacher)
    torch.testing.assert_close(relation_kl(student[:, :3], teacher[:, :3]), whole[:, :3])
    assert (whole[:, 1:] > 0).all()


def gradients(model, of_batch, batch):
    model.zero_grad()
    of_batch(model, batch)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_gradient_checkpointing_changes_nothing(student, teacher, batch):
    model = lifted(student, teacher).train()
    of_batch = distillation_loss(teacher, hidden=HiddenLoss(parts=PARTS, layers={2: 1, -1: -1}))
    expected = gradients(model, of_batch, batch)
    student.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(model, of_batch, batch), expected)


def test_checkpointing_that_hides_the_gradient_is_refused(student, teacher, batch):
    student.gradient_checkpointing_enable({"use_reentrant": True})
    of_batch = distillation_loss(teacher, hidden=HiddenLoss(layers={1: 1}))
    with pytest.raises(TrainingError, match="use_reentrant=False"):
        of_batch(lifted(student, teacher).train(), batch)


def test_the_map_is_an_isometry_the_same_for_a_seed_and_absent_between_equal_widths(student, teacher):
    model = lifted(student, teacher)
    vectors = torch.randn(5, 32, dtype=torch.float64)
    up = model.lift(vectors)
    torch.testing.assert_close(up @ up.T, vectors @ vectors.T, rtol=0, atol=1e-4)
    assert torch.equal(lifted(student, teacher).lift.weight, model.lift.weight)
    assert not torch.equal(Lifted(student, teacher=teacher.config, seed=1).lift.weight, model.lift.weight)
    assert list(lifted(student, llama(32, 5, 4)).lift.parameters()) == []


SETTINGS = {"batch_rows": 4, "micro_rows": 2, "learning_rate": 3e-3, "save_every_steps": 3}


def train(out, num_steps, **options):
    student, teacher = llama(32, 3, 4, dtype=torch.float32), llama(48, 4, 6, 1, dtype=torch.float32)
    settings = SETTINGS | {"num_steps": num_steps, "hidden": HiddenLoss(layers={-2: -2})} | options
    distill(student, teacher, ROWS, out=out, **settings)
    return student


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


def test_a_resumed_run_ends_with_the_same_bytes_and_the_map_is_in_no_student(tmp_path):
    straight = train(tmp_path / "straight", 6, min_learning_rate=3e-3)
    train(tmp_path / "stopped", 3, min_learning_rate=3e-3)
    resumed = train(tmp_path / "stopped", 6, min_learning_rate=3e-3)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, straight.state_dict()[name]), name
    assert not any("lift" in name for name in resumed.state_dict())
    keys = ("loss", "kl", "hidden_output", "hidden_embedding", "alpha", "cross_entropy", "grad_norm")
    ours, theirs = (
        [{key: r[key] for key in keys} for r in records(tmp_path / name) if "loss" in r]
        for name in ("straight", "stopped")
    )
    assert ours == theirs
    assert ours[0]["loss"] == pytest.approx(2 * ours[0]["kl"], rel=1e-5)


def test_the_student_is_a_stock_model_and_its_states_have_come_closer(tmp_path):
    student = train(tmp_path / "run", 40, learning_rate=2e-2, held_out=ROWS, held_out_rows=4)
    student.config.update({"bos_token_id": 0, "eos_token_id": 0})
    student.save_pretrained(tmp_path / "model")
    verify_saved(tmp_path / "model", student)
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    first, *_, last = [r for r in records(tmp_path / "run") if "held_out_hidden_output" in r]
    assert last["held_out_hidden_output"] < 0.7 * first["held_out_hidden_output"]


@pytest.mark.parametrize(
    "layers, words",
    [
        ({31: 16}, r"\{31: 16\}: the student has 16 layers, so there is no layer 16.*0 to 15, or last-15 to"),
        ({32: 15}, r"the teacher has 32 layers, so there is no layer 32.*write 0 to 31, or last-31 to last"),
        ({-3: -17}, r"\{last-2: last-16\}: the student has 16 layers"),
    ],
)
def test_a_layer_map_out_of_range_names_the_legal_range(layers, words):
    check_layers({29: 13, -1: -1, -32: -16}, teacher_layers=32, student_layers=16)
    with pytest.raises(RecipeError, match=words):
        check_layers({29: 13} | layers, teacher_layers=32, student_layers=16)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"hidden": HiddenLoss(layers={-3: -4})}, RecipeError),
        ({"hidden": HiddenLoss(parts=("outputs",))}, RecipeError),
        ({"hidden": HiddenLoss(parts=())}, RecipeError),
        ({"hidden": HiddenLoss(layers={})}, RecipeError),
        ({"loss": "kl"}, RecipeError),
        ({"top_k": 0}, RecipeError),
        ({"top_k": 91}, RecipeError),
        ({"temperature": 0}, RecipeError),
        ({"loss": "mse", "temperature": 2.0}, RecipeError),
        ({"jsd_beta": 0.3}, RecipeError),
        ({"loss": "jensen_shannon", "jsd_beta": 1.0}, RecipeError),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, options, error):
    with pytest.raises(error):
        train(tmp_path / "run", 1, **options)
    assert not (tmp_path / "run").exists()


def test_a_family_without_a_table_is_refused(student, teacher):
    stranger = copy.deepcopy(student.config)
    stranger.model_type = "stranger"
    with pytest.raises(FamilyError):
        check_hidden(HiddenLoss(), student=stranger, teacher=teacher.config)


def test_alpha_is_bounded_where_the_states_agree_already(student):
    hidden = HiddenLoss(parts=("embedding",), layers={})
    mask = torch.ones(1, 4, dtype=torch.bool)
    same = {("embedding", 0): torch.randn(1, 4, 8, requires_grad=True)}
    term, metrics = hidden_term(
        hidden, same, same, lift=torch.nn.Identity(), mask=mask, logit_loss=torch.tensor(3.0)
    )
    term.backward()
    assert term.item() <= 3.0 + 1e-6
    assert metrics["alpha"].isfinite()
    assert same["embedding", 0].grad.isfinite().all()


def test_the_recipe_speaks_of_the_same_losses_and_hands_them_on():
    recipe = CompressRecipe.model_validate(
        {
            "kind": "compress",
            "teacher": "sapling",
            "choose": {"to": "50%"},
            "distill": {
                "loss": "jensen_shannon",
                "jsd_beta": 0.2,
                "top_k": 9,
                "lm_weight": 0.1,
                "hidden": {},
            },
        }
    )
    inputs = Inputs(recipe)
    vars(inputs)["held_out"] = ROWS
    handed = inputs.training(1)
    assert (handed["loss"], handed["jsd_beta"], handed["top_k"]) == ("jensen_shannon", 0.2, 9)
    assert (handed["lm_weight"], handed["temperature"]) == (0.1, 1.0)
    assert handed["hidden"] == HiddenLoss()
    assert get_args(Distill.model_fields["loss"].annotation) == get_args(LogitLoss)
    part, _ = get_args(Hidden.model_fields["parts"].annotation)
    assert set(get_args(part)) == set(get_args(Part))
