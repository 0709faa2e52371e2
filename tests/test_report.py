"""The report says true things, escapes what users wrote, and asks nothing of the network."""

import base64
import io
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kineme
from kineme.network import FrameDrawing, SkeletonDrawing
from kineme.report import plots
from kineme.report.filmstrip import draw_filmstrip, draw_frames, drawer
from kineme.report.findings import Training, find_next_steps
from kineme.report.html import ReportInput, write_report
from kineme.report.scores import compute_scores, wilson_interval
from pages_read import Page

NASTY = ("<script>alert(1)</script>", "quote \" and '", "comma, semicolon;", "emoji 😀", "$x^{")
BONES = [(0, 1), (1, 2), (1, 3)]
JOINTS = ("pelvis", "neck", "left_hand", "right_hand")


def one_hot(answers, num_classes, sure=0.8):
    """Probabilities that answer `answers`, this sure, the rest spread evenly."""
    answers = np.asarray(answers)
    probabilities = np.full((len(answers), num_classes), (1 - sure) / (num_classes - 1))
    probabilities[np.arange(len(answers)), answers] = sure
    return probabilities


def report_of(labels, answers, names, **more):
    return ReportInput(
        title=more.pop("title", "a report"),
        class_names=names,
        labels=np.asarray(labels),
        probabilities=one_hot(answers, len(names)),
        ids=more.pop("ids", [f"sample{i}" for i in range(len(labels))]),
        **more,
    )


def figures(count, num_frames=6):
    """A figure whose pelvis is at the origin and that raises its hands (y points down)."""
    data = np.zeros((count, 3, num_frames, 4, 1), dtype=np.float32)
    data[:, 1, :, 1] = -1
    data[:, 0, :, 2] = 0.5
    data[:, 0, :, 3] = -0.5
    data[:, 1, :, 2:] = np.linspace(-0.2, -1.4, num_frames)[:, None, None]
    return data


def page_of(folder, report):
    path = write_report(folder, report)
    text = path.read_text(encoding="utf-8")
    return Page(text), text


# scores -----------------------------------------------------------------------------------


def test_scores_are_those_computed_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    scores = compute_scores(labels, one_hot([0, 0, 1, 1, 1, 1, 2, 0], 3), class_names="abc")
    assert scores.confusion.tolist() == [[2, 2, 0], [0, 2, 0], [1, 0, 1]]
    assert (scores.num_samples, scores.num_correct) == (8, 5)
    assert scores.accuracy == pytest.approx(5 / 8)
    assert scores.mean_class_accuracy == pytest.approx((0.5 + 1 + 0.5) / 3)
    a, b, c = scores.classes
    assert (a.precision, a.recall, a.f1) == pytest.approx((2 / 3, 1 / 2, 4 / 7))
    assert (b.precision, b.recall, b.f1) == pytest.approx((1 / 2, 1, 2 / 3))
    assert (c.precision, c.recall, c.f1) == pytest.approx((1, 1 / 2, 2 / 3))
    assert (a.confused_with, a.num_confused) == ("b", 2)
    assert (b.confused_with, b.num_confused) == ("", 0)
    assert scores.macro_f1 == pytest.approx((4 / 7 + 2 / 3 + 2 / 3) / 3)
    assert scores.mean_confidence == pytest.approx(0.8)
    assert scores.calibration_error == pytest.approx(0.8 - 5 / 8)


def test_unlabelled_samples_and_untested_classes_count_nowhere():
    scores = compute_scores(np.array([0, -1, 1]), one_hot([0, 1, 1], 3), class_names="abc")
    assert scores.num_samples == 2
    assert scores.accuracy == scores.mean_class_accuracy == 1
    assert math.isnan(scores.classes[2].recall)


def test_the_interval_is_wilsons():
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert wilson_interval(10, 10) == pytest.approx((0.722, 1.0), abs=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)


# findings ---------------------------------------------------------------------------------


def titles(scores, **more):
    return [finding.title for finding in find_next_steps(scores, **more)]


def confused(swaps, count=100, num_classes=4):
    """Scores of `count` samples a class where `swaps` (true, said, how many) went wrong."""
    labels = np.repeat(np.arange(num_classes), count)
    answers = labels.copy()
    for true, said, number in swaps:
        rows = np.flatnonzero((labels == true) & (answers == true))[:number]
        answers[rows] = said
    return compute_scores(labels, one_hot(answers, num_classes, 0.95), class_names="abcd")


def test_a_perfect_model_on_enough_samples_needs_nothing():
    assert titles(confused([])) == []


def test_the_worst_confusion_comes_first_and_says_which_way_it_goes():
    found = find_next_steps(confused([(0, 1, 30), (1, 0, 20), (2, 3, 15), (3, 0, 2)]))
    mistaken = [finding for finding in found if "mistaken" in finding.title]
    assert [finding.title for finding in mistaken] == [
        "'a' is mistaken for 'b'",
        "'c' is mistaken for 'd'",
    ]
    assert mistaken[0].seen == "30 of 100 'a' samples are called 'b', and 20 of 100 the other way."
    assert "the two labels may be one" in mistaken[0].fix
    assert mistaken[1].seen == "15 of 100 'c' samples are called 'd', none the other way."
    assert "'d' takes over: add 'c' samples" in mistaken[1].fix


def test_learning_by_heart_stopping_early_and_overshooting_are_told_from_the_curves():
    scores = confused([(0, 1, 50), (1, 2, 50)])  # 75 %
    by_heart = [{"epoch": e, "train_acc": a} for e, a in ((0, 0.7), (1, 0.99))]
    assert "Training samples are learned by heart" in titles(scores, history=by_heart)
    early = [{"epoch": e, "train_acc": a} for e, a in ((0, 0.7), (1, 0.8))]
    assert "Training stopped too early" in titles(scores, history=early)
    over = [{"epoch": e, "train_acc": 0.8, "val_acc": a} for e, a in ((0, 0.85), (1, 0.75))]
    [finding] = [f for f in find_next_steps(scores, history=over) if "last epoch" in f.title]
    assert finding.seen == "Validation accuracy was 85.0 % after epoch 1 of 2 and is 75.0 % " \
        "at the end."  # fmt: skip


def test_a_model_that_may_be_at_chance_is_told_to_check_labels_before_anything_else():
    labels = np.arange(40) % 4
    scores = compute_scores(labels, one_hot(np.zeros(40, int), 4), class_names="abcd")
    first = find_next_steps(scores)[0]
    assert first.title == "40 samples do not show it to be better than chance"
    assert first.seen == "Accuracy 25.0 %, 95 % interval 14.2 % to 40.2 %; guessing gives 25.0 %."
    assert first.fix == "Check that labels belong to their samples, then lower train.optim.lr."
    told = find_next_steps(scores, training=Training("dataset.augmentation_config", 5e-4))[0].fix
    assert told.endswith("then lower train.optim.lr, which is 0.0005.")


def test_few_right_answers_are_no_proof_of_chance():
    labels = np.arange(6) % 2
    scores = compute_scores(labels, one_hot([0, 1, 0, 1, 1, 0], 2), class_names="ab")
    first = find_next_steps(scores)[0]
    assert first.title == "6 samples do not show it to be better than chance"
    assert first.seen == "Accuracy 66.7 %, 95 % interval 30.0 % to 90.3 %; guessing gives 50.0 %."
    assert first.fix.startswith("Test on more samples; if it stays so, check that labels")


def test_advice_names_the_settings_that_the_network_has():
    scores = confused([(0, 1, 60), (2, 3, 60)])
    history = [{"epoch": 0, "train_acc": 1.0}]
    for training, named in ((Training(), ""), (Training("dataset.a"), "dataset.a, ")):
        found = find_next_steps(scores, history=history, training=training)
        [fix] = [f.fix for f in found if f.title == "Training samples are learned by heart"]
        assert fix == (
            f"More people, views and sessions help most; then {named}recipe: modern or a larger "
            "train.optim.weight_decay."
        )


def test_untested_rare_and_few_samples_are_told():
    labels = np.array([0] * 60 + [1] * 6)
    answers = np.array([0] * 60 + [1] * 3 + [0] * 3)
    scores = compute_scores(labels, one_hot(answers, 3), class_names="abc")
    found = titles(scores)
    assert "1 of 3 classes were not tested" in found
    assert "Rare classes are worse off" in found
    assert "The test set is small" in found


def test_confidence_that_promises_too_much_or_too_little_is_told():
    labels = np.arange(400) % 4
    right_in_80 = np.where(np.arange(400) % 5 == 0, (labels + 1) % 4, labels)
    sure = compute_scores(labels, one_hot(right_in_80, 4, 0.99), class_names="abcd")
    unsure = compute_scores(labels, one_hot(labels, 4, 0.5), class_names="abcd")
    assert "Probabilities promise too much" in titles(sure)
    assert titles(unsure) == ["Probabilities promise too little"]


def test_the_part_and_the_gap_whose_loss_costs_most_are_told():
    curves = {
        "random joints": [(0, 1.0), (0.5, 0.5)], "frames": [(0, 1.0), (0.5, 0.9)],
        "left arm": [(0.2, 0.6)], "legs": [(0.4, 0.5)], "hands": [(0.2, 0.99)],
    }  # fmt: skip
    found = find_next_steps(confused([]), occlusion=curves)
    assert [f.title for f in found] == [
        "Hiding legs breaks it",
        "Hiding random joints breaks it",
    ]
    assert found[1].seen == "With 30 % missing, accuracy is 70.0 % in place of 100.0 %."


def test_hidden_parts_that_cost_little_are_not_told():
    curves = {"random joints": [(0, 1.0), (0.5, 0.9)], "left arm": [(0.2, 0.9)]}
    assert titles(confused([]), occlusion=curves) == []


# charts -----------------------------------------------------------------------------------


def test_history_is_read_as_numbers_and_gaps_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,train_loss,val_loss,note\n0,0.5,,warm\n1,0.25,nan,\n2,0.2,0.4,\n")
    history = plots.read_history(path)
    assert history[0] == {"epoch": 0, "train_loss": 0.5}
    assert plots.curves_of(history, "loss") == {
        "train_loss": [(1, 0.5), (2, 0.25), (3, 0.2)],
        "val_loss": [(3, 0.4)],
    }
    assert plots.read_history(tmp_path / "missing.csv") == []
    path.write_bytes(b"epoch,train_loss\n0,\xff\n")  # damaged: a report is drawn without it
    assert plots.read_history(path) == []


def test_a_chart_places_points_on_round_ticks_and_says_what_it_shows():
    svg = plots.draw_curves({"a<b": [(0, 0.0), (10, 100.0)]}, x="epoch", y="accuracy")
    assert 'aria-label="accuracy over epoch. a&lt;b: 0 to 100"' in svg
    assert 'd="M44.0 232.0L340.0 16.0"' in svg  # corner to corner of the plotted area
    assert ">a&lt;b</text>" in svg
    assert re.findall(r'text-anchor="end">(\d+)<', svg) == ["0", "20", "40", "60", "80", "100"]


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(1, math.nan), (2, 3e-9)]])
def test_a_chart_of_one_point_or_a_flat_line_is_drawn(points):
    svg = plots.draw_curves({"loss": points}, x="epoch", y="loss")
    assert "nan" not in svg
    assert "M" in svg


def test_a_chart_without_points_is_nothing():
    assert plots.draw_curves({"loss": [(1, math.nan)]}, x="epoch", y="loss") == ""


@pytest.mark.parametrize("num_classes", [2, 6, 70])
def test_the_confusion_picture_is_a_png_whatever_the_names(num_classes):
    names = [f"{NASTY[i % 5]} {i} क" for i in range(num_classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = plots.render_confusion_png(np.eye(num_classes, dtype=np.int64), names)
    assert picture.startswith(b"\x89PNG")


# skeletons --------------------------------------------------------------------------------


def strip_paths(svg):
    """Drawn bones of each figure: {class: number of bones}."""
    return [
        {side: d.count("M") for side, d in re.findall(r'<path class="(\w)" d="([^"]*)"', group)}
        for group in re.findall(r"<g .*?</g>", svg)
    ]


def test_a_filmstrip_draws_every_bone_in_the_colour_of_its_side():
    svg = draw_filmstrip(figures(1)[0], BONES, joint_names=JOINTS, centre=0, num_figures=3)
    assert strip_paths(svg) == [{"m": 1, "r": 1, "l": 1}] * 3
    assert 'aria-label="skeleton at frames 0, 2, 5"' in svg


def test_missing_joints_draw_no_bone_and_padding_no_figure():
    skeleton = figures(1, num_frames=8)[0]
    skeleton[:, :, 2] = 0  # the left hand is missing throughout
    skeleton[:, 4:] = 0  # zero padding after frame 3
    svg = draw_filmstrip(skeleton, BONES, joint_names=JOINTS, centre=0, num_figures=8)
    assert strip_paths(svg) == [{"m": 1, "r": 1}] * 4
    skeleton[skeleton == 0] = np.nan
    assert draw_filmstrip(skeleton, BONES, joint_names=JOINTS, centre=0).count("<g ") == 4


def test_heads_are_up_whichever_way_y_points():
    down = figures(1)[0]
    up = down * np.array([1, -1, 1]).reshape(3, 1, 1, 1)
    svg = [draw_filmstrip(x, BONES, joint_names=JOINTS, centre=0) for x in (down, up)]
    assert svg[0] == svg[1]
    (_, y_pelvis, _, y_neck) = map(
        float, re.findall(r'"m" d="M(\S+) (\S+)L(\S+) (\S+)"', svg[0])[0]
    )
    assert y_neck < y_pelvis


def test_one_wild_joint_shrinks_nobody_and_an_empty_sequence_is_drawn_empty():
    skeleton = figures(1, num_frames=60)[0]
    skeleton[0, 30, 3] = 1e4
    svg = draw_filmstrip(skeleton, BONES, joint_names=JOINTS, centre=0, num_figures=60)
    (_, y_pelvis, _, y_neck) = map(float, re.findall(r'"m" d="M(\S+) (\S+)L(\S+) (\S+)"', svg)[0])
    assert y_pelvis - y_neck > 20
    assert "no joints" in draw_filmstrip(np.zeros((3, 5, 4, 1)), BONES, joint_names=JOINTS)


def test_every_person_is_drawn():
    skeleton = figures(1)[0].repeat(2, axis=-1)
    skeleton[0, ..., 1] += 2
    svg = draw_filmstrip(skeleton, BONES, joint_names=JOINTS, centre=0, num_figures=1)
    assert strip_paths(svg) == [{"m": 2, "r": 2, "l": 2}]


def strips(count):
    """Draws the made-up figures as a report does."""
    skeletons = figures(count)
    return drawer(SkeletonDrawing(lambda i: skeletons[i], BONES, JOINTS, 0))


def test_frames_are_drawn_in_order_side_by_side():
    frames = np.zeros((30, 48, 64, 3), np.uint8)
    frames[:, :, :, 0] = np.arange(30)[:, None, None] * 8
    markup = drawer(FrameDrawing(lambda i: frames[i:]))(0)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", markup)[1])
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == (96, 8 * 128, 3)
    reds = [int(picture[48, 64 + 128 * k, 0]) for k in range(8)]
    assert reds == pytest.approx([8 * f for f in (0, 4, 8, 12, 17, 21, 25, 29)], abs=8)
    assert 'alt="8 of 30 frames"' in markup


def test_a_strip_of_fewer_frames_shows_each_once():
    assert 'alt="3 of 3 frames"' in draw_frames(np.zeros((3, 20, 20, 3), np.uint8))


# the page ---------------------------------------------------------------------------------


def full_report(names=NASTY, **more):
    labels = np.arange(40) % len(names)
    answers = np.where(np.arange(40) % 7 == 0, (labels + 1) % len(names), labels)
    return report_of(
        labels, answers, names,
        ids=[f"<b>{i}</b> & \x1b[31m" for i in range(40)],
        title="<i>title</i>",
        draw=strips(40),
        history=[{"epoch": e, "train_loss": 1 / e, "train_acc": 0.5} for e in (1, 2, 3)],
        facts={"<u>spec</u>": "</dd><script>x</script>"},
        occlusion={"<arm>": [(0.3, 0.9), (0.5, 0.4)], "<leg>": [(0.2, 0.1)]},
        warnings=["<u>short</u>"],
        **more,
    )  # fmt: skip


def test_every_string_of_the_user_is_escaped(tmp_path):
    page, text = page_of(tmp_path, full_report())
    assert page.all("script") == page.all("u") == page.all("arm") == []
    for written in ("<script", "<b>0", "<i>title", "<u>", "\x1b"):
        assert written not in text
    words = "".join(page.words)
    for name in NASTY:
        assert name in words
    assert "</dd><script>x</script>" in words
    assert r"<b>0</b> & \x1b[31m" in words


def test_all_pages_begin_as_one_page_with_one_content_policy():
    source = Path(kineme.__file__).parent
    begin = [path.name for path in source.rglob("*.html") if "<!doctype" in path.read_text()]
    assert begin == ["page.html"]


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path):
    page, text = page_of(tmp_path, full_report())
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for _, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "action", "data"):
                assert value.startswith(("#", "data:")), value
    assert "url(" not in text
    assert "@import" not in text
    assert not re.findall(r"https?://", text)


def test_drawings_have_words_and_tables_have_headers(tmp_path):
    page, _ = page_of(tmp_path, full_report())
    assert page.all("html") == [{"lang": "en"}]
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]
    assert all(img["alt"] for img in page.all("img"))
    assert all(th["scope"] in ("row", "col") for th in page.all("th"))
    assert len(page.all("table")) >= 3
    anchors = {a["href"][1:] for a in page.all("a")}
    assert anchors <= {a["id"] for _, a in page.tags if "id" in a}
    assert "viewport" in [meta.get("name") for meta in page.all("meta")]


def test_the_page_says_how_good_where_it_fails_and_what_to_do(tmp_path):
    names = ("squat", "lunge", "curl")
    labels = [0] * 20 + [1] * 20 + [2] * 20
    answers = [0] * 20 + [1] * 12 + [0] * 8 + [2] * 20
    page, _ = page_of(tmp_path, report_of(labels, answers, names, draw=strips(60)))
    words = " ".join(" ".join(page.words).split())
    assert "86.7 %" in words
    assert "52 of 60 right" in words
    assert "80.0 % on average; expected calibration error 6.7 points (mean distance" in words
    assert "Classes, lowest F1 first" in words
    assert "'lunge' is mistaken for 'squat'" in words
    assert "8 of 20 'lunge' samples are called 'squat', none the other way." in words
    assert words.count(" taken for squat") == 8
    assert [svg["class"] for svg in page.all("svg")] == ["strip"] * 8
    heat = [td["title"] for td in page.all("td") if "title" in td]
    assert "lunge called squat: 8 of 20" in heat
    assert len(heat) == 9


def test_worst_samples_come_from_every_confused_pair_before_a_second_from_one(tmp_path):
    labels = [0] * 20 + [1] * 2
    answers = [1] * 15 + [0] * 5 + [2, 0]
    page, _ = page_of(tmp_path, report_of(labels, answers, ("a", "b", "c"), draw=strips(22)))
    ids = [word for word in page.words if re.fullmatch(r"sample\d+", word)]
    assert ids[:3] == ["sample0", "sample20", "sample21"]
    assert len(ids) == 12


def test_without_mistakes_the_closest_calls_are_drawn(tmp_path):
    report = report_of([0, 1] * 10, [0, 1] * 10, ("a", "b"), draw=strips(20))
    report.probabilities[7] = (0.45, 0.55)
    page, _ = page_of(tmp_path, report)
    words = " ".join(page.words)
    assert "No mistakes: the closest calls" in words
    assert next(word for word in page.words if word.startswith("sample")) == "sample7"


def test_parts_of_a_model_stand_beside_the_whole(tmp_path):
    page, _ = page_of(
        tmp_path, report_of([0, 1, 1, 1], [0, 1, 1, 0], ("a", "b"), parts={"rgb": 50.0, "of": None})
    )
    words = " ".join(" ".join(page.words).split())
    assert "Parts of the model" in words
    assert "rgb 50.0 of – together 75.0" in words


def test_a_sample_without_an_answer_is_wrong_and_has_a_column_of_its_own(tmp_path):
    report = report_of([0, 0, 1, 1], [0, 0, 1, 1], ("a", "b"), draw=strips(4))
    report.probabilities[[0, 3]] = 0
    scores = compute_scores(report.labels, report.probabilities, class_names=("a", "b"))
    assert scores.confusion.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert (scores.num_correct, scores.accuracy) == (2, 0.5)
    assert [one.num_confused for one in scores.classes] == [0, 0]
    page, _ = page_of(tmp_path, report)
    words = " ".join(" ".join(page.words).split())
    assert "2 of 4 right" in words
    assert words.count("no answer") == 3  # the column, and the two samples


def test_parts_without_data_are_left_out_and_files_have_their_names(tmp_path):
    page, _ = page_of(tmp_path, report_of([0, 1], [0, 1], ("a", "b")))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert ids == {"next", "confusion", "classes", "trust", "run"}
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "confusion_matrix.png"}


def test_a_report_without_any_label_is_written(tmp_path):
    page, _ = page_of(tmp_path, report_of([-1, -1], [0, 1], ("a", "b"), draw=strips(2)))
    assert "No sample has a label" in " ".join(page.words)


def test_many_classes_are_a_picture(tmp_path):
    names = [f"class {i}" for i in range(60)]
    page, _ = page_of(tmp_path, report_of(np.arange(120) % 60, np.arange(120) % 60, names))
    [image] = page.all("img")
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"].startswith("Confusion matrix of 60 classes")
