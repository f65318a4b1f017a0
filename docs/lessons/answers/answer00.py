"""Answer to lesson 00: a function of two instructions."""

from lesson00_call import code_page, function, require_this_machine

ADD = bytes.fromhex("488d0437 c3")
"""lea rax, [rdi + rsi] · ret"""

if __name__ == "__main__":
    require_this_machine()
    print(function(code_page(ADD))(40, 2, 0, 0, 0, 0, 0))
