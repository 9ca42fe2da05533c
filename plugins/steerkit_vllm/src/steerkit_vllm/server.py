"""vLLM's server, put together from vLLM's own pieces: the engine with our worker and gate, its app behind our doors."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.middleware import Middleware
from vllm import envs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import serve_http, setup_server
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args, init_logger
from vllm.renderers.chat_utils import load_chat_template
from vllm.utils.argparse_utils import FlexibleArgumentParser

from steerkit.api.program_bytes import read_program
from steerkit.errors import SteerkitError
from steerkit_vllm.conversing import Conversations
from steerkit_vllm.doors import Doors
from steerkit_vllm.engine import SteeredInputProcessor
from steerkit_vllm.fitting import Served
from steerkit_vllm.gate import Gate
from steerkit_vllm.programs import Programs
from steerkit_vllm.starting import engine_settings, require_alone
from steerkit_vllm.workers import Workers

if TYPE_CHECKING:
    from steerkit_vllm.serve import Own

logger = init_logger("vllm.steerkit")


def run(own: Own, arguments: Sequence[str]) -> None:
    """Serve until somebody stops it.

    Args:
        own: what is ours.
        arguments: vLLM's, ``--model`` among them.

    Raises:
        SteerkitError: for an engine that can't be steered, or a program that can't be loaded.
    """
    import uvloop

    cli_env_setup()
    parser = make_arg_parser(FlexibleArgumentParser(prog="python -m steerkit_vllm.serve"))
    args = parser.parse_args(list(arguments))
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    require_alone(vars(args))
    args.worker_cls, args.additional_config = engine_settings(args.worker_cls, args.additional_config, own.most)
    uvloop.run(_serve(own, args))


async def _serve(own: Own, args: Namespace) -> None:
    programs = {name: read_program(path) for name, path in own.programs}
    listens_at, socket = setup_server(args, reuse_port=False)
    async with build_async_engine_client(args) as engine:
        told = Conversations(engine.renderer.get_tokenizer(), load_chat_template(args.chat_template))
        gate, workers = await _steered(engine, own.most, told.has_template)
        for name, program in programs.items():
            await workers.load(name, program)
            logger.info("Program %s: %s.", name, program.digest[:12])
            if told.is_measured(program) is False:
                logger.warning(
                    "Program %s was measured with another chat template, or with arguments of it, than this server "
                    "renders conversations with: --chat-template FILE sets one.",
                    name,
                )
        tasks = await engine.get_supported_tasks()
        app = build_app(args, tasks, engine.model_config)
        # The innermost piece: vLLM's own authentication stands before it.
        app.user_middleware.append(
            Middleware(
                Doors,
                gate=gate,
                workers=workers,
                folder=own.folder,
                uploads=own.uploads,
                conversations=told if told.has_template else None,
            )
        )
        app.middleware_stack = app.build_middleware_stack()
        await init_app_state(engine, app.state, args, tasks)
        logger.info("Serving steered requests at %s", listens_at)
        done = await serve_http(app, sock=socket, **_http(args))
    try:
        await done
    finally:
        socket.close()


async def _steered(engine: Any, most: int, has_turns: bool) -> tuple[Gate, Workers]:
    """The engine's gate and workers; the workers say first that they are ready."""

    async def rpc(method: str, args: tuple[Any, ...]) -> Any:
        return await engine.collective_rpc(method, args=args)

    states = await rpc("steerkit_state", ())
    programs = Programs(most, Served.of(states, has_turns=has_turns).check)
    gate = Gate(programs)
    engine.input_processor = SteeredInputProcessor(engine.vllm_config, engine.renderer, gate)
    return gate, Workers(programs, rpc)


_HTTP: Final = (
    "host", "port", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers",
    "h11_max_incomplete_event_size", "h11_max_header_count", "enable_ssl_refresh",
)  # fmt: skip


def _http(args: Namespace) -> dict[str, Any]:
    """What vLLM hands to its HTTP server."""
    told: dict[str, Any] = {name: getattr(args, name) for name in _HTTP}
    told |= {"log_level": args.uvicorn_log_level, "access_log": not args.disable_uvicorn_access_log}
    told |= {"timeout_keep_alive": envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE}
    config = get_uvicorn_log_config(args)
    return told if config is None else told | {"log_config": config}


__all__ = ["SteerkitError", "run"]
