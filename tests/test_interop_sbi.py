"""sbi: density estimators, imported with their z-scores, are the same conditional densities."""

from __future__ import annotations

import numpy as np
import pytest

import afnp

torch = pytest.importorskip("torch", reason="SBI WAS NOT TESTED: pip install torch sbi")
pytest.importorskip("sbi", reason="SBI WAS NOT TESTED: pip install sbi")
pytest.importorskip("zuko", reason="SBI WAS NOT TESTED: pip install '.[zuko]'")

from sbi.neural_nets.net_builders import flow as builders  # noqa: E402

from afnp.interop.sbi import from_sbi  # noqa: E402


def rows(D=3, C=2, n=200):
    """Parameters and data, far from standard."""
    generator = torch.Generator().manual_seed(0)
    theta = 5 + 3 * torch.randn(n, D, generator=generator)
    return theta, theta[:, :C] * 100 - 20 + torch.randn(n, C, generator=generator)


def made(name, embedding=None, **options):
    torch.manual_seed(1)
    theta, x = rows()
    if embedding is not None:
        options["embedding_net"] = embedding
    options = {"hidden_features": 12, "num_transforms": 2, **options}
    estimator = getattr(builders, f"build_{name}")(theta, x, **options)
    with torch.no_grad():
        for values in estimator.parameters():
            values += 0.05 * torch.randn_like(values)
    return estimator.eval()


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("z", ["independent", "structured", "none"])
@pytest.mark.parametrize("name", ["zuko_maf", "zuko_nsf", "zuko_nice"])
def test_an_imported_estimator_is_the_same_density(name, z):
    estimator = made(name, z_score_x=z, z_score_y=z)
    ours = from_sbi(estimator)
    theta, x = rows(n=20)
    if z == "none":
        theta, x = theta / 10, x / 100
    with torch.no_grad():
        expected = estimator.log_prob(theta[None], x)[0].numpy()
    np.testing.assert_allclose(
        ours.log_prob(theta.numpy(), x.numpy()), expected, rtol=1e-4, atol=1e-4
    )
    assert (ours.context_scale is not None) == (z != "none") and ours.dtype == np.float32


@pytest.mark.parametrize("options", [{}, {"use_batch_norm": True, "dropout_probability": 0.2}])
@pytest.mark.parametrize("name", ["maf", "maf_rqs", "nsf"])
def test_those_of_nflows_too(name, options):
    """BatchNorm inside the networks, as it has come in training, and dropout, which is over."""
    pytest.importorskip("nflows", reason="SBI WAS NOT TESTED WITH NFLOWS: pip install nflows")
    estimator = made(name, **options)
    for part in estimator.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean += 0.3 * torch.randn_like(part.running_mean)
            part.running_var += torch.rand_like(part.running_var)
    ours = from_sbi(estimator)
    theta, x = rows(n=20)
    with torch.no_grad():
        expected = estimator.log_prob(theta[None], x)[0].numpy()
    np.testing.assert_allclose(
        ours.log_prob(theta.numpy(), x.numpy()), expected, rtol=1e-4, atol=1e-4
    )


def test_it_is_kept_in_a_file_with_its_scales(tmp_path):
    ours = from_sbi(made("zuko_maf"))
    afnp.save(ours, tmp_path / "q.afnp")
    again, (theta, x) = afnp.load(tmp_path / "q.afnp"), rows(n=5)
    assert (
        again.log_prob(theta.numpy(), x.numpy()) == ours.log_prob(theta.numpy(), x.numpy())
    ).all()
    assert again.sample(3, context=x[:1].numpy()).shape == (3, 3)


def test_contexts_that_were_embedded_are_taken_as_they_are():
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU())
    estimator = made("zuko_maf", embedding=net)
    with pytest.raises(ValueError, match="embedding net: cannot import a Linear; embed contexts"):
        from_sbi(estimator)
    ours, (theta, x) = from_sbi(estimator, embedded=True), rows(n=20)
    with torch.no_grad():
        expected = estimator.log_prob(theta[None], x)[0].numpy()
        embedded = estimator.embedding_net(x).numpy()
    assert ours.context == 5
    np.testing.assert_allclose(
        ours.log_prob(theta.numpy(), embedded), expected, rtol=1e-4, atol=1e-4
    )


def test_a_density_without_data():
    theta, _ = rows()
    torch.manual_seed(0)
    options = {"z_score_x": "independent", "hidden_features": 8, "num_transforms": 2}
    estimator = builders.build_zuko_unconditional_flow("MAF", theta, **options)
    ours = from_sbi(estimator)
    with torch.no_grad():
        expected = estimator.log_prob(theta).numpy()
    close(ours.log_prob(theta.numpy()), expected)


def test_what_cannot_come_in_is_named():
    with pytest.raises(ValueError, match="estimator: cannot import a Linear"):
        from_sbi(torch.nn.Linear(2, 2))
    posterior = type("DirectPosterior", (), {})()
    with pytest.raises(ValueError, match=r"a DirectPosterior; .* posterior\.posterior_estimator$"):
        from_sbi(posterior)
    with pytest.raises(ValueError, match="transform 1: cannot import the univariate MNN"):
        from_sbi(made("zuko_naf"))
