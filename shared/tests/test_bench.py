import subprocess

import pytest
import torch

from shared_impl.bench import checkout_revision, compare, module_from_file, peak_memory


def test_more_work_has_a_lower_ratio():
    x = torch.randn(64, 64)

    def once():
        return x @ x

    def often():
        for _ in range(30):
            x @ x

    timings = compare({"often": often, "once": once}, baseline="often", rounds=3, min_time=0.002)
    assert timings["often"].ratio == 1.0
    # 30 times the work: even a noisy machine sees a factor of 3
    assert timings["once"].ratio > 3
    assert timings["once"].ratio_low <= timings["once"].ratio <= timings["once"].ratio_high
    assert timings["once"].median_s > 0


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"baseline must be one of \['a'\], got 'b'"):
        compare({"a": lambda: None}, baseline="b")
    with pytest.raises(ValueError, match="rounds must be positive"):
        compare({"a": lambda: None}, baseline="a", rounds=0)


def test_peak_memory_sees_what_is_freed_again_but_not_what_was_there():
    before = torch.ones(64 * 2**18)  # 64 MiB
    size = 128 * 2**20

    def use():
        torch.ones(size // 4).sum()

    assert 0.9 * size < peak_memory(use) < 1.3 * size
    assert peak_memory(lambda: None) < 8 * 2**20
    assert before.sum() > 0


def test_peak_memory_works_after_and_in_a_backward_pass():
    x = torch.randn(300, 300, requires_grad=True)
    (x @ x).sum().backward()
    assert peak_memory(lambda: (x @ x).sum().backward()) >= 0


def test_a_failing_form_says_why():
    def fail():
        raise ValueError("too big")

    with pytest.raises(RuntimeError, match="ValueError: too big"):
        peak_memory(fail)


@pytest.mark.gpu
def test_peak_memory_on_a_gpu():
    assert peak_memory(lambda: torch.ones(2**20, device="cuda"), device="cuda") == 2**22


def test_a_file_of_a_checkout_is_imported_and_its_commit_named(tmp_path):
    (tmp_path / "theirs.py").write_text("answer = 42\n")
    assert module_from_file(tmp_path / "theirs.py", "theirs").answer == 42
    (tmp_path / "lacking.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(ImportError, match="a_library_that_is_not_there"):
        module_from_file(tmp_path / "lacking.py", "lacking")
    assert checkout_revision(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    assert len(checkout_revision(tmp_path)) == 7


def test_without_git_a_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout_revision(tmp_path) == "unknown"
