"""Mask files: round trips, what they refuse, the published form, and laying them over a model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from niwaki.errors import CheckpointError, RecipeError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.model import load_model
from niwaki.masks.apply import Wardrobe, apply_in_memory, apply_mask
from niwaki.masks.difference import difference, differences, sensitivity
from niwaki.masks.file import MaskFile, Origin, save
from niwaki.masks.memory import estimate, gate_bytes_per_weight
from niwaki.masks.patterns import Pattern
from niwaki.masks.published import export_npz, import_npz
from niwaki.masks.tensors import maskable

PATTERN = Pattern.parse("2:4")


def random_masks(shapes, pattern=PATTERN, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(
            0, pattern.num_candidates, (pattern.num_groups(shape),), generator=generator, dtype=torch.uint8
        )
        for name, shape in shapes.items()
    }


@pytest.fixture
def folder(tmp_path, tiny_model, tokenizer):
    tiny_model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def write_mask(folder, path, pattern=PATTERN, seed=0, **options):
    checkpoint = Checkpoint(folder)
    shapes = maskable(checkpoint.config, pattern)
    masks = random_masks(shapes, pattern, seed)
    save(
        path,
        masks,
        shapes,
        pattern,
        Origin("dense", checkpoint.fingerprint(), {"method": "random"}),
        **options,
    )
    return masks, shapes


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
def test_a_mask_file_is_read_back_as_it_was(folder, tmp_path, text):
    pattern = Pattern.parse(text)
    masks, shapes = write_mask(folder, tmp_path / "a.mask", pattern)
    file = MaskFile(tmp_path / "a.mask")
    assert file.pattern == pattern
    assert file.shapes == shapes
    assert file.origin.made == {"method": "random"}
    found = file.load()
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    assert torch.equal(
        file.mask(next(iter(shapes))), pattern.mask(*next((masks[n], shapes[n]) for n in shapes))
    )


def test_nothing_existing_is_overwritten(folder, tmp_path):
    write_mask(folder, tmp_path / "a.mask")
    before = (tmp_path / "a.mask").read_bytes()
    with pytest.raises(RecipeError, match="already there"):
        write_mask(folder, tmp_path / "a.mask", seed=1)
    assert (tmp_path / "a.mask").read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_truncated_file_is_refused(folder, tmp_path):
    write_mask(folder, tmp_path / "a.mask")
    content = (tmp_path / "a.mask").read_bytes()
    (tmp_path / "a.mask").write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match="the file has"):
        MaskFile(tmp_path / "a.mask")


def test_a_changed_byte_is_found_by_the_hash(folder, tmp_path):
    write_mask(folder, tmp_path / "a.mask")
    content = bytearray((tmp_path / "a.mask").read_bytes())
    content[-3] = (content[-3] + 1) % 216
    (tmp_path / "a.mask").write_bytes(content)
    with pytest.raises(CheckpointError, match="not those that were written"):
        MaskFile(tmp_path / "a.mask").load()


def test_another_safetensors_file_is_no_mask(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no mask of niwaki"):
        MaskFile(tmp_path / "x.safetensors")


def test_a_mask_of_another_model_is_refused_before_anything_is_written(folder, tmp_path):
    write_mask(folder, tmp_path / "a.mask")
    other = load_model(folder).to(torch.bfloat16)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="made for the model 'dense'"):
        apply_mask(tmp_path / "other", MaskFile(tmp_path / "a.mask"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_the_baked_checkpoint_is_the_masked_model(folder, tmp_path):
    masks, _ = write_mask(folder, tmp_path / "a.mask")
    assert apply_mask(folder, MaskFile(tmp_path / "a.mask"), tmp_path / "sparse").loaded == "weights"
    model, baked = load_model(folder), load_model(tmp_path / "sparse")
    apply_in_memory(model, masks, PATTERN)
    ids = torch.arange(24).view(2, 12)
    assert torch.equal(model(ids).logits, baked(ids).logits)
    for name in masks:
        groups = baked.get_parameter(name).reshape(-1, 4)
        assert ((groups != 0).sum(1) == 2).all()
    record = json.loads((tmp_path / "sparse" / "mask.json").read_text())
    assert record["mask_sha256"] == MaskFile(tmp_path / "a.mask").sha256
    with pytest.raises(CheckpointError, match="already holds"):
        apply_mask(folder, MaskFile(tmp_path / "a.mask"), tmp_path / "sparse")


def test_a_kept_weight_that_is_zero_stays_kept(folder, tmp_path):
    model = load_model(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.zero_()
    model.save_pretrained(tmp_path / "zeros")
    masks, _ = write_mask(tmp_path / "zeros", tmp_path / "a.mask")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(MaskFile(tmp_path / "a.mask").load()[name], masks[name])


@torch.no_grad()
def test_changing_masks_is_the_same_as_putting_the_last_one_on_the_dense_model(folder, tmp_path):
    write_mask(folder, tmp_path / "a.mask", seed=1)
    write_mask(folder, tmp_path / "b.mask", seed=2)
    model, fresh = load_model(folder), load_model(folder)
    wardrobe = Wardrobe(model)
    for name in ("a", "b"):
        wardrobe.wear(MaskFile(tmp_path / f"{name}.mask"))
    apply_in_memory(fresh, MaskFile(tmp_path / "b.mask").load(), PATTERN)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    wardrobe.wear(None)
    dense = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
def test_npz_and_back_is_bit_exact(folder, tmp_path, text):
    pattern = Pattern.parse(text)
    masks, shapes = write_mask(folder, tmp_path / "a.mask", pattern)
    file = MaskFile(tmp_path / "a.mask")
    export_npz(file, tmp_path / "mask_compressed.npz")
    with np.load(tmp_path / "mask_compressed.npz") as archive:
        assert set(archive.files) == {f"{name}.mask" for name in shapes}
        for name, shape in shapes.items():
            expected = np.packbits(pattern.mask(masks[name], shape).numpy().reshape(-1))
            assert np.array_equal(archive[f"{name}.mask"], expected)
    assert (
        import_npz(tmp_path / "mask_compressed.npz", shapes, pattern, file.origin, tmp_path / "b.mask") == 0
    )
    assert (tmp_path / "b.mask").read_bytes() == (tmp_path / "a.mask").read_bytes()


def npz(tmp_path, shapes, change):
    arrays = {
        f"{name}.mask": np.packbits(np.tile([1, 1, 0, 0], int(np.prod(shape)) // 4)).astype(np.uint8)
        for name, shape in shapes.items()
    }
    change(arrays)
    np.savez_compressed(tmp_path / "mask_compressed.npz", **arrays)
    return tmp_path / "mask_compressed.npz"


def test_published_masks_with_fewer_ones_are_refused_or_filled(folder, tmp_path):
    shapes = maskable(Checkpoint(folder).config, PATTERN)
    first = next(iter(shapes))
    source = npz(tmp_path, shapes, lambda arrays: arrays[f"{first}.mask"].__setitem__(0, 0b10001100))
    origin = Origin("dense", "0" * 64)
    with pytest.raises(RecipeError, match="add --fill"):
        import_npz(source, shapes, PATTERN, origin, tmp_path / "a.mask")
    assert not (tmp_path / "a.mask").exists()
    assert import_npz(source, shapes, PATTERN, origin, tmp_path / "a.mask", fill=True) == 1
    kept = MaskFile(tmp_path / "a.mask").mask(first).flatten()[:8].int().tolist()
    assert kept == [1, 1, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop(next(iter(arrays))), "has no mask for"),
        (lambda arrays: arrays.update({"lm_head.weight.mask": np.zeros(3, np.uint8)}), "does not cover"),
        (lambda arrays: arrays.update({n: a[:-1] for n, a in list(arrays.items())[:1]}), "take 128 bytes"),
        (lambda arrays: arrays.update({n: a | 255 for n, a in list(arrays.items())[:1]}), "another pattern"),
    ],
)
def test_archives_of_other_models_are_refused(folder, tmp_path, change, message):
    shapes = maskable(Checkpoint(folder).config, PATTERN)
    source = npz(tmp_path, shapes, change)
    with pytest.raises((CheckpointError, RecipeError), match=message):
        import_npz(source, shapes, PATTERN, Origin("dense", "0" * 64), tmp_path / "a.mask", fill=True)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="no readable npz"):
        import_npz(tmp_path / "x.npz", {}, PATTERN, Origin("dense", ""), tmp_path / "a.mask")


def test_a_difference_counts_groups_and_entries():
    one = torch.tensor([0, 0, 0, 0], dtype=torch.uint8)
    other = torch.tensor([0, 1, 5, 0], dtype=torch.uint8)  # 1100 against 1010 and 0011
    found = difference(one, other, PATTERN)
    assert (found.groups, found.entries) == (0.5, (2 + 4) / 16)
    whole, each = differences({"a": one, "b": one}, {"a": one, "b": other}, PATTERN)
    assert (whole.groups, each["a"].groups) == (0.25, 0.0)


def test_sensitivity_masks_one_layer_at_a_time_and_restores_it(tiny_model):
    shapes = maskable(tiny_model.config, PATTERN)
    masks = random_masks(shapes)
    before = [p.clone() for p in tiny_model.parameters()]

    def zeros():
        return float(sum((p == 0).sum() for p in tiny_model.parameters()))

    _, layers = sensitivity(tiny_model, masks, PATTERN, lambda name: int(name.split(".")[2]), zeros)
    in_layer = sum(torch.Size(shape).numel() for name, shape in shapes.items() if ".0." in name)
    assert layers == {0: in_layer / 2, 1: in_layer / 2}
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_model.parameters(), strict=True))


def test_memory_is_that_of_the_paper_page():
    llama = {"all": (6_476_005_376 // 4, 4)}
    assert gate_bytes_per_weight(PATTERN, gate_dtype=torch.float32, moment_bytes=4) == 24
    assert gate_bytes_per_weight(PATTERN, gate_dtype=torch.bfloat16, moment_bytes=1) == 9
    options = {"model_bytes": 0, "weight_bytes": 2, "activation_bytes": 0, "num_layers": 32}
    full = estimate(llama, PATTERN, checkpointing=False, **options)
    lean = estimate(llama, PATTERN, checkpointing=True, gate_dtype=torch.bfloat16, moment_bytes=1, **options)
    assert full.gates / 1e9 == pytest.approx(155.4, abs=0.05)
    assert lean.gates / 1e9 == pytest.approx(58.3, abs=0.05)
    assert lean.samples < full.samples / 30
