"""`panscreen bench` beside PyTorch, alternating in one run.

python scripts/bench_pytorch.py [conv|nets] [--threads N] [--seconds S] [--rounds R] [--only TEXT] [--json FILE]

Each row is measured R times on either side, ours first, then PyTorch's, each in a process of its own, for S seconds each after a run that isn't
counted. With one thread a sample is CPU seconds, with more it is elapsed time. The table has medians over all samples; "times" is
PyTorch's time over ours: above 1, ours is faster. `nets` needs MONAI besides PyTorch.
"""

import argparse
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The rows of the first published comparison: the goals are stated for these.
GOALS = (
    "[2, 32, 48, 48, 32]->32", "[1, 64, 48, 48, 32]->64", "[1, 48, 96, 96, 64]->48 forward", "conv7/1 [1, 1, 96, 96, 64]->64 forward",
    "[1, 256, 12, 12, 8]->256", "[1, 512, 6, 6, 4]->512", "[4, 8, 24, 24, 16]->16", "gelu", "linear [32928, 48]->192 forward",
    "softmax [96, 3, 343, 343] forward",
)


def operation(name):
    """The PyTorch side of a row: a function of x and parameters, their shapes, whether x has a gradient."""
    import torch.nn.functional as F

    kind = name.rsplit(" ", 1)[0]
    if match := re.fullmatch(r"conv(\d)/(\d) \[(.*)\]->(\d+)", kind):
        kernel, stride, outputs = (int(match[i]) for i in (1, 2, 4))
        shape = [int(n) for n in match[3].split(",")]
        weight = [outputs, shape[1], kernel, kernel, kernel]
        return lambda x, w: F.conv3d(x, w, stride=stride, padding=kernel // 2), shape, weight, shape[1] > 1
    if match := re.fullmatch(r"linear \[(\d+), (\d+)\]->(\d+)", kind):
        rows, inputs, outputs = (int(n) for n in match.groups())
        return lambda x, w: F.linear(x, w), [rows, inputs], [outputs, inputs], True
    if kind.startswith("up2"):
        inputs, outputs = (64, 32) if "->32" in kind else (48, 48)
        size = [24, 24, 16] if inputs == 64 else [48, 48, 32]
        return lambda x, w: F.conv_transpose3d(x, w, stride=2), [1, inputs, *size], [inputs, outputs, 2, 2, 2], True
    if kind.startswith("instance_norm"):
        return lambda x, g: F.leaky_relu_(F.instance_norm(x, weight=g), 0.01), [2, 32, 48, 48, 32], [32], True
    if kind.startswith("max_pool"):
        return lambda x, _: F.max_pool3d(x, 3, 2, 1), [1, 64, 48, 48, 32], [1], True
    if kind.startswith("gelu"):
        return lambda x, _: F.gelu(x), [32928, 144], [1], True
    if kind.startswith("softmax"):
        return lambda x, _: F.softmax(x, -1), [96, 3, 343, 343], [1], True
    if kind.startswith("layer_norm"):
        return lambda x, g: F.layer_norm(x, [48], g, g), [73728, 48], [48], True
    if kind.startswith("window_attention"):

        def attention(qkv, bias):  # as MONAI's SwinUNETR writes it
            q, k, v = qkv.reshape(96, 343, 3, 3, 16).permute(2, 0, 3, 1, 4)
            scores = (q * 0.25) @ k.transpose(-2, -1) + bias
            return (F.softmax(scores, -1) @ v).transpose(1, 2).reshape(96, 343, 48)

        return attention, [96, 343, 144], [3, 343, 343], True
    return None


def sampled(run, clock, seconds):
    """Seconds of a run, in samples of at least 50 ms, after one that isn't counted."""
    run()
    samples, began = [], time.perf_counter()
    while not samples or time.perf_counter() - began < seconds:
        start, start_time, runs = clock(), time.perf_counter(), 0
        while runs == 0 or time.perf_counter() - start_time < 0.05:
            run()
            runs += 1
        samples.append((clock() - start) / runs)
    return samples


def pytorch(what, name, threads, seconds):
    """PyTorch's side of one row, in this process: samples and peak memory in MiB, or nothing where the row isn't written."""
    import torch

    torch.set_num_threads(threads)
    if what == "nets":
        import bench_nets

        run = bench_nets.work(name)
    else:
        run = layer(name)
    if run is None:
        return None
    samples = sampled(run, time.process_time if threads == 1 else time.perf_counter, seconds)
    return {"samples": samples, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def layer(name):
    """What to run for a row of `panscreen bench conv`."""
    import torch

    found = operation(name)
    if found is None:
        return None
    op, x_shape, parameter_shape, with_dx = found
    x, parameters = torch.randn(x_shape), torch.randn(parameter_shape)
    if name.endswith("backward"):
        x.requires_grad_(with_dx)
        parameters.requires_grad_(True)
        dy = torch.randn(op(x, parameters).shape)

        def run():
            x.grad = parameters.grad = None
            op(x, parameters).backward(dy)
    else:

        def run():
            with torch.no_grad():
                op(x, parameters)

    return run


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown processor"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("conv", "nets"), default="conv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "panscreen"), help="default: target/release/panscreen")
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed: pip install -r scripts/requirements.txt")
    if args.one:
        print(json.dumps(pytorch(args.what, args.one, args.threads, args.seconds)))
        return
    if not os.path.exists(args.binary):
        sys.exit(f"{args.binary} is not there: cargo build --release")
    ours_command = [args.binary, "bench", args.what, "--json", "--quiet", "--threads", str(args.threads)]
    theirs_command = [sys.executable, os.path.abspath(__file__), args.what, "--threads", str(args.threads), "--seconds", str(args.seconds)]

    def answer(command):
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    names = [row["name"] for row in answer([*ours_command, "--list", args.only])]
    clock = "CPU" if args.threads == 1 else "elapsed"
    print(f"{processor()}; PyTorch {torch.__version__}; {args.threads} thread(s), {clock} milliseconds, medians\n")
    print("| row | ours ms | PyTorch ms | times | ours GFLOP/s | PyTorch GFLOP/s | ours MiB | PyTorch MiB |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for name in names:
        ours, theirs, rate, peaks = [], [], None, [0, 0]
        for _ in range(args.rounds):
            # A name may be the beginning of another.
            found = answer([*ours_command, "--seconds", str(args.seconds), name])
            row = next(row for row in found if row["name"] == name)
            ours += row["samples"]
            rate = row["gflops"] and row["gflops"] * row["seconds_median"]
            other = answer([*theirs_command, "--one", name]) or {"samples": [], "peak_mib": 0}
            theirs += other["samples"]
            peaks = [max(peaks[0], row["peak_mib"] or 0), max(peaks[1], other["peak_mib"])]
        if not theirs:
            print(f"| {name} | {statistics.median(ours) * 1e3:.2f} | not written | | | | | |")
            continue
        a, b = statistics.median(ours), statistics.median(theirs)
        rows.append({"name": name, "threads": args.threads, "seconds_median": a, "pytorch_seconds_median": b, "times": b / a,
                     "gflops": rate and rate / a, "pytorch_gflops": rate and rate / b, "peak_mib": peaks[0], "pytorch_peak_mib": peaks[1], "goal": args.what == "nets" or any(goal in name for goal in GOALS)})
        rates = f"{rate / a:.1f} | {rate / b:.1f}" if rate else "|"
        print(f"| {name}{' *' if rows[-1]['goal'] else ''} | {a * 1e3:.2f} | {b * 1e3:.2f} | {b / a:.2f} | {rates} | {peaks[0]:.0f} | {peaks[1]:.0f} |", flush=True)
    for title, chosen in (("rows with a goal (*)", [r for r in rows if r["goal"]]), ("all rows", rows)):
        if chosen:
            mean = math.exp(statistics.fmean(math.log(r["times"]) for r in chosen))
            print(f"\nGeometric mean of the times, {title}: {mean:.2f}; slower than PyTorch: {sum(r['times'] < 1 for r in chosen)} of {len(chosen)}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
