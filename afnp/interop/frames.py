"""Rows of a flow as a pandas DataFrame, under the names that the flow keeps."""

from __future__ import annotations

import pandas as pd

from afnp.flow import Flow
from afnp.inputs import check_rows

__all__ = ["to_frame"]


def to_frame(flow: Flow, x) -> pd.DataFrame:
    """Return rows x (N, D), samples say, as a DataFrame with the flow's column names.

    Raises
    ------
    ValueError
        If x does not have the flow's D features.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
    >>> flow.columns = ["mass", "age"]
    >>> to_frame(flow, flow.sample(2, rng=0)).round(3)
        mass    age
    0  0.126 -0.132
    1  0.640  0.106
    """
    rows = check_rows(x, flow.features, flow.data_dtype, "x", flow.columns)
    return pd.DataFrame(rows, columns=flow.columns)
