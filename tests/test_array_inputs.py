"""Numbers as other people keep them: lists, tensors, MATLAB's columns, wrong bytes. The right result, or why not."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import zscore as scipy_zscore

from visdec_lite import preprocessing as prep
from visdec_lite.datasets.arrays import from_arrays
from visdec_lite.datasets.base import BrainDataset, Split
from visdec_lite.metrics import evaluate
from visdec_lite.preprocessing import ZScore

TRAIN, TEST, VOXELS = 12, 4, 5
COLUMNS = ("labels", "stimulus", "run", "trial", "subject")
KINDS = {
    "list": lambda a: a.tolist(),
    "tensor": lambda a: torch.from_numpy(a.copy()),
    "tensor with gradient": lambda a: torch.from_numpy(a.copy()).requires_grad_() if a.dtype.kind == "f" else a,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "fortran": np.asfortranarray,
    "read-only view": lambda a: np.broadcast_to(a, a.shape),
    "unmasked": np.ma.array,
}


def scans(n: int, seed: int = 0, **more: object) -> dict[str, object]:
    return {"voxels": np.random.default_rng(seed).normal(5, 2, (n, VOXELS)), **more}


def assembled(change: dict[str, object] | None = None, **options: object) -> BrainDataset:
    """A small data set, with some columns of train changed."""
    given = {"labels": np.arange(TRAIN) % 3, "stimulus": np.arange(TRAIN), **(change or {})}
    return from_arrays(scans(TRAIN, **given), scans(TEST, 1, stimulus=[90, 91, 92, 93]), val_fraction=0, **options)


def same(one: BrainDataset, other: BrainDataset) -> bool:
    pairs = [(vars(one[split]), vars(other[split])) for split in one.splits]
    return all(np.array_equal(a[c], b[c]) and a[c].dtype == b[c].dtype for a, b in pairs for c in a if a[c] is not None)


# One a trial


@pytest.mark.parametrize("column", COLUMNS)
def test_columns_of_matlab_are_flattened(column):
    values = np.arange(TRAIN) // 4
    expected = assembled({column: values})
    for kept in (values[:, None], values[None], values.astype(float)[:, None], values.astype(">i4")[:, None]):
        found = assembled({column: kept})
        assert same(found, expected) and found["train"].labels.shape == (TRAIN,)
    split = replace(expected["train"], **{column: values[:, None].tolist()})
    assert getattr(split, column).dtype == np.int64 and np.array_equal(getattr(split, column), values)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.eye(3, dtype=int)[np.arange(TRAIN) % 3], r"shape \(12, 3\), expected \(12,\).*one-hot.*argmax\(axis=1\)"),
        (np.arange(TRAIN) > 5, "are bool, expected whole numbers"),
        (np.arange(TRAIN) + 0.5, "are float64, expected whole numbers"),
        (np.full(TRAIN, np.nan), "are float64, expected whole numbers"),
        (np.full(TRAIN, np.inf), "span inf to inf, expected at most"),
        (np.arange(TRAIN) * 1j, "are complex128, expected whole numbers"),
        (["face"] * TRAIN, r"are <U4, expected whole numbers; of names take numpy\.unique"),
        (np.full(TRAIN, 2**63, np.uint64), "span 9223372036854775808"),
        (np.ma.masked_less(np.arange(TRAIN), 2), "2 of 12 entries of .* are masked, expected none"),
        ([[1], [2, 3]], "cannot be taken as an array"),
        (7, r"shape \(\), expected \(12,\)"),
        (np.arange(TRAIN - 1), "for 12 rows of voxels; every trial needs exactly one"),
    ],
)
def test_other_columns_are_refused(column, values, words):
    with pytest.raises(ValueError, match=words):
        assembled({column: values})
    with pytest.raises(ValueError, match=words):
        replace(assembled()["train"], **{column: values})


def test_only_labels_may_be_missing():
    with pytest.raises(ValueError, match="run have shape"):
        replace(assembled()["train"], run=None)
    assert replace(assembled()["train"], labels=None).labels is None


# Labels and their names


def test_a_large_label_is_one_category(caplog):
    labels = np.where(np.arange(TRAIN) % 3 == 0, 10_000_000, np.arange(TRAIN) % 3 * 7)
    with caplog.at_level(logging.WARNING):
        data = assembled({"labels": labels})
    assert data.category_names == ("category 7", "category 14", "category 10000000")
    assert np.array_equal(data["train"].labels, np.array([2, 0, 1] * 4))
    assert "3 labels occur, from 7 to 10000000: numbered anew, 0 to 2" in caplog.text
    assert [int(data.category_names[i].split()[1]) for i in data["train"].labels] == labels.tolist()


def test_labels_that_count_from_0_stay(caplog):
    with caplog.at_level(logging.WARNING):
        data = assembled()
    assert data.category_names == ("category 0", "category 1", "category 2") and not caplog.records
    assert np.array_equal(data["train"].labels, np.arange(TRAIN) % 3)


def test_categories_of_test_alone_have_names_too():
    data = from_arrays(scans(6, labels=[1, 1, 1, 4, 4, 4]), scans(2, 1, labels=[9, 4]), val_fraction=0)
    assert data.category_names == ("category 1", "category 4", "category 9")
    assert data["train"].labels.tolist() == [0, 0, 0, 1, 1, 1] and data["test"].labels.tolist() == [2, 1]


@pytest.mark.parametrize("names", ["abc", b"abc", [1, 2, 3], None])
def test_category_names_are_several_strings(names):
    data = assembled(category_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="expected several names, one a label"):
        replace(data, category_names=names)
    if names is not None:
        with pytest.raises(ValueError, match="expected several names, one a label"):
            assembled(category_names=names)
    assert assembled(category_names=np.array(["a", "b", "c"])).category_names == ("a", "b", "c")


def test_a_data_set_has_a_name_for_every_label():
    data = assembled(category_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="label 2 of 'train' has no name: 2 category_names, counted from 0"):
        replace(data, category_names=("a", "b"))
    with pytest.raises(ValueError, match="a label of 'train' is below 0"):
        assembled({"labels": np.arange(TRAIN) - 1})


# Voxels


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_of_any_kind_are_the_same_voxels(kind):
    voxels = scans(TRAIN)["voxels"].astype(np.float32)
    expected, found = assembled({"voxels": voxels}), assembled({"voxels": KINDS[kind](voxels)})
    np.testing.assert_allclose(found["train"].voxels, expected["train"].voxels, atol=1e-6)
    np.testing.assert_allclose(found["train"].voxels, scipy_zscore(voxels.astype(float), axis=0), atol=1e-5)
    split = replace(expected["train"], voxels=KINDS[kind](voxels))
    assert split.voxels.dtype == np.float32 and split.voxels.dtype.isnative and np.array_equal(split.voxels, voxels)
    assert torch.from_numpy(np.array(split.voxels)).dtype == torch.float32


def test_a_split_holds_float32_whatever_is_given():
    split = assembled()["train"]
    for voxels in (np.arange(60).reshape(12, 5), np.ones((12, 5)), torch.ones(12, 5, dtype=torch.bfloat16)):
        held = replace(split, voxels=voxels)
        assert held.voxels.dtype == np.float32 and held.rows(np.array([3])).voxels.dtype == np.float32
        assert np.array_equal(held.voxels, np.asarray(torch.as_tensor(voxels).float()))


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.ones((12, 5)) * 1j, "complex128, expected real numbers"),
        (np.ones((12, 5), bool), "bool, expected real numbers"),
        (np.full((12, 5), "1"), "<U1, expected real numbers"),
        (
            np.full((12, 5), 1e300),
            r"60 of 60 numbers in .* beyond float32 \(1e\+300, expected at most 3\.4e\+38\).*byte",
        ),
        (np.ma.masked_greater(np.ones((12, 5)), 0), "60 of 60 entries .* are masked.*filled"),
        (np.ones(12), r"shape \(12,\), expected \(trials, voxels\)"),
        ([[1.0, 2.0], [3.0]], "cannot be taken as an array"),
        (torch.ones(12, 5).to_sparse(), "cannot be taken as an array"),
        (np.ones((0, 5)), "at least 1"),
        (np.ones((12, 0)), "at least 1|different numbers of voxels"),
    ],
)
def test_voxels_that_are_none_are_refused(voxels, words):
    with pytest.raises(ValueError, match=words):
        replace(assembled()["train"], voxels=voxels)
    with pytest.raises(ValueError, match=words):
        assembled({"voxels": voxels})


def test_bytes_read_the_wrong_way_round_are_seen():
    swapped = scans(TRAIN)["voxels"].view(">f8").astype(float)
    swapped[0, 0] = 1e250
    with pytest.raises(ValueError, match="look for a wrong byte order"):
        assembled({"voxels": swapped})


def test_a_voxel_that_speaks_in_val_alone_is_left_out_like_any_silent_one(caplog):
    for zscore in ("train", "runs"):
        train = scans(20, stimulus=np.arange(20), run=np.arange(20) % 2)
        test = scans(TEST, 1, stimulus=[90, 91, 92, 93], run=np.full(TEST, 5))
        val = np.isin(np.arange(20), from_arrays(train, test, val_fraction=0.2)["val"].stimulus)
        train["voxels"][:, 2] = np.where(val, train["voxels"][:, 2], 7.0)
        with caplog.at_level(logging.WARNING):
            data = from_arrays(train, test, val_fraction=0.2, zscore=zscore)
        assert "left out 1 of 5 voxels: constant or not finite in training rows" in caplog.text
        assert data.num_voxels == 4 and data["val"].stimulus.tolist() == np.flatnonzero(val).tolist()


def test_numbers_given_to_stimuli_are_not_given_again():
    data = from_arrays(scans(10), scans(TEST, 1, stimulus=[0, 1, 2, 3]), val_fraction=0)
    assert not np.isin(data["train"].stimulus, data["test"].stimulus).any()


# Pictures


def coloured(n: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_pictures_of_any_kind_are_the_same_pictures():
    pictures = coloured(TRAIN)
    split = assembled()["train"]
    for given_as in (pictures.tolist(), torch.from_numpy(pictures)):
        if isinstance(given_as, list):  # a list does not say that it is uint8
            with pytest.raises(ValueError, match=r"int64 .*expected uint8.*as_uint8_rgb"):
                replace(split, images=given_as)
            given_as = prep.as_uint8_rgb(given_as, value_range=(0, 255))
        assert np.array_equal(replace(split, images=given_as).images, pictures)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (
            coloured(TRAIN, 8, 6),
            coloured(TEST, 8, 6),
            r"'train': \(8, 6\).*expected squares of one size; see .*pad_images",
        ),
        (
            coloured(TRAIN, 8, 8),
            coloured(TEST, 6, 6),
            r"'train': \(8, 8\), 'test': \(6, 6\).*expected squares of one size",
        ),
        (coloured(TRAIN)[..., :1], coloured(TEST), r"images of 'train' are uint8 \(12, 8, 8, 1\), expected uint8"),
        (coloured(TRAIN) / 255, coloured(TEST), "images of 'train' are float64 .*expected uint8"),
        (coloured(TRAIN) > 5, coloured(TEST), "images of 'train' are bool"),
        (coloured(TRAIN, 0, 0), coloured(TEST, 0, 0), r"images of 'train' are uint8 \(12, 0, 0, 3\)"),
        (coloured(TRAIN - 1), coloured(TEST), "11 images of 'train' for 12 rows"),
    ],
)
def test_pictures_that_do_not_fit_are_named(train, test, words):
    with pytest.raises(ValueError, match=words):
        from_arrays(scans(TRAIN, images=train), scans(TEST, 1, images=test))


@pytest.mark.parametrize("kind", [float, bool, np.int64, np.uint16, np.float32])
def test_scores_say_which_pictures_they_want(kind):
    pictures = coloured(4)
    for made, truth, name in (
        (pictures.astype(kind), pictures, "reconstructions"),
        (pictures, pictures.astype(kind), "truth"),
    ):
        with pytest.raises(ValueError, match=rf"{name} are {np.dtype(kind)}, expected uint8 in 0..255; .*as_uint8_rgb"):
            evaluate(made, truth, classify=None, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="reconstructions are list, expected uint8"):
        evaluate(pictures.tolist(), pictures, classify=None, generator=np.random.default_rng(0))


# Preprocessing: every step takes every kind


RUNS = np.array([0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0])
STEPS = {
    "valid_voxels": prep.valid_voxels,
    "fit": lambda v: ZScore.fit(v).std,
    "apply": lambda v: ZScore.fit(v).apply(v),
    "invert": lambda v: ZScore(np.full(VOXELS, 2.0), np.full(VOXELS, 3.0)).invert(v),
    "zscore_runs": lambda v: prep.zscore_runs(v, RUNS),
    "pad_voxels": lambda v: prep.pad_voxels(v, 4)[0],
    "unpad": lambda v: np.asarray(prep.unpad(v, 3).detach() if torch.is_tensor(v) else prep.unpad(v, 3)),
    "select_rois": lambda v: prep.select_rois(v, {"V1": [True, False, True, False, False]}, "V1"),
    "shift_lag": lambda v: prep.shift_lag(v, RUNS.tolist(), 2)[0],
    "as_uint8_rgb": lambda v: (
        prep.as_uint8_rgb(v[None], (-20, 30)) if not isinstance(v, list) else prep.as_uint8_rgb([v], (-20, 30))
    ),
}
FINITE = ("fit", "apply", "invert", "zscore_runs", "pad_voxels", "as_uint8_rgb")  # no NaN comes out of these


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_take_lists_tensors_and_arrays_alike(step, kind):
    voxels = scans(TRAIN)["voxels"]
    found = STEPS[step](KINDS[kind](voxels))
    assert isinstance(found, np.ndarray) and found.dtype.isnative
    np.testing.assert_allclose(found, STEPS[step](voxels), rtol=1e-12)


@pytest.mark.parametrize("step", FINITE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_step_lets_nan_through(step, bad):
    voxels = scans(TRAIN)["voxels"]
    voxels[3, 1] = bad
    with pytest.raises(ValueError, match=r"1 of 5 .*(NaN|infinity)|span .*(nan|inf)"):
        STEPS[step](voxels)


def test_apply_and_invert_name_the_voxels():
    fitted = ZScore.fit(scans(TRAIN)["voxels"])
    test = scans(3, 1)["voxels"]
    test[0, 4] = np.nan
    with pytest.raises(ValueError, match=r"1 of 5 z-scored voxels hold NaN or infinity \(first: column 4\); drop"):
        fitted.apply(test)
    with pytest.raises(ValueError, match=r"1 of 5 voxels hold NaN"):
        fitted.invert(test)
    assert fitted.apply(np.zeros((0, VOXELS))).shape == (0, VOXELS)
    narrow = ZScore.fit(np.array([[0.0], [1e-30]]))
    with pytest.raises(ValueError, match="1 of 1 z-scored voxels hold NaN or infinity"):
        narrow.apply(np.array([[1e30]]))  # 1e60 spreads away, beyond float32


def test_masks_are_boolean():
    with pytest.raises(ValueError, match=r"ROI 'V1' is int64 \(2,\), expected a boolean mask"):
        prep.roi_mask({"V1": [3, 5]}, "V1")
    with pytest.raises(ValueError, match=r"ROI 'V2' is bool \(2,\), expected a boolean mask of shape \(3,\)"):
        prep.roi_mask({"V1": [True, False, True], "V2": [True, True]}, ["V1", "V2"])
    assert prep.roi_mask({"V1": torch.tensor([True, False])}, "V1").tolist() == [True, False]


def test_runs_without_a_number_are_refused():
    with pytest.raises(ValueError, match="run numbers are float64, expected whole numbers"):
        prep.zscore_runs(scans(4)["voxels"], [0, 0, np.nan, np.nan])


def test_picture_steps_take_every_kind():
    pictures = coloured(2)
    for given_as in (pictures, torch.from_numpy(pictures)):
        assert np.array_equal(prep.to_uint8(prep.to_model_range(given_as)), pictures)
        assert np.array_equal(prep.resize_images(given_as, 8), pictures)
        assert np.array_equal(prep.pad_images(given_as, 10)[:, 1:9, 1:9], pictures)
    floats = (pictures / 127.5 - 1).transpose(0, 3, 1, 2)
    assert np.array_equal(prep.to_uint8(floats), pictures) and np.array_equal(prep.to_uint8(floats.tolist()), pictures)
    for step in (prep.to_model_range, lambda x: prep.resize_images(x, 4), lambda x: prep.pad_images(x, 9)):
        for wrong in (torch.from_numpy(pictures).float(), pictures.astype(int), pictures > 3, pictures[0]):
            with pytest.raises(ValueError, match="expected uint8"):
                step(wrong)
    with pytest.raises(ValueError, match=r"uint8 .*expected floats"):
        prep.to_uint8(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    with pytest.raises(ValueError, match="1 of 384 pixel values are NaN or infinite"):
        floats[0, 0, 0, 0] = np.inf
        prep.to_uint8(floats)


# Anything at all: the right result, or a sentence of ours


MEANT = {"voxels": (4,), "images": (3, 3, 3)} | dict.fromkeys(COLUMNS, ())  # shape of a trial


DTYPES = ("f2", "f4", "f8", ">f8", ">f4", "i1", "i8", "u1", "u8", ">i2", "?", "c8", "U3", "O")
SPECIAL = (0.0, 1.0, -1.0, 0.5, np.nan, np.inf, 1e300, -1e300, 1e-300, 3.4e38, 2.0**63, 1e7)


@st.composite
def anything(draw: st.DrawFn, rows: int | None = None, meant: tuple[int, ...] = (4,)) -> object:
    """An array, list or tensor of any kind, half of the time of the shape that is meant; a few numbers are odd."""
    n = draw(st.sampled_from([0, 1, 2, 3, 8])) if rows is None else rows
    other = [(n, 4), (n,), (n, 1), (1, n), (), (n, 0), (n, 2, 2), (n, 3, 3, 3)]
    shape = draw(st.one_of(st.just((n, *meant)), st.sampled_from(other)))
    values = np.array(np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, shape), dtype=float)
    values = np.asarray(values + draw(st.sampled_from([0.0, 0.25, -4.0, 1e5])))
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=3)):
        if shape and values.size:
            values.flat[draw(st.integers(0, values.size - 1))] = value
    with np.errstate(all="ignore"):
        array = values.astype(draw(st.sampled_from(DTYPES)))
    make = draw(st.sampled_from(["array", "array", "list", "tensor", "masked"]))
    if make == "tensor" and array.dtype.isnative and array.dtype.kind in "fiub?":
        return torch.from_numpy(np.ascontiguousarray(array))
    if make == "masked":
        return np.ma.array(array, mask=np.random.default_rng(0).random(shape) < draw(st.sampled_from([0, 0.3])))
    return array.tolist() if make == "list" else array


def ours(error: Exception) -> bool:
    """Raised in this package, in words that say what was expected."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return type(error) in (ValueError, TypeError) and "visdec_lite" in trace.tb_frame.f_code.co_filename


@settings(max_examples=250, derandomize=True, deadline=None, database=None)
@given(anything(), st.sampled_from(sorted(STEPS)), anything(), st.integers(-1, 6))
def test_steps_of_anything(values, step, other, number):
    calls = {
        **STEPS,
        "fitted": lambda v: ZScore.fit(v).apply(other),
        "zscore_runs": lambda v: prep.zscore_runs(v, other),
        "pad_voxels": lambda v: prep.pad_voxels(v, number)[0],
        "shift_lag": lambda v: prep.shift_lag(v, other, number)[0],
        "select_rois": lambda v: prep.select_rois(v, {"V1": other}, "V1"),
        "as_uint8_rgb": lambda v: prep.as_uint8_rgb(v, (-4, 9)),
        "unpad": lambda v: prep.unpad(v, number),
        "resize": lambda v: prep.resize_images(v, number),
        "pad_images": lambda v: prep.pad_images(v, number),
        "to_model_range": prep.to_model_range,
        "to_uint8": prep.to_uint8,
    }
    for name in (step, "fitted", "resize", "pad_images", "to_model_range", "to_uint8"):
        try:
            found = np.asarray(calls[name](values))
        except (ValueError, TypeError) as error:
            assert ours(error), (name, error)
        else:
            assert found.dtype.isnative and (name not in (*FINITE, "fitted") or np.isfinite(found.astype(float)).all())


@settings(max_examples=250, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_data_sets_of_anything(data):
    odd = data.draw(st.sampled_from(list(MEANT)))
    train = scans(8, labels=np.arange(8) % 2)
    test = scans(4, 1, run=np.full(4, 9))
    both = odd in ("voxels", "images") or data.draw(st.booleans())
    for columns, rows in ((train, 8), *([(test, 4)] if both else [])):
        columns["voxels"] = columns["voxels"][:, :4]
        columns[odd] = data.draw(anything(rows, MEANT[odd]))
    test["voxels"] = test["voxels"] if odd == "voxels" else test["voxels"][:, :4]
    zscore = data.draw(st.sampled_from(["train", "runs"]))
    try:
        made = from_arrays(train, test, zscore=zscore, val_fraction=data.draw(st.sampled_from([0, 0.2])))
    except (ValueError, TypeError) as error:
        assert ours(error), error
        return
    for split in made.splits.values():
        assert split.voxels.dtype == np.float32 and np.isfinite(split.voxels).all() and split.voxels.ndim == 2
        for column in COLUMNS:
            values = getattr(split, column)
            assert values is None or (values.dtype == np.int64 and values.shape == (len(split),))
        assert split.labels is None or (split.labels.min() >= 0 and split.labels.max() < len(made.category_names))
    assert len(made.category_names) <= 12


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.sampled_from(list(MEANT)), st.data())
def test_splits_of_anything(column, data):
    whole = Split(np.ones((8, 4)), None, None, *(np.arange(8) for _ in range(4)))
    try:
        split = replace(whole, **{column: data.draw(anything(8, MEANT[column]))})
    except (ValueError, TypeError) as error:
        assert ours(error), error
    else:
        assert split.voxels.dtype == np.float32 and np.isfinite(split.voxels).all() and len(split) == 8
        assert len(split.rows(np.array([0, 3]))) == 2
