"""Solutions of lesson 15, each under the id of its cell."""

import numpy as np


# %% masks
def masks(degrees, D):
    """Compare degrees: at most for hidden units, less than for outputs, which come in pairs."""
    features = np.arange(1, D + 1)
    outputs = np.repeat(features, 2)  # mu_1, s_1, mu_2, s_2, ...
    return degrees[:, None] >= features, outputs[:, None] > degrees


# %% conditionals
def conditionals(x, W, b):
    """Run the network once, and clip the log-scales softly."""
    h = np.tanh(x @ W[0].T + b[0]) @ W[1].T + b[1]
    return h[:, 0::2], 7 * np.tanh(h[:, 1::2] / 7)


# %% normalize
def normalize(x, conditionals):
    """Undo the shift, then the scale; add up the logarithms of the slopes."""
    mu, alpha = conditionals(x)
    return (x - mu) * np.exp(-alpha), -alpha.sum(axis=1)


# %% wrong_mask
prediction = "c"  # the diagonal is no longer exp(-alpha), and mu_i needs units that are not there


# %% generate
def generate(u, W, b, degrees):
    """Substitute: feature by feature, every hidden unit as soon as it is due."""
    x, hidden = np.zeros_like(u), np.zeros((len(u), len(degrees)))
    log_det = np.zeros(len(u))
    for i in range(u.shape[1]):
        rows = slice(2 * i, 2 * i + 2)
        h = hidden @ W[1][rows].T + b[1][rows]
        alpha = 7 * np.tanh(h[:, 1] / 7)
        x[:, i] = h[:, 0] + np.exp(alpha) * u[:, i]
        log_det += alpha
        due = degrees == i + 1
        hidden[:, due] = np.tanh(x @ W[0][due].T + b[0][due])
    return x, log_det


# %% my_flow
class MyFlow:
    """Masked layers, the order turned after each, over standard normal noise."""

    def __init__(self, features, hidden=12, layers=2, seed=0):
        self.features = features
        self.degrees = 1 + np.arange(hidden) * (features - 1) // hidden
        rng = np.random.default_rng(seed)
        self.layers = []
        for _ in range(layers):
            W = [M * rng.normal(0, 0.7, M.shape) for M in masks(self.degrees, features)]
            b = [rng.normal(0, 0.3, len(part)) for part in W]
            self.layers.append((W, b))

    def normalize(self, x):
        """Map data to noise, and add up the log-determinants."""
        total = np.zeros(len(x))
        for W, b in self.layers:
            u, log_det = normalize(x, lambda rows, W=W, b=b: conditionals(rows, W, b))
            x, total = u[:, ::-1], total + log_det
        return x, total

    def generate(self, u):
        """Map noise to data: the same layers, from the last to the first."""
        total = np.zeros(len(u))
        for W, b in reversed(self.layers):
            u, log_det = generate(u[:, ::-1], W, b, self.degrees)
            total = total + log_det
        return u, total

    def log_prob(self, x):
        """Change of variables, with a standard normal."""
        u, log_det = self.normalize(x)
        return log_det - 0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1)

    def sample(self, N, rng):
        """Draw noise, and send it through."""
        return self.generate(rng.standard_normal((N, self.features)))[0]


my_flow = MyFlow(features=3)
