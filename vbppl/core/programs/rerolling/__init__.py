"""A program whose operations on a few numbers each are done side by side wherever they are alike.

A model's loop, `for i in range(100): sample(f"x_{i}", Normal(0, sd))`, is traced to a hundred times the same few
operations, each on one number. XLA compiles them one by one, its time grows with their number, and where each site
leads to the next with its square: it repeats in every kernel what leads up to it. So they are found again in the
program, and each hundred becomes one operation on an array of a hundred, as if the loop had been an array from the
beginning (what compilers of loops call superword-level parallelism: Larsen and Amarasinghe, PLDI 2000); and what
needs the turn before becomes a loop again.

In order: `operations` are what a program must do, each thing once; `rounds` puts together what is alike; `loops` finds
what comes again and again, each time from what it gave before; `rerolled` computes all that.
"""
