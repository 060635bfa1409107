"""trainer/study/stats*.c against SciPy and NumPy; with FULL=1 also whether intervals cover and tests hold their level.

The sources are compiled into a small shared library for this test: they are pure functions of plain arrays.
"""
import ctypes
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from harness import ROOT  # noqa: E402

scipy_stats = pytest.importorskip("scipy.stats")
special = pytest.importorskip("scipy.special")

FULL = os.environ.get("FULL") == "1"
SOURCES = ["trainer/study/stats_dist.c", "trainer/study/stats.c", "trainer/study/stats_cluster.c", "shared/base/mem.c",
           "shared/base/check.c", "shared/base/err.c"]
OK, EMPTY, TOO_FEW, NO_SPREAD, NOT_FINITE, NO_RATIO = range(6)
D, I = ctypes.c_double, ctypes.c_int


class Mean(ctypes.Structure):
    _fields_ = [("status", I), ("n", I), ("mean", D), ("sd", D), ("se", D), ("low", D), ("high", D)]


class Paired(ctypes.Structure):
    _fields_ = [("status", I), ("n", I)] + [(k, D) for k in ("mean", "sd", "ratio", "se", "t", "df", "p", "low", "high")]


class Cv52(ctypes.Structure):
    _fields_ = [("status", I), ("f", D), ("p", D)]


class Effect(ctypes.Structure):
    _fields_ = [("status", I), ("d", D), ("g", D)]


class Mcnemar(ctypes.Structure):
    _fields_ = [("status", I), ("only_a", D), ("only_b", D), ("exact", I), ("statistic", D), ("p", D)]


class FactorEffect(ctypes.Structure):
    _fields_ = [("factors", ctypes.c_uint), ("test", Paired)]


class Bin(ctypes.Structure):
    _fields_ = [("count", ctypes.c_size_t), ("confidence", D), ("accuracy", D)]


class Calibration(ctypes.Structure):
    _fields_ = [("status", I), ("count", ctypes.c_size_t), ("ece", D), ("mce", D), ("bins", Bin * 15)]


class Table(ctypes.Structure):
    _fields_ = [("clusters", ctypes.c_uint32), ("arms", ctypes.c_uint32), ("sums", ctypes.c_void_p), ("counts", ctypes.c_void_p)]


class Bootstrap(ctypes.Structure):
    _fields_ = [("status", I), ("replicates", I), ("bca", I)] + [(k, D) for k in ("estimate", "se", "low", "high", "bias", "acceleration")]


class Permutation(ctypes.Structure):
    _fields_ = [("status", I), ("exact", I), ("differing", ctypes.c_uint32), ("permutations", I), ("estimate", D), ("p", D)]


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "stats.so"
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-I.",
                    *SOURCES, "-lm", "-o", str(path)], cwd=ROOT, check=True)
    lib = ctypes.CDLL(str(path))
    for name, count in dict(beta_inc=3, normal_cdf=1, normal_quantile=1, t_two_sided=2, t_quantile=2, f_sf=3, chi2_sf=2,
                            binomial_cdf=3, nct_cdf=3).items():
        function = getattr(lib, "dist_" + name)
        function.restype, function.argtypes = D, [D] * count
    for name, result, arguments in (
            ("mean", Mean, [ctypes.c_void_p, I, D]), ("corrected_t", Paired, [ctypes.c_void_p, I, D, D]),
            ("52cv", Cv52, [ctypes.c_void_p]), ("effect", Effect, [ctypes.c_void_p, I]), ("mcnemar", Mcnemar, [D, D]),
            ("holm", None, [ctypes.c_void_p, I, ctypes.c_void_p]), ("power", D, [D, D, I, D, D]), ("detectable", D, [D, I, D, D, D]),
            ("detectable_floor", D, [D, D, D, D]), ("seeds_needed", I, [D, D, I, D, D]),
            ("factorial", None, [ctypes.c_void_p, I, I, D, D, ctypes.c_void_p, ctypes.c_void_p]),
            ("bootstrap", I, [ctypes.POINTER(Table), I, ctypes.c_uint64, D, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]),
            ("permutation", I, [ctypes.POINTER(Table), ctypes.c_uint32, I, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p])):
        function = getattr(lib, "stats_" + name)
        function.restype, function.argtypes = result, arguments
    return lib


def array(values):
    return np.ascontiguousarray(values, dtype=np.float64)


def close(got, want, rtol=1e-10, atol=1e-14):
    assert math.isfinite(got) and abs(got - want) <= atol + rtol * abs(want), f"got {got!r}, want {want!r}"


# ---- distributions ----

def test_distributions(lib):
    for df in (1, 2, 3.5, 4, 9, 24, 49, 120, 1e4):
        for t in (-40, -3, -1e-3, 0, 0.5, 2.2, 7, 300):
            close(lib.dist_t_two_sided(t, df), 2 * scipy_stats.t.sf(abs(t), df), atol=1e-300)
    for df1, df2 in ((10, 5), (1, 24), (3, 3), (40, 7), (2.5, 100)):
        for f in (1e-3, 0.4, 1, 3.3, 4.74, 90):
            close(lib.dist_f_sf(f, df1, df2), scipy_stats.f.sf(f, df1, df2))
    for df in (1, 2, 5, 30, 500):
        for x in (1e-4, 0.5, 3.84, 25, 480, 900):
            close(lib.dist_chi2_sf(x, df), scipy_stats.chi2.sf(x, df), atol=1e-290)
    for n, p in ((1, 0.5), (10, 0.5), (37, 0.13), (1000, 0.5), (5000, 0.02)):
        for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            close(lib.dist_binomial_cdf(k, n, p), scipy_stats.binom.cdf(k, n, p), atol=1e-200)
    for x in (-30, -5, -1, 0, 0.3, 4, 9):
        close(lib.dist_normal_cdf(x), scipy_stats.norm.cdf(x), atol=1e-300)
    for a, b, x in ((0.5, 0.5, 0.1), (12, 0.5, 0.99), (2, 300, 0.01), (1e4, 1e4, 0.5)):
        close(lib.dist_beta_inc(a, b, x), special.betainc(a, b, x))


def test_quantiles(lib):
    for p in (1e-12, 1e-4, 0.025, 0.3, 0.5, 0.8, 0.975, 0.9995):
        close(lib.dist_normal_quantile(p), scipy_stats.norm.ppf(p), atol=1e-13)
        for df in (1, 4, 24, 49, 250):
            # SciPy's ppf of t is good to 1e-8 or so only (at p = 1e-12 to less); its cdf to all digits.
            close(scipy_stats.t.cdf(lib.dist_t_quantile(p, df), df), p)
            close(lib.dist_t_quantile(p, df), scipy_stats.t.ppf(p, df), rtol=1e-7, atol=1e-13)


def test_noncentral_t(lib):
    for df in (2, 4, 24, 49, 500):
        for delta in (0, 0.3, -1.5, 2.8, 6, 20):
            for t in (-2.5, 0, 1.1, 2.06, 5, 18):
                want = scipy_stats.nct.cdf(t, df, delta) if delta else scipy_stats.t.cdf(t, df)
                if math.isnan(want) and t < 0 < delta:  # SciPy 1.15 far out; there it is at most P(Z < -delta)
                    want = scipy_stats.norm.cdf(-delta)
                    assert want < 1e-80
                close(lib.dist_nct_cdf(t, df, delta), want, rtol=1e-8, atol=1e-10)


def test_outside_of_the_domain(lib):
    for value in (lib.dist_t_two_sided(1, 0), lib.dist_t_quantile(2, 5), lib.dist_f_sf(1, -1, 2), lib.dist_chi2_sf(float("nan"), 3),
                  lib.dist_binomial_cdf(1, 2.5, 0.5), lib.dist_normal_quantile(-0.1), lib.dist_nct_cdf(1, 5, 40), lib.dist_beta_inc(1, 1, 2)):
        assert math.isnan(value)


# ---- tests ----

def test_mean(lib):
    x = array([0.71, 0.74, 0.69, 0.73, 0.70])
    got = lib.stats_mean(x.ctypes.data, 5, 0.95)
    low, high = scipy_stats.t.interval(0.95, 4, x.mean(), scipy_stats.sem(x))
    close(got.mean, x.mean())
    close(got.low, low)
    close(got.high, high)


def test_corrected_t(lib):
    rng = np.random.default_rng(1)
    for n, ratio in ((5, 1 / 4), (25, 1 / 4), (50, 1 / 9), (10, 0)):
        d = array(rng.normal(0.01, 0.02, n))
        got = lib.stats_corrected_t(d.ctypes.data, n, ratio, 0.95)
        se = d.std(ddof=1) * math.sqrt(1 / n + ratio)
        t = d.mean() / se
        close(got.t, t)
        close(got.p, 2 * scipy_stats.t.sf(abs(t), n - 1))
        close(got.low, d.mean() - scipy_stats.t.ppf(0.975, n - 1) * se, rtol=1e-8, atol=1e-9)
        close(2 * scipy_stats.t.sf((got.high - d.mean()) / se, n - 1), 0.05)
        if ratio == 0:
            close(got.p, scipy_stats.ttest_1samp(d, 0).pvalue)


def test_degenerate(lib):
    def t(values, ratio=0.25):
        d = array(values)
        return lib.stats_corrected_t(d.ctypes.data, len(d), ratio, 0.95)
    assert t([]).status == EMPTY
    assert t([0.1]).status == TOO_FEW and t([0.1]).mean == 0.1
    assert t([0.1, 0.1, 0.1]).status == NO_SPREAD and math.isnan(t([0.1, 0.1, 0.1]).p)
    assert t([0.8 - 0.7, 0.7 - 0.6, 0.3 - 0.2]).status == NO_SPREAD
    assert t([0, 0]).status == NO_SPREAD and t([0, 0]).p == 1
    assert t([0.1, float("nan")]).status == NOT_FINITE
    assert t([1e308, -1e308, 1e308]).status == NOT_FINITE
    assert t([0.1, 0.2], float("nan")).status == NO_RATIO
    one = array([0.5])
    got = lib.stats_mean(one.ctypes.data, 1, 0.95)
    assert got.status == TOO_FEW and got.mean == 0.5 and math.isnan(got.low)
    same = array([0.5, 0.5])
    got = lib.stats_mean(same.ctypes.data, 2, 0.95)
    assert got.status == NO_SPREAD and got.low == got.high == 0.5
    zeros = array(np.zeros((5, 2)))
    assert lib.stats_52cv(zeros.ctypes.data).status == NO_SPREAD
    assert lib.stats_effect(same.ctypes.data, 2).status == NO_SPREAD
    assert lib.stats_mcnemar(0, 0).status == EMPTY and lib.stats_mcnemar(0, 0).p == 1
    assert math.isnan(lib.stats_power(0.1, 0, 5, 0.25, 0.05))


def test_52cv(lib):
    rng = np.random.default_rng(2)
    d = array(rng.normal(0.02, 0.02, (5, 2)))
    mean = d.mean(axis=1, keepdims=True)
    f = (d ** 2).sum() / (2 * ((d - mean) ** 2).sum())
    got = lib.stats_52cv(d.ctypes.data)
    close(got.f, f)
    close(got.p, scipy_stats.f.sf(f, 10, 5))


def test_effect(lib):
    d = array([0.01, 0.03, 0.02, -0.01, 0.04])
    got = lib.stats_effect(d.ctypes.data, 5)
    want = d.mean() / d.std(ddof=1)
    close(got.d, want)
    close(got.g, want * special.gamma(2) / (math.sqrt(2) * special.gamma(1.5)))


def test_mcnemar(lib):
    for a, b in ((0, 5), (3, 3), (10, 25), (400, 480)):
        got = lib.stats_mcnemar(a, b)
        assert got.exact
        close(got.p, scipy_stats.binomtest(min(a, b), a + b).pvalue)
    got = lib.stats_mcnemar(900, 1050)
    assert not got.exact
    close(got.p, scipy_stats.chi2.sf((150 - 1) ** 2 / 1950, 1))


def test_holm(lib):
    p = array([0.01, 0.04, float("nan"), 0.03, 0.005, 0.9])
    out = array(np.zeros(6))
    lib.stats_holm(p.ctypes.data, 6, out.ctypes.data)
    # R: p.adjust(c(.01,.04,.03,.005,.9), "holm")
    assert np.allclose(out[[0, 1, 3, 4, 5]], [0.04, 0.09, 0.09, 0.025, 0.9], rtol=1e-12) and math.isnan(out[2])


def test_power(lib):
    sd, n, ratio, alpha = 0.02, 25, 0.25, 0.01
    for delta in (0.0, 0.01, 0.03, 0.05):
        shift, df = delta / (sd * math.sqrt(1 / n + ratio)), n - 1
        critical = scipy_stats.t.ppf(1 - alpha / 2, df)
        want = alpha if delta == 0 else scipy_stats.nct.sf(critical, df, shift) + scipy_stats.nct.cdf(-critical, df, shift)
        close(lib.stats_power(delta, sd, n, ratio, alpha), want, rtol=1e-6)
    found = lib.stats_detectable(sd, n, ratio, alpha, 0.8)
    close(lib.stats_power(found, sd, n, ratio, alpha), 0.8, rtol=1e-8)
    floor = lib.stats_detectable_floor(sd, ratio, alpha, 0.8)
    close(floor, (scipy_stats.norm.ppf(0.995) + scipy_stats.norm.ppf(0.8)) * sd * math.sqrt(ratio))
    assert floor < found and lib.stats_seeds_needed(floor * 0.99, sd, 5, alpha, 0.8) == 0
    needed = lib.stats_seeds_needed(0.038, sd, 5, alpha, 0.8)
    assert needed > 1
    assert lib.stats_power(0.038, sd, 5 * needed, 0.25, alpha) >= 0.8 > lib.stats_power(0.038, sd, 5 * (needed - 1), 0.25, alpha)


def test_factorial(lib):
    rng = np.random.default_rng(3)
    n, k = 10, 3
    on = np.array([[arm >> f & 1 for f in range(k)] for arm in range(8)])
    truth = 0.7 + 0.02 * on[:, 0] - 0.01 * on[:, 1] + 0.04 * on[:, 0] * on[:, 2]
    cells = array(truth + rng.normal(0, 0.003, (n, 1)) + rng.normal(0, 0.001, (n, 8)))
    out, scratch = (FactorEffect * 7)(), array(np.zeros(n))
    lib.stats_factorial(cells.ctypes.data, n, k, 0.25, 0.95, scratch.ctypes.data, out)
    assert [e.factors for e in out] == [1, 2, 4, 3, 5, 6, 7]
    # Oracle: least squares on effects coded -1, +1; an effect is twice its coefficient.
    signs = 2 * on - 1
    for e in out:
        members = [f for f in range(k) if e.factors >> f & 1]
        column = np.prod(signs[:, members], axis=1)
        values = 2 * (cells @ column) / 8
        close(e.test.mean, values.mean(), rtol=1e-9)
        close(e.test.sd, values.std(ddof=1), rtol=1e-9)
    assert abs(out[0].test.mean - 0.04) < 2e-3 and abs(out[4].test.mean - 0.02) < 2e-3


# ---- clusters ----

def table_of(sums, counts):
    sums, counts = array(sums), array(counts)
    return Table(sums.shape[0], sums.shape[1], sums.ctypes.data, counts.ctypes.data), (sums, counts)


def random_clusters(rng, clusters, arms, effect=0.0):
    counts = np.repeat(rng.integers(1, 12, (clusters, 1)), arms, axis=1)
    tilt = rng.normal(effect, 0.3, (clusters, arms)).clip(-1, 1)
    return np.round(counts * tilt), counts


def test_bootstrap(lib):
    rng = np.random.default_rng(4)
    sums, counts = random_clusters(rng, 151, 2, 0.05)
    table, keep = table_of(sums, counts)
    out, replicates = (Bootstrap * 2)(), array(np.zeros((4000, 2)))
    assert lib.stats_bootstrap(ctypes.byref(table), 4000, 7, 0.95, out, replicates.ctypes.data, None) == 0
    for arm in range(2):
        theta = sums[:, arm].sum() / counts[:, arm].sum()
        close(out[arm].estimate, theta)
        # The formula, on the same replicates.
        r = replicates[:, arm]
        z0 = scipy_stats.norm.ppf((np.sum(r < theta) + 0.5 * np.sum(r == theta)) / len(r))
        without = (sums[:, arm].sum() - sums[:, arm]) / (counts[:, arm].sum() - counts[:, arm])
        d = without.mean() - without
        a = (d ** 3).sum() / (6 * (d ** 2).sum() ** 1.5)
        q = [scipy_stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in scipy_stats.norm.ppf([0.025, 0.975])]
        low, high = np.quantile(r, q)
        close(out[arm].low, low, rtol=1e-9)
        close(out[arm].high, high, rtol=1e-9)
        close(out[arm].se, r.std(ddof=1), rtol=1e-9)
        # SciPy's own bootstrap, with its own draws.
        want = scipy_stats.bootstrap((sums[:, arm], counts[:, arm]), lambda s, c, axis=-1: s.sum(axis=axis) / c.sum(axis=axis),
                                     paired=True, vectorized=True, n_resamples=4000, method="BCa", random_state=1)
        width = want.confidence_interval.high - want.confidence_interval.low
        assert abs(out[arm].low - want.confidence_interval.low) < 0.06 * width
        assert abs(out[arm].high - want.confidence_interval.high) < 0.06 * width
        assert abs(out[arm].se / want.standard_error - 1) < 0.06
    again = (Bootstrap * 2)()
    assert lib.stats_bootstrap(ctypes.byref(table), 4000, 7, 0.95, again, None, None) == 0
    assert bytes(again) == bytes(out)
    assert keep


def test_bootstrap_degenerate(lib):
    out = (Bootstrap * 1)()
    table, keep = table_of(np.zeros((30, 1)), np.ones((30, 1)))
    assert lib.stats_bootstrap(ctypes.byref(table), 500, 1, 0.95, out, None, None) == 0
    assert out[0].status == NO_SPREAD and out[0].low == out[0].high == 0
    table, keep = table_of(np.zeros((3, 1)), np.zeros((3, 1)))
    assert lib.stats_bootstrap(ctypes.byref(table), 500, 1, 0.95, out, None, None) == 0 and out[0].status == EMPTY
    table, keep = table_of(np.ones((1, 1)), np.full((1, 1), 4.0))
    assert lib.stats_bootstrap(ctypes.byref(table), 500, 1, 0.95, out, None, None) == 0
    assert out[0].status == NO_SPREAD and out[0].estimate == 0.25
    assert keep


def test_permutation(lib):
    out = Permutation()
    sums = array([[3.0], [1], [-2], [4], [0], [2], [5], [-1], [2]])
    table, keep = table_of(sums, np.full((9, 1), 5.0))
    assert lib.stats_permutation(ctypes.byref(table), 0, 1000, 1, ctypes.byref(out), None) == 0
    want = scipy_stats.permutation_test((sums[:, 0],), lambda x, axis=-1: x.sum(axis=axis), permutation_type="samples",
                                        vectorized=True, n_resamples=np.inf)
    assert out.exact and out.differing == 8
    close(out.p, want.pvalue)
    rng = np.random.default_rng(5)
    sums, counts = random_clusters(rng, 400, 3, 0.02)
    table, keep = table_of(sums, counts)
    for arm in range(3):
        assert lib.stats_permutation(ctypes.byref(table), arm, 9999, 1, ctypes.byref(out), None) == 0
        want = scipy_stats.permutation_test((sums[:, arm],), lambda x, axis=-1: x.sum(axis=axis), permutation_type="samples",
                                            vectorized=True, n_resamples=9999, random_state=2, batch=1000)
        assert not out.exact and abs(out.p - want.pvalue) < 0.02
    table, keep = table_of(np.zeros((5, 1)), np.ones((5, 1)))
    assert lib.stats_permutation(ctypes.byref(table), 0, 99, 1, ctypes.byref(out), None) == 0
    assert out.status == EMPTY and out.p == 1 and keep


def test_calibration(lib):
    rng = np.random.default_rng(6)
    confidence = rng.uniform(0, 1, 3000)
    confidence[:3] = (0, 1, 0.2)
    correct = (rng.uniform(0, 1, 3000) < confidence ** 1.5).astype(int)
    c = Calibration()
    lib.stats_calibration_begin(ctypes.byref(c))
    lib.stats_calibration_add.argtypes = [ctypes.c_void_p, D, I]
    for p, y in zip(confidence, correct):
        lib.stats_calibration_add(ctypes.byref(c), p, int(y))
    lib.stats_calibration_end(ctypes.byref(c))
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [(np.sum(bins == b), abs(confidence[bins == b].mean() - correct[bins == b].mean())) for b in range(15)]
    close(c.ece, sum(n * g for n, g in gaps) / 3000)
    close(c.mce, max(g for _, g in gaps))
    lib.stats_calibration_begin(ctypes.byref(c))
    lib.stats_calibration_end(ctypes.byref(c))
    assert c.status == EMPTY and math.isnan(c.ece)
    lib.stats_calibration_add(ctypes.byref(c), float("nan"), 1)
    lib.stats_calibration_end(ctypes.byref(c))
    assert c.status == NOT_FINITE and math.isnan(c.ece)


# ---- do they keep what they promise? ----

def simulate(rng, folds, seeds, share, effect=0.0, sd=0.02):
    """Differences as a cross-validation gives them: a share of the variance is common to all seeds of a fold."""
    fold = rng.normal(0, sd * math.sqrt(share), (folds, 1))
    return array(effect + fold + rng.normal(0, sd * math.sqrt(1 - share), (folds, seeds))).ravel()


@pytest.mark.skipif(not FULL, reason="FULL=1 measures coverage and false positives")
@pytest.mark.parametrize("folds,seeds", [(5, 1), (5, 5), (10, 3)])
def test_level_and_coverage(lib, folds, seeds):
    rng = np.random.default_rng(7)
    n, rounds = folds * seeds, 4000
    for share in (0.0, 0.3, 0.6, 0.9):
        false, covered, seen = 0, 0, 0
        found = lib.stats_detectable(0.02, n, 1 / (folds - 1), 0.05, 0.8)
        for _ in range(rounds):
            d = simulate(rng, folds, seeds, share)
            false += lib.stats_corrected_t(d.ctypes.data, n, 1 / (folds - 1), 0.95).p < 0.05
            d = simulate(rng, folds, seeds, share, found)
            got = lib.stats_corrected_t(d.ctypes.data, n, 1 / (folds - 1), 0.95)
            covered += got.low <= found <= got.high
            seen += got.p < 0.05
        print(f"\nfolds {folds} seeds {seeds} share of fold {share}: false positives {false / rounds:.3f}, coverage {covered / rounds:.3f}, "
              f"found at the detectable difference {seen / rounds:.3f}")
        limit = 0.05 if seeds == 1 or share <= 0.6 else 0.09
        assert false / rounds <= limit + 3 * math.sqrt(limit * (1 - limit) / rounds)
        assert seen / rounds >= 0.78


@pytest.mark.skipif(not FULL, reason="FULL=1 measures coverage and false positives")
def test_clustered_level_and_coverage(lib):
    """Pairs of one picture go together: resampling pictures covers, and its test holds its level."""
    rng = np.random.default_rng(8)
    rounds, covered, false, naive = 600, 0, 0, 0
    boot, perm = (Bootstrap * 1)(), Permutation()
    for _ in range(rounds):
        picture = rng.normal(0, 0.25, (200, 1))
        d = (rng.uniform(size=(200, 8)) < (0.2 + picture).clip(0, 1)).astype(int) - (rng.uniform(size=(200, 8)) < (0.2 - picture).clip(0, 1))
        table, keep = table_of(d.sum(axis=1, keepdims=True), np.full((200, 1), 8.0))
        assert lib.stats_bootstrap(ctypes.byref(table), 1000, 1, 0.95, boot, None, None) == 0
        covered += boot[0].low <= 0 <= boot[0].high
        assert lib.stats_permutation(ctypes.byref(table), 0, 999, 1, ctypes.byref(perm), None) == 0
        false += perm.p <= 0.05
        naive += lib.stats_mcnemar(float((d > 0).sum()), float((d < 0).sum())).p <= 0.05
        assert keep
    print(f"\ncoverage of the bootstrap {covered / rounds:.3f}, false positives: sign flip {false / rounds:.3f}, McNemar {naive / rounds:.3f}")
    assert covered / rounds > 0.92 and false / rounds < 0.08 and naive > 2 * false


@pytest.mark.skipif(not FULL, reason="FULL=1 measures coverage and false positives")
def test_holm_holds_the_family(lib):
    rng = np.random.default_rng(9)
    rounds, wrong, bare = 2000, 0, 0
    for _ in range(rounds):
        base = rng.normal(0, 0.02, 25)
        p = array(np.zeros(9))
        for arm in range(9):
            d = array(rng.normal(0, 0.02, 25) - base)
            # Independent runs here: the t test without correction is the right one.
            p[arm] = lib.stats_corrected_t(d.ctypes.data, 25, 0, 0.95).p
        out = array(np.zeros(9))
        lib.stats_holm(p.ctypes.data, 9, out.ctypes.data)
        wrong += out.min() <= 0.05
        bare += p.min() <= 0.05
    print(f"\nany of nine arms wrongly found: {wrong / rounds:.3f} with Holm, {bare / rounds:.3f} without")
    assert wrong / rounds <= 0.06 < bare / rounds
