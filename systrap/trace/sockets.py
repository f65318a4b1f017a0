"""Decoders of what sockets take and give: addresses, messages, options."""

import struct
from typing import Final

from systrap.trace import constants_more as m
from systrap.trace.call import Call, Decoder, UnreadableError, address, signed32
from systrap.trace.decode import RESULT, bracketed, fd_text, memory_text, quote
from systrap.trace.names import Names
from systrap.trace.structs import iovec, timeval

_LONGEST_ADDRESS: Final = 128
_MOST_CONTROL: Final = 4096
_MSGHDR: Final = struct.Struct("<QI4xQQQQi4x")
_NUMBERS_OF: Final = {0: m.IP, 1: m.SO, 6: m.TCP, 41: m.IPV6}


def sockaddr_text(raw: bytes, hexadecimal: int = 0) -> str:
    """Return a socket address as text."""
    if len(raw) < 2:
        return quote(raw) if raw else "NULL"
    (family,) = struct.unpack_from("<H", raw)
    head = f"sa_family={m.AF.text(family)}"
    if family == 1:
        name = raw[2:]
        if not name:
            return f"{{{head}}}"
        if name[0]:
            return f"{{{head}, sun_path={quote(name.split(bytes(1))[0], hexadecimal)}}}"
        return f"{{{head}, sun_path=@{quote(name[1:], hexadecimal)}}}"
    if family == 2 and len(raw) >= 8:
        port = int.from_bytes(raw[2:4], "big")
        return f'{{{head}, sin_port=htons({port}), sin_addr=inet_addr("{".".join(map(str, raw[4:8]))}")}}'
    if family == 10 and len(raw) >= 24:
        import socket  # only who sees such an address pays for it

        port, flow = struct.unpack_from(">HI", raw, 2)
        scope = int.from_bytes(raw[24:28], "little")
        shown = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        return (
            f"{{{head}, sin6_port=htons({port}), sin6_flowinfo=htonl({flow}), "
            f'inet_pton(AF_INET6, "{shown}", &sin6_addr), sin6_scope_id={scope}}}'
        )
    if family == 16 and len(raw) >= 12:
        pid, groups = struct.unpack_from("<II", raw, 4)
        return f"{{{head}, nl_pid={pid}, nl_groups={groups:08x}}}"
    return f"{{{head}, sa_data={quote(raw[2:])}}}"


def sockaddr_at(call: Call, value: int, length: int) -> str:
    """Return the text of a socket address in memory."""
    if not value:
        return "NULL"
    found = call.memory.read_partial(value, max(0, min(length, _LONGEST_ADDRESS)))
    return sockaddr_text(found, call.style.hexadecimal) if found else address(value)


def sockaddr(where: int) -> Decoder:
    """Return the decoder of an address whose length is the argument at ``where``."""
    return lambda call, value: sockaddr_at(call, value, signed32(call.args[where]))


def _word(call: Call, value: int) -> int | None:
    try:
        return int.from_bytes(call.memory.read(value, 4), "little") if value else None
    except UnreadableError:
        return None


def sockaddr_out(where: int) -> Decoder:
    """Return the decoder of an address that the call wrote; its length is the word that the argument at ``where`` points to."""

    def decode(call: Call, value: int) -> str:
        length = _word(call, call.args[where])
        if not value or length is None or call.error:
            return address(value)
        return sockaddr_at(call, value, min(length, call.saved.get(where, length)))

    return decode


def length_word(call: Call, value: int) -> str:
    """Write a length that is read and written: before and after, where they differ."""
    found = _word(call, value)
    if found is None:
        return address(value)
    before = next((saved for at, saved in call.saved.items() if call.args[at] == value), found)
    if call.error:
        return f"[{before}]"
    return f"[{before}]" if before == found else f"[{before} => {found}]"


def protocol(call: Call, value: int) -> str:
    """Write the protocol of socket(): what its numbers mean depends on the family."""
    family = signed32(call.args[0])
    number = signed32(value)
    if family in (2, 10):
        return m.IPPROTO.text(number)
    return m.NETLINK.text(number) if family == 16 else str(number)


def option_name(call: Call, value: int) -> str:
    """Write an option's name: it depends on the level."""
    table: Names | None = _NUMBERS_OF.get(signed32(call.args[1]))
    return table.text(signed32(value)) if table is not None else hex(value & 0xFFFFFFFF)


def _option(call: Call, value: int, length: int) -> str:
    level, option = signed32(call.args[1]), signed32(call.args[2])
    if not value:
        return "NULL"
    if level == 1 and option in (20, 21) and length >= 16:
        return timeval(call, value) or ""
    try:
        if level == 1 and option == 13 and length >= 8:
            on, linger = struct.unpack("<ii", call.memory.read(value, 8))
            return f"{{l_onoff={on}, l_linger={linger}}}"
        if level == 1 and option == 17 and length >= 12:
            pid, uid, gid = struct.unpack("<iii", call.memory.read(value, 12))
            return f"{{pid={pid}, uid={uid}, gid={gid}}}"
        if length == 4 and not (level == 6 and option == 13):
            number = int.from_bytes(call.memory.read(value, 4), "little", signed=True)
            return f"[{m.SOCKET_TYPE.text(number) if level == 1 and option == 3 else number}]"
    except UnreadableError:
        return address(value)
    return memory_text(call, value, length)


def option_value(call: Call, value: int) -> str:
    """Tell what setsockopt sets."""
    return _option(call, value, signed32(call.args[4]))


def option_found(call: Call, value: int) -> str:
    """Tell what getsockopt found."""
    return _option(call, value, _word(call, call.args[4]) or 0)


def _control(call: Call, addr: int, length: int) -> str:
    """Return the control messages of a message."""
    raw = call.memory.read_partial(addr, min(length, _MOST_CONTROL))
    texts, at = [], 0
    while at + 16 <= len(raw):
        size, level, kind = struct.unpack_from("<Qii", raw, at)
        if size < 16 or at + size > len(raw):
            break
        body = raw[at + 16 : at + size]
        shown = quote(body)
        if level == 1 and kind == 1:
            shown = bracketed(fd_text(call, number) for (number,) in struct.iter_unpack("<i", body[: len(body) & ~3]))
        elif level == 1 and kind == 2 and len(body) >= 12:
            pid, uid, gid = struct.unpack_from("<iii", body)
            shown = f"{{pid={pid}, uid={uid}, gid={gid}}}"
        names = m.SCM if level == 1 else _NUMBERS_OF.get(level, m.SCM)
        texts.append(
            f"{{cmsg_len={size}, cmsg_level={m.SOL.text(level)}, cmsg_type={names.text(kind)}, cmsg_data={shown}}}"
        )
        at += size + 7 & ~7
    return bracketed(texts) if texts else address(addr)


def _message(call: Call, raw: bytes, limit: int | None, name_length: int | None) -> str:
    name, namelen, iov, iovlen, control, controllen, flags = _MSGHDR.unpack(raw)
    narrowed = Call(call.name, (0, iovlen, 0, 0, 0, 0), call.memory, call.files, call.style)
    narrowed.result = limit or 0
    before = namelen if name_length is None else name_length
    parts = [
        f"msg_name={sockaddr_at(call, name, min(namelen, before))}",
        f"msg_namelen={before}" + (f" => {namelen}" if before != namelen else ""),
        f"msg_iov={iovec(1, RESULT if limit is not None else None)(narrowed, iov)}",
        f"msg_iovlen={iovlen}",
    ]
    if control and controllen:
        parts.append(f"msg_control={_control(call, control, controllen)}")
    parts += [f"msg_controllen={controllen}", f"msg_flags={m.MSG.text(flags & 0xFFFFFFFF)}"]
    return f"{{{', '.join(parts)}}}"


def message(received: bool) -> Decoder:
    """Return the decoder of a msghdr: of one to be sent, or of one that the call filled."""

    def decode(call: Call, value: int) -> str:
        try:
            raw = call.memory.read(value, _MSGHDR.size)
        except UnreadableError:
            return address(value)
        if received and call.error:
            return f"{{msg_namelen={call.saved.get(1, 0)}}}"
        return _message(call, raw, call.result if received else None, call.saved.get(1) if received else None)

    return decode


def messages(received: bool) -> Decoder:
    """Return the decoder of the array of sendmmsg and recvmmsg; what was transferred of each stands behind it."""

    def decode(call: Call, value: int) -> str:
        count = call.result if received else call.args[2]
        texts = []
        for i in range(max(0, min(count, call.style.limit))):
            raw = call.memory.read_partial(value + 64 * i, 64)
            if len(raw) < 64:
                break
            length = int.from_bytes(raw[56:60], "little")
            shown = _message(call, raw[:56], length if received else None, None)
            texts.append(f"{{msg_hdr={shown}" + (f", msg_len={length}}}" if received or call.result else "}"))
        return bracketed(texts) if texts or not count else address(value)

    return decode


def descriptors(call: Call, value: int) -> str:
    """Write the two descriptors of pipe and socketpair."""
    try:
        pair = struct.unpack("<ii", call.memory.read(value, 8))
    except UnreadableError:
        return address(value)
    return bracketed(fd_text(call, number) for number in pair)
