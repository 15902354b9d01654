import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cin_impl.data import gestures, log_mel, moving_shapes, read_wav, spoken_digits


def test_made_streams_are_repeatable_and_of_their_shapes():
    a, b = moving_shapes(6, seed=3), moving_shapes(6, seed=3)
    assert a.x.shape == (6, 1, 24, 16, 16)
    assert torch.equal(a.x, b.x)
    assert gestures(5, frames=12).x.shape == (5, 3, 12, 25, 1)
    with pytest.raises(ValueError, match="clips"):
        moving_shapes(0)


def test_a_tone_is_loudest_in_its_band():
    t = np.arange(4000) / 8000
    low, high = (log_mel(np.sin(2 * np.pi * f * t).astype(np.float32)).mean(1).argmax() for f in (300, 2500))
    assert low < high


def test_recordings_are_read_from_a_folder(write_wav, tmp_path):
    for name in ("3_anna_0", "4_anna_7"):
        write_wav(tmp_path / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(3000).clip(-1, 1))
    assert spoken_digits("test", folder=tmp_path).y.tolist() == [3]
    train = spoken_digits("train", folder=tmp_path)
    assert train.y.tolist() == [4]
    assert train.x.shape == (1, 40, 64)
    (tmp_path / "5_anna_8.wav").write_bytes(b"RIFFnothing")
    with pytest.raises(ValueError, match=r"5_anna_8\.wav: no WAV"):
        spoken_digits("train", folder=tmp_path)
    with pytest.raises(ValueError, match="train or test"):
        spoken_digits("valid", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no recordings"):
        spoken_digits("train", folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no WAV"):
        read_wav(tmp_path / "5_anna_8.wav")


@pytest.mark.data
def test_the_real_recordings_split_as_published():
    if not (Path(os.environ.get("IMPL_DATA_DIR", "data")) / "fsdd_small").is_dir():
        pytest.skip("no recordings")
    assert len(spoken_digits("test").y) == 300
    assert len(spoken_digits("train").y) == 600
