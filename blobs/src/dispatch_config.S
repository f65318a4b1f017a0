/* The word of the sentry image that is patched before it is made read-only: the address of the dispatch block. */

        .section .config, "a"
        .globl  __export_dispatch_block
        .type   __export_dispatch_block, %object
        .size   __export_dispatch_block, 8
        .balign 8
__export_dispatch_block:
        .zero   8
