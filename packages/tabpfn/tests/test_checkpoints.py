"""Networks on disk, and the one that comes with the package."""

import json

import pytest
import torch

from tabpfn_impl.checkpoints import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    shipped_checkpoint,
    shipped_folder,
)
from tabpfn_impl.training import build_model

CONFIG = {"d_model": 8, "n_layers": 1, "n_heads": 2}


@pytest.mark.parametrize("architecture", ["row", "cell"])
def test_a_network_comes_back(architecture, tmp_path):
    torch.manual_seed(0)
    model = build_model(architecture, CONFIG)
    save_checkpoint(tmp_path, model, architecture, CONFIG, info={"softmax_temperature": 0.7})
    again = load_checkpoint(tmp_path)
    assert again.temperature == 0.7
    assert again.architecture == architecture
    for name, value in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_half_precision_is_half_the_size_and_nearly_the_same(tmp_path):
    torch.manual_seed(0)
    model = build_model("row", {"d_model": 32, "n_layers": 2, "n_heads": 2})
    for half in (False, True):
        save_checkpoint(
            tmp_path / str(half), model, "row", {"d_model": 32, "n_layers": 2, "n_heads": 2}, info={}, half=half
        )
    sizes = [(tmp_path / str(half) / "model.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]
    x, y = torch.randn(1, 9, 4), torch.randint(0, 3, (1, 5))
    a, b = (load_checkpoint(tmp_path / str(half)).model(x, y) for half in (False, True))
    torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-2)


def test_a_folder_without_a_network_or_with_a_damaged_one_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no network"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path, build_model("row", CONFIG), "row", CONFIG, info={})
    (tmp_path / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_the_shipped_network_is_small_and_carries_its_recipe_and_log():
    folder = shipped_folder()
    assert (folder / "model.safetensors").stat().st_size < 10_000_000
    info = shipped_checkpoint().info
    assert info["recipe"]["lr"] > 0
    assert " train --recipe cpu" in info["command"]
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert any(row["step"] == info["validation"]["step"] for row in log)
    assert log[-1]["auc"] > log[0]["auc"]
