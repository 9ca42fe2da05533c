"""A layout read off one recorded pass: the computation decides, neither names of modules nor sizes of numbers.

``recording`` turns a pass into a ``graph``; ``chain`` finds the blocks in it; ``following`` goes back from a block's
output to its input, and ``writers`` names what was added on the way; ``folding``, ``heads``, ``ends`` and ``beginning``
find what else a layout says; ``mixing`` tells attention from the rest; ``refusing`` says why there is no layout.
"""
