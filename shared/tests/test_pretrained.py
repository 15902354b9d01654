"""Saved models come back whole or not at all."""

import copy
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shared_impl.pretrained import Pretrained, WeightsError, load_weights


class Line(nn.Module, Pretrained):
    def __init__(self, *, width: int = 3, slope: float = 1.0, dtype: object = None) -> None:
        super().__init__()
        self.slope = slope
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * self.last(self.norm(self.first(x)))


class Tied(nn.Module, Pretrained):
    def __init__(self, *, n: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n, 4)
        self.head = nn.Linear(4, n, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids))


@dataclass(frozen=True)
class Config:
    width: int
    slope: float = 1.0


class Configured(Line):
    def __init__(self, config: Config) -> None:
        super().__init__(width=config.width, slope=config.slope)
        self.config = config


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Line(width=4, slope=2.5).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Another file of weights, as another program writes it: without our digests."""
    found = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({k: v for k, v in found.items() if v is not None}, folder / "model.safetensors")


def set_config(folder: Path, **settings: object) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **settings}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))


def test_a_model_comes_back_as_it_was_and_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(6, 4)
    for model in (Line(width=4, slope=2.5), Configured(Config(4, slope=2.5))):
        model(x)  # the running statistics of the norm are saved too
        model.save_pretrained(tmp_path / type(model).__name__)
        loaded = type(model).from_pretrained(str(tmp_path / type(model).__name__))
        assert not loaded.training
        assert torch.equal(loaded(x), model.eval()(x))
        assert torch.equal(copy.deepcopy(loaded)(x), loaded(x))
    assert sorted(p.name for p in (tmp_path / "Line").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert capfd.readouterr() == ("", "")


def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path: Path) -> None:
    model = Tied()
    model.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["embedding.weight"]
    loaded = Tied.from_pretrained(tmp_path)
    ids = torch.arange(5)
    assert torch.equal(loaded(ids), model(ids))
    assert loaded.head.weight is loaded.embedding.weight


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"last.bias": None, "norm.running_mean": None}, "lacks last.bias, norm.running_mean"),
        ({"more": torch.zeros(2)}, "has in addition more"),
        ({"last.weight": torch.zeros(4, 1)}, r"has in another shape last.weight \(4, 1\) instead of \(1, 4\)"),
        ({"first.bias": torch.zeros(4).int()}, "has in another kind first.bias torch.int32 instead of torch.float32"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    change(saved, **tensors)
    with pytest.raises(WeightsError, match=message):
        Line.from_pretrained(saved)


@pytest.mark.parametrize("cut", [0, 7, 50, -1])
def test_a_file_that_is_cut_short_is_refused(saved: Path, cut: int) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[:cut])
    with pytest.raises(WeightsError, match="damaged"):
        Line.from_pretrained(saved)


def test_a_changed_bit_is_noticed(saved: Path) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="its tensors are not those that were saved"):
        Line.from_pretrained(saved)


def test_weights_of_another_program_load_when_they_fit(saved: Path) -> None:
    change(saved, **{"last.bias": torch.ones(1)})
    assert Line.from_pretrained(saved).last.bias.item() == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3}, "Line has no setting depth"),
        ({"slope": "gone"}, "not the configuration that the weights beside it were saved with"),
        ({"slope": 3.0}, "not the configuration that the weights beside it were saved with"),
        ({"width": 5}, r"has in another shape first.weight \(4, 4\) instead of \(5, 5\)"),
    ],
)
def test_a_configuration_that_was_changed_is_refused(saved: Path, settings: dict[str, object], message: str) -> None:
    set_config(saved, **settings)
    with pytest.raises(WeightsError, match=message):
        Line.from_pretrained(saved)


def test_settings_of_a_dataclass_are_looked_at_too(tmp_path: Path) -> None:
    Configured(Config(4)).save_pretrained(tmp_path)
    set_config(tmp_path, depth=3)
    with pytest.raises(WeightsError, match="no setting depth"):
        Configured.from_pretrained(tmp_path)
    set_config(tmp_path, depth="gone", width="gone")
    with pytest.raises(WeightsError, match=r"does not make a Configured: .*width"):
        Configured.from_pretrained(tmp_path)


def test_settings_may_be_given_by_name_if_the_tensors_fit(saved: Path) -> None:
    assert Line.from_pretrained(saved, slope=7.0).slope == 7.0
    with pytest.raises(WeightsError, match="has in another shape"):
        Line.from_pretrained(saved, width=5)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    torch.save(Line(width=4).state_dict(), saved / "pytorch_model.bin")  # a pickle is no way out
    with pytest.raises(WeightsError, match=f"{name} does not exist"):
        Line.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_configuration_is_named(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        Line.from_pretrained(saved)


def test_what_json_has_not_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="dtype is nothing that JSON has"):
        Line(dtype=torch.float64).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WeightsError, match="config must be what the model was made with"):
        Line().save_pretrained(tmp_path, config={"width": 9})


def test_a_kill_while_saving_leaves_no_mixture_of_old_and_new(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shared_impl.pretrained.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        Line(width=4, slope=9.0).save_pretrained(saved)
    with pytest.raises(WeightsError, match="saving was cut off"):
        Line.from_pretrained(saved)


def test_load_weights_changes_nothing_when_it_refuses(saved: Path) -> None:
    change(saved, **{"last.bias": None})
    model = Line(width=4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError, match=r"last\.bias"):
        load_weights(model, saved / "model.safetensors")
    with warnings.catch_warnings():
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
