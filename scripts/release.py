#!/usr/bin/env python3
"""Release a package: its version, its changelog, a build with checked metadata, and the tag that publishes it.

scripts/release.py s4 0.2.0 --dry-run   say what would happen, change nothing
scripts/release.py s4 0.2.0             write version and changelog, say how to commit and tag
scripts/release.py s4 0.2.0 --tag       and commit and tag
scripts/release.py --all --dry-run      which packages have something to release, in the order of need
scripts/release.py --built s4-impl-v0.2.0 --into dist   build what a tag names, as it stands
"""

import argparse
import datetime
import email
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import workspace

VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
HEADING = re.compile(r"^## (\S+)[^\n]*$", re.MULTILINE)


class Refused(Exception):
    """The release must not happen; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What a release changes."""

    slug: str
    version: str
    tag: str
    pyproject: str
    changelog: str
    notes: str


def order(version: str) -> tuple[int, int, int, str, int]:
    """A key that sorts versions; a pre-release comes before its release.

    Raises:
        Refused: if it is not of the form 1.2.3, 1.2.3a1, 1.2.3b1 or 1.2.3rc1.
    """
    found = VERSION.fullmatch(version)
    if not found:
        raise Refused(f"version must look like 1.2.3 or 1.2.3rc1, got {version!r}")
    major, minor, patch, stage, number = found.groups()
    # "z" sorts after a, b and rc
    return int(major), int(minor), int(patch), stage or "z", int(number or 0)


def tag_name(slug: str, version: str) -> str:
    """`s4-impl-v0.2.0`: the release workflow listens to it."""
    return f"{workspace.distribution(slug)}-v{version}"


def plan(root: Path, slug: str, version: str, today: datetime.date) -> Plan:
    """What releasing this version means.

    Raises:
        Refused: if the version does not come after the ones before, nothing is in the changelog, or the tag is there.
    """
    package = workspace.folder(slug, root)
    current = str(workspace.project(slug, root)["project"]["version"])
    changelog = (package / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = list(HEADING.finditer(changelog))
    released = [section[1] for section in sections if VERSION.fullmatch(section[1])]
    # the version that a new package begins with is released as it stands
    if order(version) < order(current) or version in released:
        raise Refused(f"{version} is not greater than {current}")
    for earlier in released:
        if order(version) <= order(earlier):
            raise Refused(f"{version} is not greater than {earlier}, which the changelog has")
    unreleased = next((i for i, section in enumerate(sections) if section[1] == "Unreleased"), None)
    if unreleased is None:
        raise Refused(f"{package.name}/CHANGELOG.md has no `## Unreleased`")
    begin = sections[unreleased].end()
    end = sections[unreleased + 1].start() if unreleased + 1 < len(sections) else len(changelog)
    notes = changelog[begin:end].strip()
    if not notes:
        raise Refused(f"{package.name}/CHANGELOG.md: nothing stands under `## Unreleased`")
    tag = tag_name(slug, version)
    if git(root, "tag", "--list", tag).strip():
        raise Refused(f"the tag {tag} is there already")
    heading = f"## {version} ({today.isoformat()})"
    later = changelog[end:]
    changelog = changelog[:begin] + f"\n\n{heading}\n\n{notes}\n" + (f"\n{later}" if later else "")
    pyproject, count = re.subn(
        r'(?m)^version = "[^"]*"$',
        f'version = "{version}"',
        (package / "pyproject.toml").read_text(encoding="utf-8"),
        count=1,
    )
    if count != 1:
        raise Refused(f"{package.name}/pyproject.toml has no line `version = ...`")
    return Plan(slug, version, tag, pyproject, changelog, notes)


def refuse_dirty(root: Path) -> None:
    """Raises: Refused: if the working tree differs from the last commit."""
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        raise Refused(f"the working tree is not clean: {', '.join(line[3:] for line in changed[:3])}")


def build(root: Path, release: Plan, into: Path) -> list[Path]:
    """Build sdist and wheel of the package as it will be, in a copy of it, and check their metadata."""
    copy = into / release.slug
    shutil.copytree(
        workspace.folder(release.slug, root), copy, ignore=shutil.ignore_patterns("__pycache__", "runs", "dist", ".*")
    )
    write(copy, release)
    workspace.run_uv("build", copy, "--out-dir", into / "dist", cwd=into, quiet=True)
    files = sorted((into / "dist").glob("*.whl")) + sorted((into / "dist").glob("*.tar.gz"))
    for problem in problems(release, files):
        raise Refused(f"the build is not fit to publish: {problem}")
    twine = shutil.which("twine")
    if twine and subprocess.run([twine, "check", "--strict", *files]).returncode:
        raise Refused("twine check finds fault with the build")
    return files


def problems(release: Plan, files: Sequence[Path]) -> list[str]:
    """What is wrong with a wheel and an sdist."""
    found: list[str] = []
    name, package = workspace.distribution(release.slug), workspace.import_name(release.slug)
    stem = f"{package}-{release.version}"
    if [file.name for file in files] != [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]:
        return [f"expected {stem}-py3-none-any.whl and {stem}.tar.gz, got {[file.name for file in files]}"]
    wheel, sdist = files
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(f"{stem}.dist-info/METADATA"))
        scripts = f"{stem}.dist-info/entry_points.txt"
        commands = archive.read(scripts).decode() if scripts in names else ""
    for field, expected in {"Name": name, "Version": release.version, "Requires-Python": ">=3.11"}.items():
        if metadata[field] != expected:
            found.append(f"{field} is {metadata[field]!r}, expected {expected!r}")
    if not (metadata["License-Expression"] or metadata["License"]):
        found.append("no licence")
    if not metadata["Summary"] or not metadata.get_payload():
        found.append("no summary or no README")
    found += [f"{line} points to a place" for line in metadata.get_all("Requires-Dist", []) if " @ " in line]
    required = [f"{package}/py.typed"]
    if release.slug != workspace.SHARED:
        required.append(f"{package}/pyproject.toml")
        if f"{name} = {package}.cli:main" not in commands:
            found.append(f"no command {name}")
    found += [f"the wheel lacks {file}" for file in required if file not in names]
    with tarfile.open(sdist) as archive:
        if not any(member.startswith(f"{stem}/tests/") for member in archive.getnames()):
            found.append("the sdist lacks the tests")
    return found


def write(package: Path, release: Plan) -> None:
    """Write version and changelog."""
    (package / "pyproject.toml").write_text(release.pyproject, encoding="utf-8")
    (package / "CHANGELOG.md").write_text(release.changelog, encoding="utf-8")


def git(root: Path, *arguments: str) -> str:
    """What git says.

    Raises:
        Refused: if it fails.
    """
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def as_tagged(root: Path, tag: str) -> Plan:
    """The release that a tag names, as it stands in the tree.

    Raises:
        Refused: if the tag names no package, or version and changelog say something else.
    """
    name, _, version = tag.rpartition("-impl-v")
    if name not in (workspace.SHARED, *workspace.slugs(root)):
        raise Refused(f"the tag {tag} names no package")
    order(version)
    package = workspace.folder(name, root)
    pyproject = (package / "pyproject.toml").read_text(encoding="utf-8")
    changelog = (package / "CHANGELOG.md").read_text(encoding="utf-8")
    declared = workspace.project(name, root)["project"]["version"]
    if declared != version:
        raise Refused(f"the tag is {tag}, but pyproject.toml says {declared}")
    if version not in [section[1] for section in HEADING.finditer(changelog)]:
        raise Refused(f"the changelog of {name} has no `## {version}`")
    return Plan(name, version, tag, pyproject, changelog, "")


def prepare(root: Path, release: Plan, *, dry_run: bool, tag: bool) -> None:
    """Build and check, then write, and with `tag` commit and tag.

    Raises:
        Refused: if the build is not fit to publish.
    """
    with tempfile.TemporaryDirectory() as place:
        files = build(root, release, Path(place))
        print(f"{release.tag}: {', '.join(file.name for file in files)} are fit to publish")
    print(release.notes)
    if dry_run:
        print("dry run: nothing was changed")
        return
    package = workspace.folder(release.slug, root)
    write(package, release)
    if tag:
        try:
            git(root, "commit", "--quiet", "--message", release.tag, "--", str(package))
        except Refused:
            git(root, "checkout", "--quiet", "HEAD", "--", str(package))
            raise
        git(root, "tag", "--annotate", release.tag, "--message", f"{release.tag}\n\n{release.notes}")
        print(f"committed and tagged; `git push origin HEAD {release.tag}` publishes it")
    else:
        print("version and changelog are written. Next:")
        print(f"  git commit -m {release.tag} -- {package.relative_to(root)}")
        print(f"  git tag -a {release.tag} -m {release.tag}")
        print(f"  git push origin HEAD {release.tag}")


def next_version(root: Path, slug: str) -> str | None:
    """The version to release: the declared one if it never was, else the next patch; None if nothing is unreleased."""
    changelog = (workspace.folder(slug, root) / "CHANGELOG.md").read_text(encoding="utf-8")
    current = str(workspace.project(slug, root)["project"]["version"])
    unreleased = changelog.partition("## Unreleased")[2].partition("\n## ")[0].strip()
    if not unreleased:
        return None
    released = [section[1] for section in HEADING.finditer(changelog) if VERSION.fullmatch(section[1])]
    if current not in released:
        return current
    major, minor, patch, *_ = order(current)
    return f"{major}.{minor}.{patch + 1}"


def plan_of_all(root: Path, today: datetime.date) -> list[Plan]:
    """What there is to release: what the others need comes first."""
    wanted = [(slug, next_version(root, slug)) for slug in (workspace.SHARED, *workspace.slugs(root))]
    return [plan(root, slug, version, today) for slug, version in wanted if version is not None]


def show_all(plans: Sequence[Plan]) -> None:
    """The releases as commands, one tag a push: a push of more than three tags starts no workflow."""
    if not plans:
        print("nothing is unreleased")
        return
    print(f"{len(plans)} to release, one after the other; the next only when the workflow of the one before is green:")
    for release in plans:
        print(f"  scripts/release.py {release.slug} {release.version} --tag && git push origin HEAD {release.tag}")
    if plans[0].slug == workspace.SHARED:
        print("shared comes first: the others are tested with the shared-impl that is on the index")


def main(argv: Sequence[str] | None = None) -> int:
    """Release, or say why not."""
    parser = argparse.ArgumentParser(description="Release a package.")
    parser.add_argument("slug", nargs="?")
    parser.add_argument("version", nargs="?")
    parser.add_argument("--dry-run", action="store_true", help="build and check, but change nothing")
    parser.add_argument("--tag", action="store_true", help="commit and tag too")
    parser.add_argument("--all", action="store_true", help="show what there is to release, in the order of need")
    parser.add_argument("--built", metavar="TAG", help="only build what this tag names (for the release workflow)")
    parser.add_argument("--into", type=Path, default=Path("dist"), help="folder for --built (default: dist)")
    parser.add_argument("--root", type=Path, default=workspace.ROOT, help="of the workspace")
    arguments = parser.parse_args(argv)
    root = arguments.root
    try:
        if arguments.built:
            release = as_tagged(root, arguments.built)
            arguments.into.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as place:
                for file in build(root, release, Path(place)):
                    print(shutil.copy(file, arguments.into))
            return 0
        if arguments.all:
            show_all(plan_of_all(root, datetime.date.today()))
            return 0
        if not (arguments.slug and arguments.version):
            workspace.stop("slug and version are needed, or --built TAG; --help says more")
        if arguments.slug not in (workspace.SHARED, *workspace.slugs(root)):
            workspace.stop(f"unknown package {arguments.slug!r}; known: shared, {', '.join(workspace.slugs(root))}")
        refuse_dirty(root)
        if arguments.tag and git(root, "branch", "--show-current").strip() != "main":
            raise Refused("releases are tagged on main")
        release = plan(root, arguments.slug, arguments.version, datetime.date.today())
        prepare(root, release, dry_run=arguments.dry_run, tag=arguments.tag)
    except Refused as error:
        workspace.stop(f"refused: {error}", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
