"""Fits on the host, of all rows at once, that end where nothing is left to gain.

A solver is one function, `(problem, watch) -> list[Solution]`, with a solution for each of the problem's targets. It
is made of stages: generators of states, which yield one after each step, so that an interrupt or a deadline hands the
last one back, and return the one they end with.

    problem       what is asked for: `Deterministic`, the settings, and `Problem`, all that a solver needs
    state         where the fits stand, a value with a row for each; what a family of guides is asked for, and when
    mean_field    the mean-field bound on fixed draws, by L-BFGS
    full_rank     the full-rank bound, by natural-gradient steps
    relabelling   modes that differ only in the order of exchangeable parts, which are one
    restarts      several starts in each of the coordinates; which of their ends are other modes
    pseudo_data   a further choice of coordinates, by a rule at the best of these ends
    fixed_draws   the solvers of these two guides, and the loop that gives them more draws while these matter
    continued     what goes on from where a simpler family's fit has ended
    beyond/       families beyond one Gaussian, from where its fit has ended
    low_rank      directions by curvature, and the rest by L-BFGS on draws that are matched to them
    mode_based    Laplace and Pathfinder: from the path to a mode

To add one: write `solve_...` in a file of its own, fill every field of `Solution`, add it to the table of
`fitting/plan.py` and to `SOLVERS` of `tests/inference/deterministic/test_solvers.py`.
"""
