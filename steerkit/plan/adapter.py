"""Which adapter and which chat template a plan will use, as far as that is known before the model is loaded."""

from __future__ import annotations

from steerkit.api.files import pipe_fault
from steerkit.api.hookspecs import ArchitectureSpec
from steerkit.errors import SteerkitError
from steerkit.plan.files import template_fault
from steerkit.plan.model import chat_template, is_hub_id, look_at, special_names, vocabulary_size
from steerkit.plan.names import Resolver
from steerkit.sources import TINY, TINY_MODEL_TYPES
from steerkit.types.placement import conflicts_of


class ModelResolver(Resolver):
    """Resolves section ``model``."""

    vocabulary: int | None = None
    """The size of the model's vocabulary, where a config is at hand."""

    def architecture(self) -> ArchitectureSpec | None:
        """The adapter, where what is at hand says which."""
        section = self.recipe.model
        facts = None
        try:
            self.model, facts = look_at(section.source, section.revision)
            if section.revision is not None and not is_hub_id(section.source):
                message = f"{section.source!r} has none: only a hub repository has revisions; remove it"
                self.complain(message, "model", "revision")
        except SteerkitError as error:
            self.complain(error, "model", "source")
        self.check_placement()
        self.vocabulary = None if facts is None else vocabulary_size(facts.config)
        named = None
        if section.adapter is not None:
            named = self.spec("architecture", section.adapter, "model", "adapter")
            if named is None:
                return None
        if facts is None or (section.source.startswith(TINY) and self.is_variant(facts.model_type)):
            if not self.problems:
                self.notes.append(
                    "The adapter and the sites are checked when the model is loaded: no config is at hand."
                )
            return named
        try:
            found = self.catalog.adapter_for(facts, section.adapter)
        except SteerkitError as error:
            self.complain(error, "model", "source")
            return None
        self.used[("architecture", found.name)] = None
        if found.note:
            self.notes.append(f"Adapter {found.name}: {found.note}")
        return found

    def check_placement(self) -> None:
        """Where the model goes, and in which form: what says nothing against itself, and what its source takes."""
        section = self.recipe.model
        for conflict in conflicts_of(section.placement, section.device):
            if not any(self.draft.lost("model", key) for key in conflict.beside):
                self.complain(conflict.message, "model", conflict.key)
        try:
            _ = self.offload_folder
        except SteerkitError as error:
            self.complain(error, "model", "offload_folder")
        if section.quantization is not None:
            from steerkit.engine.loading.quantising import options_fault

            if fault := options_fault(section.quantization):
                self.complain(fault, "model", "quantization")

    @property
    def offload_folder(self) -> str | None:
        """The absolute path of the folder for weights on disk; None where the recipe names none."""
        folder = self.recipe.model.offload_folder
        return None if folder is None else str(self.draft.path_of(folder))

    def is_variant(self, name: str) -> bool:
        """Whether a tiny model is told from others of its family by what its config holds, and not by its name."""
        specs = [self.catalog.get("architecture", known) for known in self.catalog.names("architecture")]
        claimed = any(name in (*spec.model_types, *spec.refuses) for spec in specs)
        return name in TINY_MODEL_TYPES and not claimed

    def template(self) -> str:
        """The chat template: ``default``, ``none``, or its text."""
        section = self.recipe.model
        chosen = section.chat_template
        if section.chat_template_file is not None:
            try:
                file = self.draft.path_of(section.chat_template_file)
                if (pipe := pipe_fault(file)) is not None:
                    raise SteerkitError(pipe)
                chosen = file.read_text("utf-8")
                fault = template_fault(chosen, section.system_prompt, section.chat_template_arguments)
            except (OSError, ValueError, SteerkitError) as error:
                fault = f"can't read the template: {error}"
            if fault is not None:
                self.complain(fault, "model", "chat_template_file")
        folder = self.model.folder
        readable = folder is not None and any((folder / name).is_file() for name in ("tokenizer.json", "qwen.tiktoken"))
        own = chat_template(folder) if chosen == "default" and folder is not None else None
        if own is not None and folder is not None:
            names = special_names(folder)
            fault = template_fault(own, section.system_prompt, section.chat_template_arguments, names)
            if fault is not None:
                self.complain(f"{fault}. It is the model's own: set another one", "model", "chat_template")
        if chosen == "default" and readable and own is None:
            self.complain(
                "the model has no chat template (it is a base model): set chat_template to none for raw text, "
                "or to {file: template.jinja}",
                *("model", "chat_template"),
            )
        if chosen == "none" and section.system_prompt is not None:
            self.complain("a system prompt needs a chat template, and chat_template is none", "model", "system_prompt")
        if chosen == "none" and section.chat_template_arguments:
            message = "arguments are for a chat template, and chat_template is none"
            self.complain(message, "model", "chat_template_arguments")
        return chosen
