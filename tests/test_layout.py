"""How the house is built: who may import whom, and what a fresh machine needs."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import yaml

from deepfake_detector.card import model_card

from .conftest import ROOT

# Left to right as in README.md; a module imports only from its own group or from groups to its left.
LAYERS = (
    {"audio", "features", "metrics", "speech", "files", "distributed", "sharpness", "interrupt"},
    {"model"},
    {"explain", "resynthesis"},
    {"detector"},
    {"plots"},
    {"curves"},
    {"data"},
    {"evaluation"},
    {"training", "card", "first_recipe"},
    {"hub"},
)


def layer_of(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, by their first name below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(name.startswith("deepfake_detector") for name in named), (
            f"{path}: only relative imports are seen"
        )
        if isinstance(node, ast.ImportFrom) and node.level:
            depth = len(path.relative_to(ROOT / "deepfake_detector").parts) - node.level
            inside_data = path.parent.name == "data" and depth == 1
            named = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {"data"} if inside_data else {name.split(".")[0] for name in named}
    return found


def test_no_module_imports_one_to_its_right() -> None:
    for path in sorted((ROOT / "deepfake_detector").rglob("*.py")):
        own = path.relative_to(ROOT / "deepfake_detector").parts[0].removesuffix(".py")
        if own.startswith("__"):
            continue
        assert all(layer_of(other) <= layer_of(own) for other in imports_of(path)), path


def test_imports_have_no_cycle() -> None:
    package = ROOT / "deepfake_detector"
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in package.rglob("*.py")}
    graph = {}
    for path, name in names.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                home = name.split(".")[: -node.level] if node.level else []
                base = ".".join([*home, *([node.module] if node.module else [])])
                imported |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        graph[name] = imported & set(names.values())
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("deepfake_detector.audio") < order.index("deepfake_detector.data.manifest")


def test_the_page_loads_nothing_of_training() -> None:
    ours = ("data", "training", "evaluation", "curves", "card", "hub")
    names = (*(f"deepfake_detector.{name}" for name in ours), "librosa", "sklearn")
    code = f"import app, sys; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_front_matter_is_what_a_space_reads() -> None:
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and (ROOT / front["app_file"]).is_file()
    assert isinstance(front["sdk_version"], str) and isinstance(front["python_version"], str)
    assert {"title", "emoji", "license", "short_description"} <= front.keys()
    assert len(front["short_description"]) <= 60


def test_bundled_checkpoint_is_small_and_complete() -> None:
    folder = ROOT / "deepfake_detector" / "weights"
    assert {"config.json", "model.safetensors", "README.md", "metrics.json"} <= {file.name for file in folder.iterdir()}
    assert (folder / "model.safetensors").stat().st_size < 10_000_000


def test_readme_tells_the_figures_of_the_bundled_checkpoints() -> None:
    weights = ROOT / "deepfake_detector" / "weights"
    ours, basic = (json.loads((folder / "metrics.json").read_text()) for folder in (weights, weights / "basic_cnn"))
    eer, low, high, called_fake, called_real, basic_eer = (
        f"{100 * share:.0f}"
        for share in (
            *(ours["eer"], *ours["eer_interval"], ours["bonafide_called_fake"], ours["spoof_called_real"]),
            basic["eer"],
        )
    )
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"equal error rate on speech it did not learn from is {eer} % (95 % interval {low} to {high} %)" in readme
    assert f"it calls {called_fake} % of the real voices there fake and {called_real} % of the fakes real" in readme
    assert f"trained by the same recipe has {basic_eer} %" in readme
    card = (weights / "basic_cnn" / "README.md").read_text(encoding="utf-8")
    for name in ("eer", "balanced_accuracy", "bonafide_called_fake", "cannot_tell"):
        assert f" | {100 * basic[name]:.1f} % | {100 * ours[name]:.1f} % |" in card, name


def test_the_bundled_card_has_every_figure_of_its_metrics() -> None:
    weights = ROOT / "deepfake_detector" / "weights"
    written = model_card(json.loads((weights / "metrics.json").read_text()), "")
    by_hand = "## How it was made"  # what a run cannot know of itself begins here
    assert (weights / "README.md").read_text(encoding="utf-8").split(by_hand)[0] == written.split(by_hand)[0]
