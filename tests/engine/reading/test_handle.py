"""The model handle of estimators: what it gives, what it leaves alone, and that something can be learned through it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from steerkit.api.estimator import Estimate, EstimationRequest, Estimator, ModelHandle, PlacedUpdate, Series
from steerkit.api.hookspecs import EstimatorNeeds, NoOptions
from steerkit.api.intervention import Affine
from steerkit.engine.reading.handle import Handle
from steerkit.engine.reading.requests import estimate_checked, read_requests
from steerkit.errors import DataError, SiteError
from steerkit.session.model import LiveModel
from steerkit.types import Example, Positions, Site, as_examples

SITE = Site("resid_pre", 1)
TEXTS = ["the sun is out", "snow", "a long walk by the sea at noon", "tea"]
ALL = Positions("all")


def completed(completions: list[str | None]) -> list[Example]:
    return [replace(Example.of(text), completion=one) for text, one in zip(TEXTS, completions, strict=True)]


def test_next_token_logits_are_those_of_a_bare_pass(llama: LiveModel) -> None:
    found = Handle(llama, 0).run(as_examples(TEXTS))
    assert found.logits is None and found.token_ids is None and found.token_mask is None
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([llama.chat.render(text).token_ids])
        expected = llama.forward(ids).logits[0, -1].float()
        assert torch.allclose(found.next_token_logits[row], expected, atol=1e-5)


def test_completions_are_read_token_by_token_behind_their_prompts(llama: LiveModel) -> None:
    completions = [" warm", None, " of course it is", "!"]
    found = Handle(llama, 0).run(completed(completions))
    assert found.logits is not None and found.token_ids is not None and found.token_mask is not None
    assert found.logits.shape[:2] == found.token_ids.shape == found.token_mask.shape
    likely = found.completion_log_probabilities()
    for row, (text, completion) in enumerate(zip(TEXTS, completions, strict=True)):
        prompt = list(llama.chat.render(text).token_ids)
        answer = llama.chat.tokenizer(completion or "", add_special_tokens=False)["input_ids"]
        assert found.token_ids[row][found.token_mask[row]].tolist() == answer
        logits = llama.forward(torch.tensor([prompt + answer])).logits[0].float()
        assert torch.allclose(found.next_token_logits[row], logits[len(prompt) - 1], atol=1e-5)
        scores = logits.log_softmax(-1)
        expected = sum(float(scores[len(prompt) - 1 + place, token].detach()) for place, token in enumerate(answer))
        assert float(likely[row].detach()) == pytest.approx(expected, abs=1e-4)


def test_captures_are_behind_the_updates_and_in_the_order_of_the_examples(llama: LiveModel) -> None:
    bias = torch.randn(llama.layout.d_model, generator=torch.Generator().manual_seed(0))
    handle = Handle(llama, 0)
    key = (SITE, Positions("instruction"))
    plain = handle.run(as_examples(TEXTS), capture=[key])
    moved = handle.run(as_examples(TEXTS), [PlacedUpdate(Affine(bias=bias), (SITE,))], capture=[key])
    expected = llama.capture(TEXTS, SITE, "instruction", kind="rows", progress=False)[key]
    assert expected.rows is not None and expected.tokens_per_prompt is not None
    assert torch.equal(plain.counts[key], expected.tokens_per_prompt)
    assert torch.allclose(plain.captures[key], expected.rows, atol=1e-5)
    assert torch.allclose(moved.captures[key], expected.rows + bias, atol=1e-5)


def test_a_capture_at_one_head_is_that_heads_own(llama: LiveModel) -> None:
    whole, keys = Site.parse("blocks.1.head_out"), [Site.parse(f"blocks.1.head_out[{head}]") for head in range(2)]
    found = Handle(llama, 0).run(as_examples(TEXTS), capture=[(site, ALL) for site in (whole, *keys)]).captures
    for site in keys:
        assert found[site, ALL].shape[1] == llama.layout.width(site) < llama.layout.width(whole)
        assert torch.equal(found[site, ALL], found[whole, ALL][:, llama.layout.columns(site)])
        expected = llama.capture(TEXTS, site, "all", kind="rows", progress=False)[site, ALL].rows
        assert expected is not None and torch.allclose(found[site, ALL], expected, atol=1e-5)


def test_gradients_reach_updates_and_nothing_else(llama: LiveModel) -> None:
    bias = torch.zeros(llama.layout.d_model, requires_grad=True)
    asked = [parameter.requires_grad for parameter in llama.model.parameters()]
    key = (Site("resid_post", 1), ALL)
    found = Handle(llama, 0).run(as_examples(TEXTS), [PlacedUpdate(Affine(bias=bias), (SITE,))], capture=[key])
    (gradient,) = torch.autograd.grad(found.captures[key].square().mean(), bias, retain_graph=True)
    assert float(gradient.norm()) > 0
    found.next_token_logits.logsumexp(-1).sum().backward()
    assert bias.grad is not None and float(bias.grad.norm()) > 0
    assert all(parameter.grad is None for parameter in llama.model.parameters())
    assert [parameter.requires_grad for parameter in llama.model.parameters()] == asked


def test_parameters_are_constants_only_while_it_is_the_handles_turn(llama: LiveModel) -> None:
    """Before, between batches and behind, another thread's pass may train the model."""
    turns, asked = llama.steering.shared.turns, [one.requires_grad for one in llama.model.parameters()]
    assert any(asked)
    seen: list[bool] = []

    def look(*given: object) -> None:
        seen.append(any(one.requires_grad for one in llama.model.parameters()))

    def work() -> None:
        bias = torch.zeros(llama.layout.d_model, requires_grad=True)
        found = Handle(llama, 0).run(as_examples(TEXTS), [PlacedUpdate(Affine(bias=bias), (SITE,))])
        gradients.append(torch.autograd.grad(found.next_token_logits.logsumexp(-1).sum(), bias)[0])

    gradients: list[torch.Tensor] = []
    work()
    watch = llama.model.get_submodule(llama.layout.base).register_forward_pre_hook(look)
    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        with turns.taken():
            for thread in threads:
                thread.start()
            while len(turns._queue) < 3:
                time.sleep(0.001)
            assert [one.requires_grad for one in llama.model.parameters()] == asked
            llama.forward(torch.tensor([[2, 70, 71]])).logits.sum().backward()
            assert all(one.grad is not None for one in llama.model.parameters() if one.requires_grad)
            del seen[:]
        for thread in threads:
            thread.join(60)
    finally:
        watch.remove()
        llama.model.zero_grad()
    assert len(seen) >= 2 and not any(seen)
    assert len(gradients) == 3 and all(torch.allclose(one, gradients[0], atol=1e-5) for one in gradients)
    assert [one.requires_grad for one in llama.model.parameters()] == asked


def test_a_gradient_is_the_slope(llama: LiveModel) -> None:
    handle, direction = Handle(llama, 0), torch.randn(llama.layout.d_model, generator=torch.Generator().manual_seed(1))

    def loss(coefficient: torch.Tensor) -> torch.Tensor:
        placed = PlacedUpdate(Affine(bias=coefficient * direction), (SITE,), Positions("last"))
        return handle.run(as_examples(TEXTS), [placed]).next_token_logits[:, 7].sum()

    at = torch.tensor(0.3, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(at), at)
    step = 1e-2
    measured = (loss(at + step) - loss(at - step)) / (2 * step)
    assert float(slope) == pytest.approx(float(measured.detach()), rel=2e-2)


def test_what_does_not_fit_is_refused(llama: LiveModel) -> None:
    handle = Handle(llama, 3)
    assert handle.seed == 3
    with pytest.raises(DataError, match="ran no examples"):
        handle.run([])
    with pytest.raises(SiteError, match=r"has .* layers"):
        handle.run(as_examples(TEXTS), capture=[(Site("resid_pre", 99), ALL)])


class Learned(Estimator[NoOptions]):
    """Learns one vector by gradient descent, so that with it the model continues as the positive examples do."""

    steps = 60

    def estimate(self, request: EstimationRequest) -> Estimate:
        assert request.model is not None
        (site,) = request.sites
        vector = torch.zeros(request.layout.width(site), requires_grad=True)
        optimiser = torch.optim.Adam([vector], lr=0.05)
        losses = []
        for _ in range(self.steps):
            optimiser.zero_grad()
            loss = self.loss(request.model, request, PlacedUpdate(Affine(bias=vector), (site,)))
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return Estimate({site: vector.detach()[None].clone()}, diagnostics={"training loss": Series(tuple(losses))})

    def loss(self, model: ModelHandle, request: EstimationRequest, placed: PlacedUpdate) -> torch.Tensor:
        return -model.run(request.examples["positive"], [placed]).completion_log_probabilities().mean()


NEEDS = EstimatorNeeds(statistics=None, handle=True)


def test_an_estimator_learns_a_planted_vector_by_gradient_descent(llama: LiveModel) -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.randn(llama.layout.d_model, generator=generator)
    truth = Handle(llama, 0).run(as_examples(TEXTS), [PlacedUpdate(Affine(bias=planted), (SITE,))])
    targets = truth.next_token_logits.detach().softmax(-1)

    class Distilled(Learned):
        steps = 150

        def loss(self, model: ModelHandle, request: EstimationRequest, placed: PlacedUpdate) -> torch.Tensor:
            logits = model.run(request.examples["positive"], [placed]).next_token_logits
            return torch.nn.functional.kl_div(logits.log_softmax(-1), targets, reduction="batchmean")

    classes = {"positive": as_examples(TEXTS), "negative": as_examples(TEXTS)}
    ((request, _),) = read_requests(llama, NEEDS, classes, [SITE], ALL, seed=1)
    estimate = estimate_checked(Distilled(NoOptions()), request, NEEDS)
    found = estimate.vectors[SITE][0]
    told = estimate.diagnostics["training loss"]
    assert isinstance(told, Series)
    assert told.values[-1] < 0.05 * told.values[0]
    assert float(found @ planted / (found.norm() * planted.norm())) > 0.9


def test_a_direction_that_was_learned_on_completions_makes_them_likelier(llama: LiveModel) -> None:
    import steerkit

    examples = completed([" yes"] * len(TEXTS))
    ((request, _),) = read_requests(llama, NEEDS, {"positive": examples, "negative": examples}, [SITE], ALL)
    estimate = estimate_checked(Learned(NoOptions()), request, NEEDS)
    again = estimate_checked(Learned(NoOptions()), request, NEEDS)
    assert torch.equal(estimate.vectors[SITE], again.vectors[SITE])
    learned = steerkit.Direction(estimate.vectors[SITE], SITE)
    handle = Handle(llama, 0)
    before = handle.run(examples).completion_log_probabilities().mean()
    with llama.steer(steerkit.add(learned)):
        after = handle.run(examples).completion_log_probabilities().mean()
    assert float(after) > float(before) + 1
