"""The ASVspoof 2019 LA archive as it unpacks (Wang et al. 2020, arXiv:1911.01601)."""

from pathlib import Path

import numpy as np

from ..metrics import AsvErrors

CORPUS = "ASVspoof 2019 LA"
PROTOCOL_FOLDER = "ASVspoof2019_LA_cm_protocols"
PROTOCOLS = {
    "train": "ASVspoof2019.LA.cm.train.trn.txt",
    "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
    "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
}


def read_protocols(archive: Path, faults: list[str]) -> list[dict]:
    """Every trial of the partitions that are unpacked, as rows with path, label, split, group (speaker) and system.

    A protocol line is `speaker utterance - attack key`, key being bonafide or spoof; any other, and a partition without
    its protocol, is added to `faults`.
    """
    rows = []
    for split, name in PROTOCOLS.items():
        protocol = archive / PROTOCOL_FOLDER / name
        if not (archive / f"ASVspoof2019_LA_{split}").is_dir():
            continue
        if not protocol.is_file():
            faults.append(f"{protocol} is missing, though the recordings of that partition are there")
            continue
        # Every word that counts is ASCII, so that a line which is no text is refused as any other wrong one.
        for number, line in enumerate(protocol.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            words = line.split()
            if len(words) != 5 or words[-1] not in ("bonafide", "spoof"):
                faults.append(f"{protocol}, line {number} is not `speaker utterance - attack bonafide|spoof`")
                continue
            speaker, utterance, _, attack, key = words
            path = archive / f"ASVspoof2019_LA_{split}" / "flac" / f"{utterance}.flac"
            row = {"path": str(path), "label": key, "split": split, "group": speaker, "system": attack}
            rows.append({**row, "corpus": CORPUS, "family": "asvspoof"})
    return rows


def asv_score_file(flac: Path, split: str) -> Path:
    """Where the archive that holds `flac` keeps the organisers' speaker-verification scores of a split."""
    # As read_protocols has it; not resolved, for a part of the archive may be a link.
    archive = flac.absolute().parent.parent.parent
    return archive / "ASVspoof2019_LA_asv_scores" / f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt"


def read_asv_scores(path: Path) -> AsvErrors:
    """Error rates of the organisers' speaker verification; raises ValueError if the file holds anything else.

    A line is `attack kind score`, attack being bonafide for targets and non-targets, kind target, nontarget or spoof.
    """
    scores = {"target": [], "nontarget": [], "spoof": []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        try:
            _, kind, score = words
            scores[kind].append(float(score))
        except (ValueError, KeyError):
            raise ValueError(f"{path}, line {number} is not `attack target|nontarget|spoof score`.") from None
    if not all(scores.values()):
        raise ValueError(f"{path} lacks scores of {', '.join(kind for kind in scores if not scores[kind])} trials.")
    return AsvErrors.from_scores(**{kind: np.array(values) for kind, values in scores.items()})
