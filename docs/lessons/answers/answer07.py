"""Answer to lesson 07: two addresses, one page. The guest's own second look is served by another fault."""

from lesson00_call import PAGE, require_this_machine
from lesson07_memory import GUEST_CODE, HEAP, FileSentry, Vma

ALIAS = HEAP + 16 * PAGE
VMAS = (Vma(HEAP, HEAP + PAGE, PAGE), Vma(ALIAS, ALIAS + PAGE, PAGE))
AND_READ_IT = bytes.fromhex("488b8600000100 0f05")
"""mov rax, [rsi + 16 pages] · syscall"""

if __name__ == "__main__":
    require_this_machine()
    until_stored = GUEST_CODE[: GUEST_CODE.index(bytes.fromhex("bf01000000"))]
    with FileSentry(until_stored + AND_READ_IT, VMAS, 2) as guest:
        guest.run()
        print(f"read at the other address: {guest['rax'].to_bytes(8, 'little')!r}; faults: {guest.faults}")
