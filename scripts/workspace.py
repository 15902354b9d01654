"""The workspace: its packages, and an environment (`.venv`) that holds what a command needs.

Runs on a bare Python: nothing but the standard library is imported here.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
TOOLS = ROOT / ".venv-tools"  # a private uv, and the lock of those who change the environment
SHARED = "shared"

OLDEST_UV = (0, 8)


def slugs(root: Path = ROOT) -> list[str]:
    """The packages, one a paper, in alphabetical order."""
    return sorted(path.parent.name for path in (root / "packages").glob("*/pyproject.toml"))


def folder(slug: str, root: Path = ROOT) -> Path:
    """Where a package lives."""
    return root / SHARED if slug == SHARED else root / "packages" / slug


def distribution(slug: str) -> str:
    """`s4` is distributed as `s4-impl`."""
    return f"{slug}-impl"


def import_name(slug: str) -> str:
    """`s4` is imported as `s4_impl`."""
    return distribution(slug).replace("-", "_")


def project(slug: str, root: Path = ROOT) -> dict[str, Any]:
    """A package's pyproject.toml."""
    return tomllib.loads((folder(slug, root) / "pyproject.toml").read_text(encoding="utf-8"))


def stop(message: str, code: int = 2) -> NoReturn:
    """End the program with one line on stderr."""
    program = Path(sys.argv[0]).name
    called = {"run_demo.py": "demo", "run_tests.py": "test"}.get(program, program)
    print(f"scripts/{called}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def known(slug: str, also: Sequence[str] = ()) -> str:
    """The slug, if it is a package's (or one of `also`); otherwise the program ends and lists what there is."""
    allowed = [*also, *slugs()]
    if slug not in allowed:
        stop(f"unknown package {slug!r}; known: {', '.join(allowed)}")
    return slug


def venv_program(name: str, venv: Path = VENV) -> Path:
    """A program of a virtual environment."""
    return venv / "Scripts" / f"{name}.exe" if os.name == "nt" else venv / "bin" / name


def ensure(wanted: Iterable[str], *, dev: bool = False) -> None:
    """Bring `.venv` up to date for these packages; quick when nothing that matters changed since the last time.

    What is there is never removed, so going from one package to another and back installs nothing twice.

    Args:
        wanted: slugs; what they share comes along.
        dev: also the development tools (ruff, mypy, ...).
    """
    names = [*dict.fromkeys([SHARED, *wanted]), *(["dev"] if dev else [])]
    digests = {name: _digest(name) for name in names}
    if _stale(digests):
        with _lock():
            stale = _stale(digests)  # somebody else may have done it while this process waited
            if stale:
                _install(stale)
                _stamp_file().write_text(json.dumps(_stamps() | {name: digests[name] for name in stale}))


def enter(wanted: Iterable[str], *, dev: bool = False) -> None:
    """Go on in the workspace's own Python, after `ensure`; returns when this is that Python."""
    ensure(wanted, dev=dev)
    if Path(sys.prefix).resolve() != VENV.resolve():
        own = venv_program("python")
        os.execv(own, [str(own), *sys.argv])


def uv() -> str:
    """A uv that is new enough: the one on PATH, or a private one that pip installs."""
    private = TOOLS / "bin" / "uv"
    for candidate in (shutil.which("uv"), str(private)):
        if candidate and _uv_version(candidate) >= OLDEST_UV:
            return candidate
    print("uv is not here; installing it for this workspace", file=sys.stderr)
    _make_tools()
    # --target needs neither the venv module nor write access to the interpreter
    command = [_base_python(), "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(TOOLS), "uv"]
    quiet = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    if subprocess.run(command, env=quiet, stdout=sys.stderr).returncode or not private.exists():
        stop("pip could not install uv; install uv yourself and run this again", 1)
    return str(private)


def uv_environment() -> dict[str, str]:
    """The environment that uv runs in: this process's, and what pip is configured with (uv does not read that)."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME")}
    for name, value in _from_pip(_pip_settings()).items():
        environment.setdefault(name, value)
    return environment


def run_uv(*arguments: str | Path, cwd: Path = ROOT, quiet: bool = False) -> None:
    """Run uv; the program ends if that fails."""
    global_options = ["--quiet"] if quiet else []
    command = [uv(), *global_options, *map(str, arguments)]
    # what uv says belongs to stderr: stdout is for what the user asked for
    code = subprocess.run(command, cwd=cwd, env=uv_environment(), stdout=sys.stderr).returncode
    if code:
        stop(f"uv {' '.join(map(str, arguments[:2]))} failed", 1)


def _install(names: Iterable[str]) -> None:
    own = venv_program("python")
    if not _runs(own):
        run_uv("venv", "--clear", "--quiet", "--python", _base_python(), VENV)
    arguments: list[str | Path] = ["pip", "install", "--python", own]
    for name in names:
        arguments += ["--group", "dev"] if name == "dev" else ["--editable", f"{folder(name)}[test]"]
    run_uv(*arguments)


def _digest(name: str) -> str:
    """Of everything that decides what is installed for a package; its paper card does not."""
    tables = [tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))]
    if name != "dev":
        tables += [project(name)]
    kept: list[object] = [str(ROOT)]  # a folder that was moved holds an environment that points elsewhere
    for table in tables:
        tool = table.get("tool", {})
        kept += [table.get("build-system"), table.get("project"), table.get("dependency-groups")]
        kept += [tool.get("uv"), tool.get("hatch")]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _stale(digests: Mapping[str, str]) -> list[str]:
    stamps = _stamps()
    return [name for name, digest in digests.items() if stamps.get(name) != digest]


def _stamps() -> dict[str, str]:
    try:
        stamps = json.loads(_stamp_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) and venv_program("python").exists() else {}


def _stamp_file() -> Path:
    return VENV / "workspace-stamps.json"


@contextmanager
def _lock() -> Iterator[None]:
    _make_tools()
    with open(TOOLS / "lock", "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except ImportError:
            pass
        yield


def _make_tools() -> None:
    TOOLS.mkdir(exist_ok=True)
    (TOOLS / ".gitignore").write_text("*\n")


def _runs(python: Path) -> bool:
    if not (python.exists() and (VENV / "pyvenv.cfg").exists()):
        return False
    return subprocess.run([python, "-c", "pass"], capture_output=True).returncode == 0


def _base_python() -> str:
    """The interpreter outside of any virtual environment: it is the one that has pip."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _uv_version(program: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        return tuple(int(part) for part in said.split()[1].split(".")[:2])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return (0,)


def _pip_settings() -> dict[str, str]:
    """pip's settings by option name; the environment's come before those of its files, as for pip itself."""
    command = [_base_python(), "-m", "pip", "config", "list", "--disable-pip-version-check"]
    said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found: dict[str, dict[str, str]] = {}
    for line in said.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        try:
            found.setdefault(section, {})[option.replace("_", "-")] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue
    by_environment = {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_") and value
    }
    return found.get("global", {}) | found.get("install", {}) | found.get(":env:", {}) | by_environment


def _from_pip(pip: Mapping[str, str]) -> dict[str, str]:
    """uv's environment variables for pip's settings; pip separates several values by white space."""
    given: dict[str, str] = {}
    if links := pip.get("find-links", "").split():
        given["UV_FIND_LINKS"] = ",".join(str(Path(link).expanduser()) if link[0] == "~" else link for link in links)
    if index := pip.get("index-url"):
        given["UV_DEFAULT_INDEX"] = index
    if extra := pip.get("extra-index-url", "").split():
        given["UV_INDEX"] = " ".join(extra)
        # uv stops at the first index that has a name, where pip takes the best version of all. uv's way is safer:
        # nobody can put a newer package of the same name on another. Where the others are folders of this machine
        # nobody can anyway, and pip's way holds; elsewhere who wants it sets UV_INDEX_STRATEGY.
        if all(url.startswith("file:") for url in [*extra, *([index] if index else [])]):
            given["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        given["UV_NO_INDEX"] = "1"
    if certificate := pip.get("cert"):
        given["SSL_CERT_FILE"] = certificate
    if hosts := pip.get("trusted-host", "").split():
        given["UV_INSECURE_HOST"] = " ".join(hosts)
    if seconds := pip.get("timeout") or pip.get("default-timeout"):
        given["UV_HTTP_TIMEOUT"] = seconds
    return given
