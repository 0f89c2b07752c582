"""Functions of shared tensors, written out in a few primitives: each says its range, error, rounds and bytes.

Rounds and bytes are those of the operation alone: bytes a value that a party sends to each other one; dealt bytes go to
one party. Numbers have 18 fractional bits, so every argument is off by 2^-19 to begin with; errors are beyond that.
"""
