import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from mossformer2_impl import MossFormer2, mix, talkers, write_sound
from mossformer2_impl.cli import BENCHMARKS, EXPERIMENTS, main

README = Path(__file__).parents[1] / "README.md"
VERBS = [
    ["demo", "--steps", "2"],
    *[["reproduce", name, "--preset", "smoke"] for name in EXPERIMENTS],
    *[["bench", name, "--quick"] for name in BENCHMARKS],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOSSFORMER2_OFFICIAL_DIR", raising=False)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


def answer(capsys, *arguments):
    assert main([*map(str, arguments), "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path):
    """Recordings of two talkers and a saved model."""
    for name, waves in talkers(6, seconds=0.6).items():
        (tmp_path / "voices" / name.split()[0]).mkdir(parents=True)
        for i, wave in enumerate(waves):
            write_sound(tmp_path / "voices" / name.split()[0] / f"{i}.wav", wave, 8000)
    torch.manual_seed(0)
    MossFormer2.preset("tiny", n_layers=1).save_pretrained(tmp_path / "saved")
    return tmp_path


@pytest.mark.filterwarnings("ignore:no better than the mixture")
def test_voices_are_mixed_learned_separated_and_measured(folder, capsys):
    out = ["--out", folder / "out"]
    low, high = folder / "voices" / "80", folder / "voices" / "180"
    mixed = answer(capsys, "mix", low / "0.wav", high / "1.wav", "--gains-db", 3, 0, *out)
    assert mixed["seconds"] == 0.6
    assert (folder / "out" / "source-2.wav").is_file()
    learned = answer(capsys, "train", folder / "voices", "--steps", 2, "--batch", 1, *out)
    assert np.isfinite(learned["si_sdri"])
    found = answer(capsys, "separate", mixed["path"], "--model", learned["model"], "--chunk-s", 0.2, *out)
    rate, wave = scipy.io.wavfile.read(found["paths"][1])
    assert (rate, len(wave)) == (8000, 4800)
    (folder / "list.scp").write_text("out/mixture.wav out/source-1.wav out/source-2.wav\n" * 3)
    scores = answer(capsys, "eval", folder / "list.scp", "--model", folder / "saved", *out)
    assert scores["mixtures"] == 3
    assert set(scores) == {"si_sdr", "si_sdri", "sdr", "sdri", "mixtures"}
    again = answer(capsys, "train", folder / "list.scp", "--steps", 1, "--batch", 1, *out, "--out", folder / "other")
    assert again["steps"] == 1
    assert main(["train", str(folder / "voices"), "--steps", "1", "--out", str(folder / "out")]) == 2
    assert "start anew" in capsys.readouterr().err
    once = answer(capsys, "train", folder / "voices", "--steps", 1, "--batch", 1, "--anew", *out)
    assert once["steps"] == 1


def test_another_rate_comes_back_at_its_own(folder, capsys):
    mixed, _ = mix([np.sin(np.arange(3000) / 9).astype(np.float32), np.sin(np.arange(3000) / 4).astype(np.float32)])
    write_sound(folder / "wide.wav", mixed, 16000)
    found = answer(capsys, "separate", folder / "wide.wav", "--model", folder / "saved", "--out", folder)
    rate, wave = scipy.io.wavfile.read(found["paths"][0])
    assert (rate, len(wave)) == (16000, 3000)


def test_bad_input_is_one_line_and_exit_code_2(folder, capsys):
    saved, voices = str(folder / "saved"), str(folder / "voices")
    good = str(folder / "voices" / "80" / "0.wav")
    scipy.io.wavfile.write(folder / "stereo.wav", 8000, np.zeros((50, 2), np.int16))
    scipy.io.wavfile.write(folder / "silent.wav", 8000, np.zeros(4000, np.int16))
    (folder / "nothing.wav").write_text("no sound")
    (folder / "empty.scp").write_text("")
    (folder / "three.scp").write_text(f"{good} {good} {good} {good}\n")
    (folder / "silent.scp").write_text(f"{good} {good} {folder / 'silent.wav'}\n")
    for arguments in (
        ["demo", "--no-such-option"],
        ["demo", "--steps", "0"],
        ["separate", good],
        ["separate", good, "--model", str(folder / "none")],
        ["separate", good, "--model", saved, "--official", saved],
        ["separate", good, "--official", saved],
        ["separate", good, "--model", saved, "--speakers", "3"],
        ["separate", good, "--model", saved, "--chunk-s", "0"],
        ["separate", str(folder / "none.wav"), "--model", saved],
        ["separate", str(folder / "nothing.wav"), "--model", saved],
        ["separate", str(folder / "stereo.wav"), "--model", saved],
        ["mix", good],
        ["mix", good, str(folder / "silent.wav")],
        ["mix", good, good, "--gains-db", "1"],
        ["train", str(folder / "none")],
        ["train", voices, "--steps", "0"],
        ["train", voices, "--speakers", "3"],
        ["train", str(folder / "empty.scp")],
        ["eval", str(folder / "three.scp"), "--model", saved],
        ["eval", str(folder / "silent.scp"), "--model", saved],
    ):
        assert main([*arguments, "--out", str(folder / "out")]) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    said = capsys.readouterr().out
    assert float(re.search(r"improved by ([-\d.]+) dB", said).group(1)) > 0
