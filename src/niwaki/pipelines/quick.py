"""A compress recipe from four words, for people who want no file: model, size, tokens, text."""

from __future__ import annotations

from niwaki.pipelines.plan import read_config
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import build
from niwaki.recipe.quantities import parse_count

LONGEST_ROW_TOKENS = 4096
MICRO_ROWS = 4
# The trial distillations of arXiv 2407.14679 took 400 steps; fewer than that teach little.
FEWEST_STEPS = 400
LARGEST_BATCH_TOKENS = 4_000_000


def recipe_for(model: str, *, to: str, tokens: str, data: str) -> CompressRecipe:
    """Fill in the defaults; rows are as long as the teacher's context allows, up to 4096 tokens.

    The batch grows with `tokens`, so that there are at least 400 steps where there are tokens enough.

    Raises:
        RecipeError: a quantity cannot be read, or the rest does not go together.
        CheckpointError: the model has no config.
    """
    context = getattr(read_config(model), "max_position_embeddings", None) or LONGEST_ROW_TOKENS
    row_tokens = min(LONGEST_ROW_TOKENS, context)
    try:
        num_tokens = parse_count(tokens)
    except ValueError:
        num_tokens = 0  # `build` says what is wrong with it, together with all else.
    smallest = MICRO_ROWS * row_tokens
    batch_tokens = max(smallest, min(LARGEST_BATCH_TOKENS, num_tokens // FEWEST_STEPS))
    content = {
        "kind": "compress",
        "teacher": model,
        "data": {"source": data, "sequence_length_tokens": row_tokens},
        "choose": {"to": to},
        "distill": {"tokens": tokens, "micro_rows": MICRO_ROWS, "batch_tokens": batch_tokens},
    }
    return build(content, CompressRecipe, name="niwaki compress")
