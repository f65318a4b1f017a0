"""The switches that choose a platform and what it does: the same for every command that runs guests."""

from typing import Final

from systrap import platform as platforms
from systrap.cli.options import Option, Parsed, UsageError

DEFAULT_PLATFORM: Final = "systrap"

SWITCHES: Final = (
    Option("--platform", "what runs guest code: systrap (default), or ptrace, the slow and simple one", "NAME",
           choices=tuple(platforms.names())),
    Option("--syscall-trap", "how system calls of guest code are caught: seccomp, dispatch (syscall user dispatch in front of "
           "seccomp), or auto (default): dispatch where the kernel has it", "HOW", choices=platforms.SYSCALL_TRAPS),
    Option("--no-syscall-patching", "leave guest code as it is: trap every call, instead of turning the call sites into "
           "jumps to the stub"),
    Option("--no-fast-path", "never spin for the other side: sleep at once, always"),
    Option("--no-quick-calls", "tell the kernel of every system call, instead of answering the simple ones on the spot"),
    Option("--no-user-resume", "let the host kernel load guests after every system call (rt_sigreturn), as the original does"),
    Option("--stub-blob", "use another sysmsg image (a port's, say) in stubs", "FILE"),
    Option("--stub-manifest", "the other image's manifest", "FILE"),
)  # fmt: skip


def chosen_platform(parsed: Parsed) -> tuple[str, platforms.Options]:
    """Return which platform a command line asks for, and with what options. Raises UsageError."""
    blob = parsed.values.get("--stub-blob", [None])[-1]
    manifest = parsed.values.get("--stub-manifest", [None])[-1]
    if (blob is None) != (manifest is None):
        raise UsageError("--stub-blob and --stub-manifest belong together")
    options = platforms.Options(
        disable_syscall_patching=parsed.given("--no-syscall-patching"),
        disable_fast_path=parsed.given("--no-fast-path"),
        disable_quick_calls=parsed.given("--no-quick-calls"),
        disable_user_resume=parsed.given("--no-user-resume"),
        stub_blob=blob,
        stub_manifest=manifest,
        syscall_trap=parsed.one("--syscall-trap", platforms.AUTO),
    )
    return parsed.one("--platform", DEFAULT_PLATFORM), options
