import subprocess
import sys

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.linalg
import torch

from mossformer2_impl import (
    MixtureDataset,
    MossFormer2,
    best_order,
    evaluate,
    ideal_ratio_mask,
    mix,
    mixture_as_estimate,
    pit_loss,
    read_librimix,
    read_listed,
    read_scp,
    read_sound,
    read_speakers,
    reorder,
    resample,
    sdr,
    sdr_improvement,
    separation_loss,
    si_sdr,
    si_sdr_improvement,
    spoken_digits,
    talkers,
    train,
    write_sound,
)
from mossformer2_impl.data import read_folders
from mossformer2_impl.experiments import IRM, held_out
from shared_impl.data import DataError


def tone(hertz=440, samples=800, rate=8000):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


# Metrics -------------------------------------------------------------------------------------------------------------


def test_si_sdr_at_its_limits():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert torch.isnan(si_sdr(x, torch.zeros(100)))
    assert torch.isnan(si_sdr(x, torch.full((100,), 0.3)))
    assert float(si_sdr(torch.zeros(100), x)) == -140
    assert 130 < float(si_sdr(x.double(), x.double())) <= 140.001
    assert float(si_sdr(1e-20 * x, x)) > 100
    assert si_sdr(x.bfloat16(), x).dtype == torch.float32
    with pytest.raises(ValueError, match="at least one sample"):
        si_sdr(torch.zeros(0), torch.zeros(0))


def test_silent_targets_are_left_out_of_the_loss_and_gradients_are_finite():
    g = torch.Generator().manual_seed(0)
    targets = torch.randn(2, 2, 50, generator=g)
    estimates = (targets + torch.randn(2, 2, 50, generator=g)).requires_grad_()
    whole = si_sdr(estimates, targets).detach()
    targets[0, 1] = 0
    loss, _ = pit_loss(estimates, targets)
    expected = -max(float(whole[0, 0]), float(si_sdr(estimates[0, 1].detach(), targets[0, 0]))) - float(whole[1].sum())
    assert float(loss.detach()) == pytest.approx(expected / 3, abs=1e-4)
    loss.backward()
    assert torch.isfinite(estimates.grad).all()
    perfect = targets.clone().requires_grad_()
    pit_loss(perfect, targets)[0].backward()
    assert torch.isfinite(perfect.grad).all()
    with pytest.raises(ValueError, match="must not all be silent"):
        pit_loss(estimates, torch.zeros(2, 2, 50))
    with pytest.raises(ValueError, match="an estimate for each of 3"):
        pit_loss(estimates, torch.ones(2, 3, 50))


def test_an_estimate_that_is_not_finite_is_seen_in_the_loss():
    targets = torch.randn(2, 2, 50, generator=torch.Generator().manual_seed(0))
    estimates = targets.clone()
    estimates[0, 0, 3] = float("nan")
    assert torch.isnan(pit_loss(estimates, targets)[0])


def test_orders_with_more_estimates_than_targets():
    scores = torch.tensor([[[1.0, 5.0], [9.0, 8.0], [2.0, 7.0]]])
    for method in ("brute", "hungarian"):
        assert best_order(scores, method=method).tolist() == [[1, 2]]
    x = torch.arange(6.0).view(1, 3, 2)
    assert reorder(x, torch.tensor([[2, 0]])).tolist() == [[[4, 5], [0, 1]]]


def test_sdr_is_that_of_the_best_filter():
    rng = np.random.default_rng(0)
    s, noise = rng.standard_normal((2, 400))
    e = np.convolve(s, [1.0, 0.5, -0.2])[:400] + 0.3 * noise
    shifts = scipy.linalg.toeplitz(np.concatenate([s, np.zeros(7)]), np.zeros(8))
    padded = np.concatenate([e, np.zeros(7)])
    along = shifts @ np.linalg.lstsq(shifts, padded, rcond=None)[0]
    by_hand = 10 * np.log10((along @ along) / ((padded - along) @ (padded - along)))
    assert sdr(e, s, taps=8) == pytest.approx(by_hand, abs=1e-6)
    assert sdr(e, s) > float(si_sdr(torch.from_numpy(e), torch.from_numpy(s)))
    assert sdr(tone(), tone()) > 60
    for bad, message in ((np.zeros(400), "silent"), (s[:5], "one length")):
        with pytest.raises(ValueError, match=message):
            sdr(e, bad)


def test_improvements_are_over_the_mixture():
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((2, 600))
    mixture = sources.sum(0)
    estimates = sources[::-1] + 0.1 * rng.standard_normal((2, 600))
    found = sdr_improvement(estimates, sources, mixture)
    assert found.shape == (2,)
    assert (found > 15).all()
    args = [torch.from_numpy(np.array(x))[None] for x in (estimates, sources, mixture)]
    assert float(si_sdr_improvement(*args).mean()) == pytest.approx(20, abs=1)
    same = mixture_as_estimate(args[2])
    assert torch.allclose(si_sdr_improvement(same, args[1], args[2]), torch.zeros(1, 2).double(), atol=1e-9)


# Mixtures ------------------------------------------------------------------------------------------------------------


def test_mixtures_repeat_and_add_up():
    data = MixtureDataset(talkers(3), 5, seconds=0.5, gain_db=0.0, speed=(0.95, 1.05), seed=3)
    again = MixtureDataset(talkers(3), 5, seconds=0.5, gain_db=0.0, speed=(0.95, 1.05), seed=3)
    for i in (0, 4, -1):
        one = data[i]
        assert torch.equal(one["mixture"], again[i]["mixture"])
        assert torch.allclose(one["sources"].sum(0), one["mixture"], atol=1e-5)
        assert one["sources"].shape == (2, 4000)
        peak = max(float(one["mixture"].abs().max()), float(one["sources"].abs().max()))
        assert peak == pytest.approx(0.9, abs=1e-5)
        level = one["sources"].square().mean(1).sqrt()
        assert float(level[0]) == pytest.approx(float(level[1]), rel=1e-4)
    assert torch.equal(data[-1]["mixture"], data[4]["mixture"])
    assert not torch.equal(data[0]["mixture"], data[1]["mixture"])
    batch = data.draw(torch.Generator().manual_seed(0), 3)
    assert batch["sources"].shape == (3, 2, 4000)
    with pytest.raises(IndexError):
        data[5]


def test_gains_are_within_what_is_asked():
    data = MixtureDataset(talkers(3), 40, seconds=0.5, gain_db=5.0)
    ratios = []
    for i in range(40):
        level = data[i]["sources"].square().mean(1).sqrt()
        ratios.append(20 * float(torch.log10(level[0] / level[1])))
    assert max(map(abs, ratios)) <= 5.001
    assert max(ratios) > 1
    assert min(ratios) < -1


BAD = [
    ({"a": [tone()]}, {}, "speakers must be at least n_src"),
    ({"a": [tone()], "b": [np.zeros(10, np.float32)]}, {}, "speaker b has no recording"),
    ({"a": [tone()], "b": []}, {}, "speaker b has no recording"),
    ({"a": [tone()], "b": [np.full(10, np.nan, np.float32)]}, {}, "speaker b: recordings must be finite"),
    ({"a": [tone()], "b": [tone()]}, {"seconds": 0.0}, "must be positive"),
    ({"a": [tone()], "b": [tone()]}, {"gaps": (0.2, 0.1)}, "gaps must"),
    ({"a": [tone()], "b": [tone()]}, {"gain_db": -1.0}, "gain_db must"),
    ({"a": [tone()], "b": [tone()]}, {"speed": (0.1, 1.0)}, "speed must"),
]


@pytest.mark.parametrize(("speakers", "more", "message"), BAD)
def test_recordings_that_cannot_be_mixed_are_refused(speakers, more, message):
    with pytest.raises(ValueError, match=message):
        MixtureDataset(speakers, **more)


def test_mixing_by_hand():
    mixed, sources = mix([tone(300), 5 * tone(500)], [6.0, 0.0])
    level = np.sqrt((sources**2).mean(1))
    assert 20 * np.log10(level[0] / level[1]) == pytest.approx(6, abs=1e-3)
    assert np.allclose(sources.sum(0), mixed, atol=1e-5)
    for waves, gains, message in (
        ([tone(), np.zeros(800)], None, "source 1 is silent"),
        ([tone(), tone()[:5]], None, "one length"),
        ([tone(), tone()], [1.0], "one for each"),
        ([tone(), np.full(800, np.inf)], None, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            mix(waves, gains)


def test_talkers_have_their_pitch():
    for name, waves in talkers(2, seconds=1.0).items():
        low, high = map(float, name.removesuffix(" Hz").split(" to "))
        spectrum = np.abs(np.fft.rfft(waves[0])) ** 2
        assert spectrum[: int(0.8 * low)].sum() < 0.05 * spectrum.sum()
        assert np.isfinite(waves).all()
        assert high > low
    for more in ({"n": 0}, {"sr": 10}, {"pitches": ((200.0, 100.0),)}):
        with pytest.raises(ValueError, match="must"):
            talkers(**more)


@pytest.mark.data
def test_the_splits_of_the_digits():
    train_part, test_part = spoken_digits("train"), spoken_digits("test")
    assert train_part.keys() == test_part.keys()
    assert len(train_part) == 6
    assert {len(own) for own in train_part.values()} == {100}
    assert {len(own) for own in test_part.values()} == {50}
    others = spoken_digits("train", by="speaker"), spoken_digits("test", by="speaker")
    assert set(others[1]) == {"theo", "lucas"}
    assert not set(others[0]) & set(others[1])


def test_digits_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold recordings"):
        spoken_digits(folder=tmp_path)


# Files ---------------------------------------------------------------------------------------------------------------


def test_sounds_of_all_kinds_are_read(tmp_path):
    wave = tone()
    whole = {"int16": (wave * 32767).astype(np.int16), "float32": wave, "int32": (wave * (2**31 - 1)).astype(np.int32),
             "uint8": np.round(wave * 127 + 128).astype(np.uint8)}  # fmt: skip
    for name, held in whole.items():
        path = tmp_path / f"{name}.wav"
        scipy.io.wavfile.write(path, 8000, held)
        found, rate = read_sound(path)
        assert rate == 8000
        assert np.allclose(found, wave, atol=0.01 if name == "uint8" else 1e-4), name
    stereo = tmp_path / "stereo.wav"
    scipy.io.wavfile.write(stereo, 8000, np.stack([wave, wave / 2], 1))
    with pytest.raises(DataError, match="must have one channel, got 2"):
        read_sound(stereo)
    assert np.allclose(read_sound(stereo, mix_down=True)[0], 0.75 * wave, atol=1e-5)
    assert len(read_sound(tmp_path / "float32.wav", 16000)[0]) == 1600


def test_sounds_that_are_none_are_refused_and_clipping_is_told(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF nothing")
    scipy.io.wavfile.write(tmp_path / "empty.wav", 8000, np.zeros(0, np.int16))
    scipy.io.wavfile.write(tmp_path / "nan.wav", 8000, np.array([0, np.nan], np.float32))
    cases = {"none": "missing", "x": "no", "empty": "no samples", "nan": "sample 1: samples must be finite"}
    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            read_sound(tmp_path / f"{name}.wav")
    scipy.io.wavfile.write(tmp_path / "clipped.wav", 8000, np.clip(5 * tone(), -1, 1))
    with pytest.warns(UserWarning, match="full scale"):
        read_sound(tmp_path / "clipped.wav")
    with pytest.raises(ValueError, match="within -1 and 1"):
        write_sound(tmp_path / "loud.wav", 2 * np.ones(3), 8000)
    assert not (tmp_path / "loud.wav").exists()


def test_resampling_keeps_tones():
    up = resample(tone(440, 8000), 8000, 16000)
    assert np.allclose(up[200:-200], tone(440, 16000, 16000)[200:-200], atol=2e-3)
    with pytest.raises(ValueError, match="rates must be positive"):
        resample(tone(), 0, 1)


@pytest.fixture
def corpus(tmp_path):
    """A made corpus: LibriMix's metadata, an scp list, and folders of WSJ0-mix."""
    rows = ["mixture_ID,mixture_path,source_1_path,source_2_path,noise_path,length"]
    lines = []
    for i in range(3):
        mixed, sources = mix([tone(300 + i), tone(700 - i)])
        for folder, wave in (("mix", mixed), ("s1", sources[0]), ("s2", sources[1])):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_sound(tmp_path / folder / f"{i}.wav", wave, 8000)
        rows.append(f"{i},mix/{i}.wav,s1/{i}.wav,s2/{i}.wav,,800")
        lines.append(f"mix/{i}.wav s1/{i}.wav s2/{i}.wav")
    (tmp_path / "mixture.csv").write_text("\n".join(rows))
    (tmp_path / "list.scp").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_lists_of_mixtures_are_read(corpus):
    for rows in (read_librimix(corpus / "mixture.csv"), read_scp(corpus / "list.scp"), read_folders(corpus)):
        items = read_listed(rows, 8000)
        assert len(items) == 3
        for mixed, sources in items:
            assert sources.shape == (2, 800)
            assert np.allclose(sources.sum(0), mixed, atol=1e-3)


def test_lists_that_are_none_are_refused(corpus):
    for name, text, message in (
        ("a.csv", "x,y\n1,2\n", "must have columns"),
        ("b.csv", "mixture_path,source_1_path\n", "no rows"),
        ("c.csv", "mixture_path,source_1_path\nx.wav,\n", "line 2: a path is missing"),
    ):
        (corpus / name).write_text(text)
        with pytest.raises(DataError, match=message):
            read_librimix(corpus / name)
    for text, message in (("", "no lines"), ("a b\na\n", "line 2"), ("a\n", "line 1")):
        (corpus / "x.scp").write_text(text)
        with pytest.raises(DataError, match=message):
            read_scp(corpus / "x.scp")
    with pytest.raises(DataError, match="must hold folders"):
        read_folders(corpus / "mix")
    (corpus / "y.scp").write_text("no.wav no.wav\n")
    rows = read_scp(corpus / "y.scp")
    with pytest.raises(DataError, match="is missing"):
        read_listed(rows, 8000)


def test_folders_of_speakers_are_read(tmp_path):
    for place in ("ann/1.wav", "bob/x/1.wav", "carl-1.wav", "carl-2.wav"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_sound(tmp_path / place, tone(), 16000)
    found = read_speakers(tmp_path, 8000)
    assert {name: len(own) for name, own in found.items()} == {"ann": 1, "bob": 1, "carl": 2}
    assert len(found["ann"][0]) == 400
    with pytest.raises(DataError, match="at least two speakers"):
        read_speakers(tmp_path / "ann", 8000)
    with pytest.raises(DataError, match="no folder"):
        read_speakers(tmp_path / "none", 8000)


# Training ------------------------------------------------------------------------------------------------------------


def test_training_repeats_and_keeps_the_best():
    items = held_out(talkers(3), 2, seconds=0.3)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = MossFormer2.preset("tiny", n_layers=1)
        result = train(model, MixtureDataset(talkers(3), seconds=0.3), items, steps=6, eval_every=2, batch=2)
        found.append((evaluate(model, items)["si_sdri"], [row["si_sdri"] for row in result.history]))
    assert found[0] == found[1]
    assert found[0][0] == pytest.approx(max(found[0][1]), abs=1e-6)


def test_given_mixtures_are_cut_and_padded_and_silence_is_left_out():
    items = held_out(talkers(3), 2, seconds=0.3)
    torch.manual_seed(0)
    model = MossFormer2.preset("tiny", n_layers=1)
    for crop in (0.1, 0.5):
        train(model, items, steps=2, crop_s=crop, batch=2)
    silent = {"mixture": torch.zeros(1, 400), "sources": torch.zeros(1, 2, 400)}
    assert float(separation_loss(model, silent).detach()) == 0
    with pytest.raises(ValueError, match="must not be empty"):
        train(model, [], steps=1)
    with pytest.raises(ValueError, match="must not be empty"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="item 0: a source is silent"):
        evaluate(model, [(np.ones(50, np.float32), np.zeros((2, 50), np.float32))])


def test_the_ideal_mask_separates_and_the_mixture_does_not():
    items = held_out(talkers(3), 3, seconds=1.0)
    assert evaluate(IRM, items)["si_sdri"] > 6
    assert evaluate(mixture_as_estimate, items, with_sdr=True)["sdri"] == pytest.approx(0, abs=1e-6)
    mixture, sources = (torch.from_numpy(x)[None] for x in items[0])
    assert torch.allclose(ideal_ratio_mask(mixture, sources).sum(1), mixture, atol=1e-3)
    assert ideal_ratio_mask(mixture[:, :10], sources[..., :10]).shape == (1, 2, 10)


def test_help_does_not_wait_for_torch():
    code = "import sys, mossformer2_impl.cli as c; c.main(['separate', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
