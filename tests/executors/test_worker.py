"""What a worker looks at before it carries a task out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from steerkit import stages
from steerkit.catalog import Catalog
from steerkit.errors import ModelError, PluginError, SteerkitError
from steerkit.executors import plugins
from steerkit.executors.crossing import packed, unpacked
from steerkit.executors.plugins import require_same_plugins
from steerkit.executors.worker import Answered, Sent, Worker
from steerkit.plan import plan_recipe
from steerkit.stages import Task
from steerkit.stages.model import load_use
from steerkit.stages.tasks import EstimateTask
from tests.small_run import RECIPE


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE, "utf-8")
    plan = plan_recipe(path, (), Catalog.discover())
    return list(stages.make_graph(plan, stages.model_use(plan, stages.load(plan))).tasks)


def test_plugins_that_are_what_they_were_are_found_and_pass(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(plugins, "_code", lambda module: looked.append(module))
    require_same_plugins(tasks)
    families = {module.partition(".")[0] for module in looked}
    assert families == {
        "steerkit_architectures",
        "steerkit_estimators",
        "steerkit_evaluators",
        "steerkit_interventions",
    }
    monkeypatch.undo()
    require_same_plugins(tasks)


@pytest.mark.parametrize("package", ["architectures", "estimators", "evaluators", "interventions"])
def test_a_plugin_of_another_version_is_refused_by_name(
    tasks: list[Task], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plugins._code
    monkeypatch.setattr(
        plugins, "_code", lambda module: "0" * 64 if module.startswith(f"steerkit_{package}") else real(module)
    )
    with pytest.raises(PluginError, match=rf"\(steerkit_{package}\.\S+\) is another one in this worker"):
        require_same_plugins(tasks)


def test_a_task_of_a_package_that_isnt_there_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Sent:
        raise ModuleNotFoundError("No module named 'their_plugin'")

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which a worker takes
    answered: Answered = Worker(lambda message: None).carry(absent)
    assert answered.failure is not None
    error = unpacked(answered.failure)
    assert isinstance(error, PluginError)
    assert str(error) == (
        "A worker can't read its task: No module named 'their_plugin'. What plugins make has to be something of a "
        "module that every machine has: install their packages there."
    )


def test_weights_that_arent_those_of_the_plan_are_refused(tasks: list[Task]) -> None:
    uses = [task.payload.model for task in tasks if isinstance(task.payload, EstimateTask)]
    assert uses[0].weights is not None and load_use(uses[0]).weights_hash == uses[0].weights
    with pytest.raises(ModelError, match="tiny-random:llama that a worker loads aren't those that this run began with"):
        load_use(replace(uses[0], weights="0" * 64))


def test_an_error_of_a_class_that_cant_be_named_crosses_with_its_words() -> None:
    class OwnError(SteerkitError):
        pass

    error = unpacked(packed(OwnError("Do this instead.")))
    assert type(error) is SteerkitError and str(error) == "Do this instead."
