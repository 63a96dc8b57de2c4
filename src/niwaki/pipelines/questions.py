"""The recipe section `curate` -> questions: sources -> curate -> difficulty -> blend.

Two stages of a run, which `niwaki curate` and the line of `kind: reason` share:

    1-curate/   questions.jsonl dropped.jsonl aside.jsonl curation.json benchmarks/NAME.jsonl
    2-blend/    train.jsonl blend.json difficulty.json (where the recipe asks for it)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from niwaki.curation.blend import Part, draw, plan, shares, sizes_of
from niwaki.curation.curate import Stream, curate
from niwaki.curation.difficulty import DifficultyStore, keep_by_difficulty, measure
from niwaki.curation.sources import MADE_UP, NAMES, Aside, made_up, read_source, source_hash
from niwaki.errors import DataError, RecipeError
from niwaki.ground.run import stage, write_atomically
from niwaki.recipe.curate import Blend, Curate, Difficulty, Source
from niwaki.recipe.load import load, nearest
from niwaki.verify.prompt import THINK_BOXED
from niwaki.verify.question import Question, read_questions, write_questions

CURATE, BLEND = "1-curate", "2-blend"
TRAIN = "train.jsonl"
Answer = Callable[[Sequence[Question], int, int], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Curated:
    """Files of questions: to train on, and of each benchmark."""

    train: Path
    benchmarks: dict[str, Path]


def make_questions(
    section: Curate,
    run: Path,
    *,
    seed: int,
    prompt: str = THINK_BOXED,
    answer: Callable[[Difficulty], Answer] | None = None,
) -> Curated:
    """Carry the section out in the run directory `run`; a killed call goes on where it stopped.

    `answer` makes the function that asks the model of a difficulty section, in the wording `prompt`; needed
    only where there is one.

    Raises:
        RecipeError: an unknown adapter, or a difficulty section without `answer`.
        DataError: a source that cannot be read, or a blend that asks for more rows than there are.
    """
    check_section(section)
    curated = stage(
        run, CURATE, curate_inputs(section, seed), lambda out: curate_into(section, out, seed=seed)
    )
    blend_inputs = {
        "curate": curate_inputs(section, seed),
        "blend": _blend_of(section).model_dump(mode="json") if section.blend is not None else None,
        "difficulty": section.difficulty.model_dump(mode="json") if section.difficulty else None,
    }
    blended = stage(
        run,
        BLEND,
        blend_inputs,
        lambda out: blend_into(section, curated, out, seed=seed, prompt=prompt, answer=answer),
    )
    files = {source.name: curated / "benchmarks" / f"{source.name}.jsonl" for source in section.benchmarks}
    return Curated(blended / TRAIN, files)


def curate_into(section: Curate, out: Path, *, seed: int) -> None:
    """Stage 1 into the folder `out`."""
    curate(
        {source.name: _stream(source, seed) for source in section.sources},
        out,
        benchmarks={source.name: _stream(source, seed) for source in section.benchmarks},
        filters=section.filters,
        longest_gold_words=section.longest_gold_words,
        longest_question_words=section.longest_question_words,
        near_duplicates=section.near_duplicates,
        ngram_words=section.ngram_words,
        mc_template=section.mc_template,
        open_template=section.open_template,
        workers=section.workers,
        seed=seed,
    )


def blend_into(
    section: Curate,
    curated: Path,
    out: Path,
    *,
    seed: int,
    prompt: str = THINK_BOXED,
    answer: Callable[[Difficulty], Answer] | None = None,
) -> None:
    """Stage 2: drop by difficulty, then draw the mixture."""
    questions = curated / "questions.jsonl"
    if section.difficulty is not None:
        questions = _by_difficulty(section.difficulty, questions, out, prompt, answer)
    draw(questions, blend_plan(section, sizes_of(questions)), out / TRAIN, seed=seed)


def blend_plan(section: Curate, sizes: dict[str, int]) -> list[Part]:
    """What the blend of a section takes of sets of these sizes; all of everything where there is none."""
    if section.blend is None:
        total = sum(sizes.values())
        return [Part(name, size, size, size / total, size / total, 1.0) for name, size in sizes.items()]
    blend = _blend_of(section)
    groups = [(group.share, group.sets) for group in blend.groups]
    return plan(sizes, shares(sizes, groups), num_rows=blend.rows, most_repetitions=blend.most_repetitions)


def curate_inputs(section: Curate, seed: int) -> dict[str, Any]:
    """What identifies stage 1: its keys of the recipe, the seed, and fingerprints of all sources."""
    keys = section.model_dump(mode="json", exclude={"blend", "difficulty", "workers"})
    prints = {
        source.name: source_hash(source.adapter, source.path, config=source.config, split=source.split)
        for source in (*section.sources, *section.benchmarks)
    }
    return keys | {"seed": seed, "fingerprints": prints}


def check_section(section: Curate) -> None:
    """Refuse what only the rooms below know.

    Raises:
        RecipeError: an adapter or a blend file that does not exist.
        DataError: a blend of more rows than its sources can give.
    """
    for source in (*section.sources, *section.benchmarks):
        if source.adapter not in NAMES:
            meant = nearest(source.adapter, list(NAMES))
            raise RecipeError(
                f"source {source.name!r}: there is no adapter {source.adapter!r}."
                + (f" Did you mean {meant!r}?" if meant else ""),
                f"Adapters: {', '.join(NAMES)}.",
            )
    if isinstance(section.blend, str):
        known = {source.name for source in section.sources}
        for group in _blend_of(section).groups:
            if unknown := [name for name in group.sets if name not in known]:
                raise RecipeError(
                    f"{section.blend}: no source is called {unknown[0]!r}.", f"Sources: {sorted(known)}."
                )
    templates = 2 if "both" in (section.mc_template, section.open_template) else 1
    most = {source.name: source.rows * templates for source in section.sources if source.rows is not None}
    if section.blend is not None and len(most) == len(section.sources):
        blend_plan(section, most)


def _blend_of(section: Curate) -> Blend:
    assert section.blend is not None
    return load(section.blend, Blend) if isinstance(section.blend, str) else section.blend


def _stream(source: Source, seed: int) -> Stream:
    def questions(aside: Callable[[Aside], None]) -> Iterator[Question]:
        if source.adapter in MADE_UP:
            assert source.rows is not None
            tasks = source.tasks or (() if source.adapter == "reasoning_gym" else _all_domains())
            yield from made_up(
                source.name,
                generator=source.adapter,
                tasks=tasks,
                num_questions=source.rows,
                split=source.split or "train",
                difficulty=source.difficulty,
                template=source.form,
                seed=seed,
            )
            return
        yield from read_source(
            source.name,
            adapter=source.adapter,
            path=source.path,
            config=source.config,
            split=source.split,
            domain=source.domain,
            columns=source.columns.model_dump(exclude_none=True) if source.columns else None,
            limit=source.rows,
            aside=aside,
        )

    return questions


def _all_domains() -> tuple[str, ...]:
    from niwaki.curation.generators import DOMAINS

    return DOMAINS


def _by_difficulty(
    section: Difficulty,
    questions: Path,
    out: Path,
    prompt: str,
    answer: Callable[[Difficulty], Answer] | None,
) -> Path:
    """Measure what the store lacks, drop, and write down what was kept and the counts."""
    if answer is None:
        raise RecipeError("curate.difficulty: nothing here can ask a model.", "Remove the section.")
    store = DifficultyStore(section.store, model=section.model, prompt=prompt_name(section, prompt))
    asked = measure(
        list(read_questions(questions)), store, num_samples=section.samples, answer=answer(section)
    )
    tally: Counter[str] = Counter()
    histogram: Counter[str] = Counter()

    def kept() -> Iterator[Question]:
        for question, passes, reason in keep_by_difficulty(
            read_questions(questions), store, lowest=section.lowest, highest=section.highest
        ):
            tally[reason or "kept"] += 1
            if passes is not None:
                histogram[f"{passes.num_correct} of {passes.num_samples}"] += 1
            if reason is None:
                yield question

    path = out / "kept-by-difficulty.jsonl"
    if not write_questions(path, kept()):
        raise DataError(
            f"curate.difficulty: of {sum(tally.values())} questions none is kept ({dict(tally)}).",
            "Widen lowest and highest.",
        )
    record = {"answers_asked": asked, "questions": dict(tally), "right_answers": dict(histogram)}
    write_atomically(out / "difficulty.json", json.dumps(record, indent=1))
    return path


def prompt_name(section: Difficulty, prompt: str) -> str:
    """What counts must share besides the model: the wording, and length and temperature of the answers."""
    return f"{prompt} max_tokens={section.max_tokens} temperature={section.temperature:g}"
