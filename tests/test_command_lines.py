"""The contract of every command line: the same verbs, options and exit codes; help does not wait for torch."""

import json
import os
import subprocess
import sys

import pytest
import workspace

VERBS = ("info", "demo", "reproduce", "bench")
OPTIONS = ("--seed", "--device", "--out", "--json")

# one process a package asks everything that can be asked without torch
PROBE = """
import contextlib, importlib, io, json, sys
main = importlib.import_module(sys.argv[1]).main
said = {}
for verb in ["", *sys.argv[2:]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*([verb] if verb else []), "--help"])
    said[verb] = [code, out.getvalue()]
out = io.StringIO()
with contextlib.redirect_stdout(out):
    code = main(["info", "--json"])
said["card"] = [code, out.getvalue()]
slow = sorted({"torch", "numpy", "scipy", "sklearn", "pandas", "matplotlib"} & set(sys.modules))
cli = sys.modules[sys.argv[1]]
names = {kind: list(getattr(cli, kind.upper(), ())) for kind in ("experiments", "benchmarks")}
print(json.dumps({"said": said, "slow": slow, "names": names}))
"""

DECLARED = """
import importlib, json, sys
package = sys.argv[1]
declared = {kind: list(getattr(importlib.import_module(f"{package}.{kind}"), kind.upper())) for kind in sys.argv[2:]}
presets = {}
if "experiments" in declared:
    for name, experiment in importlib.import_module(f"{package}.experiments").EXPERIMENTS.items():
        assert name == experiment.name, name
        presets[name] = {preset: len(experiment.planned(preset)) for preset in experiment.runs}
print(json.dumps({"declared": declared, "presets": presets}))
"""


@pytest.fixture(scope="session")
def answers(package: str) -> dict:
    command = [sys.executable, "-c", PROBE, f"{workspace.import_name(package)}.cli", *VERBS]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(package: str, *arguments: str) -> subprocess.CompletedProcess:
    # beside the interpreter that runs the tests, whichever environment that is of
    program = os.path.join(os.path.dirname(sys.executable), workspace.distribution(package))
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_help_and_info_import_nothing_slow(answers):
    assert answers["slow"] == []


def test_the_verbs_are_there(answers):
    code, text = answers["said"][""]
    assert code == 0
    assert [verb for verb in VERBS if verb not in text] == []


def test_every_verb_has_the_common_options_and_a_help(answers):
    for verb in VERBS:
        code, text = answers["said"][verb]
        assert code == 0
        assert [option for option in OPTIONS if option not in text] == [], verb


def test_reproduce_has_a_preset_for_this_machine_and_the_paper_s(answers):
    _, text = answers["said"]["reproduce"]
    assert "--preset" in text
    assert "cpu" in text
    assert "paper" in text


def test_info_prints_the_card(answers, package):
    code, text = answers["said"]["card"]
    assert code == 0
    card = json.loads(text)
    assert card["title"] == workspace.project(package)["tool"]["impl"]["title"]
    assert len(card["claims"]) == len(workspace.project(package)["tool"]["impl"]["claims"])


def test_the_names_of_the_command_line_are_those_that_are_declared(answers, package):
    named = {kind: names for kind, names in answers["names"].items() if names}
    if not named:
        pytest.skip("its verbs are not made from declarations yet")
    command = [sys.executable, "-c", DECLARED, workspace.import_name(package), *named]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["declared"] == named
    for name, presets in found["presets"].items():
        assert {"cpu", "paper", "smoke"} <= presets.keys(), name
        assert all(presets.values()), name


def test_a_wrong_option_is_one_line_on_stderr_and_exit_code_2(package):
    done = run(package, "demo", "--no-such-option")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "--no-such-option" in line


def test_an_unknown_verb_is_one_line_on_stderr_and_exit_code_2(package):
    done = run(package, "no-such-verb")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no-such-verb" in line
