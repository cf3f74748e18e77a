"""Our CPU kernels beside PyTorch's, alternating in one run.

python scripts/bench_pytorch.py [--threads N] [--seconds S] [--rounds R] [--only TEXT] [--json FILE]

Builds and runs `policies/examples/bench_kernels.rs`. Each row is measured R times on either side, ours first, then PyTorch's, for S seconds each,
in samples of at least 50 ms. With one thread a sample is CPU seconds, with more it is elapsed time. The table has medians over all samples;
"times" is PyTorch's time over ours: above 1, ours is faster.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

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
        return lambda x, w: F.conv_transpose3d(x, w, stride=2), [1, 64, 24, 24, 16], [64, 32, 2, 2, 2], True
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


def pytorch(name, threads, seconds):
    """Samples of one row, in seconds."""
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

    clock = time.process_time if threads == 1 else time.perf_counter
    run()
    samples, began = [], time.perf_counter()
    while len(samples) < 3 or time.perf_counter() - began < seconds:
        start, start_time, runs = clock(), time.perf_counter(), 0
        while runs == 0 or time.perf_counter() - start_time < 0.05:
            run()
            runs += 1
        samples.append((clock() - start) / runs)
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", help="also write the rows to this file")
    args = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is not installed: pip install -r scripts/requirements.txt")
    torch.set_num_threads(args.threads)

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    cargo = ["cargo", "build", "--release", "-p", "panscreen-policies", "--example", "bench_kernels", "--message-format", "json"]
    built = subprocess.run(cargo, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    binary = next(m["executable"] for m in map(json.loads, built) if m.get("executable"))
    names = subprocess.run([binary, "--list", args.only], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()

    print(f"PyTorch {torch.__version__}, {args.threads} thread(s), {'CPU' if args.threads == 1 else 'elapsed'} milliseconds, medians\n")
    print("| row | ours ms | PyTorch ms | times | ours GFLOP/s | PyTorch GFLOP/s |\n|---|---|---|---|---|---|")
    rows = []
    for name in names:
        ours, theirs, rate = [], [], None
        for _ in range(args.rounds):
            command = [binary, "--json", "--threads", str(args.threads), "--seconds", str(args.seconds), name]
            row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            ours += row["samples"]
            rate = row["gflops"] and row["gflops"] * row["seconds_median"]
            theirs += pytorch(name, args.threads, args.seconds) or []
        if not theirs:
            print(f"| {name} | {statistics.median(ours) * 1e3:.2f} | not written | | | |")
            continue
        a, b = statistics.median(ours), statistics.median(theirs)
        rows.append({"name": name, "threads": args.threads, "seconds_median": a, "pytorch_seconds_median": b, "times": b / a,
                     "gflops": rate and rate / a, "pytorch_gflops": rate and rate / b, "goal": any(goal in name for goal in GOALS)})
        rates = f"{rate / a:.1f} | {rate / b:.1f}" if rate else "|"
        print(f"| {name}{' *' if rows[-1]['goal'] else ''} | {a * 1e3:.2f} | {b * 1e3:.2f} | {b / a:.2f} | {rates} |", flush=True)
    for title, chosen in (("rows with a goal (*)", [r for r in rows if r["goal"]]), ("all rows", rows)):
        if chosen:
            mean = math.exp(statistics.fmean(math.log(r["times"]) for r in chosen))
            print(f"\nGeometric mean of the times, {title}: {mean:.2f}; slower than PyTorch: {sum(r['times'] < 1 for r in chosen)} of {len(chosen)}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
