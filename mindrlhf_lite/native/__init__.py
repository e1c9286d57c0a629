"""Operators of a CPU's own, in C++: what a layer, the head, decoding and the optimizer spend their time in.

`source` is compiled by `build`, once for every kind of processor of this machine's family; `library` chooses one when
the program runs and checks it; `operators` makes MindSpore operators of its functions.
"""
