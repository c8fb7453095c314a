"""The model card: what a checkpoint is, how it was made, how often it is wrong. Written beside the weights."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

from huggingface_hub import EvalResult, ModelCard

from .data.manifest import UNKNOWN, Clip
from .evaluation import MIN_WORST_BONAFIDE
from .model import BONAFIDE, SPOOF

PLACE = "FOLDER_OR_HUB_ID"  # in the card's example
FRONT = """---
license: {license}
library_name: deepfake-detector
pipeline_tag: audio-classification
tags:
- audio-deepfake-detection
- anti-spoofing
- voice
---

"""
USE = """## Use and misuse

For hearing more closely and for teaching. It cannot prove anything: a voice machine made after it may fool it, and phones,
noise, music and strong processing can make a real voice look artificial. Never use it alone to accuse a person, to admit or
refuse evidence, or to decide about anybody.
"""
EXAMPLE = """In a clone of the project's repository (the package `deepfake-detector` of PyPI is another project):

```python
from deepfake_detector import Detector

Detector.from_pretrained("FOLDER_OR_HUB_ID").predict("voice.m4a")
```
"""
CARD = (
    FRONT
    + """# {network}: is a recorded voice human or machine?

Input: a recording of any length, 16 kHz mono inside. Output: a calibrated probability that a machine made the voice, for
every window of {window_seconds:g} seconds and for the whole; 0.5 is the decision boundary, and between {real_below:.2f} and
{fake_above:.2f} the answer is "can't tell". The probability supposes that {bonafide_share} of the recordings are real.

"""
    + EXAMPLE
    + """
## How often it is right

Whole recordings of the dev split, judged as a user's are. This split also chose the epoch, the calibration and the bounds, so
expect somewhat worse elsewhere.

| dev, {clips} clips, {judged} of them judged | |
|---|---|
| equal error rate | {eer}, 95 % interval {interval} |
| the same without codecs: speech synthesis, conversion and vocoders only | {eer_without_codec} |
| balanced accuracy at 0.5 | {balanced_accuracy} |
| real recordings called fake at 0.5 | {bonafide_called_fake} |
| fake recordings called real at 0.5 | {spoof_called_real} |
| real recordings answered "fake" / fake ones answered "real" | {bonafide_answered_fake} / {spoof_answered_real} |
| expected calibration error | {ece:.3f} |
| answered "can't tell" | {cannot_tell} |
| wrong when it says "fake" / "real" | {wrong_when_fake} / {wrong_when_real} |
| corpus of {worst_at_least} real recordings or more that is most often called fake | {worst} |
| without a voice for the voice detector: not judged, in no figure | {without_voice} clips, {bonafide_without_voice} of them real |

The interval comes from drawing these clips again 1,000 times; it says nothing of voices that are not among them. The calibration
error counts the clips as they are, not by the share of real recordings that the probability supposes.

![Errors at every threshold, scores of each class and reliability](figure.png)

Per family of synthesis, against all bona fide clips:

| family | clips | EER | called real at 0.5 |
|---|---|---|---|
{family_rows}

{attack_table}Per corpus of ten clips or more, at 0.5:

| corpus | bona fide | of them called fake | answered "fake" | spoofed | of them called real | EER |
|---|---|---|---|---|---|---|
{corpus_rows}

## How it was made

```sh
{command}
```

{data}

{sources}{made}

"""
    + USE
)
TRAINED = """Copies of the bona fide clips (vocoded, filtered to another voice, or spliced anew) are extra spoofs, each in the batch of its original.
Batches pair real and fake of one corpus or page. Augmentation: speed, equaliser, echoes, rooms, {noise}, low cut, mains hum, RawBoost,
a browser's microphone (noise suppression, automatic gain), overdrive, band limits, what editing programs do (noise reduction,
gate, compressor, another tempo), MP3, Vorbis, Opus, AAC, G.711, G.722 and AMR, time cuts, moved edges, random floors,
masked bands and stretches.
Started from {start};
{epochs} epochs, seed {seed}, the averaged weights of the epoch with the best dev EER."""
AVERAGED = """The mean of the weights of {checkpoints}, whose cards tell how each was trained; calibration and bounds are fitted anew."""
NAMES = {"res-efficientcnn": "RES-EfficientCNN", "basic-cnn": "Basic CNN"}
FIRST_REPORT = """# {name} on pictures: the published experiment, and the same where nothing is shared

{table}

The original reports 99.85 % (its basic CNN: 50.26 %) for the random split.

**What the random split leaks.** Every picture falls into train, validation or test by chance. Of its test pictures
{recordings} have another picture of the same recording among the others, {speakers} of those whose speaker is known a speaker who
is there too, and of its spoofs {attacks} an attack that is there too. A network can answer by recognising what it has seen, so the
figure says little about new voices and new machines.

**Where nothing is shared** no recording, known speaker or attack lies in two parts; spoofs whose speaker and attack belong to
different parts are left out. The data name the speaker of {known} of the pictures; the others may share one.{disjoint_note}

**What both still give away.** Only bona fide recordings have augmented copies, so the augmentation itself says "real". The rows
without copies count only test recordings as they are.
"""
FIRST_CARD = (
    """It sees a mel-spectrogram of {window_seconds:g} seconds as an RGB picture of {width} x {height} pixels. Its probability is
not calibrated, and it never answers "can't tell".

"""
    + EXAMPLE
    + """
![Loss and accuracy of each epoch; on the random split's test pictures: errors at every threshold, scores, reliability](figure.png)

## How it was made

```sh
{command}
```

The first recipe: {epochs} epochs, seed {seed}, started from {start}; the weights of the last epoch, trained on the random split.

{data}

{sources}"""
)
SOURCES = """<details><summary>What it was trained on, by name</summary>

Real, clips of each corpus: {bonafide}.

Fake, clips of each system: {spoofed}.

</details>

"""
ATTACKS = """Per attack of ASVspoof 2019 LA, against its bona fide clips:

| attack | clips | EER | called real at 0.5 |
|---|---|---|---|
{rows}

"""
CORPUS_COLUMNS = ("bonafide", "bonafide_called_fake", "bonafide_answered_fake", "spoof", "spoof_called_real", "eer")
RESULTS = {
    "eer": "Equal error rate",
    "eer_without_codec": "Equal error rate without codecs",
    "accuracy": "Accuracy at 0.5",
    "balanced_accuracy": "Balanced accuracy at 0.5",
    "expected_calibration_error": "Expected calibration error",
}


def model_card(figures: dict, command: str) -> str:
    """Markdown card from the figures of `evaluation.report` and the settings of the run."""
    settings = figures["settings"]
    percents = (
        *("eer", "eer_without_codec", "balanced_accuracy", "bonafide_called_fake", "spoof_called_real"),
        *("bonafide_answered_fake", "spoof_answered_real", "cannot_tell", "wrong_when_fake", "wrong_when_real"),
    )
    text = CARD.format(
        network=NAMES[settings["network"]],
        window_seconds=settings["window_seconds"],
        bonafide_share=f"{settings['bonafide_share']:.0%}".replace("%", " %"),
        ece=figures["expected_calibration_error"],
        interval=" to ".join(_percent(bound) for bound in figures["eer_interval"]),
        worst_at_least=MIN_WORST_BONAFIDE,
        worst=_worst(figures["worst_corpus"]),
        family_rows=_system_rows(figures["per_family"]),
        attack_table=_attack_table(figures["per_attack"]),
        corpus_rows="\n".join(_row(name, row, CORPUS_COLUMNS) for name, row in figures["per_corpus"].items()),
        command=command,
        data=_data_table(settings["data"]),
        sources=_sources(settings["data"].get("train")),
        license=settings["license"],
        **{name: _percent(figures[name]) for name in percents},
        judged=figures["clips"] - figures["without_voice"],
        **{
            name: figures[name]
            for name in ("clips", "without_voice", "bonafide_without_voice", "real_below", "fake_above")
        },
        made=_how_made(settings),
    )
    return with_results(text, figures)


def _how_made(settings: dict) -> str:
    if "average" in settings:
        return AVERAGED.format(checkpoints=" and ".join(f"`{name}`" for name in settings["average"]))
    return TRAINED.format(**{name: settings[name] for name in ("epochs", "seed", "start", "noise")})


def with_results(card: str, figures: dict) -> str:
    """The card with the figures as the Hub's `model-index` in its front matter; what else is there stays.

    Raises ValueError or yaml.YAMLError if the front matter cannot be read.
    """
    if "random" in figures:  # the first recipe
        results = []
        for split in ("random", "disjoint"):
            results += _results(figures.get(split, {}), f"{split} split, pictures", "test")
    else:
        split = figures.get("split", "dev")
        results = _results(figures, f"{split} split, whole recordings", split)
    model_card = ModelCard(card)
    if results:
        model_card.data.model_name = NAMES.get(figures.get("settings", {}).get("network"), "Deepfake Detector")
        model_card.data.eval_results = results
    return str(model_card)


def published(card: str, repo_id: str) -> str:
    """The card as the Hub's model `repo_id` has it: with its name, and without links to files that stay here."""
    return re.sub(r"\[([^]]+)\]\((?!\w+:)[^)]*\.md\)", r"\1", card.replace(PLACE, repo_id))


def _results(figures: dict, dataset: str, part: str) -> list[EvalResult]:
    """The figures that a reader of the Hub looks for, as far as they are there."""
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio deepfake detection",
            dataset_type="custom",
            dataset_name=dataset,
            dataset_config=dataset,  # the Hub tells data sets apart by this, not by their names
            dataset_split=part,
            metric_type=name,
            metric_name=RESULTS[name],
            metric_value=round(figures[name], 4),
        )
        for name in RESULTS
        if isinstance(figures.get(name), float)
    ]


def first_report(figures: dict) -> str:
    """Markdown report of the first recipe from the figures of `PictureRun.figures` for each split."""
    leaks, disjoint = figures["random"]["leaks"], figures.get("disjoint")
    return FIRST_REPORT.format(
        name=NAMES[figures["settings"]["network"]],
        table=_first_table(figures["random"], disjoint),
        disjoint_note="" if disjoint else f" It was not measured: {figures['settings']['not_measured']}",
        known=_percent(figures["random"]["speakers_known"]),
        **{name: _percent(leaks[name]) for name in ("recordings", "speakers", "attacks")},
    )


def first_card(figures: dict, command: str) -> str:
    """Markdown card of a checkpoint of the first recipe: how to use it, the report, the command."""
    settings = figures["settings"]
    text = (
        FRONT.format(license=settings["license"])
        + first_report(figures)
        + "\n"
        + FIRST_CARD.format(
            window_seconds=settings["window_seconds"],
            width=settings["picture_width"],
            height=settings["picture_height"],
            command=command,
            data=_data_table(settings["data"]),
            sources=_sources(settings["data"]["train"]),
            **{name: settings[name] for name in ("epochs", "seed", "start")},
        )
        + USE
    )
    return with_results(text, figures)


def _first_table(*columns: dict | None) -> str:
    """A row a figure, a column a split; a split that was not measured has dashes."""

    def cells(write: Callable[[dict], str]) -> str:
        return " | ".join(write(column) if column else "-" for column in columns)

    def confusion(truth: int) -> str:
        return cells(lambda column: " / ".join(str(count) for count in column["confusion"][truth]))

    rows = {
        "pictures to train / validate / test": cells(
            lambda column: " / ".join(str(count) for count in column["sizes"].values())
        ),
        "**test accuracy**": cells(lambda column: f"**{100 * column['accuracy']:.2f} %**"),
        "balanced accuracy": cells(lambda column: _percent(column["balanced_accuracy"])),
        "equal error rate": cells(lambda column: _percent(column["eer"])),
        "95 % interval of it": cells(lambda column: " to ".join(map(_percent, column["eer_interval"] or (None, None)))),
        "real called real / called fake": confusion(0),
        "fake called real / called fake": confusion(1),
        "accuracy without copies": cells(lambda column: _percent(column["without_copies"]["accuracy"])),
        "balanced accuracy without copies": cells(
            lambda column: _percent(column["without_copies"]["balanced_accuracy"])
        ),
        "equal error rate without copies": cells(lambda column: _percent(column["without_copies"]["eer"])),
    }
    header = ["| | random split, as published | nothing shared |", "|---|---|---|"]
    return "\n".join(header + [f"| {name} | {row} |" for name, row in rows.items()])


def summarise(clips: list[Clip]) -> dict:
    """What a data set is made of, per split: clips, corpora, systems, families of synthesis, and the sources by name."""
    summary = {}
    for split in dict.fromkeys(clip.split for clip in clips):
        bonafide = [clip for clip in clips if clip.split == split and clip.label == BONAFIDE]
        spoofed = [clip for clip in clips if clip.split == split and clip.label == SPOOF]
        corpora, systems = _counted(clip.corpus for clip in bonafide), _counted(clip.system for clip in spoofed)
        summary[split] = {
            "bonafide": len(bonafide),
            "corpora": len(corpora),
            "spoofed": len(spoofed),
            "systems": len(systems),
            "families": _counted(clip.family for clip in spoofed),
            "sources": {"bonafide": corpora, "spoofed": systems},
        }
    return summary


def _counted(names: Iterable[str]) -> dict[str, int]:
    """Name -> how often, the most frequent first."""
    return dict(Counter(names).most_common())


def _data_table(summary: dict) -> str:
    lines = ["| split | bona fide | of corpora | spoofed | by systems | families |", "|---|---|---|---|---|---|"]
    for split, row in summary.items():
        families = _listed(row["families"])
        lines.append(
            f"| {split} | {row['bonafide']} | {row['corpora']} | {row['spoofed']} | {row['systems']} | {families} |"
        )
    return "\n".join(lines) + _known_to_training(summary)


def _known_to_training(summary: dict) -> str:
    """A sentence that says how many dev clips are by systems and of corpora that training names too, or nothing."""
    if not {"train", "dev"} <= summary.keys():
        return ""
    train, dev = summary["train"]["sources"], summary["dev"]["sources"]
    real, fake = (
        sum(count for name, count in dev[label].items() if name in train[label] and name != UNKNOWN)
        for label in ("bonafide", "spoofed")
    )
    return (
        f"\n\nOf dev's clips {real} real ones are of corpora and {fake} fake ones by systems that training has too; "
        "voices and machines that are all new are a harder test."
    )


def _sources(train: dict | None) -> str:
    """The corpora and systems of the train split with their clips, folded, and a blank line after them; or nothing."""
    if train is None:
        return ""
    return SOURCES.format(**{kind: _listed(counts) for kind, counts in train["sources"].items()})


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _system_rows(rows: dict[str, dict]) -> str:
    return "\n".join(_row(name, row, ("clips", "eer", "called_real")) for name, row in rows.items())


def _attack_table(attacks: dict[str, dict]) -> str:
    """A table with its heading and a blank line after it, or nothing."""
    return ATTACKS.format(rows=_system_rows(attacks)) if attacks else ""


def _worst(corpus: dict | None) -> str:
    if corpus is None:
        return "there is none"
    return f"{corpus['name']}: {_percent(corpus['bonafide_called_fake'])} of {corpus['bonafide']}"


def _row(name: str, row: dict, columns: tuple[str, ...]) -> str:
    cells = [str(row[c]) if isinstance(row.get(c), int) else _percent(row.get(c)) for c in columns]
    return "| " + " | ".join([name, *cells]) + " |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
