"""Fronts and knees of points that can be drawn on squared paper."""

import pytest

from niwaki.pruning.pareto import front, knee

#      0           1           2           3 beaten by 2  4           5
DOTS = [(1.0, 9.0), (2.0, 5.0), (4.0, 4.0), (5.0, 4.5), (8.0, 3.0), (3.0, 8.0)]


def test_the_front_is_what_nothing_equals_or_beats_in_both():
    assert front(DOTS) == [0, 1, 2, 4]
    assert front([(1.0, 2.0), (1.0, 1.0), (2.0, 1.0), (1.0, 1.0)]) == [1]
    assert front([]) == []


def test_the_knee_is_farthest_below_the_line_between_the_ends():
    # depths below the line from (1, 9) to (8, 3): 1 is at 1 - 1/7 - 2/6, 2 at 1 - 3/7 - 1/6
    assert knee(DOTS, front(DOTS)) == 1


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 3.0)],
        [(1.0, 3.0), (2.0, 1.0)],
        [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)],
        [(1.0, 3.0), (2.0, 2.8), (3.0, 1.0)],
    ],
)
def test_a_front_that_does_not_bend_has_no_knee(points):
    assert knee(points, front(points)) is None
