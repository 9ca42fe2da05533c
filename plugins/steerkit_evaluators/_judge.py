"""A judge's verdict on each completion: the question, who answers it, and what counts as an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Protocol

from steerkit.api.evaluator import Evaluator, Outputs, Score, Vocabulary
from steerkit_evaluators._outputs import required
from steerkit_evaluators._reasoning import TAGS, split
from steerkit_evaluators.judge import JudgeOptions


class Maker(Protocol):
    """What answers a judge's questions."""

    trouble: str

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        """One answer each, or None."""
        ...


class Judge(Evaluator[JudgeOptions]):
    """1 for a completion that the judge gives a label that counts 1, 0 for one that counts 0.

    An answer that names no label, or two that count differently, can't be read: it is left out of the rate and
    counted in ``unparsed``. A question without an answer leaves no score at all, so that there is no rate of those
    that happened to be answered.
    """

    asked_with: ClassVar[Sequence[str] | None] = ("endpoint", "model", "max_tokens", "request", "classifier_sha256")

    def __init__(self, options: JudgeOptions, vocabulary: Vocabulary) -> None:
        super().__init__(options, vocabulary)
        self._maker: Maker | None = None

    def questions(self, outputs: Outputs) -> Sequence[Sequence[str]]:
        """The prompt with each example and its completion."""
        completions = required(outputs.completions, "judge", "completions")
        pairs = zip(outputs.texts, completions, strict=True)
        return [[filled(self.options.prompt, prompt=text, completion=found)] for text, found in pairs]

    def tokens_of(self, question: str) -> int:
        """With the longest answer."""
        return super().tokens_of(question) + self.options.max_tokens

    def ask(self, questions: Sequence[str]) -> Sequence[str | None]:
        """Ask the endpoint or the classifier, which is loaded with the first question."""
        maker = self._maker = self._maker or _maker(self.options)
        answers = maker.ask(questions)
        self.trouble = maker.trouble
        return answers

    def score(self, outputs: Outputs) -> Sequence[Mapping[str, Score]]:
        """Two scores per prompt; needs ``answers``."""
        answers = required(outputs.answers, "judge", "answers to its questions")
        return [self._score(one[0] if one else None) for one in answers]

    def _score(self, answer: str | None) -> dict[str, Score]:
        if answer is None:
            return {"judged": Score(math.nan), "unparsed": Score(math.nan)}
        verdict = parse(answer, self.options.labels)
        judged = Score(math.nan, 0.0) if verdict is None else Score(float(verdict))
        return {"judged": judged, "unparsed": Score(float(verdict is None))}


def _maker(options: JudgeOptions) -> Maker:
    if options.endpoint is not None:
        from steerkit_evaluators._judge_endpoint import Endpoint

        return Endpoint(options)
    from steerkit_evaluators._judge_classifier import classifier

    return classifier(str(options.classifier), options.classifier_sha256, options.max_tokens)


def filled(template: str, **texts: str) -> str:
    """The template with its places filled, at once: what stands in a text is no place."""
    return re.sub(r"\{(prompt|completion)\}", lambda place: texts[place[1]], template)


_AROUND: Final = "\"'“”‘’*_`.!:()[] \n"
"""What may stand around a label without being a part of it."""


def parse(answer: str, labels: Mapping[str, int]) -> int | None:
    """What an answer counts, or None where it names no label, or several that count differently.

    An answer that is a label means it; in a longer one a label counts where it stands as words of its own.
    """
    bare = split(answer, TAGS)[0].strip().casefold()
    by_word = {word.strip().casefold(): counts for word, counts in labels.items()}
    if bare in by_word:
        return by_word[bare]
    said = bare.strip(_AROUND)
    stripped = {word.strip(_AROUND): counts for word, counts in by_word.items()}
    # Where labels differ by their marks alone, marks mean something.
    by_word = stripped if len(stripped) == len(by_word) and "" not in stripped else by_word
    if said in by_word:
        return by_word[said]
    named = {counts for word, counts in by_word.items() if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said)}
    return named.pop() if len(named) == 1 else None
