"""When a ranking settled, on curves small enough to check by eye."""

import random

import pytest

from niwaki.pruning.settle import kendall_tau, settle

# Three candidates at steps 0, 10, 20, 30. By hand: 0: c a b, 10: a c b, 20: a b c, 30: a b c.
A = [(0, 5.0), (10, 3.0), (20, 2.0), (30, 1.0)]
B = [(0, 6.0), (10, 4.0), (20, 2.5), (30, 1.1)]
C = [(0, 4.0), (10, 3.5), (20, 3.0), (30, 2.0)]


def test_ranks_taus_and_the_steps_where_it_settled():
    found = settle([A, B, C], final=[0, 1, 2])
    assert found.steps == (0, 10, 20, 30)
    assert found.ranks == ((2, 3, 1), (1, 3, 2), (1, 2, 3), (1, 2, 3))
    assert found.taus == pytest.approx((-1 / 3, 1 / 3, 1, 1))
    assert (found.winner_step, found.order_step) == (10, 20)


def test_an_order_that_changed_at_the_last_step_never_settled():
    found = settle([A[:3], B[:3], C[:3]], final=[0, 1, 2])
    assert (found.winner_step, found.order_step) == (10, None)
    assert settle([A[:2], B[:2], C[:2]], final=[0, 2, 1]).winner_step is None


def test_a_final_order_that_the_curves_do_not_show_never_settled():
    found = settle([A, B, C], final=[1, 0, 2])
    assert (found.winner_step, found.order_step) == (None, None)


def test_a_candidate_that_stopped_early_is_compared_where_it_has_losses():
    found = settle([A, B, C[:2]], final=[0, 1, 2])
    assert found.ranks[2] == (1, 2, None)
    assert found.taus == pytest.approx((-1 / 3, 1 / 3, 1, 1))
    assert settle([A, B[:2], C[:2]], final=[0, 2, 1]).taus[2:] == (None, None)


def test_equal_losses_share_a_rank_and_are_no_settled_order():
    found = settle([A, A, C], final=[0, 1, 2])
    assert found.ranks[-1] == (1, 1, 3)
    assert found.order_step is None


@pytest.mark.parametrize("curves", [[A], [A, []], [[], []]])
def test_fewer_than_two_curves_are_no_ranking(curves):
    assert settle(curves, final=list(range(len(curves)))) is None


def test_tau_is_that_of_scipy():
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    random.seed(0)
    for length in (2, 5, 15):
        one, other = (random.sample(range(length), length) for _ in range(2))
        assert kendall_tau(one, other) == pytest.approx(kendalltau(one, other).statistic)
