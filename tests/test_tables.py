"""Words and numbers in text files: each is taken as it is written, or refused with file, line and column."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nifti import as_image, full_mask

from visdec_lite.datasets.nifti import from_nifti
from visdec_lite.datasets.responses import read_events
from visdec_lite.datasets.tables import numbers, read_lines, read_table, words

HEAD = "onset\tduration\ttrial_type\n"
VOLUMES = 60


def events(tmp_path: Path, rows: str, head: str = HEAD, name: str = "events.tsv", encoding: str = "utf-8") -> Path:
    (tmp_path / name).write_bytes((head + rows).encode(encoding))
    return tmp_path / name


def shown(*types: str) -> str:
    """Rows of one trial every 8 s."""
    return "".join(f"{8 * i}\t4\t{kind}\n" for i, kind in enumerate(types))


# ---- words ----


def test_only_n_a_is_missing(tmp_path):
    table = events(tmp_path, shown("face", "None", "null", "NA", "nan", "house", "n/a", "N/A"))
    trials = read_events(table)
    assert trials["trial_type"].tolist() == ["face", "None", "null", "NA", "nan", "house", "N/A"]
    assert trials["onset"].tolist() == [0.0, 8.0, 16.0, 24.0, 32.0, 40.0, 56.0]


@pytest.mark.parametrize(
    "types",
    [("001", "01", "1"), ("true", "True", "TRUE"), ("1.0", "1", "1e0"), ("0x10", "16", "1_6"), ("inf", "-inf", "-")],
)
def test_words_that_look_like_values_stay_words(tmp_path, types):
    assert read_events(events(tmp_path, shown(*types)))["trial_type"].tolist() == list(types)


def test_white_space_around_a_word_does_not_count(tmp_path):
    table = events(tmp_path, shown("face ", "face", " face", "\u00a0face"))
    assert read_events(table)["trial_type"].tolist() == ["face"] * 4
    padded = events(tmp_path, " 0 \t 4\tface\n", head="onset \t duration\t trial_type\r\n")
    assert read_events(padded).to_dict("records") == [{"onset": 0.0, "duration": 4.0, "trial_type": "face"}]


def test_a_mark_at_the_start_and_foreign_line_ends_are_none_of_the_words(tmp_path):
    for text in (HEAD + shown("face", "haus-ä"), (HEAD + shown("face", "haus-ä")).replace("\n", "\r\n")):
        for start in ("", "\ufeff"):
            trials = read_events(events(tmp_path, text, head=start))
            assert list(trials) == ["onset", "duration", "trial_type"]
            assert trials["trial_type"].tolist() == ["face", "haus-ä"]
    old = events(tmp_path, (HEAD + shown("face", "house")).replace("\n", "\r"), head="")
    assert read_events(old)["trial_type"].tolist() == ["face", "house"]


def test_tabs_at_the_end_of_rows_shift_nothing(tmp_path):
    """pandas takes the first column for names of rows then: onset would be read from duration."""
    rows = "10\t4\tface\t\n30\t5\thouse\t\t\n"
    for head in (HEAD, HEAD.replace("\n", "\t\n")):
        trials = read_events(events(tmp_path, rows, head=head))
        assert list(trials) == ["onset", "duration", "trial_type"]
        assert trials["onset"].tolist() == [10.0, 30.0] and trials["duration"].tolist() == [4.0, 5.0]
        assert trials["trial_type"].tolist() == ["face", "house"]


def test_other_columns_stay_as_they_are_written(tmp_path):
    head = "onset\tduration\ttrial_type\tresponse_time\tstim_file\n"
    trials = read_events(events(tmp_path, "0\t1\tface\t0.10\t0001\n2\t1\tface\tn/a\t001\n4\t1\trest\t\t\n", head=head))
    assert trials["stim_file"].tolist() == ["0001", "001"] and trials["response_time"].tolist() == ["0.10", "n/a"]


def test_a_frame_says_the_same_as_its_file(tmp_path):
    table = events(tmp_path, shown("face", "house", "n/a", "rest"))
    text = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
    guessed = pd.read_csv(table, sep="\t", na_values="n/a")
    for frame in (text, guessed, guessed.astype({"trial_type": "category"}), guessed.convert_dtypes()):
        pd.testing.assert_frame_equal(read_events(frame), read_events(table), check_dtype=False)
    whole = pd.DataFrame({"onset": [0, 8], "duration": 4, "trial_type": [1, 2]})
    assert read_events(whole)["trial_type"].tolist() == ["1", "2"] and read_events(whole)["onset"].dtype == float


@pytest.mark.parametrize("types", [[1.0, np.nan], [True, False]])
def test_a_frame_whose_words_were_guessed_is_refused(types):
    frame = pd.DataFrame({"onset": [0.0, 8.0], "duration": 4.0, "trial_type": types})
    with pytest.raises(ValueError, match=r"events, row 0, column 'trial_type': .* is no name.*dtype=str"):
        read_events(frame)


# ---- what the words lead to ----


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"run-{run}_bold.nii.gz" for run in range(2)]
    for path in paths:
        nibabel.save(as_image(generator.normal(100, 1, (VOLUMES, 24))), path)
    return paths


def test_categories_of_two_runs_are_the_same_words_and_the_leak_is_told(tmp_path, scans, caplog):
    """A run with n/a beside numbers must not make `1.0` of `1`: the test run shows pictures of the training run."""
    head = HEAD.replace("\n", "\tstim_file\n")
    one = events(tmp_path, "".join(f"{8 * i}\t4\t{w}\t{w}\n" for i, w in enumerate(("1", "2", "rest"))), head, "a.tsv")
    two = events(tmp_path, "".join(f"{8 * i}\t4\t{w}\t{w}\n" for i, w in enumerate(("1", "2", "n/a"))), head, "b.tsv")
    with caplog.at_level(logging.WARNING):
        dataset = from_nifti(scans, [one, two], test_runs=[1], mask=full_mask(), ignore=(), val_fraction=0)
    assert dataset.category_names == ("1", "2", "rest")
    assert dataset["train"].labels.tolist() == [0, 1, 2] and dataset["test"].labels.tolist() == [0, 1]
    assert "2 stimuli of test are also in train" in caplog.text


def test_pictures_are_searched_as_they_are_named(tmp_path, scans):
    head = HEAD.replace("\n", "\tstim_file\n")
    table = events(tmp_path, "0\t4\tface\t0001\n8\t4\tface\t001\n", head)
    pictures = {name: np.full((4, 4, 3), grey, np.uint8) for name, grey in (("0001", 10), ("001", 20), ("1", 30))}
    dataset = from_nifti(scans, [table, table], test_runs=[1], mask=full_mask(), stimuli=pictures, val_fraction=0)
    assert dataset["test"].images[:, 0, 0, 0].tolist() == [10, 20]


@pytest.mark.parametrize("model", ["lsa", "lss", "lagged"])
def test_betas_do_not_depend_on_tabs_at_the_end(tmp_path, scans, model):
    rows = shown("face", "house", "face", "house")
    tables = [events(tmp_path, rows.replace("\n", end), name=f"{i}.tsv") for i, end in enumerate(("\n", "\t\n"))]
    plain, tabs = (
        from_nifti(scans, [table, table], test_runs=[1], mask=full_mask(), model=model, val_fraction=0)
        for table in tables
    )
    np.testing.assert_array_equal(plain["test"].voxels, tabs["test"].voxels)


# ---- what is refused, and where it stands ----


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0\t4\tface\n8\t4\n", r"line 3: 2 cells, expected 3 as in line 1"),
        ("0\t4\tface\n8\t4\thouse\tleft\n", r"line 3: 4 cells, expected 3"),
        ("0\t4\tface\n8,5\t4\thouse\n", r"line 3, column 'onset': '8,5' is not a number; decimals stand after a point"),
        ("0\t4\tface\n8\t4 s\thouse\n", r"line 3, column 'duration': '4 s' is not a number"),
        ("1_0\t4\tface\n", r"line 2, column 'onset': '1_0' is not a number"),
        ("nan\t4\tface\n", r"line 2, column 'onset': 'nan' is not a number"),
        ("\u0661\t4\tface\n", r"line 2, column 'onset': '\u0661' is not a number"),
        ("0\t4\tface\nn/a\t4\thouse\n", r"line 3, column 'onset': 1 of 2 trials have no onset"),
        ("0\t4\tface\n8\tn/a\thouse\n", r"line 3, column 'duration': 1 of 2 trials have no duration"),
        ("0\t4\tface\n8\t4\t\n", r"line 3, column 'trial_type': an empty cell.*write n/a"),
        ('0\t4\t"face\n8\t4\thouse\n', r"line 2, column 5: a quote that does not enclose its cell"),
        ('0\t4\tfa"ce\n', r"line 2, column 'trial_type': a stray quote in fa\"ce"),
        ("0\t4\tfa\x00ce\n", r"line 2, column 7: U\+0000 is no character of a text"),
        ("0\t4\tfa\x85ce\n", r"line 2, column 7: U\+0085"),
    ],
)
def test_tables_that_are_not_what_they_should_be(tmp_path, rows, message):
    with pytest.raises(ValueError, match=r"events\.tsv, " + message):
        read_events(events(tmp_path, rows))


def test_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: columns \['onset'\] are there twice"):
        read_events(events(tmp_path, "0\t4\tface\t1\n", head="onset\tduration\ttrial_type\tonset\n"))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", r"line 1, column 1: byte 0xff is not UTF-8 \(UTF-16\)"),
        ("utf-16-le", r"line 3, column 12: byte 0xe4 is not UTF-8 \(UTF-16\)"),
        ("latin-1", r"line 3, column 6: byte 0xe4 is not UTF-8 \(Latin-1, say, or damaged\)"),
    ],
)
def test_other_encodings_are_refused_with_line_and_column(tmp_path, encoding, message):
    with pytest.raises(ValueError, match=r"events\.tsv, " + message):
        read_events(events(tmp_path, shown("face", "häuser"), encoding=encoding))


@pytest.mark.parametrize("raw", [b"", b"\n \n", b"\r\n"])
def test_a_file_of_nothing_is_empty(tmp_path, raw):
    (tmp_path / "events.tsv").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"events\.tsv is empty \({len(raw)} bytes\)"):
        read_events(tmp_path / "events.tsv")


def test_quoted_cells_may_hold_the_separator(tmp_path):
    (tmp_path / "list.csv").write_text('a,"b, c"\n"d ""e""",f\n', encoding="utf-8")
    assert read_table(tmp_path / "list.csv", ",", names=False).rows == (("a", "b, c"), ('d "e"', "f"))


def test_whole_numbers_are_whole():
    assert numbers(["3", " -4 ", "5.0", 6], "run", ["p"] * 4, whole=True).tolist() == [3, -4, 5, 6]
    for value in ("1.5", "n/a", "1e300", None, True, ""):
        with pytest.raises(ValueError, match=r"p, column 'run': .* is not a whole number"):
            numbers([value], "run", ["p"], whole=True)


# ---- fuzz ----

CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters='"\ufeff'), max_size=6)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=8))
def test_any_word_comes_back_as_it_was_written(tmp_path_factory, types):
    file = tmp_path_factory.mktemp("any") / "events.tsv"
    file.write_text(HEAD + shown(*types), encoding="utf-8", newline="\n")
    expected = [word.strip() for word in types if word.strip() != "n/a"]
    if "" in expected:
        with pytest.raises(ValueError, match=r"events\.tsv, line \d+, column 'trial_type': an empty cell"):
            read_events(file)
    elif not expected:
        with pytest.raises(ValueError, match="0 of"):
            read_events(file)
    else:
        assert read_events(file, ignore=())["trial_type"].tolist() == expected


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 80), st.booleans())
def test_any_bytes_are_a_table_or_an_error_that_names_the_file(tmp_path_factory, noise, place, cut):
    good = (HEAD + shown("face", "häuser", "n/a")).encode()
    file = tmp_path_factory.mktemp("noise") / "events.tsv"
    file.write_bytes(good[:place] + noise + (b"" if cut else good[place:]))
    try:
        trials = read_events(file)
    except ValueError as error:
        assert type(error) is ValueError and str(file) in str(error)
    else:
        assert trials["onset"].dtype == trials["duration"].dtype == float
        assert all(isinstance(word, str) and word == word.strip() for word in trials["trial_type"])


def test_lines_have_their_numbers(tmp_path):
    (tmp_path / "names.txt").write_text("a\n\n  \nb\n", encoding="utf-8")
    assert read_lines(tmp_path / "names.txt") == [(1, "a"), (4, "b")]
    assert words(["a ", 3, None, "n/a"], "name", ["p"] * 4) == ["a", "3", None, None]
