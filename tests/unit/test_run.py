import pytest

from niwaki.errors import RunError
from niwaki.ground.run import is_done, stage


def test_a_finished_stage_is_not_done_again(tmp_path):
    calls = []
    for _ in range(2):
        stage(tmp_path, "1-score", {"seed": 1}, calls.append)
    assert calls == [tmp_path / "1-score"]
    assert is_done(tmp_path, "1-score")


def test_a_stage_that_failed_is_done_again_in_the_same_folder(tmp_path):
    def fail(folder):
        (folder / "half").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "1-score", {"seed": 1}, fail)
    assert not is_done(tmp_path, "1-score")
    seen = []
    stage(tmp_path, "1-score", {"seed": 1}, lambda folder: seen.append((folder / "half").read_text()))
    assert seen == ["kept"]


def test_other_inputs_are_refused_by_name_and_nothing_is_lost(tmp_path):
    stage(tmp_path, "1-score", {"seed": 1, "data": "a"}, lambda f: (f / "result").write_text("kept"))
    with pytest.raises(RunError, match=r"changed: seed\)"):
        stage(tmp_path, "1-score", {"seed": 2, "data": "a"}, lambda _: pytest.fail("must not run"))
    assert (tmp_path / "1-score" / "result").read_text() == "kept"


def test_a_folder_that_no_stage_made_is_refused(tmp_path):
    (tmp_path / "1-score").mkdir()
    (tmp_path / "1-score" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="no stage made"):
        stage(tmp_path, "1-score", {}, lambda _: pytest.fail("must not run"))
