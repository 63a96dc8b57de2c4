"""N:M patterns: which groups of M weights are looked at, and the numbered ways to keep N of them.

A group is M consecutive weights along the last dimension of a weight, the input dimension of one output row
(maskllm 2.1). Candidate c of a pattern is the c-th of `itertools.combinations(range(M), N)`; for 2:4: 1100,
1010, 1001, 0110, 0101, 0011. A mask is held as one candidate number per group, uint8, in row-major order.

Shapes: C candidates, M weights of a group, G groups of a tensor.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from niwaki.errors import RecipeError

MOST_CANDIDATES = 100
_BLOCK_GROUPS = 2**18
_MOST_TABLE_BITS = 16
_NONE = 255
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Pattern:
    """Keep `kept` of every `group` weights.

    Raises:
        RecipeError: not 0 < kept < group, or more than `MOST_CANDIDATES` ways to choose.
    """

    kept: int
    group: int

    def __post_init__(self) -> None:
        if not 0 < self.kept < self.group:
            raise RecipeError(
                f"Pattern {self.kept}:{self.group} keeps {self.kept} of {self.group} weights.",
                "N:M keeps at least one weight and drops at least one, such as 2:4.",
            )
        if self.num_candidates > MOST_CANDIDATES:
            raise RecipeError(
                f"Pattern {self} has {self.num_candidates:,} ways to choose, each with a logit per group; "
                f"{MOST_CANDIDATES} are the most.",
                "Use smaller groups, such as 2:4 (6 ways), 1:4 (4) or 4:8 (70).",
            )

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read "2:4". Raises RecipeError for anything else."""
        found = re.fullmatch(r"\s*(\d+):(\d+)\s*", text)
        if found is None:
            raise RecipeError(f"Pattern {text!r} is not N:M.", "Write how many of how many stay: 2:4.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"

    @property
    def num_candidates(self) -> int:
        """C."""
        return math.comb(self.group, self.kept)

    @property
    def bits_per_weight(self) -> float:
        """The least that a mask takes when all candidates are equally likely; 0.646 at 2:4."""
        return math.log2(self.num_candidates) / self.group

    @property
    def mean_overlap(self) -> float:
        """How many kept places two random candidates share: N * N / M."""
        return self.kept * self.kept / self.group

    @cached_property
    def candidates_CM(self) -> Tensor:
        """[C, M] bool, in canonical order."""
        rows = torch.zeros(self.num_candidates, self.group, dtype=torch.bool)
        for number, places in enumerate(itertools.combinations(range(self.group), self.kept)):
            rows[number, list(places)] = True
        return rows

    def divides(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape divides into groups along its last dimension."""
        return len(shape) > 1 and shape[-1] % self.group == 0

    def num_groups(self, shape: Sequence[int]) -> int:
        """G of a weight of this shape."""
        return math.prod(shape) // self.group

    def largest(self, scores: Tensor) -> Tensor:
        """The candidates [G] that keep the N largest scores of every group; of equal ones the first.

        Args:
            scores: [..., in], of a weight's shape, without NaN.
        """
        scores_GM = scores.reshape(-1, self.group)
        return torch.cat([self._largest(block) for block in scores_GM.split(_BLOCK_GROUPS)])

    def _largest(self, scores_GM: Tensor) -> Tensor:
        return self.numbers(self.keeps(scores_GM.T.contiguous()).T)

    def keeps(self, scores_MG: Tensor) -> Tensor:
        """Which scores are among the N largest of their group, bool [M, G]; of equal ones the first."""
        rank_MG = torch.zeros(scores_MG.shape, dtype=torch.int8, device=scores_MG.device)
        for first, second in itertools.combinations(range(self.group), 2):
            beaten = scores_MG[second] > scores_MG[first]
            rank_MG[first] += beaten
            rank_MG[second] += ~beaten
        return rank_MG < self.kept

    def numbers(self, mask: Tensor) -> Tensor:
        """The candidate numbers [G] of a mask [..., in] of bools with N of every M set.

        Raises:
            RecipeError: a group with another number of kept weights.
        """
        mask_GM = mask.reshape(-1, self.group)
        numbers_G = torch.cat([self._numbers(block) for block in mask_GM.split(_BLOCK_GROUPS)])
        if bool((wrong_G := numbers_G == _NONE).any()):
            group = int(wrong_G.nonzero()[0])
            raise RecipeError(
                f"Group {group} keeps {int(mask_GM[group].sum())} of {self.group} weights, pattern {self} "
                f"keeps {self.kept}.",
                "Use the pattern that the mask was made with.",
            )
        return numbers_G

    def _numbers(self, mask_GM: Tensor) -> Tensor:
        """Candidate numbers; `_NONE` where a group keeps another number of weights."""
        if self.group > _MOST_TABLE_BITS:
            overlap_GC = mask_GM.float() @ self.candidates_CM.T.float().to(mask_GM.device)
            fits_G = mask_GM.sum(1) == self.kept
            return overlap_GC.argmax(1).to(torch.uint8).masked_fill(~fits_G, _NONE)
        mask_MG = mask_GM.T.int()
        codes_G = mask_MG[0]
        for place in range(1, self.group):
            codes_G = codes_G + (mask_MG[place] << place)
        return self._number_of_code.to(mask_GM.device).index_select(0, codes_G)

    @cached_property
    def _number_of_code(self) -> Tensor:
        """Candidate number by the integer whose bit i is place i of a group."""
        places = 2 ** torch.arange(self.group)
        codes = (self.candidates_CM * places).sum(1)
        table = torch.full((2**self.group,), _NONE, dtype=torch.uint8)
        table[codes] = torch.arange(len(codes), dtype=torch.uint8)
        return table

    def mask(self, numbers: Tensor, shape: Sequence[int]) -> Tensor:
        """The mask, bool of this shape, for candidate numbers [G]."""
        rows_CM = self.candidates_CM.to(numbers.device)
        if (word := _WORDS.get(self.group)) is not None:
            # Groups as one number each: several times faster than rows of bools.
            words_C = rows_CM.view(word)[:, 0]
            parts = [words_C.index_select(0, block.int()) for block in numbers.split(_BLOCK_GROUPS)]
            return torch.cat(parts).view(torch.bool).reshape(tuple(shape))
        return rows_CM.index_select(0, numbers.int()).reshape(tuple(shape))
