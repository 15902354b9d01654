"""What was found wrong once, a test each."""

import importlib.util

import numpy as np
import pytest
import torch

from mossformer2_impl import MixtureDataset, MossFormer2, read_sound, resample, si_sdr, talkers, train, write_sound
from shared_impl.data import DataError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MossFormer2.preset("tiny", n_layers=1).eval()


def test_what_is_no_batch_of_mixtures_is_named(model):
    for bad in (torch.zeros(800), torch.zeros(1, 1, 800), torch.zeros(1, 0)):
        with pytest.raises((ValueError, TypeError), match=r"mixture must be \(batch, samples\)|mixture"):
            model(bad)
    for bad in (torch.zeros(1, 800, dtype=torch.float64), torch.zeros(1, 800, dtype=torch.long)):
        with pytest.raises((ValueError, TypeError), match=r"mixture must be torch.float32|mixture"):
            model(bad)


def test_a_batch_of_none_is_answered_by_none(model):
    assert model(torch.zeros(0, 800)).shape == (0, 2, 800)
    assert model.separate(torch.zeros(0, 800)).shape == (0, 2, 800)


def test_autocast_takes_what_it_is_given(model):
    x = 0.1 * torch.randn(1, 800)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(x)
    torch.testing.assert_close(mixed.float(), model(x), rtol=0.1, atol=0.02)


def test_integers_are_refused_as_array_and_as_tensor(model):
    for wave in (np.ones(800, dtype=np.int16), torch.ones(800, dtype=torch.int16)):
        with pytest.raises(ValueError, match="wave must hold floating numbers"):
            model.separate(wave)
    with pytest.raises((ValueError, TypeError), match="sr"):
        model.separate(np.ones(800), sr="8000")
    assert model.separate(np.ones(800)).dtype == np.float32


def test_estimates_and_targets_of_other_lengths_are_named():
    with pytest.raises((ValueError, TypeError), match=r"one length|target"):
        si_sdr(torch.zeros(2, 800), torch.zeros(2, 900))


def test_a_rate_of_zero_learns_nothing_and_is_refused(model):
    for lr in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="lr must be positive"):
            train(model, MixtureDataset(talkers(2), 2, seconds=0.1), steps=1, lr=lr)


def test_tensors_are_written_and_converted_as_arrays_are(tmp_path):
    wave = 0.5 * torch.sin(torch.arange(800) / 5)
    write_sound(tmp_path / "a.wav", wave, 8000)
    np.testing.assert_allclose(read_sound(tmp_path / "a.wav")[0], wave, atol=1e-4)
    np.testing.assert_array_equal(resample(wave, 8000, 11025), resample(wave.numpy(), 8000, 11025))
    with pytest.raises((ValueError, TypeError), match="floating"):
        resample(np.ones(9, dtype=np.int16), 8000, 16000)
    for bad in (np.full(9, np.nan), np.full(9, 2.0), np.zeros((2, 9))):
        with pytest.raises(ValueError, match="wave must be"):
            write_sound(tmp_path / "b.wav", bad, 8000)
    assert not (tmp_path / "b.wav").exists()


@pytest.mark.skipif(importlib.util.find_spec("soundfile") is not None, reason="soundfile reads instead")
def test_a_file_cut_short_is_refused(tmp_path):
    whole = tmp_path / "whole.wav"
    write_sound(whole, np.zeros(800), 8000)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:900])
    with pytest.raises(DataError, match="cut short"):
        read_sound(tmp_path / "cut.wav")
