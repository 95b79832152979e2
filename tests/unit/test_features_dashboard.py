"""What build_dashboard writes: files, data, refusals; and the command's small parts."""

from __future__ import annotations

import json

import click
import numpy as np
import pytest
from click.testing import CliRunner
from features_tiny import tiny_model, tiny_sae, tiny_tokenizer, tiny_tokens

from course_utils.features import max_activating_examples, scan_latents
from course_utils.viz import tokens as T
from course_utils.viz.commands import _labels, _numbers
from course_utils.viz.dashboard import build_dashboard, latent_records, marker_of, related_links, to_json


def build(out, latents, **options):
    return build_dashboard(
        out, tiny_model(), tiny_sae(), tiny_tokens(20), latents, cache=False, progress=False, **options
    )


def test_site_is_replaced_as_a_whole_and_other_folders_are_left_alone(tmp_path):
    out = tmp_path / "site"
    build(out, list(range(40)))
    assert marker_of(out)["about"]["count"] == 40
    assert {p.name for p in (out / "data").iterdir()} == {"index-0.js", "latents-0.js", "latents-1.js"}
    build(out, [1, 2])
    assert {p.name for p in (out / "data").iterdir()} == {"index-0.js", "latents-0.js"}
    assert [p.name for p in tmp_path.iterdir()] == ["site"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="no dashboard"):
        build(mine, [1, 2])
    assert (mine / "thesis.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "site"]


def test_refusals_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"0 … 47"):
        build(tmp_path / "x.html", 48)
    big = tiny_sae(d_sae=300)
    with pytest.raises(ValueError, match="folder name"):
        build_dashboard(tmp_path / "x.html", tiny_model(), big, tiny_tokens(4), cache=False, progress=False)
    with pytest.raises(FileNotFoundError, match="build one"):
        marker_of(tmp_path)


def test_records_say_what_the_scan_found():
    model, sae, tokens = tiny_model(), tiny_sae(), tiny_tokens(20)
    scan = scan_latents(model, sae, tokens, [3, 9], k=4, cache=False, progress=False, correlations=True)
    first, second = latent_records(scan, model, sae, [3, 9], labels={9: "nine"})
    assert (first["id"], first["label"], second["label"]) == (3, "", "nine")
    assert sum(first["histogram"]["counts"]) == first["fired"] == scan.fired[0]
    assert len(first["histogram"]["edges"]) == len(first["histogram"]["counts"]) + 1
    best = first["top"][0]
    assert best["a"][best["p"]] == pytest.approx(float(scan.maximum[0]), rel=5e-3)
    assert len(best["t"]) == len(best["a"])
    assert len(first["near"]) == 8
    assert json.loads(to_json(first)) == first


def test_json_cannot_leave_its_script():
    text = to_json({"a": "</script><!--\u2028&", "b": "\ud800"})
    assert "<" not in text
    assert "&" not in text
    assert "\u2028" not in text
    text.encode("utf-8")
    assert json.loads(text)["a"] == "</script><!--\u2028&"


def test_token_heatmap_escapes_shades_and_shows_values():
    html = T.token_heatmap_html(["<s>", " the", "\n", "\u200b", "x\u202e"], [0.0, 1.0, 2.0, 0.0, -1.0])
    assert "&lt;s&gt;" in html
    assert "<s>" not in html
    assert "↵" in html
    assert "⟨U+200B⟩" in html
    assert "⟨U+202E⟩" in html
    assert "<script" not in html
    assert html.count("background") == 3
    assert "activation 2" in html
    assert html._repr_html_() == html
    assert "background" not in T.token_heatmap_html(["a"], [0.0])
    with pytest.raises(ValueError, match="one value for each token"):
        T.token_heatmap_html(["a"], [1.0, 2.0])


def test_examples_html_uses_one_scale():
    tokens = tiny_tokens(4, 6)
    acts = np.zeros((4, 6, 1), np.float32)
    acts[0, 2], acts[1, 3] = 4.0, 2.0
    import torch

    (found,) = max_activating_examples(tokens, torch.from_numpy(acts))
    html = T.examples_html(found, tiny_tokenizer(), title="<b>")
    assert "&lt;b&gt;" in html
    assert "0.80)" in html
    assert "0.44)" in html
    assert "never fires" in T.examples_html([], tiny_tokenizer())


def test_circuitsvis_carries_its_script_and_is_safe():
    html = T.colored_tokens(["</script><b>", "ok"], [1.0, 2.0])
    assert "unpkg.com" not in html[-3000:]
    assert html.count("</script>") == 1
    assert len(html) > 100_000
    multi = T.colored_tokens_multi(["a", "<s>"], [[1.0, 2.0], [0.0, 1.0]], ["one", "</script>"])
    assert multi.count("</script>") == 1


def test_command_line_parts(tmp_path):
    assert _numbers("3,7-9,3", 10) == [3, 7, 8, 9]
    assert _numbers(None, 10) is None
    for text in ("x", "5-", "-3", "9-3", "10"):
        with pytest.raises(click.ClickException):
            _numbers(text, 10)
    file = tmp_path / "labels.json"
    file.write_text('{"12": "rivers"}')
    assert _labels(file) == {12: "rivers"}
    file.write_text("[1]")
    with pytest.raises(click.ClickException, match="rivers"):
        _labels(file)


def test_related_links_point_at_the_same_latent_of_a_copy(tmp_path):
    model, tokens = tiny_model(), tiny_tokens(20)
    links = related_links(
        model, tiny_sae(), {"copy": (tiny_sae(), "../copy/index.html")}, tokens, labels={"copy": {3: "c"}}
    )
    assert links[3] == [{"text": "copy · 3 · c", "href": "../copy/index.html#/latent/3", "score": 1.0}]
    assert all(link[0]["href"].endswith(f"/{latent}") for latent, link in links.items())


def test_figures_have_titles_and_axis_names():
    import torch

    from course_utils import features as F
    from course_utils.viz import density_figure, logit_figure, scores_figure, sentence_figure, token_share_figure

    heat = F.sentence_heatmap(tiny_model(), tiny_sae(), "the river\n", k=3)
    score = F.score_explanation(F.mentions("a"), ["a", "b", "a", "b"], [1, 0, 1, 0], repeats=20)
    tokens = torch.randint(0, 5, (6, 9))
    figures = [
        sentence_figure(heat, {heat.latents[0]: "first"}),
        density_figure(np.array([0.0, 1e-4, 0.2])),
        logit_figure([" a", "\n"], [1.0, -1.0], "Raised and lowered"),
        token_share_figure({"early": F.token_only_share(tokens, torch.rand(6, 9, 2))}),
        scores_figure({"rivers": score}),
    ]
    for figure in figures:
        assert figure.layout.title.text
        assert figure.layout.xaxis.title.text
        figure.to_json()
    assert "1 never fired" in figures[1].layout.title.text


@pytest.fixture
def tiny_world(monkeypatch, tmp_path):
    """The command with the tiny model, SAE and text in place of the real ones."""
    import course_utils.lm.model
    import course_utils.lm.saes
    from course_utils.viz import commands

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(course_utils.lm.model, "load_model", lambda name, **given: tiny_model())
    monkeypatch.setattr(course_utils.lm.saes, "load_sae", lambda name: tiny_sae(seed=len(name)))
    monkeypatch.setattr(commands, "corpus_tokens", lambda model, n, context: tiny_tokens(10, context))
    monkeypatch.chdir(tmp_path)
    return commands


def test_command_writes_a_page_a_site_and_linked_sites(tiny_world, tmp_path):
    run = CliRunner().invoke
    assert "latent_7.html" in run(tiny_world.dashboard, ["--latents", "7", "--context", "16"]).output
    assert (tmp_path / "latent_7.html").exists()
    done = run(tiny_world.dashboard, ["--context", "16", "--json", "--out", "site"])
    assert json.loads(done.stdout.splitlines()[-1]) == [{"path": "site/index.html", "latents": 48}]
    done = run(tiny_world.dashboard, ["one", "three", "--context", "16", "--out", "layers", "--latents", "0-3"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "layers/one/data/latents-0.js").read_text()
    assert "../three/index.html#/latent/" in text
    assert run(tiny_world.dashboard, ["a", "b", "--serve"]).exit_code == 2


def test_command_refuses_in_a_sentence_before_the_model_is_loaded(tiny_world, tmp_path, monkeypatch):
    import course_utils.lm.model
    from course_utils.lm.model import ModelUnavailable

    def no_model(name, **given):
        raise ModelUnavailable(f"there is no model {name}")

    monkeypatch.setattr(course_utils.lm.model, "load_model", no_model)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "one.txt").write_text("mine")
    (tmp_path / "many" / "b").mkdir(parents=True)
    (tmp_path / "many" / "b" / "mine.txt").write_text("mine")
    for arguments, words in (
        (["--out", "thesis"], "thesis exists and is no dashboard"),
        (["a", "b", "--out", "many"], "exists and is no dashboard"),
        (["--out", "new", "--model", "gpt-9"], "there is no model gpt-9"),
    ):
        done = CliRunner().invoke(tiny_world.dashboard, arguments)
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit)
        assert words in done.output


def test_command_says_that_a_folder_is_no_sae(tmp_path):
    from course_utils.viz.commands import open_sae

    with pytest.raises(click.ClickException, match=r"cfg\.json is missing: an SAE is a folder with"):
        open_sae(str(tmp_path))


def test_an_occupied_place_is_refused_before_any_text_is_read(tmp_path, monkeypatch):
    from course_utils.viz import dashboard

    monkeypatch.setattr(dashboard, "scan_latents", lambda *a, **k: pytest.fail("read text first"))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no dashboard"):
        build_dashboard(tmp_path, tiny_model(), tiny_sae(), tiny_tokens(4), progress=False)


def test_command_serves_from_the_cache(tiny_world, monkeypatch, tmp_path):
    served = []
    monkeypatch.setattr(tiny_world, "_serve", lambda site, *rest: served.append(site))
    done = CliRunner().invoke(tiny_world.dashboard, ["--serve", "--context", "16", "--latents", "3"])
    assert done.exit_code == 0, done.output
    assert marker_of(served[0])["about"]["count"] == 1
    assert str(served[0]).startswith(str(tmp_path / "cache"))
