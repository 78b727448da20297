"""Teachers' outputs on disk."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tersor.errors import CalibrationError, InputError, MismatchError, OutputError, UsageError
from tersor.training import cached_answers


class Teacher(nn.Module):
    """Counts its calls."""

    def __init__(self, seed):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(seed))
        self.drop = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.drop(self.layer(x))


@pytest.fixture
def samples():
    return list(torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).split(3))


def test_a_teacher_is_asked_once(tmp_path, samples):
    teachers = [Teacher(0).train(), Teacher(1).train()]
    found = cached_answers(teachers, samples, tmp_path / "new")
    assert [t.calls for t in teachers] == [3, 3] and all(t.training for t in teachers)
    again = cached_answers(teachers, samples, tmp_path / "new")
    assert [t.calls for t in teachers] == [3, 3]
    for teacher, one, other in zip(teachers, found.outputs, again.outputs, strict=True):
        assert torch.equal(one, other)
        assert torch.allclose(one, teacher.eval()(torch.cat(samples)), atol=1e-6)
    index = torch.tensor([5, 0])
    assert len(found) == 7 and torch.equal(found[index][1], found.outputs[1][index])
    assert cached_answers(teachers[0], samples).outputs[0].equal(found.outputs[0])


def test_half_precision_takes_half_the_bytes(tmp_path, samples):
    teacher = Teacher(0)
    full, half = (cached_answers(teacher, samples, tmp_path / str(d), dtype=d) for d in (torch.float32, torch.float16))
    assert half.outputs[0].nbytes * 2 == full.outputs[0].nbytes
    assert half[0][0].dtype == torch.float32
    assert torch.allclose(half[:][0], full[:][0], rtol=1e-3, atol=1e-4)
    assert (
        cached_answers(teacher, samples, tmp_path / "torch.float16", dtype=torch.float16)
        .outputs[0]
        .equal(half.outputs[0])
    )


def test_other_teachers_and_samples_have_answers_of_their_own(tmp_path, samples):
    teacher = Teacher(0)
    found = cached_answers(teacher, samples, tmp_path)
    with torch.no_grad():
        teacher.layer.bias[0] += 1
    assert not cached_answers(teacher, samples, tmp_path).outputs[0].equal(found.outputs[0])
    other = [batch.clone() for batch in samples]
    other[2][0, 0] += 1e-6
    cached_answers(teacher, other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    found.check(samples)
    with pytest.raises(MismatchError, match="other samples"):
        found.check(other)


def test_files_of_others_are_refused(tmp_path, samples):
    teacher = Teacher(0)
    cached_answers(teacher, samples, tmp_path / "a")
    cached_answers(Teacher(1), samples, tmp_path / "b")
    (own,), (other,) = (list((tmp_path / name).iterdir()) for name in "ab")
    own.write_bytes(other.read_bytes())
    with pytest.raises(MismatchError, match="other teacher"):
        cached_answers(teacher, samples, tmp_path / "a")
    own.write_bytes(other.read_bytes()[:40])
    with pytest.raises(InputError, match="damaged"):
        cached_answers(teacher, samples, tmp_path / "a")
    save_file(load_file(other), own)
    with pytest.raises(InputError, match="holds no answers"):
        cached_answers(teacher, samples, tmp_path / "a")


def test_nothing_half_written_is_left(tmp_path, samples):
    class Stops(Teacher):
        def forward(self, x):
            if self.calls == 2:
                raise ValueError("enough")
            return super().forward(x)

    with pytest.raises(CalibrationError, match=r"batch 2.*enough"):
        cached_answers(Stops(0), samples, tmp_path)
    assert not list(tmp_path.iterdir())


def test_errors(samples):
    teacher = Teacher(0)
    with pytest.raises(UsageError, match="teachers"):
        cached_answers([], samples)
    with pytest.raises(UsageError, match="bfloat16"):
        cached_answers(teacher, samples, dtype=torch.bfloat16)
    with pytest.raises(CalibrationError, match="teacher 1"):
        cached_answers([teacher, nn.Sequential(teacher, nn.Flatten(0))], samples)
    with torch.no_grad():
        teacher.layer.bias += 1e5
    with pytest.raises(CalibrationError, match="float32"):
        cached_answers(teacher, samples, dtype=torch.float16)


def test_arguments_of_wrong_types(tmp_path, samples):
    for wrong in (5, [tmp_path]):
        with pytest.raises(UsageError, match="answers: folder must be a path"):
            cached_answers(nn.Identity(), samples, wrong)
    with pytest.raises(UsageError, match=r"answers: teachers must be .*got NoneType"):
        cached_answers(None, samples)
    with pytest.raises(UsageError, match="answers: teacher 1 must be"):
        cached_answers([nn.Identity(), 3], samples)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="file: the folder of answers cannot be made"):
        cached_answers(nn.Identity(), samples, file)
