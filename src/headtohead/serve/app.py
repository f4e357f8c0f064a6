"""The application: OpenAI's routes, health and metrics, and the page."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from headtohead import __version__
from headtohead.serve import schema, writing
from headtohead.serve.guard import Guard
from headtohead.serve.metrics import CONTENT_TYPE, Metrics
from headtohead.serve.networks import ServedModel
from headtohead.serve.problems import Problem, invalid
from headtohead.serve.settings import Settings
from headtohead.serve.worker import Worker

EXPLAINED = {
    400: "The request can't be done as it was asked.",
    401: "The API key is missing or wrong.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    429: "Too many requests are waiting: come again.",
    500: "The server failed.",
    503: "The server is stopping.",
    504: "The answer took too long.",
}
Responses = dict[int | str, dict[str, Any]]


def _told(*statuses: int) -> Responses:
    return {status: {"model": schema.ErrorBody, "description": EXPLAINED[status]} for status in statuses}


WRITES = _told(400, 401, 404, 408, 413, 429, 500, 503, 504)
EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
STREAMS: Responses = {200: {"content": {"text/event-stream": {"schema": EVENT}}}, **WRITES}


def application(
    models: Sequence[ServedModel], settings: Settings, worker: Worker, metrics: Metrics
) -> ASGIApp:
    """The ASGI application that serves `models`. The worker starts and stops with it."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    app = FastAPI(
        title="headtohead",
        version=__version__,
        summary="Networks of headtohead, by OpenAI's API.",
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _handle_problems(app)
    _add_routes(app, {model.name: model for model in models}, settings, worker, metrics)
    paths = [route.path for route in app.routes if hasattr(route, "path")]  # pyright: ignore[reportAttributeAccessIssue]
    return Guard(app, settings, metrics, paths)


def _handle_problems(app: FastAPI) -> None:
    def answer(problem: Problem) -> JSONResponse:
        return JSONResponse(problem.body, problem.status, problem.headers)

    @app.exception_handler(Problem)
    async def _(request: Request, problem: Problem) -> JSONResponse:
        return answer(problem)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, wrong: RequestValidationError) -> JSONResponse:
        return answer(invalid(wrong.errors()))

    @app.exception_handler(HTTPException)
    async def _(request: Request, wrong: HTTPException) -> JSONResponse:
        said = {
            400: "the body can't be read: send a JSON object in UTF-8",
            404: "there is nothing at this path",
            405: "this path doesn't answer that method",
        }
        problem = Problem(wrong.status_code, said.get(wrong.status_code, str(wrong.detail)))
        problem.headers.update(wrong.headers or {})
        return answer(problem)


def _add_routes(
    app: FastAPI, models: dict[str, ServedModel], settings: Settings, worker: Worker, metrics: Metrics
) -> None:
    def model_of(name: str) -> ServedModel:
        if name not in models:
            raise Problem(
                404,
                f"there is no model '{name[:100]}' here: GET /v1/models lists {', '.join(models)}"[:400],
                code="model_not_found",
                param="model",
            )
        return models[name]

    def card(model: ServedModel) -> schema.Card:
        return schema.Card(id=model.name, created=model.created, headtohead=model.about)

    async def written(order: writing.Order, request: Request, stream: bool) -> Response:
        ticket = worker.submit(order.model, order.jobs)
        metrics.prompt(order.model.name, sum(order.prompt_tokens))
        if stream:
            pieces = writing.pieces(order, ticket, worker, settings, metrics)
            return StreamingResponse(
                pieces, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
            )
        found = await writing.whole(order, ticket, worker, settings, request)
        return JSONResponse(found.model_dump())

    @app.get("/v1/models", response_model=schema.Cards, responses=_told(401, 500))
    async def list_models() -> schema.Cards:
        """The models that are served."""
        return schema.Cards(data=[card(model) for model in models.values()])

    @app.get("/v1/models/{name:path}", response_model=schema.Card, responses=_told(401, 404, 500))
    async def get_model(name: str) -> schema.Card:
        """One of them."""
        return card(model_of(name))

    @app.post("/v1/completions", response_model=schema.Completion, responses=STREAMS)
    async def complete(asked: schema.CompletionRequest, request: Request) -> Response:
        """Go on from a text, or from several."""
        order = writing.completion_order(asked, model_of(asked.model), settings)
        return await written(order, request, bool(asked.stream))

    @app.post("/v1/chat/completions", response_model=schema.ChatCompletion, responses=STREAMS)
    async def chat(asked: schema.ChatRequest, request: Request) -> Response:
        """Answer the messages of a chat."""
        order = writing.chat_order(asked, model_of(asked.model), settings)
        return await written(order, request, bool(asked.stream))

    @app.post("/v1/embeddings", response_model=schema.Embeddings, responses=WRITES)
    async def embed(asked: schema.EmbeddingRequest) -> schema.Embeddings:
        """A vector for each text, of an encoder."""
        model = model_of(asked.model)
        if not model.embeds:
            raise Problem(
                400,
                f"{model.name} reads from left to right: it has no encoder to embed a text with",
                code="model_not_supported",
                param="model",
            )
        some = writing.several(asked.input, settings, "input")
        ids = [model.embedding_ids(text, settings) for text in some]
        vectors: list[list[float]] = await worker.compute(lambda: model.embeddings(ids))
        packed = asked.encoding_format == "base64"
        tokens = sum(map(len, ids))
        return schema.Embeddings(
            model=model.name,
            data=[
                schema.Embedding(index=index, embedding=_base64(vector) if packed else vector)
                for index, vector in enumerate(vectors)
            ],
            usage=schema.Usage(prompt_tokens=tokens, total_tokens=tokens),
        )

    @app.get("/health", response_model=schema.Health, responses={503: {"model": schema.Health}})
    async def health() -> Response:
        """Whether the server takes requests."""
        ok = worker.alive
        return JSONResponse({"status": "ok" if ok else "stopping"}, 200 if ok else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=_told(401))
    async def measured() -> PlainTextResponse:
        """Counters and times, for Prometheus."""
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json", include_in_schema=False)
    async def described() -> JSONResponse:
        """This API's schema."""
        return JSONResponse(_schema(app, list(models.values()), settings))

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """The page."""
        text, policy = _page()
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _base64(vector: Sequence[float]) -> str:
    """fp32, little-endian, as OpenAI's clients read it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _schema(app: FastAPI, models: Sequence[ServedModel], settings: Settings) -> dict[str, Any]:
    """OpenAPI with this server's own limits and models in it."""
    made = app.openapi()
    parts = made["components"]["schemas"]
    for name in ("CompletionRequest", "ChatRequest", "EmbeddingRequest"):
        fields = parts[name]["properties"]
        able = [m.name for m in models if (m.embeds if name == "EmbeddingRequest" else m.engine is not None)]
        if able:
            fields["model"]["enum"] = able
        for ids in _lists_of_ids(fields.get("prompt", fields.get("input", {}))):
            ids["items"]["maximum"] = min(model.model.architecture.vocabulary for model in models) - 1
        most = {"max_tokens": settings.max_tokens, "max_completion_tokens": settings.max_tokens}
        most["n"] = min(schema.MOST_CHOICES, settings.slots)
        for limited, maximum in most.items():
            for side in fields.get(limited, {}).get("anyOf", ()):
                if side.get("type") == "integer":
                    side["maximum"] = maximum
    (named,) = made["paths"]["/v1/models/{name}"]["get"]["parameters"]
    named["schema"]["enum"] = [model.name for model in models]
    if settings.keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
        made["paths"]["/health"]["get"]["security"] = []
    # FastAPI's own shape of an invalid body, which is never sent.
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return made


def _lists_of_ids(field: Any) -> Iterator[dict[str, Any]]:
    """The lists of whole numbers in a field's schema, at any depth."""
    if isinstance(field, dict):
        if field.get("type") == "array" and field["items"].get("type") == "integer":
            yield field
        for part in field.values():
            yield from _lists_of_ids(part)
    elif isinstance(field, list):
        for part in field:
            yield from _lists_of_ids(part)


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy under which a browser runs its one script and nothing else."""
    text = files("headtohead.serve").joinpath("page.html").read_text("utf-8")

    def digests(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in found
        )

    policy = (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy
