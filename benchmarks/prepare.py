"""Preparation beside the bare tokenizer on the same text, and its memory as the corpus grows.

Speed: rounds in turns, each in a fresh process, so a noisy machine is noisy for both. The bare
side calls ``encode_batch`` of the tokenizers library on the lines of the text, which lie in memory
already, with the library's own threads. Memory: the text is repeated to 50 and to 500 MB; the peak
is the sum over all processes of the preparation (proportional set size: a page that several
processes share counts once).

    python benchmarks/prepare.py --input=corpus.jsonl.xz --tokenizer=FOLDER --workdir=DIR
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BATCH = 1000


def run_bare(args: argparse.Namespace) -> float:
    """MB of text a second."""
    command = [sys.executable, __file__, "--bare", f"--input={args.input}"]
    command += [f"--tokenizer={args.tokenizer}", f"--workdir={args.workdir}"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(told.split()[-1])


def bare(args: argparse.Namespace) -> None:
    """Prints the speed; reading the text is not timed."""
    from bertjax.corpus.inputs import Reading, read_documents
    from bertjax.tokenizers import load_tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    backend = load_tokenizer(args.tokenizer).backend
    lines = [line for document in read_documents(args.input, Reading()) for line in document]
    begun = time.perf_counter()
    for start in range(0, len(lines), BATCH):
        backend.encode_batch(lines[start : start + BATCH], add_special_tokens=False)
    seconds = time.perf_counter() - begun
    print(sum(len(line.encode()) + 1 for line in lines) / 1e6 / seconds)


def run_prepare(args: argparse.Namespace, text: Path) -> dict[str, float]:
    """Speed from the start of the process to its end, and the memory of all processes."""
    folder = args.workdir / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "bertjax", "prepare", f"--input={text}"]
    command += [f"--tokenizer={args.tokenizer}", f"--output={folder}"]
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while process.poll() is None:
        peak = max(peak, sum(map(memory, family(process.pid))))
        time.sleep(0.2)
    seconds = time.perf_counter() - begun
    told = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"bertjax prepare failed: {told}")
    size = next(line for line in told.splitlines() if " MB of text in " in line).split()[0]
    megabytes = float(size.replace(",", ""))
    return {"megabytes": megabytes, "mb_per_second": megabytes / seconds, "peak_mib": peak / 1024}


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def memory(pid: int) -> int:
    """Proportional set size in KiB; 0 for a process that has ended."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) for row in rows if row.startswith("Pss:")), 0)


def repeated(args: argparse.Namespace, megabytes: int) -> Path:
    """The corpus as JSONL, over and over, up to a size."""
    from bertjax.corpus.inputs import Reading, read_documents

    path, size = args.workdir / f"text-{megabytes}.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 10**6:
            for document in read_documents(args.input, Reading()):
                size += file.write(json.dumps({"text": "\n".join(document)}) + "\n")
                if size >= megabytes * 10**6:
                    break
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--input", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[50, 500], help="MB, for memory")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        return bare(args)
    args.workdir.mkdir(parents=True, exist_ok=True)
    if args.rounds:
        speed(args)
    peaks = {}
    for size in args.sizes:
        path = repeated(args, size)
        row = run_prepare(args, path)
        path.unlink()
        peaks[size] = row["peak_mib"]
        print(
            f"{size} MB: peak {row['peak_mib']:.0f} MiB, {row['mb_per_second']:.2f} MB/s",
            flush=True,
        )
    if peaks:
        ratio = max(peaks.values()) / min(peaks.values())
        print(f"memory of the largest over the smallest: {ratio:.3f}")


def speed(args: argparse.Namespace) -> None:
    """Both sides in turns."""
    ratios = []
    for number in range(args.rounds):
        theirs, ours = run_bare(args), run_prepare(args, args.input)["mb_per_second"]
        ratios.append(ours / theirs)
        load = os.getloadavg()[0]
        print(
            f"round {number + 1}: bare encode_batch {theirs:.2f} MB/s, prepare {ours:.2f} MB/s, "
            f"ratio {ratios[-1]:.2f} (load {load:.1f} on {os.cpu_count()} cores)",
            flush=True,
        )
    print(f"ratio, mean of {args.rounds}: {sum(ratios) / len(ratios):.2f}")


if __name__ == "__main__":
    main()
