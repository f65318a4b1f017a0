"""A driver on one page, for x86-64: a process for each space, ptrace, one request at a time. docs/porting.md explains it."""

import ctypes, json, os, signal, struct, sys

LIBC, WORDS, U64, PAGE = ctypes.CDLL(None), struct.Struct("27Q"), 2**64 - 1, 4096
GETREGS, SETREGS, CONT, SYSEMU, GETSIGINFO, SEIZE, INTERRUPT, AT_CALL = 12, 13, 7, 31, 0x4202, 0x4206, 0x4207, 0x85
NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
OURS = {"orig_rax": U64, "cs": 0x33, "ss": 0x2B, "ds": 0, "es": 0, "fs": 0, "gs": 0}  # whatever a request says
FRESH = {**dict.fromkeys(NAMES.split(), 0), "eflags": 0x202, **OURS}
LOW, HIGH = 0x10000, 0x7000_0000_0000  # guests may use [LOW, HIGH); the stub is in the page at HIGH
HELLO = {"protocol": 1, "impl": {"name": "tutorial", "version": "1", "language": "Python"}, "arch": "x86_64", "va_bits": 47,
         "page_size": PAGE, "va_min": hex(LOW), "va_max": hex(HIGH), "caps": [], "limits": {}, "host": {}}
SHORT = {"error": {"kind": "unmapped", "message": "memory ends there"}}
# The stub's program: read(0, 0, 1), which ends when we end; exit(0). That second call is ours to use: int3 stops it behind.
os.write(STUB := os.memfd_create("stub"), struct.pack(
    "<16s2HI3QI6H2I6Q9s", b"\x7fELF\2\1\1", 2, 62, 1, HIGH + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    1, 5, 0, HIGH, HIGH, 129, 129, PAGE, bytes.fromhex("ffc20f05 b03c0f05 cc")))
STDIN = [(os.POSIX_SPAWN_DUP2, os.pipe()[0], 0)]  # of stubs: nobody writes to this pipe, and it ends with us
SPACES: dict[int, int] = {}  # a stub's process id, and a descriptor of its memory
CONTEXTS: dict[int, tuple[int, dict[str, int]]] = {}  # a number, the stub it runs in, its registers

def run(pid: int, regs: dict[str, int], how: int, seconds: float) -> int:
    """Let a stub go on with these registers, at most for so long; put its registers back, and return its wait status."""
    LIBC.ptrace(SETREGS, pid, None, WORDS.pack(*{**regs, **OURS}.values()))
    status, asked = 1 << 16, False
    while status >> 16 and not asked:  # stopped by an interrupt of before, which came too late for its run
        LIBC.ptrace(how, pid, None, None)
        while not os.WIFSTOPPED(status := os.waitpid(pid, os.WNOHANG)[1]):
            if not signal.sigtimedwait((signal.SIGCHLD,), seconds): asked = LIBC.ptrace(INTERRUPT, pid, None, None) == 0
    LIBC.ptrace(GETREGS, pid, None, buffer := ctypes.create_string_buffer(WORDS.size))
    regs.update(zip(regs, WORDS.unpack(buffer), strict=True))
    return status

signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
for line in sys.stdin.buffer:
    number, op, reply = None, "", dict[str, object](result={})
    try:
        asked = dict(json.loads(line))
        number, op = asked.pop("id", None) + 0, asked.pop("op", None)
        match op, asked:
            case _ if op in "unmap protect fill digest get_fp set_fp interrupt stats".split() or "object" in asked.get("src", ""):
                reply = {"unsupported": {"cap": op, "reason": "not on one page"}}
            case "hello", {"protocol": int(version), "suite": str(), **more} if not more:
                reply = {"result": HELLO} if version == 1 else {"error": {"kind": "version", "message": "this driver speaks 1"}}
            case "new_space", {**more} if not more:
                pid = os.posix_spawn(f"/proc/{os.getpid()}/fd/{STUB}", ["stub"], {}, file_actions=STDIN)
                LIBC.ptrace(SEIZE, pid, None, 0x100001)  # it dies with us, and tells system calls from traps
                LIBC.ptrace(INTERRUPT, pid, None, None)
                os.waitpid(pid, 0)
                SPACES[pid] = os.open(f"/proc/{pid}/mem", os.O_RDWR)
                reply = {"result": {"space": pid}}
            case "release_space", {"space": int(pid), **more} if not more:
                os.close(SPACES.pop(pid)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
            case ("map", {"space": int(pid), "addr": str(at), "len": int() | str() as long, "prot": str(prot),
                          "src": {"anon": True}, **more}) if not more:
                start, size, access = int(at, 16), int(str(long), 0), sum(1 << "rwx".index(letter) for letter in prot)
                regs = {**FRESH, "rip": HIGH + 126, "rax": 9, "rdi": start, "rsi": size, "rdx": access, "r10": 0x32, "r8": U64}
                if SPACES[pid] and (start % PAGE or size % PAGE or not LOW <= start < start + size <= HIGH):
                    reply = {"error": {"kind": "range", "message": "not the pages of guests"}}
                elif run(pid, regs, CONT, 10) and regs["rax"] != start:
                    reply = {"error": {"kind": "map", "message": os.strerror(U64 + 1 - regs["rax"])}}
            case "write", {"space": int(pid), "addr": str(at), "data": str(data), **more} if not more and data == data.lower():
                count = os.pwrite(SPACES[pid], bytes.fromhex(data), int(at, 16))
                reply = {"result": {"n": count, **(SHORT if 2 * count < len(data) else {})}}
            case "read", {"space": int(pid), "addr": str(at), "len": int(size), **more} if not more:
                data = os.pread(SPACES[pid], size, int(at, 16)).hex()
                reply = {"result": {"data": data, "n": len(data) // 2, **(SHORT if len(data) < 2 * size else {})}}
            case "new_context", {"space": int(pid), "regs": dict(given), **more} if more.keys() <= {"tls"}:
                regs = {**FRESH, "fs_base": int(asked.get("tls", "0x0"), 16), **{name: int(given[name], 16) for name in given}}
                if SPACES[pid] and WORDS.pack(*regs.values()): CONTEXTS[number] = pid, regs
                reply = {"result": {"context": number}}
            case "release_context", {"context": int(which), **more} if not more: del CONTEXTS[which]
            case "get_regs" | "set_regs", {"context": int(which), **more} if list(more) == ["regs"] * (op == "set_regs"):
                regs = CONTEXTS[which][1] | {name: int(word, 16) for name, word in dict(asked.get("regs", {})).items()}
                if WORDS.pack(*regs.values()): CONTEXTS[which][1].update(regs)
                reply = {"result": {"regs": {name: hex(regs[name]) for name in regs}}}
            case "switch", {"context": int(which), **more} if more.keys() <= {"timeout_ms", "interrupt_after_us"}:
                pid, regs = CONTEXTS[which]
                limit, after = asked.get("timeout_ms", 10_000) / 1e3, asked.get("interrupt_after_us", 1e12) / 1e6
                status = run(pid, regs, SYSEMU, min(limit, after))
                ip, signo = hex(regs["rip"]), os.WSTOPSIG(status)
                if signo == AT_CALL:
                    nr, *args = (hex(regs[name]) for name in ("orig_rax", "rdi", "rsi", "rdx", "r10", "r8", "r9"))
                    reply = {"event": {"kind": "syscall", "nr": nr, "args": args, "ip": ip}}
                elif status >> 16 and limit < after: reply = {"error": {"kind": "timeout", "message": "no event came in time"}}
                elif status >> 16: reply = {"event": {"kind": "interrupted"}}
                else:
                    LIBC.ptrace(GETSIGINFO, pid, None, info := ctypes.create_string_buffer(128))
                    code, addr = struct.unpack_from("<8xi4xQ", info)
                    use = "?" if signo != signal.SIGSEGV or code == 128 else "x" if hex(addr) == ip else "w"
                    reply = {"event": {"kind": "fault", "signo": signo, "code": code, "addr": hex(addr), "access": use, "ip": ip}}
            case "bye", {**more} if not more: pass
            case _: raise ValueError("unknown, or with other fields than it should have")
    except KeyError as error: reply = {"error": {"kind": "handle", "message": f"there is no {error}"}}
    except (RecursionError, TypeError, ValueError, struct.error) as e: reply = {"error": {"kind": "protocol", "message": str(e)}}
    except ChildProcessError: reply = {"error": {"kind": "state", "message": "its space is gone"}}
    except OSError: reply = {"result": {"n": 0, "data": "", **SHORT}}  # of read and write: nothing is mapped there
    print(json.dumps({"id": number, **reply}), flush=True)
    if op == "bye": break
