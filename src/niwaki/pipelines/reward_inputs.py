"""What every stage of a reward run starts from: its data on disk, its models, its tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from niwaki.errors import DataError, RecipeError
from niwaki.ground.chat import Chat, pad_apart
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.model import load_tokenizer, local_folder
from niwaki.ground.run import write_atomically
from niwaki.ground.text import source_fingerprint
from niwaki.recipe.reward import STDLIB, ObjectivesSection, Regression, RewardRecipe, RewardSource
from niwaki.reward.data import (
    Collected,
    Source,
    check_against_ratings,
    collect_pairs,
    collect_ratings,
    objectives_of,
)
from niwaki.reward.forms import Skipped
from niwaki.reward.model import reads_last_token
from niwaki.reward.records import Pair, Rating, read_rows
from niwaki.reward.tokens import PairTokens, RatingTokens, encode_pairs, encode_ratings
from niwaki.sapling import answers

DATA, REGRESS, PREFER, EXTRAPOLATE = "1-data", "2-regress", "3-prefer", "4-extrapolate"
FEATURES, OBJECTIVES, CALIBRATE, EVALUATE = "5-features", "6-objectives", "7-calibrate", "8-evaluate"
JUSTIFY = "9-justify"
LENGTH = "length"
SIDES = ("train", "validation", "test")
_STDLIB_PAIRS = 600
BENCHMARK_SPLITS = {"rewardbench": "filtered", "rewardbench2": "test"}
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class RewardInputs:
    """Opened when first asked for."""

    recipe: RewardRecipe
    out: Path

    @cached_property
    def backbone(self) -> Path:
        """The folder of the recipe's backbone; a hub name is downloaded."""
        return local_folder(self.recipe.backbone)

    @cached_property
    def is_encoder(self) -> bool:
        """Whether the backbone has no stock classifier that reads its last token."""
        return not reads_last_token(self.backbone)

    @cached_property
    def template(self) -> str | None:
        """The recipe's chat template; None for the model's own.

        Raises:
            RecipeError: the file cannot be read.
        """
        name = self.recipe.chat_template
        if name is None:
            return None
        try:
            return Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(
                f"chat_template {name!r} cannot be read: {error.strerror}.", "Give a Jinja file."
            ) from None

    @cached_property
    def chat(self) -> Chat:
        """The backbone's tokenizer and template, with padding of its own."""
        tokenizer = load_tokenizer(self.backbone)
        pad_apart(tokenizer, len(tokenizer))
        return Chat(tokenizer, self.template)

    def template_notes(self) -> list[str]:
        """What is added to the backbone's tokenizer, or wrong with its template, in words."""
        notes, own = self.chat.problems(), load_tokenizer(self.backbone)
        if own.pad_token_id != self.chat.tokenizer.pad_token_id:
            has = "has no padding token" if own.pad_token is None else f"pads with {own.pad_token!r}"
            notes.append(
                f"the backbone {has}: {self.chat.tokenizer.pad_token!r} is used and saved with the model, "
                "since scores are read at the last token that is no padding"
            )
        if self.chat.is_plain:
            notes.append("the backbone has no chat template; a plain one is used and saved with the model")
        return notes

    @cached_property
    def context_tokens(self) -> int | None:
        """What the backbone can read at once; None where it does not say."""
        config = Checkpoint(self.backbone).config.get_text_config()
        told = (getattr(config, "max_position_embeddings", None), self.chat.tokenizer.model_max_length)
        return min((int(t) for t in told if t and 0 < t < _NO_LIMIT), default=None)

    @property
    def max_tokens(self) -> int:
        """Of a conversation: the recipe's, or the backbone's context where that is less."""
        return min(self.recipe.data.max_tokens, self.context_tokens or _NO_LIMIT)

    def sources(self, sections: Sequence[RewardSource], kind: str) -> list[Source]:
        """The recipe's sources; stdlib's are made, once a run."""
        found = []
        for section in sections:
            given = section.model_dump()
            if section.source == STDLIB:
                given |= {"source": str(self._stdlib(kind, section.max_rows)), "max_rows": None}
                given["name"] = section.name or STDLIB
                given["scale"] = section.scale or (0.0, 4.0)
            found.append(Source(**given))
        return found

    def collect(self) -> tuple[Collected[Pair], Collected[Rating]]:
        """Read every source. Raises DataError naming the row."""
        data = self.recipe.data
        pairs = collect_pairs(self.sources(data.pairs, "pairs"), ties=data.ties)
        ratings: Collected[Rating] = Collected()
        if data.ratings:
            ratings = collect_ratings(self.sources(data.ratings, "ratings"))
            named = objectives_of(ratings.records)
            for wanted in (self.recipe.regression, self.recipe.objectives):
                if wanted is not None:
                    objectives_of(ratings.records, _rated_names(wanted))
            if (overall := _overall(named, self.recipe.regression)) is not None:
                check_against_ratings(pairs.records, ratings.records, overall)
        return pairs, ratings

    def pairs(self, side: str) -> list[Pair]:
        """The pairs of a side, as stage 1 wrote them; "more" are those of `data.test_pairs`."""
        return [Pair(**_prompt(row)) for row in _read(self.out / DATA / f"pairs-{side}.jsonl")]

    def ratings(self, side: str) -> list[Rating]:
        """The rated answers of a side."""
        return [Rating(**_prompt(row)) for row in _read(self.out / DATA / f"ratings-{side}.jsonl")]

    def pair_tokens(self, chat: Chat, side: str) -> PairTokens:
        """Their tokens."""
        tokens, _ = encode_pairs(chat, self.pairs(side), max_tokens=self.max_tokens, label=side)
        return tokens

    def rating_tokens(self, chat: Chat, side: str, objectives: Sequence[str]) -> RatingTokens:
        """Their tokens, with labels in the order of `objectives`."""
        tokens, _ = encode_ratings(
            chat, self.ratings(side), objectives, max_tokens=self.max_tokens, label=side
        )
        return tokens

    @cached_property
    def data(self) -> dict[str, Any]:
        """What stage 1 counted."""
        found: dict[str, Any] = json.loads((self.out / DATA / "data.json").read_text())
        return found

    @property
    def trained(self) -> Path:
        """The newest model of the stages before the objectives; the backbone when nothing was trained."""
        for name, section in (
            (EXTRAPOLATE, self.recipe.expo),
            (PREFER, self.recipe.preference),
            (REGRESS, self.recipe.regression),
        ):
            if section is not None:
                return self.out / name / "model"
        return self.backbone

    @property
    def product(self) -> Path:
        """The model that is calibrated."""
        return self.out / OBJECTIVES / "model" if self.recipe.objectives is not None else self.trained

    def facts(self) -> dict[str, Any]:
        """What identifies the inputs."""
        data = self.recipe.data
        return {
            "backbone": {
                "path": self.recipe.backbone,
                "fingerprint": Checkpoint(self.backbone).fingerprint(),
                "template": self.template,
            },
            "data": {
                f"{kind} {s.name or s.source}": source_fingerprint(
                    s.source, config=s.config, data_dir=s.data_dir, split=s.split
                )
                for kind, section in (
                    ("pairs", data.pairs),
                    ("ratings", data.ratings),
                    ("test", data.test_pairs),
                )
                for s in section
            },
        }

    def benchmarks(self) -> dict[str, str]:
        """What identifies the benchmarks of the recipe, by name."""
        given = self.recipe.evaluate
        named = {"rewardbench": given.rewardbench, "rewardbench2": given.rewardbench2}
        return {
            name: source_fingerprint(source, split=BENCHMARK_SPLITS[name])
            for name, source in named.items()
            if source is not None
        }

    def check_benchmarks(self) -> None:
        """Read the first row of each benchmark: a wrong name is found before anything is trained."""
        for name in self.benchmarks():
            source = getattr(self.recipe.evaluate, name)
            row = next(read_rows(source, split=BENCHMARK_SPLITS[name]), None)
            if row is None or "subset" not in row[1]:
                held = "no row" if row is None else f"columns {', '.join(row[1])}"
                raise DataError(
                    f"evaluate.{name}: {source!r} holds {held}, expected prompt, chosen, rejected, subset.",
                    "Give the benchmark as it is published, or a local copy of it.",
                )

    def _stdlib(self, kind: str, max_rows: int | None) -> Path:
        folder = self.out / DATA
        folder.mkdir(parents=True, exist_ok=True)
        pairs, ratings = answers.write(folder, num_pairs=max_rows or _STDLIB_PAIRS, seed=self.recipe.seed)
        return pairs if kind == "pairs" else ratings


def write_data(inputs: RewardInputs, folder: Path) -> None:
    """Stage 1: read, split by prompt, leave out what is too long, and count."""
    recipe, chat = inputs.recipe, inputs.chat
    pairs, ratings = inputs.collect()
    shares = {"test": recipe.data.test, "validation": recipe.data.validation}
    skipped = [*pairs.skipped, *ratings.skipped]
    counts: dict[str, Any] = {"pairs": {}, "ratings": {}}
    sides = pairs.sides(**shares)
    if recipe.data.test_pairs:
        more = collect_pairs(inputs.sources(recipe.data.test_pairs, "pairs"), ties=recipe.data.ties)
        skipped += more.skipped
        sides["more"] = more.records
    for side, records in sides.items():
        tokens, long = encode_pairs(chat, records, max_tokens=inputs.max_tokens, label=f"{side} pairs")
        skipped += long
        counts["pairs"][side] = len(tokens)
        _write(folder / f"pairs-{side}.jsonl", (asdict(pair) for pair in tokens.pairs))
    for side, rated in (ratings.sides(**shares) if ratings.records else {}).items():
        kept, long = encode_ratings(chat, rated, (), max_tokens=inputs.max_tokens, label=f"{side} ratings")
        skipped += long
        counts["ratings"][side] = len(kept)
        _write(folder / f"ratings-{side}.jsonl", (asdict(rating) for rating in kept.ratings))
    _write(folder / "skipped.jsonl", (asdict(row) for row in skipped))
    summary = {
        "pairs": pairs.summary(),
        "ratings": ratings.summary(),
        "counts": counts,
        "scales": ratings.scales,
        "skipped": _reasons(skipped),
        "warnings": [*pairs.warnings, *ratings.warnings, *inputs.template_notes()],
        "template": chat.tokenizer.chat_template,
        "plain_template": chat.is_plain,
    }
    write_atomically(folder / "data.json", json.dumps(summary, indent=1))


def _rated_names(section: Regression | ObjectivesSection) -> list[str]:
    """The ratings that a section names; length is one that we make."""
    if isinstance(section, Regression):
        return list(section.objectives)
    return [name for name in section.names if name != LENGTH]


def _overall(names: Sequence[str], regression: Regression | None) -> str | None:
    """The rating that says which answer is better, if one does."""
    if regression is not None:
        return regression.objectives[0]
    return next((n for n in names if n.endswith(("helpfulness", "overall_score", "overall"))), None)


def _reasons(skipped: Sequence[Skipped]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in skipped:
        found[row.reason] = found.get(row.reason, 0) + 1
    return found


def _prompt(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"prompt": tuple(row["prompt"])}


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
