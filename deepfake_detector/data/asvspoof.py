"""The ASVspoof 2019 LA archive as it unpacks (Wang et al. 2020, arXiv:1911.01601)."""

from pathlib import Path

PROTOCOL_FOLDER = "ASVspoof2019_LA_cm_protocols"
PROTOCOLS = {
    "train": "ASVspoof2019.LA.cm.train.trn.txt",
    "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
    "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
}


def read_protocols(archive: Path) -> list[dict]:
    """Every trial of the partitions that are unpacked, as rows with path, label, split, group (speaker) and system.

    A protocol line is `speaker utterance - attack key`, key being bonafide or spoof.
    """
    rows = []
    for split, name in PROTOCOLS.items():
        protocol = archive / PROTOCOL_FOLDER / name
        if not protocol.is_file() or not (archive / f"ASVspoof2019_LA_{split}").is_dir():
            continue
        for line in protocol.read_text(encoding="utf-8").splitlines():
            speaker, utterance, _, attack, key = line.split()
            path = archive / f"ASVspoof2019_LA_{split}" / "flac" / f"{utterance}.flac"
            row = {"path": str(path), "label": key, "split": split, "group": speaker, "system": attack}
            rows.append({**row, "corpus": "ASVspoof 2019 LA", "family": "asvspoof"})
    return rows
