"""Mean of every layer's stream at the last token of 256 short prompts: ours against a hand-written loop.

    python -m benchmarks.extraction [--model smollm2-135m-instruct] [--rounds 9] [--quick]

The loop by hand knows every trick: prompts sorted by length and batched by the same token budget,
padding on the right so that no mask is needed, no head, the last rows only, sums in float64.
Memory is measured in a process of its own for each of the two, and for forward passes with nothing read.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.measure import compare, pin, save, show
from benchmarks.showing import Far
from steerkit.session import load_model

if TYPE_CHECKING:
    from steerkit.session.model import LiveModel

WORDS = "river stone market window garden letter winter engine orchard copper lantern meadow harbour thread"


def prompts(n: int = 256) -> list[str]:
    """Short prompts of 4 to 20 words, always the same ones."""
    words = WORDS.split()
    return [" ".join(words[(i * 7 + k * (1 + i % 5)) % len(words)] for k in range(4 + i % 17)) for i in range(n)]


def by_hand(live: LiveModel, texts: list[str]) -> torch.Tensor:
    """``[layers, d_model]``: what a careful person writes for this one task."""
    ids = sorted(
        (live.tokenizer.apply_chat_template(  # type: ignore[union-attr]
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"] for text in texts),
        key=len, reverse=True,
    )  # fmt: skip
    model: Any = live.model.model
    n_layers = len(model.layers)
    total = torch.zeros(n_layers, live.layout.d_model, dtype=torch.float64)
    last: torch.Tensor

    def reader(layer: int) -> Any:
        def read(module: object, args: tuple[torch.Tensor, ...]) -> None:
            total[layer] += args[0][torch.arange(len(last)), last].double().sum(0)
            if layer == n_layers - 1:
                raise StopIteration

        return read

    handles = [block.register_forward_pre_hook(reader(layer)) for layer, block in enumerate(model.layers)]
    start = 0
    while start < len(ids):
        width = len(ids[start])
        rows = ids[start : start + max(1, live.batch_tokens // width)]
        start += len(rows)
        last = torch.tensor([len(row) - 1 for row in rows])
        batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        try:
            with torch.no_grad():
                model(input_ids=batch, use_cache=False)
        except StopIteration:
            pass
    for handle in handles:
        handle.remove()
    return total / len(texts)


def ours(live: LiveModel, texts: list[str]) -> torch.Tensor:
    """The same through ``capture``."""
    sites = live.layout.sites_of("resid_pre")
    return torch.stack([item.mean for item in live.capture(texts, sites).values()])


def forward_only(live: LiveModel, texts: list[str]) -> None:
    """The same batches through the blocks, with nothing read: what a pass takes by itself."""
    base = live.model.get_submodule(live.layout.base)
    for batch in live.batched([live.chat.render(text) for text in texts], "right"):
        with torch.no_grad():
            base(input_ids=batch.input_ids, use_cache=False)


def peak_memory(model: str, which: str) -> float:
    """How far the memory of a fresh process rises above what it holds when the work begins, in MB.

    The peak so far is cleared first, so that loading the model can't hide the work.
    """
    code = (
        "from benchmarks.extraction.__main__ import *\n"
        f"pin(); live = load_model({model!r}, dtype='float32', device='cpu'); texts = prompts()\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "status = lambda key: int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1]) / 1024\n"
        "before = status('VmRSS')\n"
        f"{which}(live, texts)\n"
        "print(status('VmHWM') - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a look: 32 prompts, 2 rounds, no memory, nothing kept")
    asked = parser.parse_args()
    pin()
    far = Far("extraction")
    far.say("loading the model")
    live = load_model(asked.model, dtype="float32", device="cpu")
    texts, rounds = prompts(32 if asked.quick else 256), 2 if asked.quick else asked.rounds
    began = time.perf_counter()
    worst = float((by_hand(live, texts) - ours(live, texts)).abs().max())
    assert worst < 1e-4, f"the two disagree by {worst}"
    call = (time.perf_counter() - began) / 2
    # A round is one call of each and one more of the reference; of each of three processes, loading and a call.
    far.expect(call * (3 * (rounds + 1) + (0 if asked.quick else 6)))
    cases = {"by hand": lambda: by_hand(live, texts), "steerkit.capture": lambda: ours(live, texts)}
    ratios, samples = compare(cases, rounds, 1, progress=Far("extraction"))
    show(ratios)
    if asked.quick:
        return
    far.say("memory, in three processes")
    memory = {which: peak_memory(asked.model, which) for which in ("forward_only", "by_hand", "ours")}
    extra = memory["ours"] - memory["forward_only"]
    print(
        f"memory on top of the model: forward passes alone {memory['forward_only']:.0f} MB, by hand "
        f"{memory['by_hand']:.0f} MB, ours {memory['ours']:.0f} MB, {extra:.0f} MB of it for the capture"
    )
    print(save("extraction-cpu", ratios, samples, model=asked.model, memory_on_top_mb=memory, max_abs_difference=worst))


if __name__ == "__main__":
    main()
