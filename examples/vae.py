# %% [markdown]
# # A variational autoencoder
#
# Images of handwritten digits, each explained by two hidden numbers. A decoder, a small neural network, says how
# the two make an image; its weights are learnt. An encoder reads an image and says where its two numbers lie, so
# that an image never seen costs one call. The networks may be plain functions, Equinox or Flax NNX modules.
#
# The digits ship with scikit-learn; `--data mnist.npz` takes larger ones (arrays `xtr`, `ytr`, `xte`, `yte`).

# %%
import warnings

import _style
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import vbppl as vb
import vbppl.distributions as dist

LATENT, HIDDEN = 2, 200

# %% [markdown]
# The model: a standard normal prior for each image's hidden numbers, and a decoder for the odds of each pixel.


# %%
@vb.model
def digits(images, decoder, decode):
    weights = vb.param("decoder", decoder)
    with vb.plate("image", len(images)):
        z = vb.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
        odds = dist.Bernoulli(logits=decode(weights, z)).to_event(1)
        vb.sample("pixels", odds, obs=vb.subsample(images, event_dim=1))


# %% [markdown]
# Three ways to write the networks. Each gives the decoder, how it is called, and the encoder as a guide that reads
# the model's argument `images`.


# %%
def halves(both):
    """The encoder's answer: a mean and a standard deviation for each hidden number."""
    loc, log_sd = jnp.split(both, 2, axis=-1)
    return loc, jnp.exp(log_sd)


def plain(pixels):
    """Plain functions of lists of weights."""

    def weights(seed, *sizes):
        rng = np.random.default_rng(seed)
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        return [{"w": rng.standard_normal((a, b)) * np.sqrt(2 / (a + b)), "b": np.zeros(b)} for a, b in pairs]

    def perceptron(layers, x):
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ layers[-1]["w"] + layers[-1]["b"]

    def encode(layers, x):
        return halves(perceptron(layers, x))

    guide = vb.Amortized("z", encode, reads="images", params=weights(0, pixels, HIDDEN, 2 * LATENT))
    return weights(1, LATENT, HIDDEN, pixels), perceptron, guide


def equinox(pixels):
    """Equinox modules, which are written for one row: `jax.vmap` shows them all."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0))
    encoder = eqx.nn.MLP(pixels, 2 * LATENT, HIDDEN, depth=1, key=keys[1])

    def encode(network, x):
        return halves(jax.vmap(network)(x))

    def decode(network, z):
        return jax.vmap(network)(z)

    guide = vb.Amortized("z", encode, reads="images", params=encoder)
    return eqx.nn.MLP(LATENT, pixels, HIDDEN, depth=1, key=keys[0]), decode, guide


def nnx(pixels):
    """Flax NNX modules, with batch normalisation and dropout in the encoder: both know when they are trained."""
    from flax import nnx

    class Encoder(nnx.Module):
        def __init__(self, rngs):
            self.inner, self.outer = nnx.Linear(pixels, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, 2 * LATENT, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(HIDDEN, momentum=0.9, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            return halves(self.outer(self.drop(jax.nn.relu(self.norm(self.inner(x))))))

    def decode(network, z):
        return network(z)

    rngs = nnx.Rngs(0)
    decoder = nnx.Sequential(nnx.Linear(LATENT, HIDDEN, rngs=rngs), nnx.relu, nnx.Linear(HIDDEN, pixels, rngs=rngs))
    return decoder, decode, vb.Amortized("z", Encoder(rngs), reads="images")


NETWORKS = {"plain": plain, "equinox": equinox, "nnx": nnx}


# %%
def load(path):
    """Black and white images and their labels: for training, for validation, for the test."""
    if path:
        found = np.load(path)
        images, labels = np.concatenate([found["xtr"], found["xte"]]) > 127, np.append(found["ytr"], found["yte"])
        test = len(found["xte"])
    else:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(images))
        images, labels, test = images[order] > 7, labels[order], 300
    ends = (len(images) - 2 * test, len(images) - test)
    parts = (images.astype(np.float32), labels)
    return zip(*(np.split(part, ends) for part in parts), strict=True)


# %% [markdown]
# No step size is given: the fit finds one for the networks by a race. It looks at the validation images now and
# then, ends when their bound has stopped rising, and gives back the weights of the best look. What matters in the
# end is the probability of images that nobody has looked at.


# %%
def main(quick=False, out="vae.png", data="", network="plain"):
    (images, _), (kept, _), (test, labels) = load(data)
    decoder, decode, guide = NETWORKS[network](images.shape[1])
    method = vb.Stochastic(
        steps=300 if quick else 6000,
        average=False,
        every=100,
        objective=vb.inference.Elbo(warm_up=200),
        validation=vb.inference.Validation(digits(kept, decoder, decode), patience=10),
    )
    with warnings.catch_warnings():
        # `fit` warns that a row's posterior is no normal. What it loses by that is printed below.
        warnings.simplefilter("ignore", vb.VbpplWarning)
        posterior = vb.fit(digits(images, decoder, decode), guide, method=method, batch_size=100)
    unseen = digits(test, decoder, decode)
    bound = np.mean([posterior.log_evidence(unseen, n=1, seed=seed).mean.value for seed in range(5 if quick else 30)])
    evidence = posterior.log_evidence(unseen, n=500 if quick else 5000)
    gap = posterior.amortisation_gap(unseen, rows=20 if quick else 100)
    print(f"{len(images):,} images, {posterior.status.text}.")
    print(f"Bound on the test images: {bound:.2f} nats an image.")
    print(f"Test log likelihood: {evidence}.")
    print(f"On test images {gap}.")
    draw(posterior, decode, test, labels, evidence, out)
    return {"posterior": posterior, "bound": bound, "evidence": evidence, "gap": gap, "test": test, "labels": labels}


# %%
def sheet(rows):
    """Images `(rows, columns, pixels)` as one picture, with a line of paper between them."""
    side = int(np.sqrt(rows.shape[-1]))
    tiles = np.pad(rows.reshape(*rows.shape[:2], side, side), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.0)
    return tiles.transpose(0, 2, 1, 3).reshape(rows.shape[0] * (side + 2), -1)


def draw(posterior, decode, test, labels, evidence, out):
    figure, axes = _style.picture(11, 7.6)
    axes.remove()
    grid = figure.add_gridspec(2, 2, height_ratios=[4, 1], width_ratios=[1, 1])
    plain = {"cmap": "Greys", "vmin": 0, "vmax": 1, "interpolation": "nearest", "aspect": "equal"}

    def decoded(z):
        """The probability of each pixel: the decoder comes back trained, as the same kind of thing."""
        return np.asarray(jax.nn.sigmoid(decode(posterior.params["decoder"], z)))

    where = np.asarray(posterior.encode(test).loc)
    latent = figure.add_subplot(grid[0, 0])
    # Ten colours cannot be told apart by everyone, so each image is drawn as what it is; colours only help.
    colours = (_style.BLUE, _style.ORANGE, _style.GREEN, _style.INK, _style.PURPLE)
    for digit in range(10):
        here = where[labels == digit]
        latent.scatter(*here.T, s=38, color=colours[digit % 5], marker=f"${digit}$", lw=0.3)
    reach = 1.05 * np.abs(where).max()
    latent.set(title="Where the encoder puts unseen digits", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    latent.set(xlabel="first hidden number", ylabel="second")

    side = 14
    levels = np.array([_quantile((i + 0.5) / side) for i in range(side)])
    mesh = np.stack(np.meshgrid(levels, levels[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
    manifold = figure.add_subplot(grid[0, 1])
    manifold.imshow(sheet(decoded(mesh).reshape(side, side, -1)), **plain)
    manifold.set_title("What the decoder makes of each place")

    chosen = np.concatenate([np.flatnonzero(labels == digit)[:1] for digit in range(10)])
    pairs = np.stack([test[chosen], decoded(where[chosen])])
    pictures = figure.add_subplot(grid[1, 0])
    pictures.imshow(sheet(pairs), **plain)
    pictures.set_title("Unseen digits, and what is left of them after two numbers")

    z = np.random.default_rng(3).standard_normal((20, LATENT)).astype(np.float32)
    samples = figure.add_subplot(grid[1, 1])
    samples.imshow(sheet(decoded(z).reshape(2, 10, -1)), **plain)
    samples.set_title(f"Drawn from the prior ({evidence.mean.value:.1f} nats an unseen image)")
    for axis in (manifold, pictures, samples):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    _style.save(figure, out)


def _quantile(probability):
    """Of the standard normal distribution."""
    return float(jax.scipy.special.ndtri(probability))


# %%
if __name__ == "__main__":
    _style.run(main, __file__, data="an archive of larger images", network="plain, equinox or nnx")
