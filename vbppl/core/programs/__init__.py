"""What becomes of functions that JAX traces: how they are compiled, and what can be said of them before and after.

In order: `known` follows in NumPy what a program does before it compiles; `uniform` evaluates one whose arrays have
equal entries; `rerolling` makes arrays and loops again of what a trace has unrolled; `packed` brings many results over
a program's border as few; `random_bits` takes random bits out of one; `compiling` is at which level, and over draws
for any number of them; `nonfinite` finds the operation that makes NaN; `dependence` follows what outputs depend on;
`threads` is how many the host's linear algebra has.
A new file is about programs and knows of no model.
"""
