/*
 * The bootstrap image: the first instructions of every stub process and every stub thread, and the loop of the syscall
 * thread. docs/images.md tells the whole story; this file is it in instructions.
 *
 * Who enters it:
 *   begin  the source, from the sentry image's clone_source, with
 *            x19  address of the request page (its birth batch)
 *            x22  the parent pid that getppid must answer
 *            x24  index of the first call to run: 0
 *          and every later stub process, which falls out of its own clone below with the same registers.
 *
 * Nothing else is an entry. All signals are blocked. No instruction here uses a stack, and nothing is kept in memory:
 * guest threads of the same process can write its memory, but they cannot reach another thread's registers.
 *
 *   x19  request page          x21  own pid                w23  mode: MODE_FUTEX or MODE_NOTIFY, | MODE_BIRTH
 *   w20  number of the next    x22  expected parent pid    w24  index of the current call; after a batch, calls done
 *        batch
 *   x25  first argument of the current call; while a reply is written, its result
 *   x27  flags of the current call                         x28  number of the current call
 *
 * System calls keep every register but x0, the result: so x0 is set anew before each.
 */

#include "bootstrap.h"
#include "kernel.h"

#if REQUEST_SEQ != 0
#error "the request's number is read with ldar, which takes no offset"
#endif

/* Leave for ever. Not exit_group: that number is the doorbell of notify mode. */
.macro DIE code
        mov     x0, #\code
        b       die
.endm

/* Go to `target` when the system call's result in x0 is an error, -4095 ... -1. */
.macro IF_ERROR target
        cmn     x0, #MAX_ERRNO
        b.hs    \target
.endm

/* A step in the birth of a thread that did not answer 0 is its end. */
.macro STEP number
        mov     x9, x0
        mov     x0, #(EXIT_THREAD + \number)
        cbnz    x9, die
.endm

        .section .text.first, "ax", @progbits

/* ---- birth of a stub process ---- */

        .globl  __export_begin
        .type   __export_begin, @function
__export_begin:
        /* No stack: whoever uses one here by mistake dies of it. */
        mov     x9, #0
        mov     sp, x9

        /* prctl(PR_SET_PDEATHSIG, SIGKILL): from here on the stub dies with the sentry's cloning thread. */
        mov     x8, #NR_prctl
        mov     x0, #PR_SET_PDEATHSIG
        mov     x1, #SIGKILL
        mov     x2, #0
        mov     x3, #0
        mov     x4, #0
        svc     #0
        cbnz    x0, die_pdeathsig

        /* ... unless it had died before that call: then somebody else is the parent now. */
        mov     x8, #NR_getppid
        svc     #0
        cmp     x0, x22
        b.ne    die_parent

        mov     x8, #NR_getpid
        svc     #0
        mov     x21, x0

        mov     w23, #(MODE_FUTEX | MODE_BIRTH)
        b       next_call

/* ---- a batch ---- */

/* Run the batch at x19 from its first call. */
run_batch:
        mov     w24, #0
        mov     x0, #0

/* Run the call with index w24, or end the batch when there is none. x0 = result of the call before. */
next_call:
        /* The count is read each time, for the page may have moved; it must not lead out of the page. */
        ldr     w9, [x19, #REQUEST_COUNT]
        cmp     w9, #MAX_CALLS
        b.hi    die_count
        cmp     w24, w9
        b.hs    batch_done

        add     x9, x19, x24, lsl #CALL_SHIFT
        add     x9, x9, #REQUEST_CALLS
        ldr     x27, [x9, #CALL_FLAGS]
        ldr     x28, [x9, #CALL_NR]
        ldp     x0, x1, [x9, #CALL_ARGS]
        ldp     x2, x3, [x9, #CALL_ARGS+16]
        ldp     x4, x5, [x9, #CALL_ARGS+32]
        mov     x25, x0
        mov     x8, x28
        svc     #0
        IF_ERROR call_failed

        cmp     x28, #NR_clone
        b.eq    cloned
        tst     x27, #CALL_MOVE_REQUEST
        b.ne    move_request
        tst     x27, #CALL_ENTER_NOTIFY
        b.ne    enter_notify
call_done:
        add     w24, w24, #1
        b       next_call

/* MOVE_REQUEST: the call mapped the new request page. The batch goes on there, at the same index. */
move_request:
        mov     x19, x0
        b       call_done

/* ENTER_NOTIFY: the filter that makes exit_group a doorbell is in place. */
enter_notify:
        and     w23, w23, #MODE_BIRTH
        mov     w9, #MODE_NOTIFY
        orr     w23, w23, w9
        b       call_done

call_failed:
        tst     x27, #CALL_MAY_FAIL
        b.ne    call_done
        /* While a birth batch runs nobody could make anything of the error. */
        tst     w23, #MODE_BIRTH
        b.ne    die_birth
        add     w24, w24, #1
        b       batch_done

/* A clone succeeded. Its parent ends the batch here. The child is a new process, or a new thread of this one; it has
   the parent's registers, and what the parent passed to clone is still in them: the flags in x25, not in x0. */
cloned:
        add     w24, w24, #1
        cbnz    x0, batch_done
        tst     x25, #CLONE_VM
        b.eq    __export_begin
        b       begin_thread

/* The batch is over: x0 = result of the last call that ran, w24 = calls that ran. Write the reply. */
batch_done:
        mov     x25, x0
        ldr     w20, [x19, #REQUEST_SEQ]
        add     x9, x19, #PAGE_SIZE
        str     x0, [x9, #(REPLY_RET - PAGE_SIZE)]
        str     w24, [x9, #(REPLY_DONE - PAGE_SIZE)]
        /* Written last, and released: whoever sees the number sees the two before it. */
        add     x9, x9, #(REPLY_SEQ - PAGE_SIZE)
        stlr    w20, [x9]
        add     w20, w20, #1
        cmp     w23, #MODE_NOTIFY
        b.eq    notify_loop

        /* futex(&reply.seq, FUTEX_WAKE, 1): somebody waits for this reply, or will look and find it there. */
        mov     x8, #NR_futex
        mov     x0, x9
        mov     x1, #FUTEX_WAKE
        mov     x2, #1
        mov     x3, #0
        mov     x4, #0
        mov     x5, #0
        svc     #0

        /* Birth is over. */
        and     w23, w23, #(MODE_BIRTH - 1)
        cmp     w23, #MODE_NOTIFY
        b.eq    notify_loop

/* ---- the syscall thread's two loops ---- */

/* futex mode: sleep until request.seq becomes w20. The load acquires the batch that was written before that number. */
futex_loop:
        ldar    w2, [x19]
        cmp     w2, w20
        b.eq    run_batch
        /* futex(&request.seq, FUTEX_WAIT, the value just read): every answer, an error too, means "look again". */
        mov     x8, #NR_futex
        mov     x0, x19
        mov     x1, #FUTEX_WAIT
        mov     x3, #0
        mov     x4, #0
        mov     x5, #0
        svc     #0
        b       futex_loop

/* notify mode: exit_group(ret, done) blocks, as a seccomp notification, until the sentry has written the next batch and
   answers (the kernel's locks on that way order the one before the other). x25 = ret, which no guest can forge on its way
   through registers. */
notify_loop:
        mov     x8, #NR_exit_group
        mov     x0, x25
        mov     w1, w24
        mov     x2, #0
        mov     x3, #0
        mov     x4, #0
        mov     x5, #0
        svc     #0
        /* An error is not the sentry's answer but the kernel's: the listener is gone. */
        IF_ERROR die_no_listener
        b       run_batch

/* ---- birth of a sysmsg thread ---- */

/*
 * Child of clone(CLONE_VM ...): x5 = its thread record, x21 = pid of its stub process. It takes each step from the
 * read-only record and checks each result in a register, for guest threads of this address space may be running.
 */
begin_thread:
        mov     x19, x5

        /* 0: prctl(PR_SET_PDEATHSIG, SIGKILL): its stub's death is its own. */
        mov     x8, #NR_prctl
        mov     x0, #PR_SET_PDEATHSIG
        mov     x1, #SIGKILL
        mov     x2, #0
        mov     x3, #0
        mov     x4, #0
        svc     #0
        STEP    0

        /* 1: ... if the stub had not died before. */
        mov     x8, #NR_getppid
        svc     #0
        sub     x0, x0, x21
        STEP    1

        /* 2: prctl(PR_SET_SYSCALL_USER_DISPATCH, ON, start, len, NULL): system calls from elsewhere raise SIGSYS. */
        ldp     x2, x3, [x19, #RECORD_DISPATCH_START]
        cbz     x2, 1f
        mov     x8, #NR_prctl
        mov     x0, #PR_SET_SYSCALL_USER_DISPATCH
        mov     x1, #PR_SYS_DISPATCH_ON
        mov     x4, #0
        svc     #0
        STEP    2
1:
        /* 3: sigaltstack(record, NULL): the signal handler's stack; clone with CLONE_VM starts without one. */
        mov     x8, #NR_sigaltstack
        mov     x0, x19
        mov     x1, #0
        svc     #0
        STEP    3

        /* 4: the thread pointer is the guest's from now on and holds nothing of the sentry's. */
        msr     tpidr_el0, xzr

        /* 5: rt_sigprocmask(SIG_SETMASK, &record.mask, NULL, 8). */
        mov     x8, #NR_rt_sigprocmask
        mov     x0, #SIG_SETMASK
        add     x1, x19, #RECORD_MASK
        mov     x2, #0
        mov     x3, #SIGSET_BYTES
        svc     #0
        STEP    5

        /* 6: seccomp(SECCOMP_SET_MODE_FILTER, 0, record.filter): last, for it forbids all of the above. */
        mov     x8, #NR_seccomp
        mov     x0, #SECCOMP_SET_MODE_FILTER
        mov     x1, #0
        ldr     x2, [x19, #RECORD_FILTER]
        svc     #0
        STEP    6

        /* Nothing of this birth shows in the first signal frame. */
        .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29
        mov     x\n, #0
        .endr

        /* A jump into the kernel's half: SIGSEGV. The kernel enters the signal handler, and that never comes back here.
           (An instruction that traps would be SIGILL; and no guest can have mapped something there.) */
        mov     x30, #0xffff000000000000
        br      x30

/* ---- death ---- */

die_pdeathsig:
        DIE     EXIT_PDEATHSIG
die_parent:
        DIE     EXIT_PARENT
die_count:
        DIE     EXIT_BAD_COUNT
die_no_listener:
        DIE     EXIT_NO_LISTENER
die_birth:
        add     w0, w24, #EXIT_BIRTH_CALL
die:
        mov     x8, #NR_exit
        svc     #0
        brk     #1
