"""One class for each distribution, in a file for each kind of support.

`real`, `positive`, `bounded` hold numbers; `finite`, `ordinal` and `counts` whole numbers, ordered and zero-inflated
ones too; `multivariate` and `vectors/` vectors and matrices: walks, maps, random covariances; `degenerate` the two
limits, a point and a flat density; `composite` and `restricted` (censored, truncated) are made of others, and `forms`
are others under other names and parameters. A class is the mathematics of one event, and
`vbppl/distributions/base.py` does the shapes; a new one stands beside the siblings it resembles.
"""
