"""Parameter counts of published models, from the axis tables alone.

The Minitron papers (arXiv 2407.14679 and 2408.11796); formulas and figures are reproduced by hand there.
"""

import pytest
from transformers import AutoConfig

from niwaki.ground.family import family_of


def sizes(layers, hidden, heads, kv, ffn, vocab):
    assert heads % kv == 0
    return {
        "layer": layers,
        "hidden": hidden,
        "kv": kv,
        "group": heads // kv,
        "dim": 128,
        "ffn": ffn,
        "vocab": vocab,
    }


# layers, hidden, heads, kv, ffn, vocab; total; inside the layers
NEMOTRON = {
    "Nemotron-4 15B": ((32, 6144, 48, 8, 24576, 256000), 15_628_775_424, 12_483_035_136),
    "Minitron 8B": ((32, 4096, 48, 8, 16384, 256000), 8_271_699_968, 6_174_539_776),
    "Minitron 4B": ((32, 3072, 24, 8, 9216, 256000), 4_190_509_056, 2_617_638_912),
    "Nemotron-3 8B": ((32, 4096, 32, 32, 16384, 256000), 8_540_135_424, 6_442_975_232),
    "15B with 16 layers": ((16, 6144, 48, 8, 24576, 256000), 9_387_257_856, 6_241_517_568),
    "width row of Table 10": ((32, 4096, 32, 8, 16384, 256000), 7_734_829_056, 5_637_668_864),
}
LLAMA = {
    "Llama-3.1 8B": ((32, 4096, 32, 8, 14336, 128256), 8_030_261_248, 6_979_584_000),
    "4B-Width": ((32, 3072, 32, 8, 9216, 128256), 4_512_746_496, 3_724_738_560),
    "4B-Depth": ((16, 4096, 32, 8, 14336, 128256), 4_540_469_248, 3_489_792_000),
}
MISTRAL = {
    "NeMo 12B": ((40, 5120, 32, 8, 14336, 131072), 12_247_782_400, 10_905_600_000),
    "MN-Minitron 8B": ((40, 4096, 32, 8, 11520, 131072), 8_414_105_600, 7_340_359_680),
}
GOLDEN = [
    pytest.param(model_type, *row, id=name)
    for model_type, rows in (("nemotron", NEMOTRON), ("llama", LLAMA), ("mistral", MISTRAL))
    for name, row in rows.items()
]


@pytest.mark.parametrize("model_type, figures, total, inside_layers", GOLDEN)
def test_published_counts(model_type, figures, total, inside_layers):
    family = family_of(AutoConfig.for_model(model_type))
    shape = sizes(*figures)
    assert family.count(shape, tied=False) == total
    # Embedding and head have one row per token, the final norm (and its bias) one entry per channel.
    outside = total - inside_layers
    assert family.count(shape | {"layer": 0}, tied=False) == outside
    assert family.count(shape, tied=True) == total - shape["vocab"] * shape["hidden"]
