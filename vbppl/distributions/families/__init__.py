"""One class for each distribution, in a file for each kind of support.

`real`, `positive`, `bounded` hold numbers; `finite` and `counts` whole numbers; `multivariate` vectors and matrices;
`degenerate` the two limits, a point and a flat density; `composite` and `restricted` (censored, truncated) are made of
others. A class is the mathematics of one event, and `vbppl/distributions/base.py` does the shapes; a new one stands
beside the siblings it resembles.
"""
