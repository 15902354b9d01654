import json
import subprocess
import sys

import pytest

from ncnc_impl.cli import main
from ncnc_impl.data import karate_club


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an edge list, and a predictor trained on it."""
    folder = tmp_path_factory.mktemp("cli")
    graph = karate_club()
    lines = "\n".join(f"p{i},p{j}" for i, j in graph.edges.tolist())
    (folder / "edges.csv").write_text("source,target\n" + lines + "\n", encoding="utf-8")
    out = folder / "out"
    code = main(["train", "--data", str(folder / "edges.csv"), "--epochs", "3", "--hidden", "16", "--out", str(out)])
    assert code == 0
    return folder


def last_error(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_train_saves_a_predictor_and_a_record(trained):
    model = trained / "out" / "model"
    assert (model / "model.safetensors").is_file()
    record = json.loads((trained / "out" / "train-ncnc.json").read_text())
    assert {row["model"] for row in record["rows"]} == {"cn", "ra", "ncnc"}
    # the saved predictor knows every edge, also those held out for the test
    assert len(json.loads((model / "predictor.json").read_text())["names"]) == 34


def test_score_prints_a_probability_a_pair(trained, capsys):
    pairs = trained / "pairs.csv"
    pairs.write_text("p0,p33\np4,p7\n", encoding="utf-8")
    arguments = ["score", "--pairs", str(pairs), "--model", str(trained / "out" / "model")]
    assert main([*arguments, "--json"]) == 0
    links = json.loads(capsys.readouterr().out)["links"]
    assert [(row["source"], row["target"]) for row in links] == [("p0", "p33"), ("p4", "p7")]
    assert all(0 < row["probability"] < 1 for row in links)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("p0,p33,0.")


def test_recommend_names_strangers(trained, capsys):
    assert main(["recommend", "p0", "--k", "4", "--model", str(trained / "out" / "model"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["recommended"]
    neighbors = {f"p{j}" for i, j in karate_club().edges.tolist() if i == 0}
    assert len(rows) == 4
    assert not {row["node"] for row in rows} & (neighbors | {"p0"})


def test_evaluate_reports_ranking_metrics(trained, capsys):
    positive = trained / "positive.csv"
    positive.write_text("p9,p11\np14,p20\n", encoding="utf-8")
    arguments = ["evaluate", "--positive", str(positive), "--model", str(trained / "out" / "model")]
    assert main([*arguments, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"hits@20", "hits@50", "hits@100", "auc"}
    negative = trained / "negative.csv"
    negative.write_text("p0,p1\n", encoding="utf-8")
    assert main([*arguments, "--negative", str(negative)]) == 2
    assert "1 of 1 negative pairs are edges of the graph" in last_error(capsys)


def test_demo_shows_a_table_and_saves_a_plot(tmp_path, capsys):
    assert main(["demo", "--nodes", "120", "--epochs", "1", "--out", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in record["rows"]] == ["cn", "aa", "ra", "gae", "ncn", "ncnc"]
    assert (tmp_path / "demo.png").stat().st_size > 1000


@pytest.mark.data
def test_reproduce_keeps_finished_seeds(tmp_path, capsys):
    data = pytest.importorskip("shared_impl.data")
    if not data.available("planetoid"):
        pytest.skip("the Planetoid files are not at hand")
    arguments = ["reproduce", "main", "--data", "cora", "--preset", "smoke", "--models", "cn", "gae"]
    arguments += ["--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main(arguments) == 0
    first = json.loads((tmp_path / "main-cora-smoke.json").read_text())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.json")}
    assert len(kept) == 2
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.json")} == kept
    assert json.loads((tmp_path / "main-cora-smoke.json").read_text())["rows"] == first["rows"]


@pytest.mark.parametrize("what", ["overlap", "completion"])
def test_bench_writes_a_record(tmp_path, what, capsys):
    assert main(["bench", what, "--quick", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads((tmp_path / f"bench_{what}.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "nowhere.csv"], "no such file, and not one of cora"),
        (["train", "--data", "karate", "--features", "x.csv"], "--features goes with an edge list"),
        (["train", "--data", "karate", "--test", "0.001"], "empty split"),
        (["train", "--data", "karate", "--variant", "seal"], "variant"),
        (["train", "--epochs", "0"], "epochs must be at least 1"),
        (["score", "--pairs", "nowhere.csv", "--model", "nowhere"], "nowhere holds no saved predictor"),
        (["recommend", "0", "--k", "0"], "--k must be at least 1, got 0"),
        (["demo", "--nodes", "5"], "--nodes must be at least 100, got 5"),
        (["reproduce", "main", "--models", "seal"], "'seal' is not one of cn"),
        (["reproduce", "table9"], "table9"),
        (["bench", "--sped"], "sped"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in last_error(capsys)


def test_bench_official_says_what_it_needs(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("NCNC_OFFICIAL_DIR", raising=False)
    assert main(["bench", "official"]) == 2
    assert "needs NCNC_OFFICIAL_DIR" in last_error(capsys)
    monkeypatch.setenv("NCNC_OFFICIAL_DIR", str(tmp_path))
    assert main(["bench", "official"]) == 2
    assert "is not a checkout of GraphPKU/NeuralCommonNeighbor" in last_error(capsys)
    (tmp_path / "NeighborOverlap.py").touch()
    (tmp_path / "model.py").write_text("import a_library_that_is_not_there")
    assert main(["bench", "official"]) == 2
    assert "needs a library that is not installed" in last_error(capsys)


def test_unknown_nodes_are_named(trained, capsys):
    assert main(["recommend", "zoe", "--model", str(trained / "out" / "model")]) == 2
    assert "the graph has no node 'zoe'" in last_error(capsys)


def test_info_prints_the_card(capsys):
    assert main(["info", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["arxiv"] == "2302.00890"
    assert len(card["claims"]) >= 12


def test_help_needs_no_torch():
    code = "import sys; from ncnc_impl.cli import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("demo", "info", "train", "score", "recommend", "evaluate", "reproduce", "bench"):
        assert verb in done.stdout
