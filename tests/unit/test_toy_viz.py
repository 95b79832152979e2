"""The toy models' figures have a takeaway, named axes, and show what they are given."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from course_utils import toy
from course_utils.viz import theme
from course_utils.viz import toy as draw

W2 = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
LABELS = ["a", "b", "c"]
P = torch.tensor([1.0, 0.1, 0.01])
GRID = torch.logspace(-1, 1, 4)


def small_diagram():
    density = torch.logspace(-2, 0, 4)
    theory = toy.theoretical_phase_diagram(GRID, density)
    found = (theory.phase + 1) % 3
    return toy.PhaseDiagram(GRID, density, 2, theory, found, theory.loss, torch.zeros(4, 4, 1, 2))


FIGURES = {
    "directions": lambda: draw.feature_directions(W2, LABELS, "Takeaway", importance=torch.linspace(1, 0.5, 5)),
    "gram": lambda: draw.gram_heatmaps(W2, LABELS, "Takeaway"),
    "bars": lambda: draw.represented_bars(W2, LABELS, "Takeaway"),
    "per dimension": lambda: draw.features_per_dimension(
        P, W2, "Takeaway", represented=torch.tensor([2, 3, 5]), onset=0.1
    ),
    "phases": lambda: draw.phase_diagrams(small_diagram(), "Takeaway"),
    "loss": lambda: draw.loss_curves(torch.rand(10, 3) + 0.1, LABELS, "Takeaway"),
    "magnitudes": lambda: draw.magnitude_histogram(toy.generate_batch(50, P[:, None].expand(3, 5)), LABELS, "Takeaway"),
    "fates": lambda: draw.fate_map(GRID, GRID, torch.zeros(4, 4, dtype=int), torch.ones(4, 4, dtype=int), "Takeaway"),
    "costs": lambda: draw.strategy_costs(
        P, toy.expected_loss_of_strategies(0.5, P), "Takeaway", trained=(P, torch.tensor([0.1, 0.01, 0.001]))
    ),
    "slider": lambda: draw.sparsity_frame(0.1, W2[0], 0.01),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_and_named_axes(name):
    figure = FIGURES[name]()
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text.startswith("<b>")
    axes = [axis for axis in figure.layout if axis.startswith(("xaxis", "yaxis"))]
    titles = [figure.layout[axis].title.text for axis in axes]
    assert any(titles[: len(titles) // 2]), "no x axis is named"
    assert any(titles[len(titles) // 2 :]), "no y axis is named"
    assert figure.to_json()


def test_cells_that_differ_away_from_boundaries_are_crossed_out():
    diagram = small_diagram()
    crosses = [trace for trace in draw.phase_diagrams(diagram, "t").data if "differs" in (trace.name or "")]
    assert len(crosses[0].x) == int(diagram.away.sum())
    assert diagram.agreement == 0


def test_the_picture_of_a_text_is_well_formed_svg():
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.fromstring(draw.directions_svg(W2, LABELS))
    lines = [element for element in root if element.tag.endswith("path")]
    assert len(lines) == W2.shape[0] * W2.shape[2]


def test_the_slider_offers_every_sparsity():
    box = draw.sparsity_explorer(P, W2, torch.tensor([0.1, 0.2, 0.3]))
    assert [label for label, _ in box.children[0].options] == ["S = 0.000", "S = 0.900", "S = 0.990"]


def test_the_palette_is_told_apart_by_colour_blind_readers():
    """Simulated deuteranopia (Machado et al. 2009, severity 1): the first six colours stay apart in RGB distance."""
    matrix = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    rgb = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in theme.PALETTE[:6]]) / 255
    seen = np.clip(rgb @ matrix.T, 0, 1)
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(6, 1)]
    assert distance.min() > 0.1
