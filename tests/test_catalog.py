import shutil

import catalog
import pytest
import workspace

from shared_impl.results import Record, Row

CARD = """
[project]
name = "alpha-impl"
version = "0.1.0"
[tool.impl]
title = "Alpha | beta"
authors = ["A. Nobody"]
year = 2024
venue = "Nowhere"
arxiv = "2401.00001"
official_code = "none"
family = "graphs"
gives = "an alpha"
headline = "it is 3 times as fast"
[[tool.impl.claims]]
id = "1"
text = "a test that is there"
kind = "exact"
test = "tests/test_claims.py::test_there"
[[tool.impl.claims]]
id = "2"
text = "a test that is not"
kind = "exact"
test = "tests/test_claims.py::test_not_there"
[[tool.impl.claims]]
id = "3"
text = "a record"
kind = "reproduction"
record = "results/line-cpu.json"
[[tool.impl.claims]]
id = "4"
text = "nothing"
kind = "reproduction"
status = "not run"
reason = "needs a GPU"
"""


@pytest.fixture
def root(tmp_path):
    package = tmp_path / "packages" / "alpha"
    (package / "tests").mkdir(parents=True)
    (package / "pyproject.toml").write_text(CARD)
    (package / "tests" / "test_claims.py").write_text(
        "import pytest\n\n\n@pytest.mark.parametrize('n', [1, 2])\ndef test_there(n):\n    pass\n"
    )
    record = Record.start("alpha_impl", "line", preset="cpu", seeds=[0])
    record.add(Row("task", "model", "accuracy", 0.5, paper=0.75))
    record.save(package / "results")
    (package / "README.md").write_text(
        "# alpha-impl\n\n<!-- results: begin line-cpu.json -->\nold\n<!-- results: end -->\n\nend\n"
    )
    (tmp_path / "README.md").write_text("# All\n\n<!-- catalogue: begin -->\n<!-- catalogue: end -->\n\nend\n")
    return tmp_path


def run(root, *arguments):
    return catalog.main(["--root", str(root), *arguments])


def test_what_is_written_is_fresh_and_stays_so(root, capsys):
    assert run(root) == 0
    assert run(root, "--check") == 0
    before = (root / "README.md").read_text()
    capsys.readouterr()
    assert run(root) == 0
    assert capsys.readouterr().out == ""
    assert (root / "README.md").read_text() == before


def test_the_catalogue_counts_only_claims_whose_evidence_is_there(root):
    run(root)
    text = (root / "README.md").read_text()
    assert (
        "| [Alpha \\| beta](https://arxiv.org/abs/2401.00001) (Nowhere 2024) | [`alpha-impl`](packages/alpha) "
        "| 2 of 4 | it is 3 times as fast |" in text
    )
    assert "### Graphs" in text
    assert text.startswith("# All\n")
    assert text.endswith("\nend\n")


def test_a_claim_with_test_and_record_needs_both(root):
    package = workspace.folder("alpha", root)
    claim = {"test": "tests/test_claims.py::test_there[1]", "record": "results/line-cpu.json"}
    assert catalog.verified(claim, package)
    assert not catalog.verified(claim | {"record": "results/other.json"}, package)
    assert not catalog.verified(claim | {"test": "tests/test_claims.py::test_other"}, package)
    assert not catalog.verified(claim | {"status": "not confirmed", "reason": "it is worse"}, package)


def test_the_table_of_a_readme_comes_from_the_record(root):
    run(root)
    text = (root / "packages" / "alpha" / "README.md").read_text()
    assert "old" not in text
    assert "| task | 0.500 [0.750] |" in text
    assert text.endswith("<!-- results: end -->\n\nend\n")


def test_check_writes_nothing_shows_the_difference_and_fails(root, capsys):
    before = (root / "README.md").read_text()
    assert run(root, "--check") == 1
    out = capsys.readouterr().out
    assert "+| [Alpha" in out
    assert "-old" in out
    assert (root / "README.md").read_text() == before


def test_a_record_that_is_not_there_is_named(root, capsys):
    (root / "packages" / "alpha" / "results" / "line-cpu.json").unlink()
    assert run(root) == 1
    assert "alpha/README.md names the record line-cpu.json" in capsys.readouterr().err


def test_a_package_without_a_card_is_named(root, capsys):
    package = shutil.copytree(root / "packages" / "alpha", root / "packages" / "beta")
    (package / "pyproject.toml").write_text('[project]\nname = "beta-impl"\n')
    assert run(root) == 1
    assert "packages/beta/pyproject.toml has no paper card" in capsys.readouterr().err


def test_tests_are_found_without_running_them(tmp_path):
    file = tmp_path / "test_x.py"
    file.write_text(
        "raise SystemExit\n\ndef test_a(): ...\n\ndef helper(): ...\n\nclass TestB:\n    def test_c(self): ...\n"
    )
    assert catalog.tests_of(file).keys() == {"test_a", "TestB::test_c"}
    assert catalog.tests_of(tmp_path / "nothing.py") == {}


@pytest.mark.parametrize(
    "code",
    [
        "@pytest.mark.xfail\ndef test_there(): ...",
        "@pytest.mark.skip(reason='long')\ndef test_there(): ...",
        "def test_there():\n    pytest.skip('not today')",
        "@pytest.mark.slow\ndef test_there(): ...",
        "pytestmark = pytest.mark.slow\ndef test_there(): ...",
    ],
)
def test_a_test_that_nothing_runs_verifies_nothing(root, code):
    package = workspace.folder("alpha", root)
    (package / "tests" / "test_claims.py").write_text(f"import pytest\n\n{code}\n")
    assert not catalog.verified({"test": "tests/test_claims.py::test_there"}, package)


def test_a_slow_test_counts_once_its_run_is_recorded(root):
    package = workspace.folder("alpha", root)
    (package / "tests" / "test_claims.py").write_text("@pytest.mark.slow\ndef test_there(): ...\n")
    claim = {"test": "tests/test_claims.py::test_there"}
    (package / "tests" / "slow.json").write_text('{"passed": [], "failed": ["tests/test_claims.py::test_there"]}')
    assert not catalog.verified(claim, package)
    (package / "tests" / "slow.json").write_text('{"passed": ["tests/test_claims.py::test_there"], "failed": []}')
    assert catalog.verified(claim, package)


def test_a_readme_can_show_some_rows_of_a_record(root, capsys):
    package = root / "packages" / "alpha"
    record = Record.start("alpha_impl", "line", preset="cpu", seeds=[0])
    for size in (10, 20):
        record.add(Row(f"{size} points", "model", "accuracy", 0.5))
    record.save(package / "results")
    readme = package / "README.md"
    readme.write_text(readme.read_text().replace("line-cpu.json", "line-cpu.json?20_points"))
    assert run(root) == 0
    assert "20 points" in readme.read_text()
    assert "10 points" not in readme.read_text()
    readme.write_text(readme.read_text().replace("?20_points", "?30"))
    assert run(root) == 1
    assert "no row of line-cpu.json matches '30'" in capsys.readouterr().err
