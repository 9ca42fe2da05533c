"""Where the turns of a request's conversation lie, for programs that act at ``user[-1]`` and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import steerkit
from steerkit.api.program import Program
from steerkit.errors import SteerkitError
from steerkit_vllm.errors import Refused


def fingerprint(token_ids: Sequence[int]) -> str:
    """Of a prompt's tokens: turns are told with it, and hold for these tokens only."""
    return sha256(",".join(map(str, token_ids)).encode()).hexdigest()


@dataclass(frozen=True)
class Conversations:
    """Finds turns by rendering conversations as the server does.

    Args:
        tokenizer: the model's.
        template: the server's own chat template; None: the tokenizer's.
    """

    tokenizer: Any
    template: str | None = None

    @property
    def has_template(self) -> bool:
        """Whether there is a template at all."""
        return self.template is not None or bool(getattr(self.tokenizer, "chat_template", None))

    def is_measured(self, program: Program) -> bool | None:
        """Whether the server renders conversations as the model that the program's condition was measured on.

        Arguments of a template come with a request, so a program that was measured with some is told to differ.

        Returns:
            None where the program doesn't say how they were rendered.
        """
        if program.model.template_sha256 is None or not self.has_template:
            return None
        found = {
            steerkit.chat_template_sha256(self.tokenizer, chat_template=self.template, system_prompt=prompt)
            for prompt in (None, program.system_prompt)
        }
        return program.model.template_sha256 in found

    def turns(self, body: Mapping[str, Any]) -> list[str | int]:
        """The turns of a request to the chat endpoint, as ``vllm_xargs`` can hold them: a fingerprint of the prompt's
        tokens, then role, start and stop of each.

        Raises:
            Refused: where they can't be told.
        """
        messages, template = body.get("messages"), body.get("chat_template")
        if not isinstance(messages, list) or not all(
            isinstance(one, dict) and isinstance(one.get("content"), str) for one in messages
        ):
            raise Refused("Where turns count, a conversation's messages have texts as their contents.")
        try:
            found = steerkit.conversation_tokens(
                self.tokenizer,
                [{"role": one.get("role"), "content": one["content"]} for one in messages],
                chat_template=template if isinstance(template, str) else self.template,
                chat_template_arguments=body.get("chat_template_kwargs"),
            )
        except SteerkitError as error:
            raise Refused(str(error)) from None
        return [fingerprint(found.token_ids), *(part for turn in found.turns for part in turn)]
