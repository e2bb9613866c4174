"""Data that a user's function returns: right arrays pass unchanged, wrong ones train nothing."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import folder_of, job_of

from pipeline import open_run
from pipeline.config import Dataset
from pipeline.data.checks import check_data
from pipeline.data.examples import load_examples
from pipeline.errors import AnatomyError, DataError
from pipeline.fingerprint import PACKAGE
from pipeline.jobs.train import train_run
from pipeline.recipes import Recipe

SOURCE = "test_user_data:load"
CUSTOM = Dataset(source=SOURCE, mean=(0.0,), std=(1.0,))
BRIEF = Recipe(lr=0.05, batch=8, epochs=1, checkpoints=(1,))
RETURNED = {}


def load(*, split, data_root):
    """Return what a test wants returned."""
    return RETURNED[split]()


def right(split="train", classes=3, size=6, count=30):
    draw = np.random.default_rng(split == "test")
    return draw.uniform(0, 1, (count, 1, size, size)).astype(np.float32), np.arange(count) % classes


def returns(train, test=None):
    """Have ``load`` return these: (images, labels), or a function that returns them."""
    test = right("test") if test is None else test
    for split, value in (("train", train), ("test", test)):
        RETURNED[split] = value if callable(value) else lambda value=value: value


def check():
    return check_data(CUSTOM, data_root="", download=False)


def trained(tmp_path):
    folder = folder_of(tmp_path, norm="none")
    job = job_of(BRIEF).model_copy(update={"dataset": CUSTOM.resolved()})
    train_run(folder, job, save_every=1e9)
    return folder


def changed(change, split="train"):
    images, labels = right(split)
    return change(images, labels)


def poked(value):
    def change(images, labels):
        images[3, 0, 1, 2] = value
        return images, labels

    return change


class NoArray:
    def __array__(self, *_, **__):
        raise RuntimeError("no array")


def fails():
    raise RuntimeError("my own failure")


# By name: a change of (images, labels), and what the refusal says.
IMAGE_FAULTS = {
    "0 to 255": (lambda x, y: (x * 255, y), r"floats from 0\.\d+ to 25\d.*Divide them by 255"),
    "-1 to 1": (lambda x, y: (2 * x - 1, y), r"floats from -0\.9\d+ to 0\.9\d+.*Scale them"),
    "0 to 2, float64": (lambda x, y: (x.astype(float) * 2, y), r"to 1\.9\d+, where \[0, 1\]"),
    "divided twice": (lambda x, y: (x / 255 / 255, y), "once, not twice"),
    "uint8 0 to 1": (lambda x, y: ((x > 0.5).astype(np.uint8), y), "range from 0 to 1"),
    "nan": (poked(np.nan), "image 3 has a pixel that is NaN or infinite"),
    "inf": (poked(np.inf), "image 3 has a pixel that is NaN or infinite"),
    "-inf": (poked(-np.inf), "image 3 has a pixel that is NaN or infinite"),
    "nan, float16": (lambda x, y: poked(np.nan)(x.astype(np.float16), y), "image 3 has a pixel"),
    **{
        str(np.dtype(kind)): (
            lambda x, y, kind=kind: ((x * 100).astype(kind), y),
            f"images of type {np.dtype(kind)}, where uint8",
        )
        for kind in (np.uint16, np.int8, np.int16, np.int32, np.int64, bool, complex, object)
    },
    "strings": (lambda x, y: (x.astype(str), y), "images of type <U"),
    "no channel": (lambda x, y: (x[:, 0], y), r"shape \(30, 6, 6\)\. .*images\[:, None\]"),
    "channels last": (lambda x, y: (np.repeat(np.moveaxis(x, 1, 3), 3, 3), y), "channels seem"),
    "flat": (lambda x, y: (x.reshape(len(x), -1), y), r"images of shape \(30, 36\)"),
    "five axes": (lambda x, y: (x[None], y), r"images of shape \(1, 30, 1, 6, 6\)"),
    "no pixel": (lambda x, y: (x[..., :0], y), "which is empty"),
    "masked": (lambda x, y: (np.ma.masked_less(x, 0.1), y), "images have masked values"),
    "none": (lambda x, y: (None, y), "images are None"),
    "a scalar": (lambda x, y: (0.5, y), r"images of shape \(\)"),
    "no array": (lambda x, y: (NoArray(), y), "which is no array .*RuntimeError: no array"),
    "sparse": (lambda x, y: (torch.tensor(x).to_sparse(), y), "images are a Tensor, which is no"),
    "ragged": (lambda x, y: ([[1.0], [1.0, 2.0]], y), "images are a list, which is no array"),
}
LABEL_FAULTS = {
    "from 1": (lambda x, y: (x, y + 1), "labels from 1 to 3.*subtract 1"),
    "from 5": (lambda x, y: (x, y + 5), "labels from 5 to 7.*subtract 5"),
    "from 1000": (lambda x, y: (x, y + 1000), "labels from 1000 to 1002 .*subtract 1000"),
    "from -1": (lambda x, y: (x, y - 1), "labels from -1 to 1"),
    "huge": (lambda x, y: (x, y * 10**15), "labels from 0 to 2e"),
    "a gap": (lambda x, y: (x, y * 2), "no example has label 1, 3"),
    "fractions": (lambda x, y: (x, y + 0.5), "a label is 0.5"),
    "nan": (lambda x, y: (x, np.where(y == 1, np.nan, y)), "a label is nan"),
    "inf": (lambda x, y: (x, np.where(y == 1, np.inf, y)), "a label is inf"),
    "strings": (lambda x, y: (x, np.array(["a", "b", "c"])[y]), "labels of type <U1"),
    "objects": (lambda x, y: (x, np.array([None] * len(y))), "labels of type object"),
    "complex": (lambda x, y: (x, y + 0j), "labels of type complex128"),
    "one-hot": (lambda x, y: (x, np.eye(3)[y]), r"shape \(30, 3\).*argmax\(1\)"),
    "a column": (lambda x, y: (x, y[:, None]), r"shape \(30, 1\).*labels\[:, 0\]"),
    "a number": (lambda x, y: (x, 1), r"labels of shape \(\)"),
    "one too few": (lambda x, y: (x, y[:-1]), "30 images, but 29 labels"),
    "one too many": (lambda x, y: (x, np.append(y, 0)), "30 images, but 31 labels"),
    "no labels": (lambda x, y: (x, y[:0]), "no labels"),
    "none": (lambda x, y: (x, None), "labels are None"),
    "one class": (lambda x, y: (x, y * 0), "classes? in the|one class|1 classes"),
    "one class less": (lambda x, y: (x, y % 2), "2 classes in the|, 2 in the test"),
    "one class more": (
        lambda x, y: (x, np.where(y == np.arange(30), 3, y)),
        "4 classes in the|, 4 in the test",
    ),
}
STRUCTURE_FAULTS = {
    "none": (lambda x, y: None, "returned a NoneType"),
    "images alone": (lambda x, y: x, "returned a ndarray"),
    "three": (lambda x, y: (x, y, y), "returned a tuple of length 3"),
    "a dict": (lambda x, y: {"images": x, "labels": y}, "returned a dict"),
    "an exception": (
        lambda x, y: fails(),
        r"raised RuntimeError: my own failure \(.*test_user_data\.py, line \d+\)",
    ),
    "an exit": (lambda x, y: sys.exit(3), r"raised SystemExit: 3 \(.*test_user_data\.py"),
    "another shape": (lambda x, y: (x[..., :5], y), r"\(1, 6, \d\) in the train split, \(1, 6, \d"),
    "empty": (lambda x, y: (x[:0], y[:0]), "which is empty"),
}
ALL_FAULTS = [
    pytest.param(change, says, id=f"{kind}: {name}")
    for kind, faults in (
        ("images", IMAGE_FAULTS),
        ("labels", LABEL_FAULTS),
        ("structure", STRUCTURE_FAULTS),
    )
    for name, (change, says) in faults.items()
]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("change", "says"), ALL_FAULTS)
def test_wrong_data_are_refused_by_function_and_split(change, says, split):
    wrong = {other: right(other) for other in ("train", "test")}
    wrong[split] = lambda: changed(change, split)
    returns(wrong["train"], wrong["test"])
    with pytest.raises(DataError, match=says) as error:
        check()
    assert str(error.value).startswith(f"{SOURCE}")
    assert split in str(error.value) or "one class" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_one_class_in_both_splits():
    returns(*(changed(lambda x, y: (x, y * 0), split) for split in ("train", "test")))
    with pytest.raises(DataError, match="one class, 0"):
        check()


TABLES = {"images": IMAGE_FAULTS, "labels": LABEL_FAULTS, "structure": STRUCTURE_FAULTS}


@st.composite
def wrong_data(draw):
    """Generate one to three faults, one of a kind, and the splits that have them."""
    mixed = [list(TABLES)[:count] for count in (1, 2, 3)]
    kinds = draw(st.sampled_from([*mixed, ["labels"], ["structure"], ["labels", "structure"]]))
    faults = [(kind, draw(st.sampled_from(sorted(TABLES[kind])))) for kind in kinds]
    names = {name for _, name in faults}
    # These are differences between the splits.
    single = bool(names & {"another shape", "one class less", "one class more"})
    places = [("train",), ("test",)] + ([] if single else [("train", "test")])
    return faults, draw(st.sampled_from(places))


def with_faults(split, faults):
    value = right(split)
    for kind, name in faults:
        if isinstance(value, tuple) and isinstance(value[0], np.ndarray):
            value = _applied(TABLES[kind][name][0], value)
    return value


def _applied(change, value):
    try:
        return change(*value)
    except RuntimeError as error:
        if "my own" not in str(error):
            return value
        return fails
    except SystemExit:
        return lambda: sys.exit(3)
    except (IndexError, TypeError, ValueError):
        return value  # a fault that another has made impossible


def refuse(wrong, tmp_path):
    faults, places = wrong
    for split in ("train", "test"):
        value = with_faults(split, faults if split in places else [])
        RETURNED[split] = value if callable(value) else lambda value=value: value
    with pytest.raises(DataError) as error:
        trained(tmp_path)
    assert str(error.value).startswith(SOURCE)
    assert not list(tmp_path.rglob("run.json"))
    assert not list(tmp_path.rglob("*.safetensors"))


@given(wrong_data())
@settings(max_examples=50, deadline=None)
def test_generated_wrong_data_train_nothing(tmp_path_factory, wrong):
    refuse(wrong, tmp_path_factory.getbasetemp() / "wrong")


@pytest.mark.slow
@given(wrong_data())
@settings(max_examples=500, deadline=None)
def test_many_generated_wrong_data_train_nothing(tmp_path_factory, wrong):
    refuse(wrong, tmp_path_factory.getbasetemp() / "wrong")


IMAGE_FORMS = {
    "uint8": lambda x: np.round(x * 255).astype(np.uint8),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "big-endian": lambda x: x.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "tensor": torch.tensor,
    "tensor with gradient": lambda x: torch.tensor(x).requires_grad_(),
    "uint8 tensor": lambda x: torch.tensor(x).mul(255).round().to(torch.uint8),
    "bfloat16 tensor": lambda x: torch.tensor(x).bfloat16(),
    "permuted tensor": lambda x: torch.tensor(x).transpose(2, 3).contiguous().transpose(2, 3),
    "list": lambda x: x.tolist(),
    "list of arrays": list,
    "0 and 1": lambda x: (x > 0.5).astype(np.float32),
}
LABEL_FORMS = {
    **{str(np.dtype(k)): lambda y, k=k: y.astype(k) for k in ("i1", "u1", ">i4", "u8", "f2", "f8")},
    "list": lambda y: y.tolist(),
    "tensor": torch.tensor,
    "float tensor": lambda y: torch.tensor(y).float(),
    "array of tensors": lambda y: list(torch.tensor(y)),
}


@given(
    st.sampled_from(sorted(IMAGE_FORMS)),
    st.sampled_from(sorted(LABEL_FORMS)),
    st.integers(2, 9),
    st.sampled_from([(1, 6, 6), (3, 5, 7), (4, 4, 4), (16, 1, 1), (1, 1, 30), (12, 9, 2)]),
    st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_right_data_of_every_form_pass_with_their_values(form, labels_form, classes, shape, seed):
    draw = np.random.default_rng(seed)
    both = {}
    for split, count in (("train", 3 * classes), ("test", classes + 1)):
        images = draw.uniform(0, 1, (count, *shape)).astype(np.float32)
        both[split] = (IMAGE_FORMS[form](images), draw.permutation(np.arange(count) % classes))
    returns(*((images, LABEL_FORMS[labels_form](labels)) for images, labels in both.values()))
    checked = check()
    for split, (images, labels) in both.items():
        found = load_examples(CUSTOM, split, data_root="", digest=checked[split].digest)
        assert checked[split].shape == shape
        assert found.class_names == tuple(map(str, range(classes)))
        assert found.labels.tolist() == labels.tolist()
        expected = torch.as_tensor(np.array(images.detach().float() if isinstance(
            images, torch.Tensor) else images).astype("f4"))  # fmt: skip
        expected = expected / 255 if "uint8" in form else expected
        assert torch.allclose(found.inputs, expected, atol=1e-7)


def test_booleans_are_two_classes():
    returns(*(changed(lambda x, y: (x, y > 0), split) for split in ("train", "test")))
    assert check()["train"].class_names == ("0", "1")


def test_rounding_beyond_1_is_allowed():
    returns(changed(lambda x, y: (np.minimum(x * 1.5, np.float32(1.0000004)), y)))
    check()


def test_right_data_train_and_are_recorded(tmp_path):
    returns(right())
    folder = trained(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    assert record["data_digests"] == {split: facts.digest for split, facts in check().items()}
    assert len(open_run(folder).train) == 27


def answers(form):
    """Return a function that returns other examples at each call."""
    count = itertools.count()

    def answer():
        images, labels = right()
        if form == "pixels":
            images[-1, 0, 0, 0] = 1 / (2 + next(count))
        elif form == "labels":
            labels = np.roll(labels, next(count))
        elif form == "one more":
            kept = 30 - next(count) % 2
            images, labels = images[:kept], labels[:kept]
        else:
            order = np.random.permutation(30)
            images, labels = images[order], labels[order]
        return images, labels

    return answer


@pytest.mark.parametrize("form", ["pixels", "labels", "one more", "order"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_random_answers_train_nothing(form, split, tmp_path):
    returns(*((answers(form), right("test")) if split == "train" else (right(), answers(form))))
    with pytest.raises(DataError, match=rf"{SOURCE}, {split} split: two calls returned different"):
        trained(tmp_path)
    assert not list(tmp_path.rglob("run.json"))


def test_another_answer_after_training_is_refused(tmp_path):
    returns(right())
    folder = trained(tmp_path)
    returns(changed(lambda x, y: (x, np.roll(y, 1))))
    run = open_run(folder)
    with pytest.raises(DataError, match="train split: two calls returned different examples"):
        _ = run.train
    assert len(run.test) == 30


def test_a_large_file_is_checked_in_little_memory(tmp_path):
    shape = (4000, 3, 128, 128)
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=shape)
    images[:, 0, 0, 0] = 255
    images.flush()
    (tmp_path / "big.py").write_text(
        "import numpy as np\n\n\ndef load(split, data_root):\n"
        f"    images = np.memmap('images', np.uint8, 'r', shape={shape})\n"
        "    return images, np.arange(4000) % 5\n"
    )
    script = (
        "import re, torch\nfrom pathlib import Path\nfrom pipeline.config import Dataset\n"
        "from pipeline.data.checks import check_data\n"
        "def anonymous():\n    text = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', text)[1])\n"
        "from pipeline.data import values\nbefore, most = anonymous(), 0\n"
        "original = values._blocks\n"
        "def watched(source):\n    global most\n    for block in original(source):\n"
        "        most = max(most, anonymous())\n        yield block\n"
        "values._blocks = watched\n"
        "check_data(Dataset(source='big:load'), data_root='', download=False)\n"
        "print(1024 * (most - before))\n"
    )
    path = os.environ | {"PYTHONPATH": f"{PACKAGE.parent}:{tmp_path}"}
    words = {"capture_output": True, "text": True, "env": path, "cwd": tmp_path, "check": False}
    done = subprocess.run([sys.executable, "-c", script], **words)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 * 2**25 < np.prod(shape)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def load(:\n", r"SyntaxError: invalid syntax \(.*, line 1\)"),
        ("X = 1\nraise OSError('no disk')\n", r"OSError: no disk \(.*, line 2\)"),
        ("import no_such_thing\n", r"ModuleNotFoundError: No module named 'no_such_thing' \(.*1\)"),
        ("import sys\nsys.exit(2)\n", r"SystemExit: 2 \(.*, line 2\)"),
        ("load = 3\n", "which is a int. Name a function"),
    ],
)
def test_a_module_that_fails_is_named_with_file_and_line(text, says, tmp_path, monkeypatch):
    name = f"module_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AnatomyError, match=f"a data set's source names {name}:load.*{says}"):
        check_data(Dataset(source=f"{name}:load"), data_root="", download=False)
