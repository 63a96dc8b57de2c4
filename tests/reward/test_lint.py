"""`niwaki lint` finds each known fault, and says nothing about a sound model."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from niwaki.reward.export import save_reward_model
from niwaki.reward.lint import lint
from niwaki.reward.model import load_backbone


@pytest.fixture
def sound(backbone, tmp_path):
    scorable = load_backbone(backbone)
    torch.nn.init.normal_(scorable.model.score.weight)
    save_reward_model(scorable, tmp_path / "sound", card={})
    return tmp_path / "sound"


def edit(folder, name="config.json", **changes):
    path = folder / name
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def weights(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    tensors = {k: t for k, t in (tensors | changes).items() if t is not None}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "code, damage",
    [
        ("architecture", lambda f: edit(f, architectures=["LlamaForCausalLM"])),
        ("architecture", lambda f: edit(f, architectures=["LlamaForRewardModel"])),
        ("custom-code", lambda f: edit(f, auto_map={"AutoModel": "x.Y"})),
        ("problem-type", lambda f: edit(f, problem_type=None)),
        ("labels", lambda f: edit(f, id2label=None)),
        ("head", lambda f: edit(f, id2label={"0": "a", "1": "b"})),
        ("head", lambda f: weights(f, **{"score.weight": None, "v_head.weight": torch.ones(1, 32)})),
        ("bias", lambda f: weights(f, **{"score.bias": torch.zeros(1)})),
        ("lm-head", lambda f: weights(f, **{"lm_head.weight": torch.zeros(4, 32)})),
        ("dtype", lambda f: weights(f, **{"score.weight": torch.zeros(1, 32, dtype=torch.float16)})),
        ("pad", lambda f: edit(f, pad_token_id=None)),
        ("pad-is-eos", lambda f: edit(f, pad_token_id=0)),
        ("pad-differs", lambda f: edit(f, pad_token_id=7)),
        ("template", lambda f: (f / "chat_template.jinja").unlink()),
        ("pickle", lambda f: (f / "pytorch_model.bin").write_bytes(b"")),
        ("adapter", lambda f: (f / "adapter_config.json").write_text("{}")),
        ("weights", lambda f: (f / "model.safetensors").unlink()),
    ],
)
def test_each_fault_is_found(sound, code, damage):
    assert lint(sound) == []
    damage(sound)
    assert code in [finding.code for finding in lint(sound)]


def test_errors_come_first_and_say_how_to_mend(sound):
    edit(sound, problem_type=None)
    (sound / "pytorch_model.bin").write_bytes(b"")
    found = lint(sound)
    assert [f.severity for f in found] == ["error", "warning"]
    assert "sigmoid" in found[0].found
    assert "problem_type" in found[0].remedy
