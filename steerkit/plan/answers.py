"""First tokens of answers that options ask for: where they are found, or whether the adapter knows them."""

from __future__ import annotations

from steerkit.api.hookspecs import ArchitectureSpec, EvaluatorSpec, Needs, Options
from steerkit.api.tokens import FoundTokens, KnownTokens
from steerkit.catalog import Catalog
from steerkit.errors import PluginError
from steerkit.plan.conditions import ConditionResolver
from steerkit.plan.names import KeyPart
from steerkit.plan.turns import closed
from steerkit.plan.types import PlannedTokens
from steerkit.recipe.data import DataRef
from steerkit.recipe.draft import OPTIONS, Draft
from steerkit.sharing import impossible


class TokenResolver(ConditionResolver):
    """Resolves options that ask for tokens, and what evaluators need."""

    def __init__(self, draft: Draft, catalog: Catalog) -> None:
        super().__init__(draft, catalog)
        self.compared: dict[DataRef, tuple[KeyPart, ...]] = {}
        self.tokens: dict[str, PlannedTokens] = {}
        self.model_adapter: ArchitectureSpec | None = None

    def answer_tokens(self, options: Options, path: tuple[KeyPart, ...]) -> None:
        """Note what tokens options ask for, and tell what can't be found."""
        for name in type(options).model_fields:
            value = getattr(options, name)
            if isinstance(value, FoundTokens):
                self.found_tokens(value, (*path, OPTIONS, name))
            elif isinstance(value, KnownTokens):
                self.check_known_tokens((*path, OPTIONS, name))

    def check_known_tokens(self, path: tuple[KeyPart, ...]) -> None:
        """The adapter knows refusal tokens for a vocabulary like the model's, as far as both are at hand."""
        adapter, size = self.model_adapter, self.vocabulary
        if adapter is None or (adapter.refusal_tokens and (size is None or size in adapter.refusal_tokens)):
            return
        what = f"for a vocabulary of {size:,} tokens" if adapter.refusal_tokens and size is not None else "at all"
        self.complain(
            f"adapter {adapter.name} knows no refusal tokens {what}: write them as a list, or where they are found, as "
            "in {found_in: harmful.train, against: harmless.train}",
            *path,
        )

    def found_tokens(self, wanted: FoundTokens, path: tuple[KeyPart, ...]) -> None:
        """Where tokens are found, and by what."""
        before = len(self.problems)
        found_in = self.ref(wanted.found_in, *path, "found_in")
        against = None if wanted.against is None else self.ref(wanted.against, *path, "against")
        for ref, key in ((found_in, "found_in"), (against, "against")):
            if ref is not None:
                self.check_open(ref, *path, key)
                self.compared[ref] = path
        ((name, given),) = wanted.by.items()
        where = (*path, "by", name)
        spec = self.spec("evaluator", name, *where)
        if spec is None:
            return
        own = {"max_new_tokens": wanted.max_new_tokens} if "max_new_tokens" in spec.options.model_fields else {}
        options = self.options(spec, {**own, **given}, *where)
        needs = self.needs(spec, options, where) if options is not None else None
        if needs is not None and (spec.values or needs != Needs(max_new_tokens=needs.max_new_tokens or 1)):
            self.complain(f"{name} doesn't say of a completion alone whether it is a refusal", *where)
        if options is None or needs is None or found_in is None or len(self.problems) > before:
            return
        self.tokens.setdefault(wanted.model_dump_json(), PlannedTokens(wanted, found_in, against, spec, options, needs))

    def needs(self, spec: EvaluatorSpec, options: Options, path: tuple[KeyPart, ...]) -> Needs | None:
        """What an evaluator must see, or None where it fails to say so."""
        try:
            needs: object = spec.needs(options)
        except Exception as error:
            self.complain(f"{spec.name} failed to say what it needs: {type(error).__name__}: {error}", *path)
            return None
        if not isinstance(needs, Needs):
            what = type(needs).__name__
            raise PluginError(f"Evaluator {spec.name!r}: `needs` returned {what}, not steerkit.api.hookspecs.Needs.")
        fault = impossible(needs)
        if fault is not None:
            self.complain(f"{spec.name} {fault}", *path)
        return needs

    def check_open(self, ref: DataRef, *path: KeyPart) -> None:
        """An answer can follow every conversation of a split."""
        fault = closed(ref, self.examples(ref))
        if fault is not None:
            self.complain(f"{fault}: they end with the assistant's turn; leave that out of what is answered", *path)
