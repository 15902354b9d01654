"""`scripts/demo [slug] [options]`: the demo of a package, in an environment that has what it needs."""

import os
import sys

import workspace

FLAGSHIP = "s4"

USAGE = f"""\
usage: scripts/demo [slug] [options]

Runs the demo of a package ({FLAGSHIP} if none is named). The options are the demo's own:
scripts/demo {FLAGSHIP} --help lists them.

packages: """


def main(arguments: list[str]) -> None:
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE + ", ".join(workspace.slugs()))
        return
    slug = FLAGSHIP
    if arguments and not arguments[0].startswith("-"):
        slug, *arguments = arguments
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    workspace.known(slug)
    workspace.ensure([slug])
    command = workspace.venv_program(workspace.distribution(slug))
    if not command.exists():
        workspace.stop(f"{workspace.distribution(slug)} has no command: [project.scripts] lacks it", 1)
    os.execv(command, [str(command), "demo", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
