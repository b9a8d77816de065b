import torch

from fagan_hf.training.reporting.health import (
    MAX_ROLLBACKS,
    PATIENCE_LINES,
    SKIPPED_IN_A_ROW,
    SkippedSteps,
    describe_loss,
    diagnose,
    report_failure,
    symptoms_of,
)

CPU = torch.device("cpu")
WELL = {
    "images": 64,
    "real_variance": 0.2,
    "fake_variance": 0.1,
    "real_accuracy": 0.9,
    "fake_accuracy": 1.0,
    "generator.layers.0.alpha": 0.5,
    "generator.largest_sigma": 3.0,
}
ILL = {
    "similar samples": {"sample_diversity": 0.24},
    "collapse": {"fake_variance": 0.009},
    "certainty": {"real_accuracy": 1.0},
    "guessing": {"real_accuracy": 0.55, "fake_accuracy": 0.64},
    "generator.layers.0.alpha": {"generator.layers.0.alpha": -3.1},
    "discriminator.layers.2.gamma": {"discriminator.layers.2.gamma": 4.0},
    "generator.largest_sigma": {"generator.largest_sigma": 1001.0},
}


def after(steps):
    """Count steps, each given as the letters of the players whose step was skipped."""
    skipped = SkippedSteps(CPU)
    for step in steps:
        skipped.add(torch.tensor(float("d" in step)), torch.tensor(float("g" in step)))
    return skipped


def test_skipped_steps_are_counted_by_player():
    counts, is_lost = after(["d", "", "dg", "g", "g"]).read()
    assert counts == {"discriminator_skipped_steps": 2, "generator_skipped_steps": 3}
    assert not is_lost
    assert all(isinstance(count, int) for count in counts.values())


def test_ten_in_a_row_are_too_many_whoevers_they_are():
    assert SKIPPED_IN_A_ROW == 10
    assert not after([*["d"] * 9, "", *["g"] * 9]).read()[1]
    assert after([*["d"] * 5, *["g"] * 5]).read()[1]
    assert after([*["g"] * 10, ""]).read()[1]


def test_a_row_reaches_over_lines_but_is_told_once():
    skipped = after(["d"] * 6)
    assert not skipped.read()[1]
    for _ in range(4):
        skipped.add(torch.tensor(1.0), torch.tensor(0.0))
    assert skipped.read() == ({"discriminator_skipped_steps": 4, "generator_skipped_steps": 0}, True)
    skipped.add(torch.tensor(0.0), torch.tensor(0.0))
    skipped.read()
    skipped.add(torch.tensor(0.0), torch.tensor(0.0))
    assert skipped.read() == ({"discriminator_skipped_steps": 0, "generator_skipped_steps": 0}, False)


def test_the_last_step_says_whether_steps_are_being_skipped():
    assert not after([]).is_skipping
    assert after(["", "g"]).is_skipping
    assert not after(["d", ""]).is_skipping


def test_a_healthy_line_has_no_symptoms():
    assert symptoms_of(WELL) == {}
    assert symptoms_of({"images": 4}) == {}  # a batch of one image, a line without a finite step


def test_each_symptom_is_seen_alone():
    for name, change in ILL.items():
        assert list(symptoms_of(WELL | change)) == [name]


def test_borders_are_not_yet_symptoms():
    line = WELL | {"real_variance": 1.0, "fake_variance": 0.05, "real_accuracy": 0.9989}
    line |= {"sample_diversity": 0.25, "generator.layers.0.alpha": -3.0, "generator.largest_sigma": 1000.0}
    assert symptoms_of(line) == {}
    assert symptoms_of({"real_variance": 0.0, "fake_variance": 0.0}) == {}  # data of one image


def test_guessing_is_being_right_by_chance():
    """Being wrong about one kind and right about the other is chance, too; between 0.5 and 0.6 it is nearly."""
    for accuracies in ((0.1, 1.0), (0.5, 0.5), (0.58, 0.61), (0.0, 0.3)):
        assert list(symptoms_of(dict(zip(("real_accuracy", "fake_accuracy"), accuracies, strict=True)))) == ["guessing"]
    for line in ({"real_accuracy": 0.6, "fake_accuracy": 0.6}, {"real_accuracy": 0.5}, {"fake_accuracy": 0.5}):
        assert symptoms_of(line) == {}


def test_certainty_is_being_right_about_both():
    assert symptoms_of({"real_accuracy": 1.0, "fake_accuracy": 0.998}) == {}
    assert symptoms_of({"real_accuracy": 1.0}) == {}
    assert list(symptoms_of({"real_accuracy": 0.999, "fake_accuracy": 1.0})) == ["certainty"]


def follow(lines, held=None):
    told = []
    for line in lines:
        held, warnings, news = diagnose(line, held or {})
        told.append((warnings, news))
    return held, told


def test_a_warning_is_told_once_and_stays_in_every_line_while_it_lasts():
    ill = WELL | ILL["collapse"]
    _, told = follow([ill] * (PATIENCE_LINES + 2) + [WELL] * 2)
    warnings = [len(each) for each, _ in told]
    assert warnings == [0] * (PATIENCE_LINES - 1) + [1] * 3 + [0] * 2
    news = [each for _, each in told]
    assert [index for index, each in enumerate(news) if each] == [PATIENCE_LINES - 1, PATIENCE_LINES + 2]
    assert "Warning: the generated images hardly differ" in news[PATIENCE_LINES - 1][0]
    assert news[-2] == ["Resolved: collapse."]


def test_bad_moments_are_no_symptoms():
    ill = WELL | ILL["certainty"]
    _, told = follow([*[ill] * (PATIENCE_LINES - 1), WELL] * 3)
    assert told == [([], [])] * (3 * PATIENCE_LINES)


def test_symptoms_hold_each_for_itself():
    both = WELL | ILL["certainty"] | ILL["collapse"]
    held, told = follow([WELL | ILL["certainty"], *[both] * (PATIENCE_LINES - 1)])
    assert held == {"certainty": PATIENCE_LINES, "collapse": PATIENCE_LINES - 1}
    assert [len(news) for _, news in told] == [0] * (PATIENCE_LINES - 1) + [1]
    _, told = follow([both], held)  # as after a resume
    assert [len(each) for each in told[0]] == [2, 1]
    assert "Warning: the generated images" in told[0][1][0]


def test_a_lost_run_says_why_and_what_to_try(tmp_path):
    line = WELL | {"discriminator_skipped_steps": 7, "generator_skipped_steps": 3, "events": ["long ago"]}
    why = describe_loss(line)
    assert "were not finite for 10 consecutive steps, at 64 images" in why
    assert "discriminator 7, generator 3" in why
    report = report_failure(line, MAX_ROLLBACKS, tmp_path)
    assert "after 3 rollbacks to a checkpoint, with learning rates down to 0.125 times" in report
    assert "  fake_variance: 0.1" in report
    assert "long ago" not in report
    assert f"--finetune_from {tmp_path}" in report


def test_between_two_grids_nothing_new_is_known_about_samples():
    """A warning needs several grids that show it, not several lines; it stays until a grid shows that it is over."""
    ill, well = WELL | ILL["similar samples"], WELL | {"sample_diversity": 0.9}
    _, told = follow([ill, WELL, WELL] * PATIENCE_LINES + [well, WELL])
    begins = 3 * (PATIENCE_LINES - 1)
    warned = [bool(warnings) for warnings, _ in told]
    assert warned == [False] * begins + [True] * 3 + [False] * 2
    news = {index: each for index, (_, each) in enumerate(told) if each}
    assert list(news) == [begins, begins + 3]
    assert news[begins][0].startswith("Warning: most samples look alike (mode collapse): they differ less than 25%")
    assert news[begins + 3] == ["Resolved: similar samples."]
