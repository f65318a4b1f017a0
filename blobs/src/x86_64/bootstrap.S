/*
 * The bootstrap image: the first instructions of every stub process and every stub thread, and the loop of the syscall
 * thread. docs/images.md tells the whole story; this file is it in instructions.
 *
 * Who enters it:
 *   begin  the source, from the sentry image's clone_source, with
 *            r12  address of the request page (its birth batch)
 *            r15  the parent pid that getppid must answer
 *            rbp  index of the first call to run: 0
 *          and every later stub process, which falls out of its own clone below with the same registers.
 *
 * Nothing else is an entry. All signals are blocked. No instruction here uses a stack, and nothing is kept in memory:
 * guest threads of the same process can write its memory, but they cannot reach another thread's registers.
 *
 *   r12  request page          r14  own pid                rbx  mode: MODE_FUTEX or MODE_NOTIFY, | MODE_BIRTH
 *   r13  number of the next    r15  expected parent pid    rbp  index of the current call; after a batch, calls done
 *        batch
 *
 * System calls keep every register but rax (result), rcx and r11.
 */

#include "bootstrap.h"
#include "kernel.h"

/* Leave for ever. Not exit_group: that number is the doorbell of notify mode. */
.macro DIE code
        mov     $\code, %edi
        jmp     die
.endm

/* Go to `target` when the system call's result in rax is an error, -4095 ... -1. */
.macro IF_ERROR target
        cmp     $-MAX_ERRNO, %rax
        jae     \target
.endm

/* reg = address of the current call. */
.macro CALL_ADDRESS reg
        mov     %rbp, \reg
        shl     $CALL_SHIFT, \reg
        lea     REQUEST_CALLS(%r12, \reg), \reg
.endm

/* A step in the birth of a thread that did not answer 0 is its end. */
.macro STEP number
        mov     $(EXIT_THREAD + \number), %edi
        test    %rax, %rax
        jnz     die
.endm

        .section .text.first, "ax", @progbits

/* ---- birth of a stub process ---- */

        .globl  __export_begin
        .type   __export_begin, @function
__export_begin:
        /* No stack: whoever uses one here by mistake dies of it. */
        xor     %esp, %esp

        /* prctl(PR_SET_PDEATHSIG, SIGKILL): from here on the stub dies with the sentry's cloning thread. */
        mov     $NR_prctl, %eax
        mov     $PR_SET_PDEATHSIG, %edi
        mov     $SIGKILL, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        syscall
        test    %rax, %rax
        jnz     die_pdeathsig

        /* ... unless it had died before that call: then somebody else is the parent now. */
        mov     $NR_getppid, %eax
        syscall
        cmp     %r15, %rax
        jne     die_parent

        mov     $NR_getpid, %eax
        syscall
        mov     %rax, %r14

        mov     $(MODE_FUTEX | MODE_BIRTH), %ebx
        jmp     next_call

/* ---- a batch ---- */

/* Run the batch at r12 from its first call. */
run_batch:
        xor     %ebp, %ebp
        xor     %eax, %eax

/* Run the call with index rbp, or end the batch when there is none. rax = result of the call before. */
next_call:
        /* The count is read each time, for the page may have moved; it must not lead out of the page. */
        mov     REQUEST_COUNT(%r12), %ecx
        cmp     $MAX_CALLS, %ecx
        ja      die_count
        cmp     %ecx, %ebp
        jae     batch_done

        CALL_ADDRESS %rcx
        mov     CALL_ARGS+0(%rcx), %rdi
        mov     CALL_ARGS+8(%rcx), %rsi
        mov     CALL_ARGS+16(%rcx), %rdx
        mov     CALL_ARGS+24(%rcx), %r10
        mov     CALL_ARGS+32(%rcx), %r8
        mov     CALL_ARGS+40(%rcx), %r9
        mov     CALL_NR(%rcx), %rax
        /* The child of a clone may come to life when the page holds another batch already: it must not look there. */
        mov     %rax, %rsp
        syscall

        /* Once more, for the kernel used rcx. The call may just have mapped another page here; it has the same bytes. */
        CALL_ADDRESS %rcx
        IF_ERROR call_failed

        cmp     $NR_clone, %rsp
        je      cloned
        xor     %esp, %esp
        testb   $CALL_MOVE_REQUEST, CALL_FLAGS(%rcx)
        jnz     move_request
        testb   $CALL_ENTER_NOTIFY, CALL_FLAGS(%rcx)
        jnz     enter_notify
call_done:
        inc     %ebp
        jmp     next_call

/* MOVE_REQUEST: the call mapped the new request page. The batch goes on there, at the same index. */
move_request:
        mov     %rax, %r12
        jmp     call_done

/* ENTER_NOTIFY: the filter that makes exit_group a doorbell is in place. */
enter_notify:
        and     $MODE_BIRTH, %ebx
        or      $MODE_NOTIFY, %ebx
        jmp     call_done

call_failed:
        xor     %esp, %esp
        testb   $CALL_MAY_FAIL, CALL_FLAGS(%rcx)
        jnz     call_done
        /* While a birth batch runs nobody could make anything of the error. */
        test    $MODE_BIRTH, %ebx
        jnz     die_birth
        inc     %ebp
        jmp     batch_done

/* A clone succeeded. Its parent ends the batch here. The child is a new process, or a new thread of this one; it has
   the parent's registers, and what the parent passed to clone is still in them. */
cloned:
        xor     %esp, %esp
        inc     %ebp
        test    %rax, %rax
        jnz     batch_done
        test    $CLONE_VM, %edi
        jz      __export_begin
        jmp     begin_thread

/* The batch is over: rax = result of the last call that ran, rbp = calls that ran. Write the reply. */
batch_done:
        mov     REQUEST_SEQ(%r12), %r13d
        mov     %rax, REPLY_RET(%r12)
        mov     %ebp, REPLY_DONE(%r12)
        /* Written last. x86-64 does not reorder stores, so a plain one releases the two before it. */
        mov     %r13d, REPLY_SEQ(%r12)
        inc     %r13d
        cmp     $MODE_NOTIFY, %ebx
        je      notify_loop

        /* futex(&reply.seq, FUTEX_WAKE, 1): somebody waits for this reply, or will look and find it there. */
        mov     $NR_futex, %eax
        lea     REPLY_SEQ(%r12), %rdi
        mov     $FUTEX_WAKE, %esi
        mov     $1, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        xor     %r9d, %r9d
        syscall

        /* Birth is over. No guest code has run yet, so the result can be read back from the reply page, this once. */
        btr     $MODE_BIRTH_BIT, %ebx
        mov     REPLY_RET(%r12), %rax
        cmp     $MODE_NOTIFY, %ebx
        je      notify_loop

/* ---- the syscall thread's two loops ---- */

/* futex mode: sleep until request.seq becomes r13. */
futex_loop:
        mov     REQUEST_SEQ(%r12), %edx
        cmp     %r13d, %edx
        je      run_batch
        /* futex(&request.seq, FUTEX_WAIT, the value just read): every answer, an error too, means "look again". */
        mov     $NR_futex, %eax
        lea     REQUEST_SEQ(%r12), %rdi
        mov     $FUTEX_WAIT, %esi
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        xor     %r9d, %r9d
        syscall
        jmp     futex_loop

/* notify mode: exit_group(ret, done) blocks, as a seccomp notification, until the sentry has written the next batch and
   answers. Here rax = ret, which no guest can forge on its way through registers. */
notify_loop:
        mov     %rax, %rdi
        mov     %ebp, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        xor     %r9d, %r9d
        mov     $NR_exit_group, %eax
        syscall
        /* An error is not the sentry's answer but the kernel's: the listener is gone. */
        IF_ERROR die_no_listener
        jmp     run_batch

/* ---- birth of a sysmsg thread ---- */

/*
 * Child of clone(CLONE_VM ...): r9 = its thread record, r14 = pid of its stub process. It takes each step from the
 * read-only record and checks each result in a register, for guest threads of this address space may be running.
 */
begin_thread:
        mov     %r9, %rbx

        /* 0: prctl(PR_SET_PDEATHSIG, SIGKILL): its stub's death is its own. */
        mov     $NR_prctl, %eax
        mov     $PR_SET_PDEATHSIG, %edi
        mov     $SIGKILL, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        syscall
        STEP    0

        /* 1: ... if the stub had not died before. */
        mov     $NR_getppid, %eax
        syscall
        sub     %r14, %rax
        STEP    1

        /* 2: prctl(PR_SET_SYSCALL_USER_DISPATCH, ON, start, len, NULL): system calls from elsewhere raise SIGSYS. */
        mov     RECORD_DISPATCH_START(%rbx), %rdx
        test    %rdx, %rdx
        jz      1f
        mov     $NR_prctl, %eax
        mov     $PR_SET_SYSCALL_USER_DISPATCH, %edi
        mov     $PR_SYS_DISPATCH_ON, %esi
        mov     RECORD_DISPATCH_LEN(%rbx), %r10
        xor     %r8d, %r8d
        syscall
        STEP    2
1:
        /* 3: sigaltstack(record, NULL): the signal handler's stack; clone with CLONE_VM starts without one. */
        mov     $NR_sigaltstack, %eax
        mov     %rbx, %rdi
        xor     %esi, %esi
        syscall
        STEP    3

        /* 4: fs is the guest's from now on and holds nothing of the sentry's; gs leads to this thread's sysmsg. */
        mov     $NR_arch_prctl, %eax
        mov     $ARCH_SET_FS, %edi
        xor     %esi, %esi
        syscall
        STEP    4
        mov     $NR_arch_prctl, %eax
        mov     $ARCH_SET_GS, %edi
        mov     RECORD_GS_BASE(%rbx), %rsi
        syscall
        STEP    4

        /* 5: rt_sigprocmask(SIG_SETMASK, &record.mask, NULL, 8). */
        mov     $NR_rt_sigprocmask, %eax
        mov     $SIG_SETMASK, %edi
        lea     RECORD_MASK(%rbx), %rsi
        xor     %edx, %edx
        mov     $SIGSET_BYTES, %r10d
        syscall
        STEP    5

        /* 6: seccomp(SECCOMP_SET_MODE_FILTER, 0, record.filter): last, for it forbids all of the above. */
        mov     $NR_seccomp, %eax
        mov     $SECCOMP_SET_MODE_FILTER, %edi
        xor     %esi, %esi
        mov     RECORD_FILTER(%rbx), %rdx
        syscall
        STEP    6

        /* Nothing of this birth shows in the first signal frame. */
        xor     %eax, %eax
        xor     %ebx, %ebx
        xor     %ecx, %ecx
        xor     %edx, %edx
        xor     %esi, %esi
        xor     %edi, %edi
        xor     %ebp, %ebp
        xor     %r8d, %r8d
        xor     %r9d, %r9d
        xor     %r10d, %r10d
        xor     %r11d, %r11d
        xor     %r12d, %r12d
        xor     %r13d, %r13d
        xor     %r14d, %r14d
        xor     %r15d, %r15d

        /* A privileged instruction: SIGSEGV. The kernel enters the signal handler, and that never comes back here. */
        hlt

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
        lea     EXIT_BIRTH_CALL(%rbp), %edi
die:
        mov     $NR_exit, %eax
        syscall
        hlt
