"""The command line: a table of commands, and the way to them.

A command's module is imported when it is asked for, since start-up time is part of the product. Each has
``main(arguments) -> int``, the exit status.
"""

import importlib
import os
import sys
from typing import Final, NamedTuple, Protocol, cast

from systrap.arch import UnsupportedArchitectureError
from systrap.cli.options import EXIT_FAILED, UsageError, did_you_mean


class Command(NamedTuple):
    """A subcommand: where it is, and what it is for in a few words."""

    module: str
    summary: str


class CommandModule(Protocol):
    """What the module of a command has."""

    def main(self, arguments: list[str]) -> int:
        """Carry out the command with what stands behind its name; return the exit status."""


COMMANDS: Final[dict[str, Command]] = {
    "run": Command("systrap.cli.run", "run a Linux program; every system call of it is answered by the kernel in here"),
    "trace": Command("systrap.cli.trace", "run a program and tell each of its system calls, with strace's options"),
    "map": Command("systrap.cli.map", "draw the address space of a stub, for any page size and width of addresses"),
    "disasm": Command("systrap.cli.disasm", "show the machine code of a stub, with what each part is for"),
    "doctor": Command("systrap.cli.doctor", "check what this host offers, what each thing protects, and what to do"),
    "explain": Command("systrap.cli.explain", "run one system call, fault or interrupt for real, and tell each step"),
    "bench": Command("systrap.cli.bench", "measure what all this costs here, beside other ways to run a program"),
    "driver": Command("systrap.cli.driver", "serve the conformance protocol (JSON lines) on stdin and stdout"),
}

_HELP: Final = """\
systrap runs unmodified Linux programs without letting one of their system calls reach the host.

usage: python3 -m systrap COMMAND [options] ...

{commands}

Try:
  python3 -m systrap run -- /bin/ls -l /etc       run a program
  python3 -m systrap trace -- /bin/true           see each of its system calls
  python3 -m systrap doctor                       see whether this host can

Each command explains itself: python3 -m systrap COMMAND --help
"""


def help_text() -> str:
    """Return the text of --help."""
    width = max(map(len, COMMANDS))
    rows = (f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return _HELP.format(commands="\n".join(rows))


def main(arguments: list[str]) -> int:
    """Carry out a command line (without the program's name); return the exit status."""
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        sys.stdout.write(help_text())
        return 0 if arguments else EXIT_FAILED
    if name in ("--version", "-V"):
        from systrap.version import VERSION

        sys.stdout.write(f"systrap {VERSION}\n")
        return 0
    command = COMMANDS.get(name)
    if command is None:
        kind = "option" if name.startswith("-") else "command"
        hint = did_you_mean(name, [*COMMANDS, "--help", "--version"])
        sys.stderr.write(
            f"systrap: unknown {kind} {name}{hint}\nsystrap: python3 -m systrap --help lists what there is\n"
        )
        return EXIT_FAILED
    try:
        module = cast(CommandModule, importlib.import_module(command.module))
        status = module.main(arguments[1:])
        sys.stdout.flush()
    except UsageError as error:
        sys.stderr.write(f"systrap {name}: {error}\nsystrap {name}: python3 -m systrap {name} --help explains\n")
        return EXIT_FAILED
    except UnsupportedArchitectureError as error:
        sys.stderr.write(f"systrap {name}: {error}; python3 -m systrap doctor tells more\n")
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    return status


def console_main() -> None:
    """Run the command line of this process and exit with its status."""
    status = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                status = status or EXIT_FAILED
    # Nothing is left that would need it: taking the interpreter down in order costs as long as running /bin/true.
    os._exit(status)
