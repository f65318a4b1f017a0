/* Integer types for code without a C library. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;
typedef _Bool bool;

#define true ((bool)1)
#define false ((bool)0)
#define NULL ((void *)0)

#define OFFSET_OF(type, field) __builtin_offsetof(type, field)
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* A compile-time check that `field` of `type` lies where the other side of the shared memory expects it. */
#define LAYOUT(type, field, offset) \
    _Static_assert(OFFSET_OF(type, field) == (offset), #type "." #field " is not at " #offset)
#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " does not have " #size " bytes")
