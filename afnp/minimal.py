r"""A whole masked autoregressive flow on one page: density, samplers, gradient and Adam by hand.

.. math:: u_i = \bigl(x_i - \mu_i(x_{<i})\bigr)\, e^{-\alpha_i(x_{<i})}, \qquad
          \log p(x) = \sum_{i=1}^{D} \Bigl( \log \mathcal N(u_i; 0, 1) - \alpha_i \Bigr)

One masked network (MADE, arXiv 1502.03509) gives all :math:`\mu_i` and :math:`\alpha_i` at once;
several in a row, each reading the features in the opposite order, are a flow (MAF, 1705.07057).
Nothing is checked or batched here, and nothing is fast: read this first. The rest of the package
computes the same numbers, and the tests compare.

Letters: N rows, D > 1 features, H hidden units; x data, u noise; ``d_y`` is d(loss)/dy.
"""

import numpy as np

BOUND = 7.0
"""Log-scales stay within plus or minus this: alpha = 7 tanh(s / 7)."""


class MADE:
    r"""A masked network: :math:`\mu_i` and :math:`\alpha_i` depend on :math:`x_{<i}` alone.

    .. math:: M_{kj} = [\, m_k \ge m_j \,], \qquad M^{\mathrm{out}}_{ij} = [\, i > m_j \,]

    Input i has degree i, and hidden units have degrees from 1 to D - 1. A weight is kept where its
    mask is 1: along any path from :math:`x_j` to output i degrees never fall, so j < i.
    """

    def __init__(self, D, hidden, rng):
        inputs = np.arange(1, D + 1)
        outputs = np.repeat(inputs, 2)  # mu_1, s_1, mu_2, s_2, ...
        self.degrees = [inputs, *(1 + np.arange(H) * (D - 1) // H for H in hidden)]
        pairs = zip(self.degrees[1:], self.degrees[:-1], strict=True)
        self.masks = [rows[:, None] >= columns for rows, columns in pairs]
        self.masks.append(outputs[:, None] > self.degrees[-1])
        self.W = [rng.standard_normal(M.shape) / np.sqrt(M.shape[1]) for M in self.masks]
        self.b = [np.zeros(len(M)) for M in self.masks]

    def layers(self):
        """Return (masked W, b) of every layer, from the inputs to the outputs."""
        return [(M * W, b) for M, W, b in zip(self.masks, self.W, self.b, strict=True)]

    def conditionals(self, x):
        r"""Map x (N, D) to mu and alpha, each (N, D), and a: the inputs of every layer.

        .. math:: a^{(0)} = x, \qquad a^{(k)} = \tanh(W^{(k)} a^{(k-1)} + b^{(k)})
        """
        *below, (W, b) = self.layers()
        a = [x]
        for W_k, b_k in below:
            a.append(np.tanh(a[-1] @ W_k.T + b_k))
        h = a[-1] @ W.T + b
        return h[:, 0::2], BOUND * np.tanh(h[:, 1::2] / BOUND), a

    def normalize(self, x):
        r"""Map data x to noise u, (N, D), all at once; also log|det du/dx| (N,).

        .. math:: u_i = (x_i - \mu_i)\, e^{-\alpha_i}, \qquad
                  \log|\det \partial u / \partial x| = -\textstyle\sum_i \alpha_i
        """
        mu, alpha, a = self.conditionals(x)
        u = (x - mu) * np.exp(-alpha)
        return u, -alpha.sum(axis=1), (u, alpha, a)

    def backward(self, cache, d_u, d_log_det):
        r"""Undo ``normalize`` line by line: return d_x (N, D), and the gradients d_W and d_b.

        .. math:: y = W a + b: \qquad d_W = d_y^\top a, \quad d_b = \textstyle\sum_n d_{y_n}, \quad
                  d_a = d_y W
        """
        u, alpha, a = cache
        d_direct = d_u * np.exp(-alpha)
        d_mu = -d_direct
        d_alpha = -d_u * u - d_log_det[:, None]
        d_s = d_alpha * (1 - (alpha / BOUND) ** 2)
        d_y = np.stack([d_mu, d_s], axis=2).reshape(len(u), -1)
        d_W, d_b = list[np.ndarray](), list[np.ndarray]()
        for a_k, M, W in zip(reversed(a), reversed(self.masks), reversed(self.W), strict=True):
            d_W.insert(0, M * (d_y.T @ a_k))
            d_b.insert(0, d_y.sum(axis=0))
            d_a = d_y @ (M * W)
            d_y = d_a * (1 - a_k**2)  # through tanh; of no use once a_k is x
        return d_direct + d_a, d_W, d_b

    def loop(self, u):
        r"""Map noise u to data x, (N, D), as textbooks do: D passes through the whole network.

        .. math:: x_i = \mu_i(x_{<i}) + e^{\alpha_i(x_{<i})} u_i
        """
        x = np.zeros_like(u)
        for i in range(x.shape[1]):
            mu, alpha, _ = self.conditionals(x)  # right for feature i, which x[:, :i] suffice for
            x[:, i] = mu[:, i] + np.exp(alpha[:, i]) * u[:, i]
        return x

    def substitution(self, u):
        """Map noise u to data x, (N, D): the numbers of ``loop``, but every hidden unit once.

        A unit of degree m depends on the first m features: it is due when the m-th is known, and
        never changes again. So a triangular system is solved, row after row.
        """
        *below, (W, b) = self.layers()
        a = [np.zeros((len(u), len(degrees))) for degrees in self.degrees]
        x = a[0]
        for i in range(x.shape[1]):
            mu, s = (a[-1] @ W[2 * i : 2 * i + 2].T + b[2 * i : 2 * i + 2]).T
            x[:, i] = mu + np.exp(BOUND * np.tanh(s / BOUND)) * u[:, i]
            for k, (W_k, b_k) in enumerate(below):
                due = self.degrees[k + 1] == i + 1
                a[k + 1][:, due] = np.tanh(a[k] @ W_k[due].T + b_k[due])
        return x


def maf(D, hidden=(32,), transforms=2, seed=0):
    """Return a flow: a list of MADEs."""
    rng = np.random.default_rng(seed)
    return [MADE(D, hidden, rng) for _ in range(transforms)]


def parameters(flow):
    """Return all arrays of parameters: W and b of each layer of each MADE, in turn."""
    return [array for made in flow for Wb in zip(made.W, made.b, strict=True) for array in Wb]


def normalize(flow, x):
    """Map data x to noise u, (N, D); also log|det du/dx| (N,), and what ``backward`` needs."""
    total, caches = 0, []
    for made in flow:
        u, log_det, cache = made.normalize(x)
        x = u[:, ::-1]  # the next one reads the features in the opposite order
        total = total + log_det
        caches.append(cache)
    return x, total, caches


def generate(flow, u, sampler=MADE.substitution):
    """Map noise u to data x, (N, D), by ``MADE.substitution`` or ``MADE.loop``."""
    for made in reversed(flow):
        u = sampler(made, u[:, ::-1])
    return u


def log_prob(flow, x):
    r"""Return the log-density of rows x (N, D), in nats.

    .. math:: \log p(x) = -\tfrac12 \sum_i u_i^2 - \tfrac D2 \log 2\pi
              + \log|\det \partial u / \partial x|
    """
    u, log_det, _ = normalize(flow, x)
    return -0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1) + log_det


def backward(flow, caches, d_u, d_log_det):
    """Undo ``normalize``: return d_x (N, D), and the gradients, listed as ``parameters`` are."""
    grads: list[np.ndarray] = []
    for made, cache in zip(reversed(flow), reversed(caches), strict=True):
        d_u, d_W, d_b = made.backward(cache, d_u[:, ::-1], d_log_det)
        grads = [array for Wb in zip(d_W, d_b, strict=True) for array in Wb] + grads
    return d_u, grads


def loss_and_grad(flow, x):
    r"""Return the loss, in nats, and its gradients.

    .. math:: \mathcal L = -\frac1N \sum_n \log p(x_n), \qquad
              d_u = \frac uN, \quad d_{\log\det} = -\frac1N
    """
    N = len(x)
    u, _, caches = normalize(flow, x)
    _, grads = backward(flow, caches, u / N, np.full(N, -1 / N))
    return -log_prob(flow, x).mean(), grads


def adam(theta, grads, means, squares, k, rate=0.01):
    r"""Take step k, from 1 on, of Adam (arXiv 1412.6980) in place; both moments begin as zeros.

    .. math:: \bar d \leftarrow 0.9\, \bar d + 0.1\, d_\theta, \quad \overline{d^2} \leftarrow 0.999
              \overline{d^2} + 0.001 d_\theta^2, \quad \theta \leftarrow \theta - \text{rate} \cdot
              \frac{\bar d / (1 - 0.9^k)}{\sqrt{\overline{d^2} / (1 - 0.999^k)} + 10^{-8}}

    Examples
    --------
    Ten steps towards some points, and then points of our own:

    >>> flow, x = maf(D=2), np.random.default_rng(1).normal(3, 2, (100, 2))
    >>> theta = parameters(flow)
    >>> means, squares = ([0 * array for array in theta] for _ in range(2))
    >>> before, _ = loss_and_grad(flow, x)
    >>> for k in range(1, 11):
    ...     adam(theta, loss_and_grad(flow, x)[1], means, squares, k)
    >>> bool(loss_and_grad(flow, x)[0] < before)
    True
    >>> u = np.random.default_rng(2).standard_normal((5, 2))
    >>> bool(np.allclose(generate(flow, u), generate(flow, u, MADE.loop)))
    True
    """
    for array, grad, mean, square in zip(theta, grads, means, squares, strict=True):
        mean += 0.1 * (grad - mean)
        square += 0.001 * (grad**2 - square)
        array -= rate * (mean / (1 - 0.9**k)) / (np.sqrt(square / (1 - 0.999**k)) + 1e-8)
