/*
 * The records of an arm64 signal frame: what the kernel puts behind the general registers, each with a header that says
 * what it is and how long. Plain C without an instruction of the machine, so that any host can test it.
 *
 * The kernel begins with FPSIMD, always of the same size; the syndrome of a fault comes next, then what only some CPUs have
 * (SVE, ZA and others). What does not fit lies elsewhere, behind an EXTRA record. A header of zeros ends the list.
 */
#pragma once

#include "types.h"

#define FRAME_RECORDS_SIZE 4096u
#define RECORD_ALIGNMENT 16u

#define FPSIMD_MAGIC 0x46508001u
#define ESR_MAGIC 0x45535201u
#define EXTRA_MAGIC 0x45585401u

/* The part of the FPSIMD record that a context keeps: fpsr, fpcr, v0...v31. */
#define FPSIMD_STATE_SIZE 520u

struct record {
    u32 magic;
    u32 size; /* of the whole record */
};

struct fpsimd_record {
    struct record header;
    u64 state[FPSIMD_STATE_SIZE / 8];
};

struct esr_record {
    struct record header;
    u64 esr;
};

SIZE(struct record, 8);
SIZE(struct fpsimd_record, 528);
SIZE(struct esr_record, 16);

/* The first record, or NULL if it is not the FPSIMD record that every frame begins with (S-050). */
ALWAYS_INLINE struct fpsimd_record *fpsimd_of_frame(void *records)
{
    struct fpsimd_record *fpsimd = records;

    if (fpsimd->header.magic != FPSIMD_MAGIC || fpsimd->header.size != sizeof(*fpsimd))
        return NULL;
    return fpsimd;
}

/* The barrier keeps the compiler from seeing a memcpy, which nobody would define. */
ALWAYS_INLINE void copy_fpsimd_state(u64 *to, const u64 *from)
{
    for (u32 i = 0; i < FPSIMD_STATE_SIZE / 8; i++) {
        to[i] = from[i];
        __asm__ volatile("" : : : "memory");
    }
}

/*
 * Let rt_sigreturn load `state`, and nothing of the records behind: they are those of the context that was interrupted. SVE
 * registers overlap with those of FPSIMD, and the kernel would load them last (S-051).
 */
ALWAYS_INLINE void replace_fpsimd_state(struct fpsimd_record *fpsimd, const u64 *state)
{
    struct record *next = (struct record *)(fpsimd + 1);

    copy_fpsimd_state(fpsimd->state, state);
    next->magic = 0;
    next->size = 0;
}

/*
 * The syndrome of the fault, or 0 if the frame has none (S-053). The walk ends where the list says so, at a size that makes no
 * sense, and in any case at the end of the frame: guest threads can write here.
 */
ALWAYS_INLINE u64 syndrome_of_frame(const void *records)
{
    u32 offset = 0;

    while (offset <= FRAME_RECORDS_SIZE - sizeof(struct esr_record)) {
        const struct esr_record *found = (const struct esr_record *)((const u8 *)records + offset);
        u32 magic = *(const volatile u32 *)&found->header.magic;
        u32 size = *(const volatile u32 *)&found->header.size;

        if (magic == ESR_MAGIC && size == sizeof(*found))
            return found->esr;
        if (magic == 0 || magic == EXTRA_MAGIC)
            break;
        if (size < sizeof(struct record) || size % RECORD_ALIGNMENT != 0 || size > FRAME_RECORDS_SIZE - offset)
            break;
        offset += size;
    }
    return 0;
}
