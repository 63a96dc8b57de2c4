"""Figures: pure functions from numbers to inline SVG that takes its colours from the page."""

from niwaki.reporting.figures.bump import bump
from niwaki.reporting.figures.curves import Bridge, Line, line_chart, smooth
from niwaki.reporting.figures.importance import importance_by_layer, importance_of_hidden
from niwaki.reporting.figures.number_line import number_line
from niwaki.reporting.figures.pareto import pareto
from niwaki.reporting.figures.ranking import ranking
from niwaki.reporting.figures.tree import trees

__all__ = [
    "Bridge",
    "Line",
    "bump",
    "importance_by_layer",
    "importance_of_hidden",
    "line_chart",
    "number_line",
    "pareto",
    "ranking",
    "smooth",
    "trees",
]
