"""The few native kernels: products of packed weights, and a whole step of a decoder as one call.

    library   the compiled library: whether it is here, and which of its paths (instruction sets) this processor takes
    packing   the layout in which it reads weights, and its plain PyTorch reference
    plan      a decoder's step as a list of operations

Without the library everything works through PyTorch.
"""
