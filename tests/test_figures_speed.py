"""The figures of speed: work and traffic in closed form, and a record that is drawn as it stands,
gaps and all."""

import doctest
import json
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from figures import common  # noqa: E402
from figures.bench.configurations import Configuration  # noqa: E402

beside, roofline = import_module("figures.12_beside_others"), import_module("figures.13_roofline")
PASSES = ("density", "sampler")


def drawn(module, data):
    with common.style():
        figure = module.draw(data)
        figure.draw_without_rendering()
    assert isinstance(figure, Figure)
    return figure


def words(figure):
    """Every text of a figure, in one string."""
    texts = [figure.get_suptitle(), figure.get_supxlabel()]
    for axes in figure.axes:
        texts += [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
        texts += [
            text.get_text()
            for text in (*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels())
        ]
    return "\n".join(texts)


@pytest.mark.parametrize("module", [beside, roofline])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


# ---- under the roofs -----------------------------------------------------------------------------


def ones_in_masks(D, H, T):
    """Each degree 1 … D - 1 belongs to c = H / (D - 1) units of each layer:
    c D (D - 1) (c + 3) / 2 a transform.

    Inputs to the first layer: c Σ m. First to second layer: c² Σ m. Second layer to the 2 D
    outputs: 2 c Σ (i - 1). All three sums are D (D - 1) / 2.
    """
    c, rest = divmod(H, D - 1)
    assert rest == 0
    return T * c * (c + 3) * D * (D - 1) // 2


@pytest.mark.parametrize(("D", "H", "T"), [(2, 64, 5), (6, 100, 5), (9, 64, 1), (65, 128, 2)])
def test_the_work_is_what_the_masks_allow(D, H, T):
    flow = roofline.maf(D, H, T)
    assert roofline.weights(flow) == ones_in_masks(D, H, T) < flow.theta.size
    assert flow.dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "readings"), [(1, 1), (8, 1), (9, 1), (64, 1), (65, 2), (1000, 16)]
)
def test_weights_are_read_once_a_tile(rows, readings, monkeypatch):
    monkeypatch.setattr(roofline, "lanes", lambda dtype: 64)
    assert roofline.traffic(10**6, 63, rows) == 4 * (readings * 10**6 + rows * (63 + 63 + 1))


def test_few_rows_share_one_reading_even_where_tiles_are_smaller(monkeypatch):
    monkeypatch.setattr(roofline, "lanes", lambda dtype: 4)
    assert roofline.traffic(100, 2, 8) == 4 * (100 + 8 * 5)
    assert roofline.traffic(100, 2, 9) == 4 * (3 * 100 + 9 * 5)


@pytest.fixture(scope="module")
def small():
    """The figure's data with small flows in place of the large ones, and small roofs."""
    known = {"power": (6, 100, 5), "bsds": (9, 64, 5), "mnist": (17, 64, 5)}
    with pytest.MonkeyPatch.context() as patch:
        for name, (D, H, T) in known.items():
            patch.setitem(roofline.CONFIGURATIONS, name, Configuration(name, D, H, transforms=T))
        patch.setattr(roofline, "SIDE", 64)
        patch.setattr(roofline, "COPIED", 2**12)
        patch.setattr(roofline, "sizes", lambda quick: [(5, 64, 1000), (9, 64, 100)])
        data = roofline.data(quick=True)
    return known, data


def test_work_and_intensity_have_closed_forms(small):
    known, data = small
    T = data["numbers"]["rows_a_tile"]
    for name, one in data["numbers"]["configurations"].items():
        D, H, transforms = known[name]
        S = ones_in_masks(D, H, transforms)
        assert (one["D"], one["hidden"], one["transforms"], one["weights"]) == (D, H, transforms, S)
        assert one["flops"] == [2 * n * S for n in one["N"]]
        readings = [1 if n <= 8 else -(-n // T) for n in one["N"]]
        bytes_moved = [
            4 * (r * S + n * (2 * D + 1)) for r, n in zip(readings, one["N"], strict=True)
        ]
        assert one["intensity"] == pytest.approx(np.divide(one["flops"], bytes_moved), rel=1e-15)
        assert one["intensity"][0] < 0.5 < one["intensity"][1] < 4 < one["intensity"][-1] < T / 2


def test_rates_are_work_over_the_fastest_time(small):
    _, data = small
    numbers = data["numbers"]
    for one in numbers["configurations"].values():
        assert one["cores"][:2] == [1, 1] and 1 <= max(one["cores"]) <= numbers["threads"]
        for of in PASSES:
            milliseconds = np.array(one[f"{of}_ms"])
            assert (milliseconds > 0).all() and (milliseconds <= one[f"{of}_median_ms"]).all()
            assert one[f"{of}_gflops"] == pytest.approx(
                one["flops"] / milliseconds / 1e6, rel=1e-12
            )
            fractions = np.array(one[f"{of}_gflops"]) / numbers["product_gflops"]
            assert one[f"{of}_fraction"] == pytest.approx(fractions, rel=1e-15)
    assert (
        numbers["ratio_D"] == [5, 9]
        and numbers["ratio_N"] == [1000, 100]
        and min(numbers["ratio"]) > 0
    )


def test_roofs_are_work_over_the_fastest_of_all_rounds():
    roofs = object.__new__(roofline.Roofs)
    rounds = [
        {"minimum": 0.5, "median": 2.0},
        {"minimum": 0.25, "median": 1.0},
        {"minimum": 1.0, "median": 4.0},
    ]
    roofs.seconds = {name: rounds for name in ("product", "product_one_core", "copy")}
    found = roofs.numbers()
    flops = 2 * 2048**3
    moved = 2 * 4 * 2**25
    assert found["product_gflops"] == found["product_one_core_gflops"] == flops / 0.25 / 1e9
    assert found["product_gflops_median"] == flops / 2.0 / 1e9
    assert found["copy_gbytes"] == moved / 0.25 / 1e9


def test_processor_time_stands_still_while_others_work():
    times = roofline.processor_seconds(
        {"sleep": lambda: time.sleep(0.05), "work": lambda: sum(range(10**5))}, 3
    )
    assert 0 < times["work"]["minimum"] <= times["work"]["median"]
    assert times["sleep"]["minimum"] < 0.025  # half of the time slept


def test_the_largest_flow_of_the_ratio_is_that_of_images():
    assert roofline.sizes(quick=False)[-1] == roofline.sizes(quick=True)[-1] == (784, 1024, 100)
    assert all(
        hidden >= D - 1 for D, hidden, _ in roofline.sizes(quick=False)
    )  # else legal pairs are lost


def test_the_picture_says_what_the_numbers_say(small):
    _, data = small
    text = words(drawn(roofline, data))
    numbers = data["numbers"]
    assert f"matrix product: {numbers['product_gflops']:.0f} GFLOP/s" in text
    for one in numbers["configurations"].values():
        density, sampler = (100 * one[f"{of}_fraction"][-1] for of in PASSES)
        assert f"density {density:.0f} %, sampler {sampler:.0f} %" in text
    assert all(f"{ratio:.2f}" in text for ratio in numbers["ratio"])


# ---- beside others -------------------------------------------------------------------------------


def record(
    times,
    features=3,
    operations=(
        "log_prob 1000",
        "sample 1000",
        "train 100",
        "train 1000",
        "sample 1",
        "alternating 1000",
    ),
):
    """A record of one configuration from seconds[library][operation]."""
    seconds = {
        name: {op: {"median": s, "minimum": s / 2} for op, s in of.items()}
        for name, of in times.items()
    }
    one = {
        "features": features,
        "hidden": 8,
        "transforms": 5,
        "operations": list(operations),
        "others": 0.01,
    }
    machine = {
        "date": "2001-02-03",
        "processor": "P",
        "cores": 2,
        "threads": 2,
        "python": "3",
        "numpy": "2",
    }
    return {
        "machine": machine,
        "libraries": {name: {"version": "1.0"} for name in times},
        "missing": {"nflows": "nflows"},
        "configurations": {"small": {**one, "seconds": seconds}},
    }


TIMES = {
    "afnp": {"log_prob 1000": 0.001, "sample 1000": 0.002, "train 100": 0.004, "sample 1": 0.001},
    "zuko": {"log_prob 1000": 0.003, "sample 1000": 0.006, "train 100": 0.002, "sample 1": 0.005},
    "flowjax": {"log_prob 1000": 0.002, "sample 1000": 0.008, "train 100": 0.003},
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    def read(content):
        path = tmp_path / "record.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        monkeypatch.setattr(beside, "RECORD", path)
        return beside.data()

    return read


def test_medians_become_times_a_row_and_speedups(read):
    found = read(record(TIMES))["numbers"]["configurations"]["small"]
    assert found["us_a_row"]["sample"] == pytest.approx({"afnp": 2, "zuko": 6, "flowjax": 8})
    assert found["us_a_row"]["log_prob"] == pytest.approx({"afnp": 1, "zuko": 3, "flowjax": 2})
    speedup = {
        operation: (round(factor, 12), peer)
        for operation, (factor, peer) in found["speedup"].items()
    }
    assert speedup == {
        "log_prob": (2, "flowjax"),
        "sample": (3, "zuko"),
        "train 100": (0.5, "zuko"),
        "sample 1": (5, "zuko"),
    }


def test_densities_and_samples_are_compared_at_the_same_few_rows(read):
    operations = ("log_prob 1000", "log_prob 100", "sample 100", "sample 1", "alternating 100")
    times = {
        "afnp": {
            "log_prob 1000": 1.0,
            "log_prob 100": 0.01,
            "sample 100": 0.02,
            "sample 1000": 9.0,
        },
        "zuko": {"log_prob 1000": 5.0, "log_prob 100": 0.03, "sample 100": 0.2},
    }
    found = read(record(times, operations=operations))["numbers"]["configurations"]["small"]
    assert found["N"] == 100
    assert found["us_a_row"]["sample"] == pytest.approx({"afnp": 200, "zuko": 2000})
    assert found["speedup"]["log_prob"] == [pytest.approx(3), "zuko"]


def test_the_picture_names_versions_and_machine_but_no_date(read):
    data = read(record(TIMES))
    text = words(drawn(beside, data))
    assert (
        "zuko 1.0" in text
        and "P, 2 cores" in text
        and "small, D = 3" in text
        and "0.50  zuko" in text
    )
    assert "2001" not in text + common.as_json(data)
    assert "NOT A RESULT" not in text


def test_a_busy_machine_is_named_on_the_picture(read):
    content = record(TIMES)
    content["configurations"]["small"]["others"] = 1.25
    assert "NOT A RESULT: other programs kept up to 1.2 cores busy" in words(
        drawn(beside, read(content))
    )


@pytest.mark.parametrize(
    "kept", [(), ("afnp",), ("zuko",), ("afnp", "flowjax"), ("zuko", "flowjax")]
)
def test_missing_libraries_do_not_break_it(read, kept):
    data = read(record({name: TIMES[name] for name in kept}))
    common.as_json(data["numbers"])
    drawn(beside, data)
    for one in data["numbers"]["configurations"].values():
        assert set(one["us_a_row"]["sample"]) == set(kept)
        assert bool(one["speedup"]) == ("afnp" in kept and len(kept) > 1)


def test_a_line_that_ends_early_says_where(read):
    content = record(TIMES)
    larger = record({name: TIMES[name] for name in ("afnp", "flowjax")}, features=20)
    content["configurations"]["large"] = larger["configurations"]["small"]
    text = words(drawn(beside, read(content)))
    assert "zuko, to D = 3" in text and "flowjax, to" not in text


def test_the_committed_record_is_complete_for_what_it_names():
    data = beside.data(quick=True)
    record = json.loads(beside.RECORD.read_text(encoding="utf-8"))
    assert "date" not in data["machine"] and data["numbers"] == beside.data(quick=False)["numbers"]
    for name, one in data["numbers"]["configurations"].items():
        assert one["features"] == roofline.CONFIGURATIONS[name].features
        assert set(one["speedup"]) == set(beside.OPERATIONS)
        proofs = record["configurations"][name]["proofs"]
        assert {"afnp"} < set(proofs) == set(one["us_a_row"]["log_prob"])
        assert all(proof["log_prob_error"] < 1e-4 for proof in proofs.values())
    assert record["configurations"]["power"]["proofs"]["afnp"]["connections"] == ones_in_masks(
        6, 100, 5
    )


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8), st.floats(0.1, 10))
def test_labels_keep_their_order_and_their_distance(at, gap):
    at = np.array(at)
    places = beside.spread(at, gap)
    order = np.argsort(at, kind="stable")
    apart = np.diff(places[order])
    assert (apart >= gap - 1e-9).all()  # sums of numbers up to 120: rounding is below 1e-12
    assert places.mean() == pytest.approx(at.mean(), abs=1e-9)
    if (np.diff(at[order]) >= gap).all():
        assert places == pytest.approx(at, abs=1e-9)
