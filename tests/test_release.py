import datetime
import shutil
import subprocess
import sys

import pytest
import release
import workspace

TODAY = datetime.date(2030, 1, 2)


@pytest.fixture
def alpha(repository):
    repository.add_package("alpha")
    repository.commit()
    return repository


def changelog(repository, text):
    repository.write("packages/alpha/CHANGELOG.md", text)
    repository.commit()


@pytest.fixture
def unbuilt(monkeypatch):
    """Releases without the build, which needs a network."""
    monkeypatch.setattr(release, "build", lambda root, plan, into: [])


def attempt(repository, *arguments):
    return release.main(["--root", str(repository.root), *arguments])


def test_a_release_moves_the_changelog_and_sets_the_version(alpha):
    plan = release.plan(alpha.root, "alpha", "0.2.0", TODAY)
    assert plan.tag == "alpha-impl-v0.2.0"
    assert plan.changelog == "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2030-01-02)\n\n- First version.\n"
    assert 'version = "0.2.0"' in plan.pyproject
    assert plan.notes == "- First version."


def test_earlier_sections_of_the_changelog_stay(alpha):
    changelog(alpha, "# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.1.0 (2029-01-01)\n\n- Old.\n")
    plan = release.plan(alpha.root, "alpha", "0.1.1", TODAY)
    assert plan.changelog == (
        "# Changelog\n\n## Unreleased\n\n## 0.1.1 (2030-01-02)\n\n- New.\n\n## 0.1.0 (2029-01-01)\n\n- Old.\n"
    )


def test_the_first_version_can_be_released_as_it_stands_but_only_once(alpha):
    assert release.plan(alpha.root, "alpha", "0.1.0", TODAY).tag == "alpha-impl-v0.1.0"
    changelog(alpha, "# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.1.0 (2029-01-01)\n\n- Old.\n")
    with pytest.raises(release.Refused, match="not greater"):
        release.plan(alpha.root, "alpha", "0.1.0", TODAY)


@pytest.mark.parametrize("version", ["0.0.9", "0.1.0rc1", "1.0", "v1.0.0", "1.0.0.post1", "newest"])
def test_a_version_that_is_not_greater_or_malformed_is_refused(alpha, version):
    with pytest.raises(release.Refused, match=r"not greater|must look like"):
        release.plan(alpha.root, "alpha", version, TODAY)


def test_versions_are_ordered_by_number_and_stage():
    versions = ["0.9.9", "0.10.0a1", "0.10.0a2", "0.10.0b1", "0.10.0rc1", "0.10.0", "0.10.1", "1.0.0"]
    shuffled = versions[1::2] + versions[::2]
    assert sorted(shuffled, key=release.order) == versions


@pytest.mark.parametrize(
    "text", ["# Changelog\n\n## Unreleased\n", "# Changelog\n\n## Unreleased\n\n## 0.0.1 (x)\n\n- Old.\n"]
)
def test_an_empty_changelog_is_refused(alpha, text):
    changelog(alpha, text)
    with pytest.raises(release.Refused, match="nothing stands under"):
        release.plan(alpha.root, "alpha", "0.2.0", TODAY)


def test_a_tag_that_is_there_is_refused(alpha):
    alpha.git("tag", "alpha-impl-v0.2.0")
    with pytest.raises(release.Refused, match=r"tag alpha-impl-v0.2.0 is there"):
        release.plan(alpha.root, "alpha", "0.2.0", TODAY)


def test_a_dirty_tree_is_refused_in_one_line(alpha, unbuilt, capsys):
    alpha.write("packages/alpha/new.py", "x = 1\n")
    with pytest.raises(SystemExit) as stopped:
        attempt(alpha, "alpha", "0.2.0")
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not clean: packages/alpha/new.py" in line


def test_an_unknown_package_is_refused_in_one_line(alpha, capsys):
    with pytest.raises(SystemExit) as stopped:
        attempt(alpha, "omega", "0.2.0")
    assert stopped.value.code == 2
    assert "known: shared, alpha" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(alpha, unbuilt, capsys):
    assert attempt(alpha, "alpha", "0.2.0", "--dry-run") == 0
    assert alpha.git("status", "--porcelain") == ""
    assert alpha.git("tag") == ""
    assert "alpha-impl-v0.2.0" in capsys.readouterr().out


def test_without_tag_only_the_files_are_written(alpha, unbuilt):
    assert attempt(alpha, "alpha", "0.2.0") == 0
    changed = {line.split()[-1] for line in alpha.git("status", "--porcelain").splitlines()}
    assert changed == {"packages/alpha/CHANGELOG.md", "packages/alpha/pyproject.toml"}


def test_tag_commits_the_package_and_tags_it(alpha, unbuilt, monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    assert attempt(alpha, "alpha", "0.2.0", "--tag") == 0
    assert alpha.git("status", "--porcelain") == ""
    assert alpha.git("tag", "--points-at", "HEAD") == "alpha-impl-v0.2.0"
    assert workspace.project("alpha", alpha.root)["project"]["version"] == "0.2.0"


def test_a_build_that_fails_leaves_the_files_alone(alpha, monkeypatch):
    def broken(root, plan, into):
        raise release.Refused("the build is not fit to publish: no licence")

    monkeypatch.setattr(release, "build", broken)
    with pytest.raises(SystemExit):
        attempt(alpha, "alpha", "0.2.0")
    assert alpha.git("status", "--porcelain") == ""


def test_what_a_tag_names_must_be_what_the_tree_says(alpha):
    changelog(alpha, "# Changelog\n\n## Unreleased\n\n## 0.1.0 (2030-01-02)\n\n- First version.\n")
    found = release.as_tagged(alpha.root, "alpha-impl-v0.1.0")
    assert (found.slug, found.version) == ("alpha", "0.1.0")
    with pytest.raises(release.Refused, match=r"pyproject.toml says 0.1.0"):
        release.as_tagged(alpha.root, "alpha-impl-v0.2.0")
    with pytest.raises(release.Refused, match="names no package"):
        release.as_tagged(alpha.root, "omega-impl-v0.1.0")
    changelog(alpha, "# Changelog\n\n## Unreleased\n\n- First version.\n")
    with pytest.raises(release.Refused, match=r"no `## 0.1.0`"):
        release.as_tagged(alpha.root, "alpha-impl-v0.1.0")


def test_a_commit_that_fails_leaves_the_tree_clean_and_says_so_in_one_line(alpha, unbuilt, capsys):
    alpha.write(".git/hooks/pre-commit", "#!/bin/sh\necho one >&2\necho two >&2\nexit 1\n")
    (alpha.root / ".git" / "hooks" / "pre-commit").chmod(0o755)
    with pytest.raises(SystemExit):
        attempt(alpha, "alpha", "0.2.0", "--tag")
    assert alpha.git("status", "--porcelain") == ""
    assert alpha.git("tag") == ""
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_a_real_build_is_fit_to_publish(repository, tmp_path_factory):
    if not shutil.which("uv") and not (workspace.TOOLS / "bin" / "uv").exists():
        pytest.skip("uv is not here")
    scripts = repository.root / "scripts"
    shutil.copytree(workspace.ROOT / "scripts", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    make = [sys.executable, scripts / "new_package.py", "alpha", "--title", "Alpha", "--arxiv", "2001.00001"]
    make += ["--family", "theory"]
    subprocess.run(make, check=True, capture_output=True)
    repository.commit()
    plan = release.plan(repository.root, "alpha", "0.2.0", TODAY)
    wheel, sdist = release.build(repository.root, plan, tmp_path_factory.mktemp("build"))
    assert wheel.name == "alpha_impl-0.2.0-py3-none-any.whl"
    assert release.problems(plan, [wheel]) != []
    other = release.Plan("alpha", "0.3.0", "", "", "", "")
    assert release.problems(other, [wheel, sdist]) != []


def test_all_that_is_unreleased_is_shown_shared_first_and_one_tag_a_push(alpha, capsys):
    alpha.add_package("beta", "1.2.3")
    alpha.write(
        "packages/beta/CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n- New.\n\n## 1.2.3 (2029-01-01)\n\n- Old.\n"
    )
    alpha.add_package("gamma")
    alpha.write("packages/gamma/CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n## 0.1.0 (2029-01-01)\n\n- Old.\n")
    alpha.write("shared/pyproject.toml", '[project]\nname = "shared-impl"\nversion = "0.1.0"\n')
    alpha.write("shared/CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n- First.\n")
    alpha.commit()
    assert attempt(alpha, "--all", "--dry-run") == 0
    commands = [line.strip() for line in capsys.readouterr().out.splitlines() if "--tag" in line]
    assert commands == [
        "scripts/release.py shared 0.1.0 --tag && git push origin HEAD shared-impl-v0.1.0",
        "scripts/release.py alpha 0.1.0 --tag && git push origin HEAD alpha-impl-v0.1.0",
        "scripts/release.py beta 1.2.4 --tag && git push origin HEAD beta-impl-v1.2.4",
    ]


def test_a_tag_is_made_on_main_only(alpha, unbuilt, capsys):
    alpha.git("switch", "--quiet", "--create", "work")
    with pytest.raises(SystemExit):
        attempt(alpha, "alpha", "0.2.0", "--tag")
    assert "releases are tagged on main" in capsys.readouterr().err
