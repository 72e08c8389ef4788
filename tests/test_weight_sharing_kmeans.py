"""k-means in one dimension against scikit-learn, kmeans1d's optimum and its own promises."""

import itertools
import warnings

import kmeans1d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from helpers import zoo
from helpers.weight_sharing import STARTS, kmeans
from helpers.weight_sharing.intervals import best_intervals, candidate_cuts
from helpers.weight_sharing.kmeans import _assign

PAPER = np.array(  # Han et al. 2016, figure 3
    [2.09, -0.98, 1.48, 0.09, 0.05, -0.14, -1.08, 2.12, -0.91, 1.92, 0, -1.03, 1.87, 0, 1.53, 1.49]
)
ALL_STARTS = pytest.mark.parametrize("start", sorted(STARTS))
numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)


def wcss(values, centroids, assignment):
    return float(np.sum((np.asarray(values, float) - np.asarray(centroids)[assignment]) ** 2))


def optimum(values, k):
    """The least possible WCSS, by another library's exact algorithm."""
    found = kmeans1d.cluster([float(v) for v in values], k)
    return wcss(values, found.centroids, np.array(found.clusters))


def samples():
    rng = np.random.default_rng(5)
    weights = zoo.load("LeNet5").conv2.weight.detach().numpy().ravel()
    large = np.abs(weights) >= np.quantile(np.abs(weights), 0.88)
    return {
        "layer": weights[:8000],
        "pruned layer": weights[large],
        "normal": rng.standard_normal(4000),
        "heavy tails": rng.standard_t(2, 4000),
        "uniform": rng.uniform(-1, 1, 4000),
        "repeated": np.round(rng.laplace(size=6000) * 300) / 300,
        "one far outlier": np.append(rng.standard_normal(4000), 1e6),
    }


SAMPLES = samples()


def test_the_papers_example():
    found = kmeans(PAPER, 4, start="linear")
    np.testing.assert_allclose(found.centroids, [-1.0, 0.0, 1.5, 2.0], atol=1e-12)
    expected = np.array([3, 0, 2, 1, 1, 1, 0, 3, 0, 3, 1, 0, 3, 1, 2, 2])
    assert found.assignment.tolist() == expected.tolist()
    assert found.wcss == pytest.approx(0.0932)
    assert optimum(PAPER, 4) == pytest.approx(0.0932)


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize("k", [1, 2, 4, 16, 63, 256])
def test_best_start_is_within_one_per_cent_of_the_optimum(name, k):
    values = SAMPLES[name]
    found = kmeans(values, k)
    best = optimum(values, k)
    assert best * (1 - 1e-9) <= found.wcss <= best * 1.01, (found.wcss, best)
    assert found.wcss <= best * 1.005, "the docstring says 0.5 %"


@given(numbers, st.integers(1, 12))
def test_dynamic_start_finds_the_optimum_of_short_inputs(values, k):
    found, best = kmeans(values, k), optimum(values, k)
    assert found.wcss == pytest.approx(best, rel=1e-6, abs=1e-9 * max(1, np.square(values).max()))


@ALL_STARTS
@given(values=numbers, k=st.integers(1, 12), seed=st.integers(0, 3))
@settings(max_examples=60)
def test_result_is_a_local_optimum(start, values, k, seed):
    values = np.array(values)
    found = kmeans(values, k, start=start, seed=seed)
    assert len(found.centroids) == min(k, len(np.unique(values)))
    assert (np.diff(found.centroids) > 0).all()
    distance = np.abs(values[:, None] - found.centroids)
    own = distance[np.arange(len(values)), found.assignment]
    slack = 1e-12 * max(1.0, np.abs(values).max())
    assert (own <= distance.min(1) + slack).all()
    for c, centroid in enumerate(found.centroids):
        members = values[found.assignment == c]
        assert len(members), f"cluster {c} is empty"
        assert centroid == pytest.approx(members.mean(), rel=1e-9, abs=slack)
    assert found.wcss == pytest.approx(wcss(values, found.centroids, found.assignment))


@ALL_STARTS
@pytest.mark.parametrize("name", ["pruned layer", "heavy tails", "repeated"])
def test_wcss_never_rises(start, name):
    steps = [kmeans(SAMPLES[name], 40, start=start, max_iterations=n).wcss for n in range(1, 30)]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(steps)), steps


@pytest.mark.parametrize("name", ["layer", "pruned layer", "normal", "uniform"])
@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_not_worse_than_scikit_learn_from_the_same_start(name, start):
    values = SAMPLES[name][:3000]
    for k in (4, 16, 64):
        begin = STARTS[start](np.sort(values).astype(float), k)
        found = kmeans(values, k, start=begin)
        with threadpool_limits(1):
            other = KMeans(k, init=begin[:, None], n_init=1).fit(values.astype(float)[:, None])
        assert found.wcss <= other.inertia_ * (1 + 1e-6), (k, found.wcss, other.inertia_)


@pytest.mark.parametrize("name", ["layer", "normal"])
def test_same_local_optimum_as_scikit_learn_without_tolerance(name):
    values = SAMPLES[name][:2000].astype(float)
    begin = STARTS["density"](np.sort(values), 12)  # no cluster becomes empty
    with threadpool_limits(1):
        other = KMeans(12, init=begin[:, None], n_init=1, tol=0, max_iter=2000)
        other.fit(values[:, None])
    found = kmeans(values, 12, start=begin)
    np.testing.assert_allclose(found.centroids, other.cluster_centers_[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.assignment, other.labels_)


def test_the_three_starts_of_the_paper():
    ordered = np.arange(0.0, 8.0)
    assert STARTS["linear"](ordered, 3).tolist() == [0.0, 3.5, 7.0]
    assert STARTS["density"](ordered, 4).tolist() == [1.0, 3.0, 5.0, 7.0]
    drawn = STARTS["random"](ordered, 4)
    assert set(drawn) <= set(ordered)
    assert len(set(drawn)) == 4
    assert not np.array_equal(drawn, kmeans.__globals__["random"](ordered, 4, seed=1))


def test_a_tie_goes_to_the_lower_centroid():
    found = kmeans([0.0, 1.0, 2.0], 2, start=[0.0, 2.0])
    assert found.assignment.tolist() == [0, 0, 1]
    assert found.centroids.tolist() == [0.5, 2.0]
    at_the_end = kmeans([-1.0, 1.0, 2.0], 2, start=[0.0, 2.0])  # 1 lies between 0 and 2
    assert at_the_end.assignment.tolist() == [0, 0, 1]
    assert at_the_end.centroids.tolist() == [0.0, 2.0]
    third = np.array([-1.0, 1.0, 2.0], dtype=np.float32) / 3  # no short binary fraction
    assert kmeans(third, 2, start=[0.0, third[2]]).assignment.tolist() == [0, 0, 1]
    symmetric = kmeans([-2.0, -2.0, 0.0, 2.0, 2.0], 2, start=[-2.0, 2.0], max_iterations=1)
    assert symmetric.assignment[2] == 0, symmetric


@pytest.mark.parametrize("k", [7, 60])
def test_float32_values_are_assigned_as_exactly_as_float64(k):
    rng = np.random.default_rng(3)
    values = (rng.integers(-300, 300, 5000) / 64).astype(np.float32)  # many exact midpoints
    values[::7] = np.nextafter(values[::7], np.float32(9))
    single, double = kmeans(values, k), kmeans(values.astype(np.float64), k)
    np.testing.assert_array_equal(single.centroids, double.centroids)
    np.testing.assert_array_equal(single.assignment, double.assignment)
    middle = 1 + 0.75 * 2.0**-23  # float32 would round it up to the value itself
    above = np.array([1 + 2.0**-23], dtype=np.float32)
    for extra in (0, 40):  # both ways of searching
        centroids = np.append([0.0, 2 * middle], np.arange(10, 10 + extra))
        assert _assign(above, centroids).tolist() == [1]
        assert _assign(np.float32([1.0]), centroids).tolist() == [0]
    start = np.arange(k) / 8 - 2
    single, double = (
        kmeans(v, k, start=start, max_iterations=1) for v in (values, values.astype(float))
    )
    np.testing.assert_array_equal(single.assignment, double.assignment)


def test_an_empty_cluster_moves_to_where_it_helps():
    values = [0.0, 0.1, 5.0, 5.1, 9.0, 9.1]
    stuck = [2.5, 7.0, 100.0]  # nothing is near the third
    found = kmeans(values, 3, start=stuck)
    np.testing.assert_allclose(found.centroids, [0.05, 5.05, 9.05])
    assert np.bincount(found.assignment).tolist() == [2, 2, 2]
    same_place = kmeans(values, 3, start=[4.0, 4.0, 4.0])
    assert same_place.wcss == pytest.approx(0.015)


def test_the_cluster_that_gains_most_is_cut():
    crowd, pair = [0.0, 1.0] * 50, [100.0, 110.0]  # a cut gains 25 in the crowd, 50 in the pair
    found = kmeans(crowd + pair, 3, start=[0.5, 105.0, 1e6], max_iterations=1)
    assert found.centroids.tolist() == [0.5, 100.0, 110.0]


def test_many_empty_clusters_beside_an_outlier():
    values = np.append(np.linspace(0, 1, 500), 1000.0)
    found = kmeans(values, 32, start="linear")  # 30 of the 32 begin in the void
    assert len(found.centroids) == 32
    assert (np.bincount(found.assignment) > 0).all()
    assert found.wcss < 1.5 * optimum(values, 32)


@ALL_STARTS
@pytest.mark.parametrize(
    ("values", "k", "centroids"),
    [
        ([0.0, 0.0, 0.0], 4, [0.0]),
        ([0.3] * 7, 1, [0.3]),
        ([2.0], 16, [2.0]),
        ([1.0, 2.0, 1.0, 2.0, 3.0], 3, [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 1.0], 5, [1.0, 2.0]),
    ],
)
def test_no_more_distinct_values_than_clusters(start, values, k, centroids):
    found = kmeans(values, k, start=start)
    assert found.centroids.tolist() == centroids
    assert found.wcss == 0.0
    assert found.centroids[found.assignment].tolist() == values


def test_k_of_one_is_the_mean():
    values = SAMPLES["heavy tails"]
    for start in STARTS:
        found = kmeans(values, 1, start=start)
        assert found.centroids[0] == pytest.approx(values.mean())
        assert found.wcss == pytest.approx(((values - values.mean()) ** 2).sum())


@pytest.mark.parametrize(("scale", "shift"), [(1e-30, 0), (1e12, 0), (1.0, 1e6), (1e-12, 0)])
def test_scale_and_shift_of_the_values_do_not_matter(scale, shift):
    values = SAMPLES["normal"][:500]
    base, moved = kmeans(values, 8), kmeans(values * scale + shift, 8)
    assert (base.assignment != moved.assignment).mean() < 0.01
    np.testing.assert_allclose(moved.centroids, base.centroids * scale + shift, rtol=1e-6)


def test_order_of_the_values_does_not_matter():
    values = SAMPLES["layer"][:2000]
    order = np.random.default_rng(0).permutation(len(values))
    a, b = kmeans(values, 16), kmeans(values[order], 16)
    np.testing.assert_array_equal(a.centroids, b.centroids)
    np.testing.assert_array_equal(a.assignment[order], b.assignment)


def test_arguments_are_left_alone_and_repeat_gives_the_same():
    values, start = SAMPLES["layer"][:900].copy(), np.array([0.1, -0.1, 0.0])
    before = values.copy(), start.copy()
    found = kmeans(values, 3, start=start)
    np.testing.assert_array_equal(values, before[0])
    np.testing.assert_array_equal(start, before[1])
    again = kmeans(values, 3, start=start)
    np.testing.assert_array_equal(found.assignment, again.assignment)
    assert found.wcss == again.wcss
    r = [kmeans(values, 30, start="random", seed=s, max_iterations=1).wcss for s in (0, 0, 1)]
    assert r[0] == r[1] != r[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), "not empty"),
        (([[1.0, 2.0]], 1), "one-dimensional"),
        (([1.0, np.nan], 1), "1 numbers that are NaN or infinite"),
        (([np.inf, -np.inf, 1.0], 1), "2 numbers"),
        (([1.0, 2.0], 0), "k must be a whole number"),
        (([1.0, 2.0], 1.5), "k must be a whole number"),
        (([1.0, 2.0], True), "k must be a whole number"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kmeans(*arguments)


def test_bad_starts_are_refused():
    with pytest.raises(ValueError, match=r"start must be one of \['density', 'dynamic'"):
        kmeans([1.0, 2.0, 3.0], 2, start="linea")
    for bad in ([1.0], [1.0, 2.0, 3.0], [1.0, np.nan], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="start must hold k = 2"):
            kmeans([1.0, 2.0, 3.0], 2, start=bad)
    with pytest.raises(ValueError, match="max_iterations"):
        kmeans([1.0, 2.0], 1, max_iterations=0)


def test_no_warning_is_given():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, values in SAMPLES.items():
            for start in STARTS:
                assert kmeans(values[:300], 50, start=start).wcss >= 0, name


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=25), st.integers(1, 6))
def test_intervals_against_every_choice_of_cuts(values, k):
    ordered = np.sort(np.array(values, float))
    ordered -= ordered.mean()
    cuts = np.arange(len(values) + 1)
    if k > len(values):
        with pytest.raises(ValueError, match="k must be from 1 to"):
            best_intervals(ordered, k, cuts)
        return
    ends = best_intervals(ordered, k, cuts)
    assert ends[0] == 0
    assert ends[-1] == len(values)
    assert (np.diff(ends) > 0).all()
    within = sum(len(p) * p.var() for p in np.split(ordered, ends[1:-1]))
    table = np.full((k + 1, len(values) + 1), np.inf)  # the recursion, without any shortcut
    table[0, 0] = 0
    for c in range(1, k + 1):
        for j in range(1, len(values) + 1):
            parts = [table[c - 1, i] + (j - i) * ordered[i:j].var() for i in range(j)]
            table[c, j] = min(parts)
    assert within == pytest.approx(table[k, -1], abs=1e-6)


def test_candidate_cuts_never_fall_between_equal_values():
    ordered = np.sort(np.round(np.random.default_rng(1).laplace(size=5000) * 100))
    for groups in (16, 64, 4096):
        cuts = candidate_cuts(ordered, groups)
        inner = cuts[1:-1]
        assert (ordered[inner] > ordered[inner - 1]).all()
        assert (cuts[0], cuts[-1]) == (0, 5000)
        assert (np.diff(cuts) > 0).all()
        assert len(cuts) <= groups + 2
    assert len(candidate_cuts(ordered, 4096)) == len(np.unique(ordered)) + 1
