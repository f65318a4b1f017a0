"""Seeded bugs of the driver: the protocol's own."""

from typing import Final

from tests.conformance.seeded.mutation import Edit, Mutant

DRIVER: Final = "systrap/cli/driver.py"
OPS: Final = "systrap/cli/driver_ops.py"
WIRE: Final = "systrap/cli/driver_wire.py"
STATE: Final = "systrap/cli/driver_state.py"


def _bug(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(file, ours, seeded),))


MUTANTS: Final = (
    _bug(
        "wire-replies-twice",
        "an interrupt is answered twice",
        DRIVER,
        ("        if reply is not None:\n" "            self._send(encode(request.id, reply))\n"),
        (
            "        if reply is not None:\n"
            "            self._send(encode(request.id, reply))\n"
            "            if request.op == 'interrupt':\n"
            "                self._send(encode(request.id, reply))\n"
        ),
    ),
    _bug(
        "wire-event-of-another",
        "an event answers the last request, not its own",
        DRIVER,
        ("        self._send(encode(request, reply))\n" "\n" "    def _watch"),
        (
            "        self._send(encode(max((g.request or 0 for g in "
            "self._operations.guests.values()), default=0) or request, reply))\n"
            "\n"
            "    def _watch"
        ),
    ),
    _bug(
        "wire-over-claims",
        "fp.zmm is claimed, and is not there",
        OPS,
        '            "async",\n',
        ('            "async",\n' '            "fp.zmm",\n'),
    ),
    _bug(
        "wire-no-async",
        "requests wait while a switch is under way",
        DRIVER,
        "            while self._lines:\n",
        "            while self._lines and not any(g.request for g in self._operations.guests.values()):\n",
    ),
    _bug(
        "wire-busy-context",
        "a context that is in a switch can be read",
        OPS,
        "        if guest.request is not None and not running:\n",
        "        if False:\n",
    ),
    _bug(
        "wire-unknown-field",
        "fields that nobody knows are ignored",
        WIRE,
        '            ("is unknown", self._values.keys() - required - optional),\n',
        "",
    ),
    _bug(
        "wire-short-transfer",
        "a short transfer says that all was done",
        OPS,
        "    if count == wanted:\n        return",
        ("    if True:\n" "        count = wanted\n" "        return"),
    ),
    _bug(
        "wire-fill-phase",
        "a fill whose pattern does not divide it is cut",
        OPS,
        "pattern * (length // len(pattern) + 1)",
        "pattern * (length // len(pattern))",
    ),
    _bug(
        "wire-version",
        "any version of the protocol is accepted",
        OPS,
        "        if asked != PROTOCOL:\n",
        "        if asked < PROTOCOL:\n",
    ),
    _bug(
        "wire-null-id",
        "a line that is no request is not answered",
        DRIVER,
        "            self._send(encode(request_id(line), {",
        "            0 and self._send(encode(request_id(line), {",
    ),
    _bug(
        "wire-range",
        "a map beyond the end of guest addresses is tried",
        OPS,
        (
            "        if addr < self.platform.min_user_address() or addr + length > "
            "self.platform.max_user_address():\n"
        ),
        "        if addr < 4096:\n",
    ),
    _bug(
        "wire-unaligned",
        "an address that is no multiple of a page is rounded",
        OPS,
        "        if addr % PAGE_SIZE or length % PAGE_SIZE or not 0",
        ("        addr &= -PAGE_SIZE\n" "        if length % PAGE_SIZE or not 0"),
    ),
    _bug(
        "wire-timeout",
        "a switch without an event in time is told as interrupted",
        DRIVER,
        "        if guest.late and context.event.kind == EventKind.INTERRUPTED:\n",
        "        if False:\n",
    ),
    _bug("wire-timeout-never", "a switch never times out", OPS, "        guest.give_up_at = now + timeout / 1e3\n", ""),
    _bug(
        "wire-release-running",
        "a space can be released while a guest runs in it",
        OPS,
        (
            "        if any(guest.memory is memory and guest.request is not None for guest in "
            "self.guests.values()):\n"
        ),
        "        if False:\n",
    ),
    _bug(
        "wire-set-half",
        "set_regs with an unknown register sets the known ones",
        STATE,
        "        values.append((_INDEX[name], fields.word(name)))\n",
        "        context.regs[_INDEX[name]] = fields.word(name)\n",
    ),
    _bug(
        "wire-new-regs",
        "registers of a new context that are not named are those of the last one",
        OPS,
        "            state.MACHINE.start_regs(context.regs, 0, 0)\n",
        "            context.regs[18], context.regs[11] = 0x202, 5\n",
    ),
    _bug(
        "wire-tls-ignored",
        "tls of new_context is ignored",
        OPS,
        '                context.regs[state.MACHINE.TLS] = fields.word("tls")\n',
        '                fields.word("tls")\n',
    ),
    _bug(
        "wire-fp-ignored",
        "fp of new_context is ignored",
        OPS,
        "                    state.set_fp(context, part, given.data(part))\n",
        "                    given.data(part)\n",
    ),
    _bug(
        "wire-interrupt-after",
        "interrupt_after_us is ignored",
        OPS,
        "            guest.interrupt_at = now + fields",
        "            _ = now + fields",
    ),
    _bug(
        "wire-upper-hex",
        "bytes in upper case are accepted",
        WIRE,
        "data.hex() != text or",
        "data.hex() != text.lower() or",
    ),
    _bug(
        "wire-bye-status",
        "bye ends with status 1",
        DRIVER,
        "        driver.close()\n    return 0\n",
        "        driver.close()\n    return 1\n",
    ),
    _bug(
        "wire-hello-counts",
        "every hello is answered differently",
        OPS,
        '            "limits": {',
        '            "limits": {"hello": self._handle(), ',
    ),
    _bug(
        "wire-id-small",
        "ids are answered modulo 2^32",
        WIRE,
        '    return json.dumps({"id": request, **reply}',
        '    return json.dumps({"id": request % (1 << 32) if request else request, **reply}',
    ),
    _bug(
        "wire-gone-space",
        "a context whose space is gone can be switched",
        OPS,
        "        if guest.memory not in self._spaces.values():\n",
        "        if False:\n",
    ),
    _bug(
        "wire-xmm-offset",
        "set_fp replaces the whole part",
        STATE,
        "data + whole[len(data) :]",
        "data + bytes(len(whole) - len(data))",
    ),
    _bug(
        "wire-access-guess",
        "the access of every fault is r",
        STATE,
        '_ACCESS_NAMES.get(access, "?")',
        '"r" if access else "?"',
    ),
)
