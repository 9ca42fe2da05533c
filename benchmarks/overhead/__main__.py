"""Greedy decoding with one added vector at one layer against plain ``generate``.

python -m benchmarks.overhead [--model smollm2-135m-instruct] [--rounds 15] [--tokens 32]
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.measure import compare, pin, save, show
from steerkit.api.estimator import Direction
from steerkit.session import add, load_model
from steerkit.types import Site


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=32)
    asked = parser.parse_args()
    pin()
    live = load_model(asked.model, dtype="float32", device="cpu")
    layer = live.layout.n_layers // 2
    direction = Direction(torch.randn(1, live.layout.d_model) * 0.01, Site("resid_pre", layer))
    ids = torch.tensor([live.chat.render("Tell me about the sea.").token_ids])

    def decode() -> None:
        live.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=asked.tokens,
            min_new_tokens=asked.tokens,
            do_sample=False,
            pad_token_id=live.pad_id,
        )

    def steered() -> None:
        with live.steer(add(direction)):
            decode()

    built = add(direction)

    def steered_built() -> None:
        with live.steer(built):
            decode()

    ratios, samples = compare(
        {
            "plain generate": decode,
            "one vector at one layer": steered_built,
            "the same, intervention built each time": steered,
        },
        asked.rounds,
    )
    show(ratios)
    print(save("overhead-cpu", ratios, samples, model=asked.model, tokens=asked.tokens))


if __name__ == "__main__":
    main()
