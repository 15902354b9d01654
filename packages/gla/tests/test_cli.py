import json
import subprocess
import sys

import pytest

from gla_impl.cli import main

VERBS = ("info", "demo", "train-lm", "generate", "mqar", "length-extrapolation", "reproduce", "bench")
TEXT = "It was the best of times, it was the worst of times.\n" * 60


def run(*argv):
    return main([str(word) for word in argv])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    for level in ("char", "byte", "word"):
        code = run(
            "train-lm", folder / "text.txt", "--level", level, "--d-model", 16, "--n-layers", 1, "--n-heads", 2,
            "--steps", 4, "--seq-len", 16, "--segments", 2, "--batch-size", 2, "--device", "cpu",
            "--out", folder / level,
        )  # fmt: skip
        assert code == 0
    return folder


def test_help_of_every_verb_answers_without_torch():
    code = (
        "import sys\nfrom gla_impl.cli import main\n"
        f"for verb in {VERBS!r}:\n    assert main([verb, '--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb.replace("-", "") in done.stdout.replace("-", "") for verb in VERBS)


def test_info_shows_the_paper_and_its_claims(capsys):
    assert run("info", "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card["arxiv"] == "2312.06635"
    assert len(card["claims"]) >= 11


@pytest.mark.parametrize("level", ["char", "byte", "word"])
def test_a_saved_model_continues_a_text(trained, capsys, level):
    capsys.readouterr()
    arguments = ("generate", trained / level / "model", "--prompt", "It was", "--max-new-tokens", 12, "--seed", 3)
    assert run(*arguments, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["prompt"] == "It was"
    assert said["tokens"] == 12
    assert run(*arguments) == 0
    assert said["text"].strip()[:3] in capsys.readouterr().out


def test_training_leaves_a_model_its_vocabulary_and_a_record(trained):
    files = {path.name for path in (trained / "char" / "model").iterdir()}
    assert files >= {"config.json", "model.safetensors", "vocabulary.json"}
    record = json.loads((trained / "char" / "train-gla-custom.json").read_text())
    assert [row["metric"] for row in record["rows"]] == ["held-out loss", "held-out perplexity"]
    assert record["config"]["recipe"]["segments"] == 2


def test_length_extrapolation_reads_saved_models(trained, tmp_path, capsys):
    capsys.readouterr()
    code = run(
        "length-extrapolation", trained / "char" / "model", trained / "byte" / "model", "--text", trained / "text.txt",
        "--max-length", 128, "--out", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["metric"]) for row in record["rows"]] == [
        (level, f"loss at places {places}") for level in ("char", "byte") for places in ("0-64", "64-128")
    ]
    assert (tmp_path / "length-extrapolation.png").is_file()


def test_mqar_trains_and_reports(tmp_path, capsys):
    code = run(
        "mqar", "--vocab-size", 16, "--seq-len", 8, "--pairs", 1, "--d-model", 16, "--n-train", 64, "--n-test", 20,
        "--steps", 5, "--batch-size", 8, "--gate", "scalar", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["model"] == "gla (scalar)"
    assert 0 <= row["value"] <= 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("train-lm", "absent.txt"), "absent.txt: No such file"),
        (("train-lm", "TEXT", "--steps", "0"), "--steps must be at least 1, got 0"),
        (("train-lm", "TEXT", "--n-heads", "7"), "multiple of n_heads"),
        (("train-lm", "TEXT", "--seq-len", "100000"), "but a sequence needs 100001"),
        (("train-lm", "TEXT", "--model", "rwkv"), "rwkv"),
        (("train-lm", "TEXT", "--valid-fraction", "2"), "--valid-fraction must be between 0 and 1"),
        (("generate", "absent"), "absent is no folder of a model"),
        (("generate", "MODEL", "--top-p", "0"), "top-p must be in (0, 1]"),
        (("generate", "MODEL", "--prompt", "§"), "character '§' is not among"),
        (("mqar", "--seq-len", "63"), "seq_len must be even"),
        (("mqar", "--pairs", "40"), "seq_len must be even and at least 4 * n_pairs = 160, got 64"),
        (("length-extrapolation", "absent"), "absent is no folder"),
        (("length-extrapolation", "MODEL", "--text", "TEXT"), "but a sequence needs 4097"),
        (("reproduce", "slimpajama"), "slimpajama"),
        (("reproduce", "mqar", "--preset", "huge"), "huge"),
        (("demo", "--steps", "1"), "--steps must be at least 10, got 1"),
        (("bench", "everything"), "everything"),
        (("fly",), "fly"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(trained, tmp_path, capsys, argv, says):
    capsys.readouterr()
    names = {"TEXT": str(trained / "text.txt"), "MODEL": str(trained / "char" / "model")}
    verb, *rest = (names.get(word, word) for word in argv)
    out = [] if verb == "fly" else ["--out", str(tmp_path)]
    assert main([verb, *rest, *out]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1


def test_a_broken_model_file_is_bad_input(trained, tmp_path, capsys):
    for path in (trained / "char" / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert run("generate", tmp_path) == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_demo_compares_inside_and_beyond_the_length_trained_at(tmp_path, capsys):
    assert run("demo", "--steps", 10, "--out", tmp_path, "--json", "--device", "cpu") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    memory = {row["model"]: row["value"] for row in rows if "kilobytes" in row["metric"]}
    assert memory["gla"] == memory["linear-attention"] == 2 * 2 * 16 * 32 * 4 / 1024
    # keys and values of 2048 tokens in two layers, a flag a token, a position
    assert memory["transformer++"] > 2048 * 2 * 2 * 64 * 4 / 1024
    assert (tmp_path / "demo.png").is_file()
