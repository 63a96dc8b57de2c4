"""The paper's family 15B -> 8B -> 4B: what a step costs, and what the family saves (minitron.md 5.1, 5.5)."""

import pytest

from niwaki.pipelines.costs import Shape, distill_flops, family_saving, scratch_flops

BATCH_ROWS, CONTEXT_TOKENS = 1152, 4096
VOCAB = 256_000
# layers, hidden, heads, MLP hidden, parameters, FLOPs of a step from scratch as the paper prints them
FAMILY = {
    "15B": (32, 6144, 48, 24576, 15_628_775_424, 4.4e17),
    "8B": (32, 4096, 48, 16384, 8_271_699_968, 2.5e17),
    "4B": (32, 3072, 24, 9216, 4_190_509_056, 1.2e17),
}


def shape(name):
    layers, hidden, heads, ffn, num_parameters, _ = FAMILY[name]
    sizes = {
        "layer": layers,
        "hidden": hidden,
        "ffn": ffn,
        "kv": 8,
        "group": heads // 8,
        "dim": 128,
        "vocab": VOCAB,
    }
    return Shape(sizes, num_parameters, num_parameters - VOCAB * hidden, 2 * VOCAB * hidden)


@pytest.mark.parametrize("name", FAMILY)
def test_flops_of_a_step_are_those_of_the_paper(name):
    """The paper counts the whole square of attention and we the causal half: as long a row twice."""
    num_tokens = BATCH_ROWS * CONTEXT_TOKENS
    assert scratch_flops(shape(name), num_tokens, 2 * CONTEXT_TOKENS) == pytest.approx(
        FAMILY[name][5], rel=0.02
    )
    assert scratch_flops(shape(name), num_tokens, CONTEXT_TOKENS) == pytest.approx(FAMILY[name][5], rel=0.11)


def test_the_saving_is_that_of_the_paper():
    teacher, *members = (row[5] for row in FAMILY.values())
    assert family_saving(teacher, members, [flops / 40 for flops in members]) == pytest.approx(
        1.803, abs=5e-4
    )


def test_a_family_that_costs_as_much_as_from_scratch_saves_nothing():
    assert family_saving(4.0, [2.0, 1.0], [2.0, 1.0]) == 1.0
    assert family_saving(4.0, [2.0, 1.0], [0.0, 0.0]) == 7 / 4


def test_a_distilled_token_costs_the_teachers_forward_pass_on_top():
    """Which is why forty times fewer tokens are not forty times less work."""
    small, large = shape("4B"), shape("15B")
    extra = distill_flops(large, small, CONTEXT_TOKENS) - scratch_flops(small, 1, CONTEXT_TOKENS)
    assert extra == large.forward_flops(CONTEXT_TOKENS)
    assert extra / scratch_flops(small, 1, CONTEXT_TOKENS) == pytest.approx(1.31, abs=0.03)
