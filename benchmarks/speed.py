"""How fast the detector is here: start of the page, one clip, one hour.

    python benchmarks/speed.py [--threads 2] [--hour-seconds 3600]

Times are medians of one run on one machine; the ratios (times real time, heat map / plain) carry over to others.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
VOICE = ROOT / "assets" / "espeak_woman.flac"
REPEATS = 21


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hour-seconds", type=int, default=3600)
    args = parser.parse_args()
    print(f"page, from start to first answer: {first_answer_seconds():.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        measure_clip(Path(folder), args.threads)
        measure_hour(Path(folder), args.hour_seconds)


def first_answer_seconds() -> float:
    """Seconds from `python app.py` to the first answered request, with a client that is already there."""
    from gradio_client import Client, handle_file

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "the page did not start"
                time.sleep(0.05)
        Client(f"http://127.0.0.1:{port}", verbose=False).predict(handle_file(str(VOICE)), False, api_name="/judge")
        return time.perf_counter() - started
    finally:
        server.terminate()
        server.wait()


def measure_clip(folder: Path, threads: int) -> None:
    """One 4-second clip: decode, mel, network, verdict; the same with pictures and heat map."""
    import soundfile
    import torch

    from deepfake_detector import Detector
    from deepfake_detector.audio import load_audio
    from deepfake_detector.plots import draw_inspection

    torch.set_num_threads(threads)
    detector, clip = Detector.from_pretrained(), folder / "clip.flac"
    soundfile.write(clip, load_audio(VOICE, 16_000)[: 4 * 16_000], 16_000)
    plain = median_ms(lambda: detector.predict(clip))
    heat = median_ms(lambda: detector.inspect(clip, heat_map=True))
    drawn = median_ms(lambda: draw_inspection(detector.inspect(clip, heat_map=True), detector.model.config))
    print(f"4-second clip, {threads} threads: {plain:.0f} ms; with heat map {heat:.0f} ms ({heat / plain:.2f} x plain)")
    print(f"4-second clip with heat map and the drawn picture: {drawn:.0f} ms ({drawn / plain:.2f} x plain)")


def measure_hour(folder: Path, seconds: int) -> None:
    """A long recording in a process of its own: seconds, times real time, peak memory above the idle process."""
    import numpy as np
    import soundfile

    from deepfake_detector.audio import load_audio

    path, voice = folder / "hour.flac", load_audio(VOICE, 16_000)
    with soundfile.SoundFile(path, "w", 44_100, 1) as file:  # at 44.1 kHz, so that resampling is in the figure
        for block in np.array_split(np.resize(voice, seconds * 44_100), 60):
            file.write(block)
    done = subprocess.run(
        [sys.executable, __file__, "judge", str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    took, idle_mb, peak_mb = map(float, done.stdout.split())
    print(f"{seconds} s of audio: {took:.1f} s ({seconds / took:.0f} x real time), ", end="")
    print(f"peak memory {peak_mb - idle_mb:.0f} MB above the idle process ({idle_mb:.0f} MB)")


def judge(path: str) -> None:
    """Print seconds, resident MB before and peak MB of one `inspect` (the page's call)."""
    from deepfake_detector import Detector

    detector = Detector.from_pretrained()
    detector.inspect(VOICE)
    idle_mb = _status_mb("VmRSS")
    started = time.perf_counter()
    detector.inspect(path)
    print(time.perf_counter() - started, idle_mb, _status_mb("VmHWM"))


def median_ms(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _status_mb(field: str) -> float:
    """A memory figure of this process from Linux's /proc, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


if __name__ == "__main__":
    if sys.argv[1:2] == ["judge"]:
        judge(sys.argv[2])
    else:
        main()
