r"""The flow in PyTorch: zuko, nflows and normflows.

.. math:: u = s \odot x + t, \qquad (t, a) = \mathrm{MADE}(x), \qquad s = s(a)

Each as its documentation has it, eager, on the CPU; densities and samples without gradients.

Letters: N rows, D features, H hidden units, T transforms.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LIBRARIES"]

RATE = 1e-5
"""Learning rate of the training step: the flow stays where it is, however often it is timed."""


class Torch:
    """What the PyTorch libraries share; ``density`` keeps the gradient's graph."""

    def load(self) -> None:
        """Import the library."""
        self.library = self.imported()
        import torch

        self.torch = torch

    def build(self, D: int, H: int, T: int, seed: int) -> None:
        """Make the flow and the optimiser."""
        self.torch.manual_seed(seed)
        self.flow = self.made(D, H, T)
        self.parameters = sum(p.numel() for p in self.flow.parameters() if p.requires_grad)
        self.optimizer = self.torch.optim.Adam(self.flow.parameters(), lr=RATE)

    def imported(self) -> Any:
        """Import the package, before torch: what is missing is then named after it."""
        raise NotImplementedError

    def made(self, D: int, H: int, T: int) -> Any:
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
        """Return each transform's weights, masks and biases, and the features' places before and after."""
        found = []
        for before, net in self.nets():
            linears = [m for m in net.modules() if hasattr(m, "mask")]
            found.append({
                "before": before,
                "after": range(len(before)),
                "W": [m.weight.detach().numpy() for m in linears],
                "b": [m.bias.detach().numpy() for m in linears],
                "mask": [m.mask.numpy() for m in linears],
            })  # fmt: skip
        return found

    def raw(self, k: int, x):
        """Return transform k's raw conditioner outputs, (N, 2 D), from the features as it takes them."""
        with self.torch.no_grad():
            return self.nets()[k][1](self.data(x)).numpy()

    def products(self) -> list[str]:
        """Return who multiplies matrices."""
        lines = [line.strip(" -") for line in self.torch.__config__.show().splitlines()]
        found = [line.split(" (Git")[0].split("-Product")[0] for line in lines if line.startswith("Intel")]
        return [*found, f"kernels for {self.torch.backends.cpu.get_cpu_capability()}"]

    def threads(self) -> dict[str, int]:
        """Return how many threads the library's own pools have."""
        return {"torch": self.torch.get_num_threads()}


class Zuko(Torch):
    """zuko: the flow alternates the order inside its masks."""

    package = "zuko"
    setup = "as it comes (MAF, hidden_features=(H, H), transforms=5)"

    def imported(self):
        """Import the package."""
        import zuko

        return zuko

    def made(self, D: int, H: int, T: int):
        """Return the flow."""
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
    setup = "residual blocks switched off (the default); one block beside the initial layer makes two hidden layers"

    def imported(self):
        """Import the package."""
        import nflows.flows.autoregressive

        return nflows.flows.autoregressive

    def made(self, D: int, H: int, T: int):
        """Return the flow."""
        return self.library.MaskedAutoregressiveFlow(
            D, hidden_features=H, num_layers=T, num_blocks_per_layer=1, use_residual_blocks=False
        )

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
        "MaskedAffineAutoregressive takes D passes for log_prob and one to sample, the direction of an IAF: turned "
        "round with its Reverse. Without residual blocks its MADE has no activation between the initial layer and "
        "the first block: a ReLU put there. Base not trainable; features reversed between transforms"
    )

    def imported(self):
        """Import the package."""
        import normflows

        return normflows

    def made(self, D: int, H: int, T: int):
        """Return the flow."""
        nf, nn, steps = self.library, self.torch.nn, []
        for k in range(T):
            affine = nf.flows.MaskedAffineAutoregressive(D, H, num_blocks=1, use_residual_blocks=False)
            net = affine.autoregressive_net
            net.initial_layer = nn.Sequential(net.initial_layer, nn.ReLU())
            if k:
                steps.append(self._reversal(D))
            steps.append(nf.flows.Reverse(affine))
        return nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), steps)

    def _reversal(self, D: int):
        """Return the permutation that its Permute, which offers shuffle and swap, does not offer."""
        permute = self.library.flows.Permute(D, mode="shuffle")
        for name in ("perm", "inv_perm"):
            getattr(permute, name).copy_(self.torch.arange(D - 1, -1, -1))
        return permute

    def drawn(self, n: int):
        """Draw n rows (it computes their log-density too)."""
        return self.flow.sample(n)[0]

    def nets(self) -> list[tuple]:
        """Return (order of the features in front of it, module) of each transform; the data meet the last first."""
        steps = list(self.flow.flows)[::2][::-1]
        D = self.flow.q0.shape[0]
        orders = [list(range(D))] + [list(range(D))[::-1]] * (len(steps) - 1)
        return [(order, s.flow.autoregressive_net) for order, s in zip(orders, steps, strict=True)]


LIBRARIES: dict[str, Any] = {"zuko": Zuko, "nflows": Nflows, "normflows": Normflows}
