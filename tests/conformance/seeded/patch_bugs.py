"""Seeded bugs of call patching."""

from typing import Final

from tests.conformance.seeded.memory_bugs import MEMORY
from tests.conformance.seeded.mutation import Edit, Mutant

TRAP: Final = "systrap/platforms/systrap/usertrap.py"


def _bug(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(file, ours, seeded),))


MUTANTS: Final = (
    _bug(
        "patch-tail",
        "tails of longer instructions are patched",
        TRAP,
        " or tail_of(_bytes_before(code, site)) is not None",
        "",
    ),
    _bug(
        "patch-number",
        "a patched call has the number of its neighbour",
        TRAP,
        "encode_entry(entry, resume, number))",
        "encode_entry(entry, resume, number + 1))",
    ),
    _bug(
        "patch-resume",
        "a patched call goes on one byte too far",
        TRAP,
        "site + SITE_LENGTH, number)",
        "site + SITE_LENGTH + 1, number)",
    ),
    _bug(
        "patch-resume-early",
        "a patched call goes on two bytes too early",
        TRAP,
        "site + SITE_LENGTH, number)",
        "site + SITE_LENGTH - 2, number)",
    ),
    _bug(
        "patch-objects",
        "code that comes from an object is patched in the object",
        MEMORY,
        "            part.file is self._anonymous for part in parts\n",
        "            part.file for part in parts\n",
    ),
    _bug(
        "patch-step",
        "a step into a trampoline is told as a trap there",
        TRAP,
        "        if not regs[x86_64.EFLAGS] & _TRAP_FLAG or not _in_table(entry):\n",
        "        if True:\n",
    ),
    _bug(
        "patch-ill",
        "a thread that meets the guard byte gets SIGILL",
        TRAP,
        "            if found is None or not (_is_patched(found) or _is_undone(found)):\n",
        "            if True:\n",
    ),
    _bug(
        "patch-ill-any",
        "a guest's own illegal instruction is run again",
        TRAP,
        '    return found[:3] == _JMP and _in_table(int.from_bytes(found[3:], "little"))\n',
        '    return found[5:6] == b"\\x0f" or found[:3] == _JMP\n',
    ),
    _bug(
        "patch-same-entry",
        "all sites share one trampoline",
        TRAP,
        'code.write_code(table, (usable + 1).to_bytes(4, "little"))',
        'code.write_code(table, (1).to_bytes(4, "little"))',
    ),
    _bug(
        "patch-restart",
        "a restarted call through a patched site is made anew",
        TRAP,
        "        if regs[x86_64.RAX] == _RESTART_SYSCALL:\n",
        "        if False:\n",
    ),
    _bug(
        "patch-rax",
        "a patched site is entered behind its first byte",
        TRAP,
        ("        regs[x86_64.RIP] = site\n" "        return Fixed.RUN_AGAIN"),
        ("        regs[x86_64.RIP] = site + 1\n" "        return Fixed.RUN_AGAIN"),
    ),
    _bug(
        "patch-over",
        "the table is mapped over what the guest has there",
        MEMORY,
        (
            "        if any(found.start < addr + length and found.end > addr for found in "
            "self._segments):\n"
            "            return False\n"
        ),
        "",
    ),
)
