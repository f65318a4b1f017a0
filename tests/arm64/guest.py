"""Guest code for arm64: assembly, and the machine code it gives. test_guest.py assembles it again and compares."""

from typing import Final, NamedTuple


class Code(NamedTuple):
    """A piece of guest code."""

    assembly: str
    words: tuple[int, ...]

    @property
    def bytes(self) -> bytes:
        """The code as it lies in memory."""
        return b"".join(word.to_bytes(4, "little") for word in self.words)


CALLS: Final = Code("1: svc #0; b 1b", (0xD4000001, 0x17FFFFFF))
ARGUMENTS: Final = Code(
    "mov x8, #500; mov x0, #0x11; mov x1, #0x22; mov x2, #0x33; mov x3, #0x44; mov x4, #0x55; mov x5, #0x66; svc #0; brk #0",
    (0xD2803E88, 0xD2800220, 0xD2800441, 0xD2800662, 0xD2800883, 0xD2800AA4, 0xD2800CC5, 0xD4000001, 0xD4200000),
)
LOAD: Final = Code("ldr x10, [x0]; svc #0; brk #0", (0xF940000A, 0xD4000001, 0xD4200000))
STORE: Final = Code("str x9, [x0]; svc #0; brk #0", (0xF9000009, 0xD4000001, 0xD4200000))
JUMP: Final = Code("br x0", (0xD61F0000,))
SPIN: Final = Code("1: add x9, x9, #1; b 1b", (0x91000529, 0x17FFFFFF))
COUNT_SPIN: Final = Code(
    "1: ldr x9, [x0]; add x9, x9, #1; str x9, [x0]; b 1b", (0xF9400009, 0x91000529, 0xF9000009, 0x17FFFFFD)
)
ILLEGAL: Final = Code("udf #0", (0x00000000,))
BREAKPOINT: Final = Code("brk #0; brk #0", (0xD4200000, 0xD4200000))
PRIVILEGED: Final = Code("msr daifset, #15", (0xD5034FDF,))
KEEP_FP: Final = Code(
    "ldr q3, [x0]; ldr x9, [x0, #16]; msr fpcr, x9; svc #0; mrs x9, fpcr; str q3, [x0, #32]; svc #0; brk #0",
    (0x3DC00003, 0xF9400809, 0xD51B4409, 0xD4000001, 0xD53B4409, 0x3D800803, 0xD4000001, 0xD4200000),
)
STORE_FP: Final = Code(
    "str q3, [x0]; mrs x9, fpcr; mrs x10, fpsr; svc #0; brk #0",
    (0x3D800003, 0xD53B4409, 0xD53B442A, 0xD4000001, 0xD4200000),
)
KEEP_TLS: Final = Code(
    "msr tpidr_el0, x0; svc #0; mrs x9, tpidr_el0; svc #0; brk #0",
    (0xD51BD040, 0xD4000001, 0xD53BD049, 0xD4000001, 0xD4200000),
)
FLAGS: Final = Code("mrs x9, nzcv; svc #0; brk #0", (0xD53B4209, 0xD4000001, 0xD4200000))
MISALIGNED_SP: Final = Code("mov sp, x0; ldr x1, [sp]; svc #0", (0x9100001F, 0xF94003E1, 0xD4000001))
CLEAN_CACHE: Final = Code(".arch armv8.2-a; dc cvap, x0; svc #0; brk #0", (0xD50B7C20, 0xD4000001, 0xD4200000))
ZERO_CACHE: Final = Code("dc zva, x0; svc #0; brk #0", (0xD50B7420, 0xD4000001, 0xD4200000))
MANY_CALLS: Final = Code(
    "1: add x19, x19, #1; mov x8, #172; svc #0; b 1b", (0x91000673, 0xD2801588, 0xD4000001, 0x17FFFFFD)
)
SVE: Final = Code(
    ".arch armv8-a+sve; dup z5.d, x0; brk #0; str z5, [x1]; svc #0; brk #0",
    (0x05E03805, 0xD4200000, 0xE5804025, 0xD4000001, 0xD4200000),
)

ALL: Final = {name: value for name, value in list(globals().items()) if isinstance(value, Code)}
