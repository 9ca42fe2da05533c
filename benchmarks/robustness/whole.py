"""The whole inputs that are damaged: small, and with something of everything in them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Final

import torch

RECIPE: Final = """\
name: small
description: "Some words: with a colon."
seed: 7
model: {source: "tiny-random:llama", dtype: float32}
data:
  warm:
    inline: [sun one, sun two, sun three, sun four, sun five, sun six, sun seven, sun eight]
    split: {train: 4, test: 4}
  cold:
    inline: [ice one, ice two, ice three, ice four, ice five, ice six, ice seven, ice eight]
    split: {train: 4, test: 4}
  text: {inline: ["A plain sentence of some words.", "Another sentence, of other words."]}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
  every:
    estimator: mean_difference
    positive: warm.train
    negative: cold.train
    site: blocks.*.resid_pre
    positions: post_instruction[*]
search:
  best:
    over: [every]
    minimise: score
    scores:
      score: {refusal_score: {data: warm.test, under: [{ablate: {}}]}}
conditions:
  warmer:
    - add: {direction: warmth, coefficient: 3.0}
  without:
    - ablate: {direction: warmth}
  gated:
    - add: {direction: warmth, coefficient: 1, positions: generated, schedule: "linear(1, 0, 64)",
        gate: {direction: warmth, above: 0.5, at: prompt}}
  dose:
    interventions:
      - add: {direction: warmth}
    sweep: {coefficient: [-2, 2]}
    control: false
  told: {system_prompt: "Be kind."}
monitors:
  watch: {direction: warmth, above: 1.0, positions: prompt}
evaluate:
  - refusal_score: {data: [warm.test, cold.test]}
  - kl_divergence: {data: cold.test}
  - refusal_rate: {data: cold.test, max_new_tokens: 4}
  - cross_entropy: {data: text}
control: {random_directions: 2}
report:
  samples: {data: cold.test, n: 2, max_new_tokens: 4}
"""
_ROWS: Final = [
    {"text": f"row {number} of some", "kind": "warm" if number % 2 else "cold", "n": number, "more": {"a": [1, None]}}
    for number in range(12)
]


def data_files(folder: Path) -> dict[str, bytes]:
    """The same rows in every form that is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = io.StringIO()
    writer = csv.DictWriter(table, ["text", "kind", "n"])
    writer.writeheader()
    writer.writerows({key: row[key] for key in ("text", "kind", "n")} for row in _ROWS)
    written = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(_ROWS), written)
    return {
        "rows.jsonl": "\n".join(map(json.dumps, _ROWS)).encode(),
        "rows.json": json.dumps(_ROWS).encode(),
        "rows.csv": table.getvalue().encode(),
        "rows.txt": "\n".join(str(row["text"]) for row in _ROWS).encode(),
        "rows.parquet": written.read_bytes(),
    }


def directions_file(folder: Path) -> bytes:
    """A direction at one site and one at three, with reference means and provenance."""
    from steerkit.api.direction import Direction
    from steerkit.artifacts.directions import save_directions
    from steerkit.types import Site

    draw = torch.Generator().manual_seed(0)
    sites = [Site.parse(f"blocks.{layer}.resid_pre") for layer in range(3)]

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    one = Direction(some(1, 32), sites[1], -1, "warmth", some(32), {"made": {"by": "hand", "n": 3}})
    three = Direction({site: some(2, 32) for site in sites}, None, -1, "wide", {site: some(32) for site in sites}, {})
    path = folder / "whole.safetensors"
    save_directions(path, [one, three])
    return path.read_bytes()


def model_folder(folder: Path) -> Path:
    """A tiny Llama with its tokenizer, written by transformers."""
    from steerkit.engine.loading.quiet import quiet_transformers
    from steerkit.engine.tiny.models import tiny_model, tiny_tokenizer

    place = folder / "whole-model"
    with quiet_transformers():
        tiny_model("llama").save_pretrained(place)
        tiny_tokenizer().save_pretrained(place)
    return place


def model_gguf(folder: Path) -> bytes:
    """A tiny Llama as a GGUF file in float32."""
    import gguf
    import numpy as np

    path = folder / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1),
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 8),
        (writer.add_feed_forward_length, 16),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 2),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>", *map(chr, range(97, 110))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *([1] * 13)])
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (16, 8),
        "output": (16, 8),
        "output_norm": (8,),
        "blk.0.attn_norm": (8,),
        "blk.0.ffn_norm": (8,),
    }
    shapes |= {f"blk.0.attn_{name}": (8, 8) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (16, 8), "blk.0.ffn_up": (16, 8), "blk.0.ffn_down": (8, 16)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def run_directory(folder: Path) -> Path:
    """A finished run of a small recipe."""
    from steerkit.run import run_recipe

    recipe = folder / "whole.yaml"
    recipe.write_text(RECIPE, "utf-8")
    return run_recipe(recipe, out=folder / "runs", store=folder / "store")
