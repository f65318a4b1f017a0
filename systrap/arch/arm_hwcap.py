"""What guests are told of an arm64 CPU: the bits of AT_HWCAP and AT_HWCAP2, by the names of /proc/cpuinfo.

A feature is shown when all its state is in what a context keeps: x0…x30, sp, pc, the PSTATE bits of aarch64.PSTATE_USER,
tpidr_el0, v0…v31, fpsr, and the bits of fpcr that arm_fp.py keeps. As on x86-64, hiding one keeps honest programs from using
it, and hides nothing from others. What is not in a table is not shown: a feature to come may have state of its own.
"""

from typing import Final

_FEATURES: Final = {
    "fp": 0, "asimd": 1, "evtstrm": 2, "aes": 3, "pmull": 4, "sha1": 5, "sha2": 6, "crc32": 7, "atomics": 8, "fphp": 9,
    "asimdhp": 10, "asimdrdm": 12, "jscvt": 13, "fcma": 14, "lrcpc": 15, "dcpop": 16, "sha3": 17, "sm3": 18, "sm4": 19,
    "asimddp": 20, "sha512": 21, "asimdfhm": 23, "dit": 24, "uscat": 25, "ilrcpc": 26, "flagm": 27, "ssbs": 28, "sb": 29,
    "paca": 30, "pacg": 31, "cmpbr": 33, "fprcvt": 34,
}  # fmt: skip
"""paca, pacg: keys belong to a process, and all stubs are copies of one, so that a pointer stays good on every thread."""

_FEATURES2: Final = {
    "dcpodp": 0, "flagm2": 7, "frint": 8, "i8mm": 13, "bf16": 14, "dgh": 15, "rng": 16, "ecv": 19, "afp": 20, "rpres": 21,
    "wfxt": 31, "cssc": 34, "rprfm": 35, "mops": 43, "hbc": 44, "lrcpc3": 46, "lse128": 47, "lut": 49, "faminmax": 50,
}  # fmt: skip

HIDDEN: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "it has registers that are not kept (S-051)": {
        "sve": (0, 22), "gcs": (0, 32), "f8mm8": (0, 35), "f8mm4": (0, 36), "sve2": (1, 1), "sme": (1, 23), "ebf16": (1, 32),
        "fpmr": (1, 48), "f8cvt": (1, 51), "f8fma": (1, 52), "f8dp4": (1, 53), "f8dp2": (1, 54), "f8e4m3": (1, 55),
        "f8e5m2": (1, 56), "poe": (1, 63),
    },
    "memory would have to be mapped with a protection of its own (PROT_BTI, PROT_MTE)": {
        "bti": (1, 17), "mte": (1, 18), "mte3": (1, 22),
    },
    "it belongs to a feature that is hidden": {
        "sve_f16mm": (0, 37), "sve_eltperm": (0, 38), "sve_aes2": (0, 39), "sve_bfscale": (0, 40), "sve2p2": (0, 41),
        "sme2p2": (0, 42), "sme_sbitperm": (0, 43), "sme_aes": (0, 44), "sme_sfexpa": (0, 45), "sme_stmop": (0, 46),
        "sme_smop4": (0, 47), "sveaes": (1, 2), "svepmull": (1, 3), "svebitperm": (1, 4), "svesha3": (1, 5), "svesm4": (1, 6),
        "svei8mm": (1, 9), "svef32mm": (1, 10), "svef64mm": (1, 11), "svebf16": (1, 12), "smei16i64": (1, 24),
        "smef64f64": (1, 25), "smei8i32": (1, 26), "smef16f32": (1, 27), "smeb16f32": (1, 28), "smef32f32": (1, 29),
        "smefa64": (1, 30), "sveebf16": (1, 33), "sve2p1": (1, 36), "sme2": (1, 37), "sme2p1": (1, 38), "smei16i32": (1, 39),
        "smebi32i32": (1, 40), "smeb16b16": (1, 41), "smef16f16": (1, 42), "sveb16b16": (1, 45), "smelutv2": (1, 57),
        "smef8f16": (1, 58), "smef8f32": (1, 59), "smesf8fma": (1, 60), "smesf8dp4": (1, 61), "smesf8dp2": (1, 62),
    },
    "the identification registers it lets programs read tell of features that are hidden": {"cpuid": (0, 11)},
}  # fmt: skip
"""Features that are not shown, by the reason: word (AT_HWCAP, AT_HWCAP2) and bit of each."""

SHOWN: Final = sum(1 << bit for bit in _FEATURES.values())
"""The bits of AT_HWCAP that guests may see."""
SHOWN2: Final = sum(1 << bit for bit in _FEATURES2.values())
"""The bits of AT_HWCAP2."""
HIDDEN_NAMES: Final = frozenset(name.encode() for features in HIDDEN.values() for name in features)
"""What is taken out of the line "Features" of /proc/cpuinfo."""
