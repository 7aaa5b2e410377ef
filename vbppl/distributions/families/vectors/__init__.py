"""More distributions of vectors and matrices, by what their numbers have to do with each other.

In order: `normals` are relatives of the multivariate normal; `wishart` are random covariances; `structured` are walks,
neighbours on a map, and numbers whose sum is zero.
"""
