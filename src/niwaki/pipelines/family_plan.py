"""What a family recipe will do, before anything is loaded: a plan for each member, and what would go wrong.

In: a recipe. Out: a `FamilyPlan`. A member that is still to be made may get any of its candidate shapes, so
the members that are cut from it are planned for each of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from niwaki.errors import BudgetError, NiwakiError
from niwaki.ground.family import family_of
from niwaki.ground.run import is_done
from niwaki.pipelines.amounts import measure_flops_per_s
from niwaki.pipelines.compress import DISTILL
from niwaki.pipelines.costs import Shape
from niwaki.pipelines.plan import (
    Plan,
    budget_of,
    find_candidates,
    own_shape,
    plan,
    read_config,
    shape_of,
    weight_bytes,
)
from niwaki.pipelines.preflight import check_out
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.recipe.model_size import Size

# Of a plan's stages, those that make a member; the last one measures it.
MAKING = ("cache", "score", "choose", "trim", "distill")


@dataclass(frozen=True)
class FamilyPlan:
    """What will happen. With `problems` it cannot; then `members` may be fewer than the recipe's.

    The plan of each member is for the largest shape that it, and what it is cut from, may get.
    """

    recipe: FamilyRecipe
    out: Path
    teacher: Shape | None
    members: tuple[Plan, ...]
    problems: tuple[NiwakiError, ...]
    warnings: tuple[str, ...]

    def raise_problems(self) -> None:
        """Raise the first problem, if there is one."""
        for problem in self.problems:
            raise problem


def plan_family(recipe: FamilyRecipe, *, out: Path, flops_per_s: float | None = None) -> FamilyPlan:
    """Plan `recipe` for the directory `out`, which is not touched. As `plan.plan`, it raises nothing."""
    flops_per_s = flops_per_s or measure_flops_per_s(recipe.distill.precision)
    try:
        teacher = own_shape(read_config(recipe.teacher))
    except NiwakiError as error:
        return FamilyPlan(recipe, out, None, (), (error,), ())
    members: list[Plan] = []
    own_problems: list[list[NiwakiError]] = []
    before, before_target = [dict(teacher.sizes)], teacher.num_parameters
    previous = teacher
    for index, member in enumerate(recipe.members):
        whole = index == 0 or member.cut_from == "teacher"
        may_be_cut = [dict(teacher.sizes)] if whole else before
        single = as_if_cut_from_teacher(recipe, index, teacher.num_parameters)
        target = _target(single, teacher)
        cut_target = teacher.num_parameters if whole else before_target
        planned = plan(
            single,
            out=out / recipe.folders[index],
            flops_per_s=flops_per_s,
            cut_sizes=may_be_cut[0],
            taught_by=teacher if member.learn_from == "teacher" else previous,
        )
        if target >= cut_target:
            what = "the teacher" if whole else f"member {index}, from which it is cut,"
            found: list[NiwakiError] = [
                BudgetError(
                    f"it is to have {target:,} parameters, and {what} has {cut_target:,}.",
                    "Give each member less than the one it is cut from; `to` counts from the teacher.",
                )
            ]
        else:
            found = [*planned.problems, *_unreachable(single, may_be_cut[1:], index)]
        members.append(planned)
        own_problems.append(found)
        if not planned.candidates or target >= cut_target:
            break
        before, before_target = _possible(recipe, index, out, single, may_be_cut), target
        previous = max(planned.candidates, key=lambda shape: shape.num_parameters)
    written_bytes = sum(member.written_bytes for member in members)
    return FamilyPlan(
        recipe,
        out,
        teacher,
        tuple(members),
        (*check_out(out, written_bytes), *_labelled(own_problems)),
        tuple(f"member {number}: {warning}" for number, m in enumerate(members, 1) for warning in m.warnings),
    )


def size_from(recipe: FamilyRecipe, index: int, num_teacher_parameters: int) -> Size:
    """The size of a member in terms of what it is cut from: a percentage of the teacher becomes a count."""
    member = recipe.members[index]
    if member.to.fraction is None or index == 0 or member.cut_from == "teacher":
        return member.to
    return Size(num_parameters=round(member.to.fraction * num_teacher_parameters))


def as_if_cut_from_teacher(recipe: FamilyRecipe, index: int, num_teacher_parameters: int) -> CompressRecipe:
    """A member's compress recipe with the teacher in place of models that are still to be made."""
    to = size_from(recipe, index, num_teacher_parameters)
    return recipe.compress_recipe(index, to=to, teacher=recipe.teacher, distill_teacher=None)


def _target(single: CompressRecipe, teacher: Shape) -> int:
    parameter_bytes = weight_bytes(read_config(single.teacher))
    return budget_of(single, num_parameters=teacher.num_parameters, parameter_bytes=parameter_bytes).target


def _unreachable(
    single: CompressRecipe, may_be_cut: Sequence[Mapping[str, int]], index: int
) -> list[NiwakiError]:
    """Why there would be no candidate, if the member before got one of these shapes."""
    config = read_config(single.teacher)
    for sizes in may_be_cut:
        try:
            find_candidates(single, config, sizes)
        except NiwakiError as error:
            shape = " ".join(f"{axis}={size}" for axis, size in sizes.items() if axis not in ("dim", "vocab"))
            return [type(error)(f"if member {index} becomes {shape}: {error.message}", error.remedy)]
    return []


def _possible(
    recipe: FamilyRecipe,
    index: int,
    out: Path,
    single: CompressRecipe,
    may_be_cut: Sequence[Mapping[str, int]],
) -> list[dict[str, int]]:
    """The shapes that a member may get, the largest first; its own where it is made already."""
    folder = out / recipe.folders[index]
    if is_done(folder, DISTILL):
        return [dict(own_shape(read_config(str(folder / DISTILL / "model"))).sizes)]
    config = read_config(single.teacher)
    shapes: list[dict[str, int]] = []
    for sizes in may_be_cut:
        try:
            shapes += [s for s in find_candidates(single, config, sizes) if s not in shapes]
        except NiwakiError:  # said by `_unreachable`
            continue
    family = family_of(config)
    return sorted(shapes, key=lambda sizes: -shape_of(family, config, sizes).num_parameters)


def _labelled(own_problems: Sequence[Sequence[NiwakiError]]) -> list[NiwakiError]:
    """What all members have in common once, and the rest with the member it belongs to."""
    common = set.intersection(*({problem.message for problem in each} for each in own_problems))
    shared = [problem for problem in own_problems[0] if problem.message in common]
    own = [
        type(problem)(f"member {number}: {problem.message}", problem.remedy)
        for number, each in enumerate(own_problems, 1)
        for problem in each
        if problem.message not in common
    ]
    return shared + own
