import json
import re
from pathlib import Path

import pytest

from tcnca_impl.cli import main

README = Path(__file__).parents[1] / "README.md"


VERBS = [["demo", "--steps", "2"], ["reproduce", "recall", "--preset", "smoke"], ["bench", "layer", "--quick"]]


@pytest.mark.filterwarnings("ignore:.*train for more steps")
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    assert main(["demo", "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "(1, 300, 64) 9361\n"


@pytest.mark.filterwarnings("ignore:.*train for more steps")
def test_the_own_verbs_run_on_small_sizes(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 200, encoding="utf-8")
    common = ["--device", "cpu", "--out", str(tmp_path), "--json"]
    assert main(["recall", "--length", "16", "--chunk", "8", "--steps", "2", *common]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["accuracy"] <= 1
    assert main(["train-lm", str(text), "--length", "16", "--steps", "2", *common]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] > 0
    assert main(["generate", str(tmp_path / "lm"), "--prompt", "to ", "--tokens", "5", *common]) == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("to ")
    assert main(["listops", "--length", "24", "--examples", "20", "--steps", "2", *common]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["accuracy"] <= 1
    assert main(["select-tcn", "--length", "100", *common]) == 0
    assert all(shape["receptive_field"] >= 100 for shape in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    "wrong",
    [
        ["recall", "--vocab", "3"],
        ["recall", "--architecture", "rnn"],
        ["train-lm", "absent"],
        ["generate", "absent"],
        ["listops", "--data", "absent"],
        ["listops", "--architecture", "simple"],
        ["bench", "official"],
        ["select-tcn", "--length", "0"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(wrong, tmp_path, capsys):
    assert main([*wrong, "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
