# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers must refuse, each line by its rule; where one is let through, the ignore itself is an error."""

from __future__ import annotations

import jax

import vbppl as vb
import vbppl.distributions as dist


@vb.model
def coin(flips: jax.Array, a: float = 1.0) -> None:
    p = vb.sample("p", dist.Beta(a, 1.0))
    print(p.shapes)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    vb.sample("q", dist.Beta(a, 1.0), infer={})  # pyright: ignore[reportCallIssue]
    vb.sample(1, dist.Beta(a, 1.0))  # pyright: ignore[reportCallIssue, reportArgumentType]
    with vb.plate("flip"):  # pyright: ignore[reportCallIssue]
        vb.sample("flips", dist.Bernoulli(p), obs=flips)


def wrong(flips: jax.Array, posterior: vb.Posterior) -> None:
    coin()  # pyright: ignore[reportCallIssue]
    coin(flips, b=2.0)  # pyright: ignore[reportCallIssue]
    coin("flips")  # pyright: ignore[reportArgumentType]
    vb.fit(coin)  # pyright: ignore[reportArgumentType]
    vb.fit(coin(flips), "meanfield")  # pyright: ignore[reportArgumentType]
    vb.fit(coin(flips), vb.MeanField)  # pyright: ignore[reportArgumentType]
    vb.fit(coin(flips), method="svi")  # pyright: ignore[reportArgumentType]
    vb.fit(coin(flips), precision="float32")  # pyright: ignore[reportArgumentType]
    vb.fit(coin(flips), steps=3)  # pyright: ignore[reportArgumentType]
    vb.MAP("constrain")  # pyright: ignore[reportArgumentType]
    posterior.check().require("fine")  # pyright: ignore[reportArgumentType]
    posterior.elbo = 3  # pyright: ignore[reportAttributeAccessIssue]
    posterior.quantile(0.5)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    vb.load("fit.npz")  # pyright: ignore[reportCallIssue]
    vb.save("fit.npz", posterior)  # pyright: ignore[reportArgumentType]
    dist.Normal(0.0, 1.0, 2.0)  # pyright: ignore[reportCallIssue]
