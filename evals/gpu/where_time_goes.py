#!/usr/bin/env python3
"""where_time_goes.py: what one layer of the 20b shape is made of on this GPU, copies to it, and what attention costs at a new shape.

Float16, one rank, a chunk of 16,384 rows of LAMBADA's mean length. Milliseconds, medians. About 20 s."""

import os
import statistics
import time

import torch
import torch.nn.functional as F

torch.set_grad_enabled(False)
R, H, HEADS, D, S = 16384, 6144, 64, 96, 82
gpu = dict(device="cuda", dtype=torch.float16)


def ms(work, count=10):
    for _ in range(3):
        work()
    times = []
    for _ in range(count):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def row(name, value, note=""):
    print(f"{name:58} {value:10.3f}  {note}", flush=True)


def if_it_can(work):
    """What cuDNN cannot do here must not end the rest."""
    try:
        return work()
    except RuntimeError as error:
        print(str(error).splitlines()[0])
        return float("nan")


def wall(work):
    torch.cuda.synchronize()
    clock = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return (time.perf_counter() - clock) * 1e3


torch.empty(1, device="cuda")
print(torch.cuda.get_device_name(), torch.__version__, "cuDNN", torch.backends.cudnn.version(), "cudnn sdp", torch.backends.cuda.cudnn_sdp_enabled())

print("\n# copies of 302 MB (an MLP matrix) to the GPU")
host = torch.full((4 * H, H), 0.5, dtype=torch.float16)
place = torch.empty_like(host, device="cuda")
for name, source in [("pageable", host), ("pinned", host.pin_memory())]:
    taken = statistics.median(wall(lambda: place.copy_(source)) for _ in range(5))
    row(f"copy, {name}", taken, f"{source.nbytes / taken / 1e6:.1f} GB/s")
taken = wall(lambda: torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0))
row("cudaHostRegister of it", taken)
torch.cuda.cudart().cudaHostUnregister(host.data_ptr())

print("\n# one layer, a chunk of 16,384 rows")
x = torch.randn(R, H, **gpu)
gain, bias = torch.ones(H, **gpu), torch.zeros(H, **gpu)
weight = {n: torch.randn(*s, **gpu) * 0.02 for n, s in dict(qkv=(3 * H, H), dense=(H, H), up=(4 * H, H), down=(H, 4 * H)).items()}
biases = {n: torch.zeros(w.shape[0], **gpu) for n, w in weight.items()}
total = 0.0


def part(name, work, flops=0.0):
    global total
    taken = ms(work)
    total += taken
    row(name, taken, f"{flops / taken / 1e9:.0f} TFLOP/s" if flops else "")


normed = F.layer_norm(x, (H,), gain, bias)
part("copy of the rows (in_parts)", lambda: x.clone())
part("layer norm", lambda: F.layer_norm(x, (H,), gain, bias))
part("qkv product", lambda: F.linear(normed, weight["qkv"], biases["qkv"]), 2 * R * H * 3 * H)
qkv = F.linear(normed, weight["qkv"], biases["qkv"]).view(R, HEADS, 3, D)
q, k, v = (qkv.select(2, at) for at in range(3))
cos, sin = torch.rand(R, 1, 12, **gpu), torch.rand(R, 1, 12, **gpu)


def rotate(heads):
    first, second = heads.narrow(-1, 0, 12), heads.narrow(-1, 12, 12)
    one = first.mul(cos).sub_(second.mul(sin))
    two = second.mul(cos).add_(first.mul(sin))
    first.copy_(one)
    second.copy_(two)


part("rotation of queries and keys", lambda: (rotate(q), rotate(k)))
B = R // S
grouped = [t.narrow(0, 0, B * S).view(B, S, HEADS, D).transpose(1, 2) for t in (q, k, v)]
attend = lambda: F.scaled_dot_product_attention(*grouped, is_causal=True)
torch.backends.cuda.enable_cudnn_sdp(False)
part("attention, flash", attend, 4 * B * HEADS * S * S * D / 2)
torch.backends.cuda.enable_cudnn_sdp(True)
row("  (attention, libtorch's choice)", if_it_can(lambda: ms(attend)))
torch.backends.cuda.enable_cudnn_sdp(False)
context = torch.randn(R, H, **gpu)
halves = [context[: R // 2], context[R // 2 :]]
part("joining the groups' contexts", lambda: torch.cat(halves))
part("up product", lambda: F.linear(normed, weight["up"], biases["up"]), 2 * R * H * 4 * H)
inner = F.linear(normed, weight["up"], biases["up"])
part("tanh GELU", lambda: torch._C._nn.gelu_(inner, approximate="tanh"))
part("down product", lambda: F.linear(inner, weight["down"], biases["down"]), 2 * R * H * 4 * H)
out = F.linear(inner, weight["down"], biases["down"])
part("dense product, added", lambda: out.addmm_(context, weight["dense"].t()), 2 * R * H * H)
part("residual", lambda: x.add_(out))
row("all of it", total, f"{24 * R * H * H / total / 1e9:.0f} TFLOP/s; x 25.2 chunks x 43.25 layers = {total * 25.2 * 43.25 / 1e3:.1f} s a variant")


def distance():
    reference = x.float()
    difference = out.float().sub(reference)
    return difference.square().sum(dtype=torch.float64), reference.square().sum(dtype=torch.float64)


row("distance of a stream from the baseline's (compare only)", ms(distance), "per variant")

print("\n# attention at shapes not seen before: wall milliseconds of the first call")
for cudnn in (False, True):
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    firsts = []
    for at in range(12):
        b, s = 40 + at, 70 + at
        t = [u.narrow(0, 0, b * s).view(b, s, HEADS, D).transpose(1, 2) for u in (q, k, v)]
        firsts.append(if_it_can(lambda: wall(lambda: F.scaled_dot_product_attention(*t, is_causal=True))))
    row(f"cudnn sdp {'as libtorch comes' if cudnn else 'off'}: median of 12", statistics.median(firsts), "all: " + " ".join(f"{f:.1f}" for f in firsts))

print("\n# float16 sums of split-K products at the targets' rows")
a, w = torch.randn(272, 4 * H, **gpu), torch.randn(H, 4 * H, **gpu) * 0.02
exact = a.double() @ w.double().t()
for allowed in (True, False):
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = allowed
    error = (F.linear(a, w).double() - exact).norm() / exact.norm()
    row(f"reduced-precision reduction {'allowed' if allowed else 'forbidden'}: relative error x 1e3", error.item() * 1e3)
f32 = a.float() @ w.float().t()
row("float32 product, relative error x 1e6 (TF32 would be 300)", ((f32.double() - exact).norm() / exact.norm()).item() * 1e6)
print("environment:", {n: v for n, v in os.environ.items() if n.startswith(("TORCH_", "CUDA", "NVIDIA_TF32", "CUBLAS"))})
