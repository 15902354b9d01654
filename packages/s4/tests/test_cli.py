import json
import subprocess
import sys

import pytest

from s4_impl.cli import main

COMMANDS = ["info", "demo", "train", "evaluate", "generate", "reproduce", "bench"]
TINY = ["--n-layers", "1", "--d-model", "8", "--d-state", "4", "--epochs", "1", "--limit", "32"]


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_explains_every_command(command, capsys):
    assert main([command, "--help"] if command else ["--help"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (COMMANDS if command is None else ["--seed", "--device", "--out", "--json"]))


def test_help_is_quick_because_it_imports_no_torch():
    code = (
        "import sys, s4_impl.cli\n"
        "try: s4_impl.cli.main(['reproduce', '--help'])\n"
        "finally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False False")


def test_info_prints_the_card_as_json(capsys):
    assert main(["info", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["arxiv"] == "2111.00396"
    assert [claim["id"] for claim in card["claims"]][-1] == "12"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--speed", "9"], "--speed"),
        (["reproduce", "imagenet"], "imagenet"),
        (["reproduce", "scifar"], "--preset paper"),
        (["train", "--epochs", "0"], "--epochs"),
        (["train", "--lr", "0"], "--lr"),
        (["train", "--dropout", "1"], "--dropout"),
        (["train", "--task", "delay", "--lag", "600"], "lag"),
        (["train", "--model", "gru"], "gru"),
        (["demo", "--epochs", "0"], "--epochs"),
        (["evaluate", "no-such-folder"], "no-such-folder"),
        (["generate", "no-such-folder"], "no-such-folder"),
        (["bench", "everything"], "everything"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert len(lines(streams.err)) == 1
    assert words in streams.err
    assert "Traceback" not in streams.err


def test_the_full_recipe_without_its_data_is_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("IMPL_DATA_DIR", raising=False)
    assert main(["reproduce", "scifar", "--preset", "paper"]) == 2
    assert "cifar10 is not here: get cifar-10-python.tar.gz" in capsys.readouterr().err


def test_the_demo_prints_a_table_and_writes_record_and_plots(tmp_path, capsys):
    assert main(["demo", "--epochs", "1", "--out", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in record["rows"]] == ["S4", "LSTM"]
    for plot in record["plots"]:
        assert (tmp_path / plot).stat().st_size > 1000
    (difference,) = [note for note in record["notes"] if "stream" in note]
    assert float(difference.split()[-1]) < 1e-3


def test_train_then_evaluate_gives_the_same_accuracy(tmp_path, capsys):
    out = str(tmp_path)
    assert main(["train", "--task", "digits", *TINY, "--out", out, "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["evaluate", out, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["accuracy"] == pytest.approx(trained["rows"][0]["value"])
    assert (tmp_path / "model" / "model.safetensors").is_file()
    # a run that is finished is not run again
    assert main(["train", "--task", "digits", *TINY, "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["value"] == trained["rows"][0]["value"]


def test_other_settings_in_the_same_folder_are_refused_until_restart(tmp_path, capsys):
    out = str(tmp_path)
    assert main(["train", *TINY, "--out", out]) == 0
    wider = [*TINY[:3], "12", *TINY[4:]]
    capsys.readouterr()
    assert main(["train", *wider, "--out", out]) in (1, 2)
    assert len(lines(capsys.readouterr().err)) >= 1
    assert main(["train", *wider, "--out", out, "--restart"]) == 0


@pytest.mark.parametrize("model", ["lstm", "transformer", "tcn", "lssl"])
def test_every_baseline_trains_from_the_command_line(model, tmp_path, capsys):
    length = ["--length", "16"]
    assert main(["train", "--task", "adding", "--model", model, *length, *TINY, "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["model"] == model


@pytest.mark.data
def test_generate_goes_on_from_a_prompt_and_repeats_itself_for_a_seed(tmp_path, capsys):
    out = str(tmp_path)
    assert main(["train", "--task", "chars", "--length", "32", *TINY, "--out", out]) == 0
    texts = []
    for seed in ("1", "1", "2"):
        capsys.readouterr()
        assert main(["generate", out, "--prompt", "KING", "--length", "20", "--seed", seed, "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("KING")
    assert len(texts[0]) == 24
    for options, words in (
        (["--prompt", "ßß"], "not learnt"),
        (["--top-p", "2"], "top_p"),
        (["--prompt", ""], "--prompt"),
    ):
        capsys.readouterr()
        assert main(["generate", out, *options]) == 2
        assert words in capsys.readouterr().err


def test_generate_refuses_a_classifier_and_evaluate_a_damaged_model(tmp_path, capsys):
    out = str(tmp_path)
    assert main(["train", *TINY, "--out", out]) == 0
    capsys.readouterr()
    assert main(["generate", out]) == 2
    assert "--task chars" in capsys.readouterr().err
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert main(["evaluate", out]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("s4-impl ")
