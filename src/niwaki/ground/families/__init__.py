"""Model families, as data only."""

from niwaki.ground.families import dense, moe
from niwaki.ground.table import Family

FAMILIES: dict[str, Family] = {family.model_type: family for family in (*dense.FAMILIES, *moe.FAMILIES)}
