"""Reports are made from run directories alone: what they must show, survive and never do."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import fake_run
import pytest
import yaml

from niwaki.errors import RunError
from niwaki.reporting import figures
from niwaki.reporting.card import public_name, write_card
from niwaki.reporting.collect import collect
from niwaki.reporting.compress_page import write_report
from niwaki.reporting.facts import Candidate, Curve, Importance
from niwaki.reporting.figures.ranking import MAX_ROWS, ordered
from niwaki.reporting.figures.svg import Scale
from niwaki.reporting.figures.svg import tag as element_of
from niwaki.reporting.words import catch_up, headline, quantity

HOSTILE = "</pre><script>alert('x')</script>\"'&<img src=http://example.org/x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fake_run.write_fake_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run) -> str:
    return write_report(run).read_text(encoding="utf-8")


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        self.text += data


# --- the page ---


def test_the_page_loads_nothing(page):
    for tag, attributes in Elements(page).tags:
        assert tag not in ("script", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_every_measured_number_is_in_the_table(page):
    table = re.search(r"<table.*?</table>", page, re.DOTALL).group(0)
    shown = Elements(table).text
    # teacher and student of the fake run, rounded by hand
    expected = ["1.222", "1.201–1.244", "6.419", "1.313", "1.292–1.335", "1.706", "0.532", "0.572", "3.39"]
    expected += ["3.72", "613", "0.103", "0.099–0.108", "0.541", "71.4", "68.3", "50.7", "26.2", "± 1.4"]
    expected += ["11,834", "20,950", "231", "398", "8,192", "6,144"]
    expected += [f"{n}\u202fM" for n in (6.95, 3.15)] + [f"{n}\u202fMB" for n in (27.8, 12.6, 6.61)]
    for number in expected:
        assert number in shown, number


def test_ratios_are_to_the_teacher_and_the_teacher_has_none(page):
    table = re.search(r"<table.*?</table>", page, re.DOTALL).group(0)
    decode = next(row for row in table.split("<tr>") if ">Decode" in row)
    assert re.findall(r"<small>([\d.]+×)</small>", decode) == ["1.7×", "1.7×", "1.7×"]


def test_the_headline_says_it_in_numbers(run):
    assert headline(collect(run)).replace("\u202f", " ") == (
        "3.15 M of 6.95 M parameters kept; held-out loss 1.31 against the teacher’s 1.22; "
        "1.7× faster decoding."
    )


def test_a_slower_student_is_not_called_faster(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    results = run / "5-evaluate" / "results.json"
    edit(results, lambda r: r["models"]["distilled"]["speed"].update(decode_tokens_per_s=115.7))
    assert "decoding at 0.50× the speed" in headline(collect(run))
    assert "faster" not in headline(collect(run))


def test_the_lead_over_random_weights_is_the_ratio_of_measured_tokens(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    for folder, losses in (("4-distill", [3.0, 2.0, 1.5, 1.2]), ("5-evaluate/random", [5.0, 4.0, 2.5, 2.0])):
        lines = [{"step": step, "tokens": 100 * step, "loss": 1.0} for step in (1, 2, 3, 4)]
        lines += [
            {"step": step, "tokens": 100 * step, "held_out_loss": 0.1, "held_out_cross_entropy": loss}
            for step, loss in enumerate(losses, start=1)
        ]
        (run / folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert catch_up(collect(run)) == (200, 400, 2.0)
    assert "2.0× fewer" in write_report(run).read_text(encoding="utf-8")


def test_curves_are_drawn_beside_the_teacher_on_the_same_rows(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    edit(run / "5-evaluate" / "results.json", lambda r: r["models"]["teacher"].update(curve_loss=1.777))
    assert ">1.78</text>" in write_report(run).read_text(encoding="utf-8")


def test_a_lead_from_the_start_is_no_ratio(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    metrics = run / "4-distill" / "metrics.jsonl"
    first = {"step": 0, "tokens": 0, "held_out_loss": 0.1, "held_out_cross_entropy": 0.5}
    metrics.write_text(json.dumps(first) + "\n" + metrics.read_text())
    assert catch_up(collect(run))[0] == 0
    page = write_report(run).read_text(encoding="utf-8")
    assert "has not come to where the trimmed teacher was" in page
    assert "fewer" not in page


def test_no_lead_is_claimed_where_the_student_never_got_there(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    lines = [{"step": 1, "tokens": 100, "loss": 9.0}, {"step": 1, "tokens": 100, "held_out_loss": 9.0}]
    (run / "4-distill" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert catch_up(collect(run)) is None
    assert "fewer" not in write_report(run).read_text(encoding="utf-8")


def test_no_lead_is_claimed_over_a_baseline_that_is_still_training(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    assert catch_up(collect(run)) is not None
    edit(run / "5-evaluate" / "results.json", lambda results: results["models"].pop("random"))
    assert catch_up(collect(run)) is None


def test_every_drawing_is_wellformed_and_described(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 12
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-hidden") == "true" or len(root.get("aria-label")) > 20
        assert "nan" not in drawing
        assert "inf" not in re.sub(r"<title>.*?</title>|aria-label=\"[^\"]*\"|influence", "", drawing)


def test_foreign_text_stays_text(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    (run / "recipe.yaml").write_text(f"model: {HOSTILE}\n")
    manifest = {"command": HOSTILE, "teacher": {"path": HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    hostile_sample = {"prompt": HOSTILE, "teacher": HOSTILE + "t", "distilled": HOSTILE + "s"}

    def poison(results):
        results["samples"] = [hostile_sample]
        results["models"]["teacher"]["tasks"][HOSTILE] = {"acc": 0.5}

    edit(run / "5-evaluate" / "results.json", poison)
    elements = Elements(write_report(run).read_text(encoding="utf-8"))
    assert {"script", "img"}.isdisjoint(tag for tag, _ in elements.tags)
    assert elements.text.count(HOSTILE) >= 6  # shown as it is: recipe, command, teacher, version, samples


def test_a_model_folder_with_quotes_gives_a_snippet_that_runs(tmp_path):
    run = fake_run.write_fake_run(tmp_path / 'it\'s "mine"')
    text = Elements(write_report(run).read_text(encoding="utf-8")).text
    literal = re.search(r"AutoTokenizer.from_pretrained\((.*)\)\n", text + "\n").group(1)
    assert json.loads(literal) == str(run / "4-distill" / "model")
    compile(f"f({literal})", "snippet", "eval")


# --- runs that are not finished, or damaged ---


@pytest.mark.parametrize(
    ("stages", "sentence", "waiting"),
    [
        (0, "No stage has finished yet.", "The teacher has not been scored yet."),
        (1, "The teacher is scored, no shape is chosen yet.", "No candidates have been ranked yet."),
        (2, "is chosen, nothing is trimmed yet", "Nothing has been cut yet"),
        (3, "not yet distilled.", "Nothing has been trained yet."),
        (4, "distilled, not yet evaluated.", "Not evaluated yet."),
    ],
)
def test_an_unfinished_run_says_what_has_not_run(tmp_path, stages, sentence, waiting):
    text = Elements(write_report(fake_run.write_fake_run(tmp_path / "run", stages)).read_text()).text
    assert sentence in text
    assert waiting in text
    assert text.count("not run") >= 5 - stages


def test_a_run_without_a_baseline_has_no_column_for_it(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    edit(run / "5-evaluate" / "results.json", lambda results: results["models"].pop("random"))
    (run / "5-evaluate" / "random" / "metrics.jsonl").unlink()
    page = write_report(run).read_text(encoding="utf-8")
    assert "Random weights</th>" not in page
    assert "The baseline from random weights was not trained in this run." in page


def test_unmeasured_and_infinite_values_are_dashes(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")

    def spoil(results):
        trimmed = results["models"]["trimmed"]
        trimmed.update(perplexity=float("inf"), speed=None, tasks={}, bits_per_byte=None)
        trimmed["held_out_loss"]["mean"] = float("nan")

    edit(run / "5-evaluate" / "results.json", spoil)
    table = re.search(r"<table.*?</table>", write_report(run).read_text(), re.DOTALL).group(0)
    assert table.count('<td class="trimmed">–</td>') == 8
    assert "nan" not in table


def test_the_half_line_of_a_killed_run_is_passed_over(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    metrics = run / "4-distill" / "metrics.jsonl"
    whole = collect(run).curves["distilled"]
    with metrics.open("a") as file:
        file.write('{"step": 501, "tok')
    assert collect(run).curves["distilled"] == whole
    metrics.write_text('{"step": 501, "tok\n' + metrics.read_text())
    with pytest.raises(RunError, match=r"metrics.jsonl, line 1 is not JSON"):
        collect(run)


@pytest.mark.parametrize("content", ["", "[]", '{"keep": {}}', "{"])
def test_a_damaged_file_is_named(tmp_path, content):
    run = fake_run.write_fake_run(tmp_path / "run")
    (run / "3-trim" / "model" / "trim.json").write_text(content)
    with pytest.raises(RunError, match=r"trim\.json cannot be read"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        write_report(tmp_path)


def test_writing_twice_gives_the_same_bytes(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


# --- figures ---


def shapes(drawing: str, class_: str) -> list[ElementTree.Element]:
    return [node for node in ElementTree.fromstring(drawing).iter() if node.get("class") == class_]


def test_the_tree_is_to_scale():
    drawing = figures.trees(fake_run.TEACHER, fake_run.STUDENT, [0, 1, 2, 3, 6, 7], ("a", "b"), 760.0)
    ffn = [float(rect.get("width")) for rect in shapes(drawing, "ffn")]
    assert len(ffn) == 8 + 6
    assert ffn[-1] / ffn[0] == pytest.approx(512 / 704, rel=1e-3)
    heads = shapes(drawing, "heads")
    assert len(heads) == 8 * 8 + 6 * 4
    edges = [float(head.get("x")) + side * float(head.get("width")) for head in heads[:8] for side in (0, 1)]
    assert (max(edges) - min(edges)) / ffn[0] == pytest.approx(8 * 32 / 704, abs=0.02)


def test_elements_escape_text_and_attributes():
    element = ElementTree.fromstring(
        element_of("text", HOSTILE, element_of("title", "<&>"), aria_label=HOSTILE)
    )
    assert (element.text, element.get("aria-label")) == (HOSTILE, HOSTILE)
    assert element.find("title").text == "<&>"


def test_what_was_cut_is_marked_and_dropped_layers_are_cut_whole():
    importance = Importance(
        layer=[0.5, 0.1, 0.4],
        ffn=[[4.0, 1.0, 3.0, 2.0]] * 3,
        group=[[[1.0, 2.0], [4.0, 3.0]]] * 3,
        hidden=[3.0, 1.0, 2.0],
        measure="activation",
        num_samples=1,
        sequence_length_tokens=8,
    )
    keep = {"layer": [0, 2], "hidden": [0, 2], "ffn": [[0, 2]] * 3, "group": [[[1], [0]]] * 3}
    drawing = figures.importance_by_layer(importance, keep, 760.0)
    # bars 2 of 3, heads 2 of 4 and neurons 2 of 4 in each of the two kept layers
    assert len(shapes(drawing, "kept")) == 2 + 2 * 2 + 2 * 2
    assert len(shapes(drawing, "cut")) == (2 * 2 + 4) + (2 * 2 + 4)
    assert len(shapes(drawing, "cut dashed")) == 1
    assert len(shapes(figures.importance_of_hidden(importance, keep, 760.0), "cut")) == 1
    assert not shapes(figures.importance_by_layer(importance, None, 760.0), "cut")


def test_candidates_are_ranked_after_training_and_the_chosen_one_is_never_left_out():
    def candidate(before, after, chosen=False):
        return Candidate({"layer": 2, "hidden": 8}, 100, before, after, [], chosen)

    first, second, unmeasured = candidate(9.0, 1.0), candidate(2.0, 1.5), candidate(1.0, None)
    assert ordered([unmeasured, second, first]) == [first, second, unmeasured]
    many = [candidate(2.0 + number, 1.0 + number) for number in range(40)] + [candidate(50.0, 49.0, True)]
    drawing = figures.ranking(many, 760.0)
    assert len(shapes(drawing, "row-chosen")) == 1
    assert len(shapes(drawing, "ring plain")) == MAX_ROWS - 1


def test_a_candidate_that_stopped_early_is_behind_those_that_did_not():
    short = Candidate({"layer": 2}, 100, 2.0, 1.0, [], False, stopped="worse half")
    full = Candidate({"layer": 3}, 100, 2.0, 1.5, [], True)
    assert ordered([short, full]) == [full, short]


def choice_of(run):
    return collect(run).choice


def test_ranks_are_drawn_by_step_and_stopped_trials_end_in_rings(run):
    drawing = figures.bump(choice_of(run).settled, choice_of(run).candidates, 760.0)
    assert len(shapes(drawing, "line plain")) == 11
    (chosen,) = shapes(drawing, "line distilled")
    heights = [float(point.split(" ")[1]) for point in chosen.get("d")[1:].split("L")]
    assert heights[0] > heights[-1] == min(heights)
    assert len(shapes(drawing, "ring")) == 3
    # 12 candidates with 10 points each, but for three that stopped at 2, 5 and 2 of them
    assert len(shapes(drawing, "dot plain")) == 9 * 10 + 2 + 5 + 2 - 3 - 10
    assert len(shapes(drawing, "border")) == 1


def test_a_ranking_that_never_settled_is_said_so(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    text = Elements(write_report(run).read_text()).text
    assert "The chosen shape was first from step 40 of 100 on; the order of the others never settled" in text
    assert "8.11\u202fM tokens of trials instead of 9.83\u202fM" in text
    edit(run / "2-choose" / "candidates.json", lambda found: found["settled"].update(winner_step=None))
    text = Elements(write_report(run).read_text()).text
    assert "The first place still changed at the end of the trials, step 100" in text
    assert "first from here on" not in text


def test_fronts_are_drawn_for_every_cost_that_is_known(run):
    choice = choice_of(run)
    drawing = figures.pareto(choice.candidates, choice.fronts, 760.0)
    assert len(shapes(drawing, "line front")) == 3
    assert len(shapes(drawing, "dot chosen")) == 3
    assert len(shapes(drawing, "ring plain")) == 3 * 3
    knees = [front.knee for front in choice.fronts.values() if front.knee is not None]
    assert len(shapes(drawing, "knee")) == len(knees) > 0
    known = {"num_parameters": choice.fronts["num_parameters"]}
    assert len(shapes(figures.pareto(choice.candidates, known, 346.0), "line front")) == 1


def test_a_run_that_ranked_without_trials_or_costs_has_neither_picture(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")

    def spoil(found):
        for name in ("settled", "pareto", "trial_tokens"):
            del found[name]

    edit(run / "2-choose" / "candidates.json", spoil)
    page = write_report(run).read_text()
    assert "Their ranks on the way" not in page
    assert "Loss against cost" not in page


def test_curves_without_points_or_spread_still_draw():
    options = {"width": 346.0, "label": "a drawing of some curves", "x_title": "x", "y_title": "y"}
    for points in ([], [(0.0, 1.0)], [(5.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)]):
        drawing = figures.line_chart([figures.Line("a", "distilled", points)], **options)
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_ticks_are_round_inside_the_scale_and_apart():
    for low, high, log in ((1.2, 8.3, True), (1.2, 1.31, True), (24576, 4.1e6, True), (0.0, 37.0, False)):
        scale = Scale(low, high, 0.0, 200.0, log=log)
        ticks = scale.ticks(30)
        assert len(ticks) >= 2
        assert all(low <= tick <= high for tick in ticks)
        places = [scale(tick) for tick in ticks]
        assert all(b - a >= 30 for a, b in pairwise(places))


def test_the_held_out_loss_is_the_cross_entropy_not_what_was_minimised(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    rows = [{"step": 0, "tokens": 0, "held_out_loss": 4.0, "held_out_cross_entropy": 6.0}]
    rows += [{"step": 1, "tokens": 100, "loss": 2.0, "cross_entropy": 4.0}]
    rows += [{"step": 1, "tokens": 100, "held_out_loss": 1.0, "held_out_cross_entropy": 3.0}]
    (run / "4-distill" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert collect(run).curves["distilled"] == Curve(
        training=[(100.0, 2.0)], held_out=[(0.0, 6.0), (100.0, 3.0)]
    )


def test_the_dropped_layers_are_named_and_drawn_among_those_that_were_tried(run, page, tmp_path):
    trim = json.loads((run / "3-trim" / "model" / "trim.json").read_text())
    assert f"Layers dropped: {', '.join(trim['dropped_layers'])}." in Elements(page).text
    assert "Which layers to leave out" in page
    dropped = [int(name.rpartition(".")[2]) for name in trim["dropped_layers"]]
    marked = re.findall(r"<title>dropped: [\d.]+ at (\d+)</title>", page)
    assert sorted(map(int, marked)) == sorted(dropped * 2)  # wide and narrow

    whole = fake_run.write_fake_run(tmp_path / "whole")
    edit(whole / "3-trim" / "model" / "trim.json", lambda trim: trim.update(dropped_layers=[]))
    edit(whole / "3-trim" / "model" / "trim.json", lambda trim: trim["keep"].pop("layer"))
    page = write_report(whole).read_text(encoding="utf-8")
    assert "dropped:" not in page
    assert "Which layers to leave out" not in page


def test_a_task_without_accuracy_is_shown_by_its_own_metrics(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    scores = {"word_perplexity": 21.5, "exact_match": 0.25, "exact_match_stderr": 0.01, "num_questions": 7}
    results = run / "5-evaluate" / "results.json"
    edit(results, lambda content: content["models"]["teacher"].update(tasks={"wiki": scores}))
    table = re.search(r"<table.*?</table>", write_report(run).read_text(), re.DOTALL).group(0)
    shown = Elements(table).text
    assert "Wiki word_perplexity" in shown
    assert "21.500" in shown
    assert "25.0± 1.0" in shown
    assert "num_questions" not in shown


def test_a_continuation_that_repeats_its_prompt_is_shown_once(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run")
    sample = {"prompt": "a = ", "teacher": "a = 1\n", "distilled": "  a = 2\n"}
    edit(run / "5-evaluate" / "results.json", lambda results: results.update(samples=[sample]))
    assert collect(run).samples[0].continuations == {"teacher": "1\n", "distilled": "  a = 2\n"}


def test_quantities_keep_three_figures():
    words = {0: "0", 512: "512", 9999: "9,999", 81_920: "81.9 k", 999_960: "1.00 M", 7_570_000_000: "7.57 B"}
    assert {number: quantity(number).replace("\u202f", " ") for number in words} == words


# --- the model card ---


@pytest.fixture
def carded(tmp_path):
    """A run whose teacher is a folder with the given card, and the student's front matter and card."""

    def make(teacher_card: str | None = None, samples: list[dict] | None = None):
        run = fake_run.write_fake_run(tmp_path / "run")
        teacher = tmp_path / "models" / "sapling"
        teacher.mkdir(parents=True)
        if teacher_card is not None:
            (teacher / "README.md").write_text(teacher_card)
            (teacher / "LICENSE").write_text("the terms")
        edit(run / "manifest.json", lambda manifest: manifest["teacher"].update(path=str(teacher)))
        if samples:
            edit(run / "5-evaluate" / "results.json", lambda results: results.update(samples=samples))
        card = write_card(run, run / "4-distill" / "model").read_text(encoding="utf-8")
        front, body = re.match(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
        return run, yaml.safe_load(front), body

    return make


def test_the_card_names_the_teacher_and_carries_its_licence(carded):
    run, front, body = carded("---\nlicense: other\nlicense_name: 'no: yes'\ntags: [x]\n---\n# Sapling\n")
    assert "base_model" not in front  # the Hub knows no folder of this machine
    assert "# sapling, made smaller" in body
    assert (front["license"], front["license_name"]) == ("other", "no: yes")
    assert front["library_name"] == "transformers"
    assert (run / "4-distill" / "model" / "LICENSE").read_text() == "the terms"
    assert "(other) is carried over" in body


def test_the_card_shows_the_table_the_samples_and_the_recipe(carded):
    _, _, body = carded()
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert any("1.313 (1.292–1.335)" in row for row in rows)
    assert fake_run.RECIPE.strip() in body
    assert "return json.load(f)" in body


def test_the_card_claims_no_licence_the_teacher_does_not_state(carded):
    _, front, body = carded()
    assert "license" not in front
    assert "names no licence" in body


def test_a_teacher_known_by_name_gives_its_licence_from_its_folder(tmp_path):
    run, folder = fake_run.write_fake_run(tmp_path / "run"), tmp_path / "bundled"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    edit(run / "manifest.json", lambda manifest: manifest["teacher"].update(path="big/tree"))
    card = write_card(run, run / "4-distill" / "model", source_dir=folder).read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["base_model"], front["license"]) == ("big/tree", "apache-2.0")


@pytest.mark.parametrize("card", ["", "no front matter", "---\n- a list\n---\n", "---\n{broken\n---\n"])
def test_an_odd_teacher_card_is_no_licence(carded, card):
    assert "license" not in carded(card)[1]


def test_a_sample_cannot_leave_its_block(carded):
    _, _, body = carded(samples=[{"prompt": "```\n<b>", "teacher": "````", "distilled": "x"}])
    assert "`````text\n```\n<b>\n`````\n" in body


def test_local_paths_are_not_published(tmp_path):
    assert public_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert public_name(str(tmp_path / "private" / "sapling")) == "sapling"
    assert public_name("./models") == "models"


def test_a_card_needs_a_model(tmp_path):
    run = fake_run.write_fake_run(tmp_path / "run", stages=3)
    with pytest.raises(RunError, match="holds no model"):
        write_card(run, run / "4-distill" / "model")
