r"""The flow in PyTorch: zuko, nflows and normflows.

.. math:: u = \tau(h, x), \qquad h = \mathrm{MADE}(x), \qquad
          \tau \text{ affine, or a spline of K bins}

Each as its documentation has it, eager, on the CPU; densities and samples without gradients.

Letters: N rows, D features, H hidden units, T transforms, n params a feature.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LIBRARIES"]

RATE = 1e-5
"""Learning rate of the training step: the flow stays where it is, however often it is timed."""

BOUND = 5.0
"""Splines bend within [-5, 5]."""


class Torch:
    """What the PyTorch libraries share; ``density`` keeps the gradient's graph."""

    def load(self) -> None:
        """Import the library."""
        self.library = self.imported()
        import torch

        self.torch = torch

    def build(self, D: int, H: int, T: int, seed: int, bins: int = 0) -> None:
        """Make the flow and the optimiser."""
        self.torch.manual_seed(seed)
        self.flow = self.made(D, H, T, bins)
        self.parameters = sum(p.numel() for p in self.flow.parameters() if p.requires_grad)
        self.optimizer = self.torch.optim.Adam(self.flow.parameters(), lr=RATE)

    def imported(self) -> Any:
        """Import the package, before torch: what is missing is then named after it."""
        raise NotImplementedError

    def made(self, D: int, H: int, T: int, bins: int) -> Any:
        """Return the flow."""
        raise NotImplementedError

    def density(self, x):
        """Return the log-density of rows, (N,)."""
        return self.flow.log_prob(x)

    def drawn(self, n: int):
        """Draw n rows."""
        return self.flow.sample(n)

    def data(self, x):
        """Return rows (N, D) as the library takes them."""
        return self.torch.from_numpy(x)

    def log_prob(self, x):
        """Return the log-density of rows, (N,)."""
        with self.torch.no_grad():
            return self.density(x)

    def sample(self, n: int):
        """Draw n rows."""
        with self.torch.no_grad():
            return self.drawn(n)

    def train(self, x) -> float:
        """Take a step of Adam; return the loss."""
        self.optimizer.zero_grad()
        loss = -self.density(x).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def nets(self) -> list[tuple]:
        """Return (order of the features in front of it, module) of each transform."""
        raise NotImplementedError

    def networks(self) -> list[dict]:
        """Return each transform's weights, masks, biases, and features' places before and after."""
        found = []
        for before, net in self.nets():
            linears = [m for m in net.modules() if hasattr(m, "mask")]
            found.append(
                {
                    "before": before,
                    "after": range(len(before)),
                    "W": [m.weight.detach().numpy() for m in linears],
                    "b": [m.bias.detach().numpy() for m in linears],
                    "mask": [m.mask.numpy() for m in linears],
                }
            )
        return found

    def raw(self, k: int, x):
        """Return transform k's raw conditioner outputs, (N, n D), from features in its order."""
        with self.torch.no_grad():
            return self.nets()[k][1](self.data(x)).numpy()

    def products(self) -> list[str]:
        """Return who multiplies matrices."""
        lines = [line.strip(" -") for line in self.torch.__config__.show().splitlines()]
        found = [
            line.split(" (Git")[0].split("-Product")[0]
            for line in lines
            if line.startswith("Intel")
        ]
        return [*found, f"kernels for {self.torch.backends.cpu.get_cpu_capability()}"]

    def threads(self) -> dict[str, int]:
        """Return how many threads the library's own pools have."""
        return {"torch": self.torch.get_num_threads()}


class Zuko(Torch):
    """zuko: the flow alternates the order inside its masks."""

    package = "zuko"
    setup = "as it comes (MAF, hidden_features=(H, H))"
    spline = (
        "NSF(bins=K), passes=None: autoregressive; its bound of 5 is not to be chosen; "
        "3 K - 1 params a feature"
    )

    def imported(self):
        """Import the package."""
        import zuko

        return zuko

    def made(self, D: int, H: int, T: int, bins: int):
        """Return the flow."""
        if bins:
            return self.library.flows.NSF(D, bins=bins, transforms=T, hidden_features=(H, H))
        return self.library.flows.MAF(D, transforms=T, hidden_features=(H, H))

    def density(self, x):
        """Return the log-density of rows, (N,)."""
        return self.flow().log_prob(x)

    def drawn(self, n: int):
        """Draw n rows."""
        return self.flow().sample((n,))

    def nets(self) -> list[tuple]:
        """Return (order of the features in front of it, module) of each transform."""
        return [(list(range(len(t.order))), t.hyper) for t in self.flow.transform.transforms]


class Nflows(Torch):
    """nflows: a reversal in front of every transform."""

    package = "nflows"
    setup = (
        "residual blocks switched off (the default); one block beside the initial layer makes "
        "two hidden layers"
    )
    spline = (
        "no flow of them ready made: "
        'MaskedPiecewiseRationalQuadraticAutoregressiveTransform(tails="linear", '
        "tail_bound=5), as above, in the places of the affine ones of its flow; 3 K - 1 numbers a "
        "feature"
    )

    def imported(self):
        """Import the package."""
        import nflows.distributions
        import nflows.flows.autoregressive
        import nflows.transforms

        return nflows

    def made(self, D: int, H: int, T: int, bins: int):
        """Return the flow."""
        if bins:
            return self._of_splines(D, H, T, bins)
        return self.library.flows.autoregressive.MaskedAutoregressiveFlow(
            D, hidden_features=H, num_layers=T, num_blocks_per_layer=1, use_residual_blocks=False
        )

    def _of_splines(self, D: int, H: int, T: int, bins: int):
        """Return the flow of splines, put together as the library puts together its affine one."""
        of = self.library.transforms
        steps = []
        for _ in range(T):
            spline = of.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                D,
                H,
                num_bins=bins,
                tails="linear",
                tail_bound=BOUND,
                num_blocks=1,
                use_residual_blocks=False,
            )
            steps += [of.ReversePermutation(D), spline]
        base = self.library.distributions.StandardNormal([D])
        return self.library.flows.Flow(of.CompositeTransform(steps), base)

    def nets(self) -> list[tuple]:
        """Return (order of the features in front of it, module) of each transform."""
        steps = list(self.flow._transform._transforms)
        return [
            (reverse._permutation.tolist(), made.autoregressive_net)
            for reverse, made in zip(steps[::2], steps[1::2], strict=True)
        ]


class Normflows(Torch):
    """normflows: as it comes, its MAF runs the other way, and lacks an activation."""

    package = "normflows"
    setup = (
        "MaskedAffineAutoregressive takes D passes for log_prob and one to sample, the direction "
        "of an IAF: turned round with its Reverse. Without residual blocks its MADE has no "
        "activation between the initial layer and the first block: a ReLU put there. Base not "
        "trainable; features reversed between transforms"
    )
    spline = (
        "AutoregressiveRationalQuadraticSpline takes one pass for log_prob as it comes. It fixes "
        "residual blocks, and begins as the identity, its network independent of its inputs: in "
        "place of that network, the library's MADE without residual blocks, a ReLU put into it as "
        "above; 3 K - 1 params a feature"
    )

    def imported(self):
        """Import the package."""
        import normflows

        return normflows

    def made(self, D: int, H: int, T: int, bins: int):
        """Return the flow."""
        nf = self.library
        self.conditioners = []
        steps = []
        for k in range(T):
            step, net = self._spline(D, H, bins) if bins else self._affine(D, H)
            net.initial_layer = self.torch.nn.Sequential(net.initial_layer, self.torch.nn.ReLU())
            self.conditioners.append(net)
            steps += [self._reversal(D), step] if k else [step]
        return nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), steps)

    def _affine(self, D: int, H: int) -> tuple:
        """Return an affine transform and its network."""
        flows = self.library.flows
        affine = flows.MaskedAffineAutoregressive(D, H, num_blocks=1, use_residual_blocks=False)
        return flows.Reverse(affine), affine.autoregressive_net

    def _spline(self, D: int, H: int, bins: int) -> tuple:
        """Return a spline transform and its network."""
        step = self.library.flows.AutoregressiveRationalQuadraticSpline(
            D, 1, H, num_bins=bins, tail_bound=BOUND
        )
        net = self.library.nets.MADE(
            D, H, num_blocks=1, output_multiplier=3 * bins - 1, use_residual_blocks=False
        )
        step.mprqat.autoregressive_net = net
        return step, net

    def _reversal(self, D: int):
        """Return the permutation that its Permute (shuffle or swap) does not offer."""
        permute = self.library.flows.Permute(D, mode="shuffle")
        for name in ("perm", "inv_perm"):
            getattr(permute, name).copy_(self.torch.arange(D - 1, -1, -1))
        return permute

    def drawn(self, n: int):
        """Draw n rows (it computes their log-density too)."""
        return self.flow.sample(n)[0]

    def nets(self) -> list[tuple]:
        """Return (order of features before it, module) of each transform, last one first."""
        D = self.flow.q0.shape[0]
        orders = [list(range(D))] + [list(range(D))[::-1]] * (len(self.conditioners) - 1)
        return list(zip(orders, self.conditioners[::-1], strict=True))


LIBRARIES: dict[str, Any] = {"zuko": Zuko, "nflows": Nflows, "normflows": Normflows}
