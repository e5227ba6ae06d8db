r"""One row of a table: trained from its checkpoint on, scored, and put on record.

.. math:: \log p(z) = \log p(x) - \log\left|\det \frac{\partial z}{\partial x}\right|, \qquad
          \log p(z) = \log \frac1C \sum_c p(z \mid c)

x is the data as the set gives it, z what the paper models; the second for conditional rows.

Letters: N rows, D features, C classes.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from pathlib import Path

import numba
import numpy as np

import afnp
from afnp.atomic import write_bytes
from afnp.data import Dataset, bits_per_dim, gaussian_log_prob
from afnp.discrete import OrderEnsemble
from afnp.model import Model
from afnp.train import History
from afnp.transforms.preprocess import Dequantize, Logit
from figures import common
from figures.papers.tables import Row

__all__ = ["Stopwatch", "averages", "log_probs", "trained"]


class Stopwatch:
    """Seconds of the processor, of all threads, kept in a file over interruptions."""

    def __init__(self, path: Path):
        self.path = path
        self.before = json.loads(path.read_text()) if path.is_file() else 0.0
        self.start = time.process_time()

    def seconds(self) -> float:
        """Return the seconds of this run and of those before."""
        return self.before + time.process_time() - self.start

    def keep(self) -> None:
        """Write them down."""
        write_bytes(self.path, json.dumps(self.seconds()).encode())


def trained(table: str, name: str, row: Row, known: Dataset, epochs: int | None = None) -> dict:
    """Train a row, or go on with it; return its scores, and how its training stands.

    Parameters
    ----------
    table, name : str
    row : Row
    known : Dataset
    epochs : int, optional
        Fewer than the row's own, over which the rate then falls to zero.

    Returns
    -------
    dict
        Plain JSON values; ``finished`` says whether training came to its own end.

    Raises
    ------
    ValueError
        If the row's rate does not fall, so that fewer epochs are no other schedule.
    KeyboardInterrupt
        If interrupted before the first epoch ended; the checkpoint has been written.
    """
    if row.flow is None:
        start = time.process_time()
        log_p, log_det = _gaussian(known)
        found = {"finished": True, "processor_minutes": (time.process_time() - start) / 60}
        return _scores(log_p, log_det, known) | found | _where()
    flow = row.flow(known)
    options = row.training | {"epochs": _epochs(name, row, epochs)}
    path = _path(table, name, options, flow, known)
    watch = Stopwatch(path.with_suffix(".seconds"))
    contexts = {"context": known.context_train, "context_val": known.context_val}
    try:
        history = afnp.fit(
            flow,
            known.train,
            known.val,
            checkpoint=path,
            resume=True,
            callbacks=[lambda epoch: watch.keep()],
            **(contexts if row.conditional else {}),
            **options,
        )
    finally:
        watch.keep()
    log_p, log_det = log_probs(flow, known, row.conditional)
    return (
        _scores(log_p, log_det, known)
        | _standing(history, options["epochs"], row.training["epochs"])
        | {"parameters": flow.theta.size, "seed": options["seed"]}
        | {"processor_minutes": watch.seconds() / 60, "minutes": history.seconds / 60}
        | {"validation_nats": _curve(history, known)}
        | ({"averages": averages(flow, known.test)} if isinstance(flow, OrderEnsemble) else {})
        | _where()
    )


def _epochs(name: str, row: Row, asked: int | None) -> int:
    own = row.training["epochs"]
    if asked is not None and row.training["schedule"] == "constant":
        raise ValueError(
            f"epochs: the rate of {name!r} does not fall, so an interrupted run is as good as a "
            f"shorter one; expected none, got {asked}"
        )
    return own if asked is None else min(asked, own)


def _path(table: str, name: str, options: dict, flow: Model, known: Dataset) -> Path:
    """Return where a row's checkpoint lies: other data, or another recipe, has another one."""
    key = zlib.crc32(repr((len(known.train), options, flow.config())).encode())
    key = zlib.crc32(known.val.tobytes(), key)
    common.CACHE.mkdir(parents=True, exist_ok=True)
    short = "".join(sign if sign.isalnum() else "_" for sign in name)
    return common.CACHE / f"{table}_{short}_{key:08x}.afnp"


# ---- scores --------------------------------------------------------------------------------------


def log_probs(flow: Model, known: Dataset, conditional: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(z) of the test rows (N,), and log|det dz/dx| (N,)."""
    log_det = _space(known, known.test)[1]
    if not conditional:
        return flow.log_prob(known.test).astype(np.float64) - log_det, log_det
    classes = np.eye(flow.context)
    given = [
        flow.log_prob(known.test, np.tile(c, (len(known.test), 1))).astype(np.float64)
        for c in classes
    ]
    return np.logaddexp.reduce(given) - math.log(len(classes)) - log_det, log_det


def averages(model: OrderEnsemble, x: np.ndarray) -> dict[str, float]:
    """Return mean log p of rows x (N, D), averaged over the first 1, 2, 4, ... of M orders."""
    log_p = model.log_prob_by_order(x).astype(np.float64)
    counts = [2**k for k in range(len(log_p).bit_length())]
    return {str(m): float((np.logaddexp.reduce(log_p[:m]) - math.log(m)).mean()) for m in counts}


def _gaussian(known: Dataset) -> tuple[np.ndarray, np.ndarray]:
    z, (test, log_det) = _space(known, known.train)[0], _space(known, known.test)
    return gaussian_log_prob(z, test), log_det


def _space(known: Dataset, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return z (N, D) of rows, what the paper models, and log|det dz/dx| (N,)."""
    x = np.asarray(x, dtype=np.float64)
    if known.levels is None:
        return x, np.zeros(len(x))
    D = x.shape[1]
    return afnp.Flow([Dequantize(D, known.levels), Logit(D, alpha=1e-6)]).normalize(x)


def _scores(log_p: np.ndarray, log_det: np.ndarray, known: Dataset) -> dict:
    found = {
        "test_nats": float(log_p.mean()),
        "two_standard_errors": float(2 * log_p.std() / math.sqrt(len(log_p))),
    }
    if known.levels is not None:
        found["bits_per_dim"] = float(bits_per_dim(log_p + log_det, known.test.shape[1]).mean())
    return found


# ---- how training stands -------------------------------------------------------------------------


def _standing(history: History, over: int, own: int) -> dict:
    """Say how far training came, of a run ``over`` some epochs where the recipe has its ``own``."""
    return {
        "epochs": len(history.val_loss),
        "best_epoch": None if history.best_epoch is None else history.best_epoch + 1,
        "over": over,
        "of_epochs": own,
        "finished": history.stopped == "patience" or (history.stopped == "epochs" and over == own),
        "interrupted": history.stopped == "interrupted",
    }


def _curve(history: History, known: Dataset) -> list[float]:
    """Return the epochs' mean log p(z) of validation rows (given the class, if there is one).

    Losses are of x.
    """
    log_det = float(_space(known, known.val)[1].mean())
    return [round(-loss - log_det, 4) for loss in history.val_loss]


def _where() -> dict:
    machine = common.machine() | {"numba": numba.__version__, "threads": numba.get_num_threads()}
    return {"machine": machine, "afnp": afnp.__version__}
