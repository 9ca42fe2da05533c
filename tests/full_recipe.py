"""A recipe with every section that the language has, small enough to be run many times."""

from __future__ import annotations

import json
from pathlib import Path

from tests.baking.common import PLAIN, saved_model

BASE = """\
name: base
seed: 5
model: {source: MODEL, dtype: float32}
data:
  warm:
    file: rows.jsonl
    field: text
    id: text
    label: kind
    where: {kind: warm}
    split: {train: 4, validation: 3, test: 3}
  cold:
    file: rows.jsonl
    field: text
    id: text
    label: kind
    where: {kind: cold}
    split: {train: 4, validation: 3, test: 3}
directions:
  warmth: {estimator: mean_difference, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre}
control: {random_directions: 4}
"""

RECIPE = """\
name: everything
extends: base.yaml
description: Every section of a recipe.
data:
  text: {inline: ["A plain sentence of some words.", "Another sentence, of other words."]}
  alike: {inline: [{text: almost 1, kind: cold}, {text: almost 2, kind: cold}], label: kind}
  begun: {inline: [begun 1, begun 2], answer_prefix: "Sure, "}
  pairs:
    file: pairs.jsonl
    field: question
    pairs: {of: completions, positive: yes_, negative: no_}
    split: {train: 3, test: 2}
  said: {completions: {of: cold, condition: said_under, max_new_tokens: 3}}
  plain_said: {completions: {of: warm.train, max_new_tokens: 3}}
  both: {of: {warm: warm, cold: cold}}
  behind: {of: {warm: warm, cold: cold}, suffix: " zub"}
filter:
  cold: {refusal_score: {at_most: 0, tokens: [x, "y"]}}
directions:
  candidates:
    estimator: mean_difference
    positive: warm.train
    negative: cold.train
    site: blocks.*.resid_pre
    positions: post_instruction[*]
  probed: {estimator: logistic_probe, positive: pairs.train.positive, negative: pairs.train.negative,
           site: blocks.1.resid_pre, positions: completion}
  spread: {estimator: difference_subspace, positive: warm.train, negative: cold.train, site: blocks.1.resid_pre,
           positions: all, options: {over: topic, rank: 2}}
  own: {estimator: mean_difference, positive: plain_said.train, negative: said.train, site: blocks.1.resid_mid,
        positions: completion}
  given: {file: given.safetensors}
search:
  taken:
    over: candidates
    exhaustive: true
    coefficients: [0.5, -4, 3]
    scores:
      warmer: {refusal_score: {data: cold.validation, under: [add], tokens: [x]}}
      kl: {kl_divergence: {data: cold.validation, under: [ablate]}}
    maximise: warmer
    subject_to: {kl: {score: kl, at_most: 5}}
    layers_below: 1.0
  alike:
    over: [candidates, spread]
    preset: {cosmic: {harmful: warm.validation, harmless: cold.validation, classes: [warm.train, cold.train]}}
    subject_to: {kl: {at_most: 50}}
    layers_below: 1.0
  found:
    over: candidates
    preset:
      arditi2024:
        harmful: warm.validation
        harmless: cold.validation
        tokens: {found_in: warm.validation, by: &says {refusal_rate: {substrings: [a, e, i, o, u]}}}
    subject_to: {kl: {at_most: 50}, induce: {at_least: -100}}
    layers_below: 1.0
monitors:
  heat: {direction: warmth, calibrate: {data: cold.validation, false_alarms: 400}, positions: "instruction[-1]"}
  words: {direction: probed, above: 0.5, positions: all}
suffixes:
  nonsense:
    {direction: taken, prompts: warm.test, reference: cold.test, suffixes: [" wuz bim", "!?"], heads: 2, n: 2}
conditions:
  said_under: {interventions: [{add: {direction: warmth, coefficient: 2.0}}], control: false}
  chosen: [{add: {direction: taken, coefficient: chosen}}]
  without: [{ablate: {direction: found}}]
  folded: {mode: fold, interventions: [{ablate: {direction: taken}}, {add: {direction: taken, coefficient: 1.5}}]}
  removed: {interventions: [{ablate: {direction: spread}}], sweep: {rank: [1, 2]}}
  dose: {interventions: [{add: {direction: given}}], sweep: {coefficient: [-1, 0, 1]}}
  gated: {interventions: [{add: {direction: probed, gate: {direction: warmth, above: 0.0}}}], control: false}
  fading: {interventions: [{add: {direction: own, schedule: "linear(1, 0, 4)", positions: generated}}], control: false}
  edited: {interventions: [{affine_concept_editing: {direction: warmth}}], control: false}
  set: {interventions: [{set_projection: {direction: alike, value: 1.0}}], control: false}
  prompted: {system_prompt: Be warm.}
  both: {system_prompt: Be warm., interventions: [{add: {direction: warmth}}], control: false}
evaluate:
  - refusal_rate: {name: warm_words, data: [warm.test, cold.test, alike], max_new_tokens: 4, substrings: [a, e]}
  - refusal_rate: {data: [warm.test, cold.test, alike, begun], max_new_tokens: 4, match: literal}
  - degeneration: {data: [warm.test, cold.test], max_new_tokens: 4}
  - reasoning_share: {data: cold.test, max_new_tokens: 4}
  - refusal_score: {data: [warm.test, cold.test], tokens: {found_in: warm.train, by: *says}}
  - choice_logit_difference: {data: cold.test, positive: [x], negative: ["y"]}
  - kl_divergence: {data: cold.test}
  - activation_cosine: {data: warm.test, like: cold.train, classes: [warm.train, cold.train]}
  - cross_entropy: {data: [text, pairs.test.positive, said.test]}
  - cross_entropy: {name: own_completions, data: cold.test, of: baseline_completions, max_new_tokens: 4}
  - monitor_auroc: {data: behind.test, monitor: heat, positive: warm}
  - monitor_auroc: {name: words_auroc, data: both.test, monitor: words, positive: warm, max_new_tokens: 2}
report:
  title: Everything
  samples: {data: cold.test, n: 2, max_new_tokens: 4}
  tradeoff: {evaluator: warm_words, should: warm.test, should_not: [cold.test, alike]}
  compared_with: taken
profiles:
  small:
    control: {random_directions: 1, at: extremes}
"""

FOLDING = (
    *("said_under", "chosen", "without", "folded", "removed[rank=1]", "removed[rank=2]"),
    *("dose[coefficient=-1]", "dose[coefficient=1]"),
)
"""Its conditions that weights can hold."""


def write_full_recipe(folder: Path) -> Path:
    """The recipe with all its files; the model is a tiny one of two layers, in a folder."""
    import torch

    from steerkit.api.direction import Direction
    from steerkit.artifacts.directions import save_directions
    from steerkit.types import Site

    model = saved_model(folder / "model", "llama", num_hidden_layers=2, **PLAIN)
    rows = [
        {"text": f"{kind} {place} {'ice' if kind == 'cold' else 'sun'}", "kind": kind, "topic": f"t{place % 2}"}
        for place in range(10)
        for kind in ("warm", "cold")
    ]
    pairs = [{"question": f"Is it {place}?", "yes_": f"Yes, {place}.", "no_": f"No, {place}."} for place in range(5)]
    for name, held in (("rows", rows), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held), "utf-8")
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(2))
    save_directions(folder / "given.safetensors", [Direction(vector, Site("resid_pre", 0), -1, "given")])
    (folder / "base.yaml").write_text(BASE.replace("MODEL", json.dumps(model)), "utf-8")
    (folder / "everything.yaml").write_text(RECIPE, "utf-8")
    return folder / "everything.yaml"
