"""The operator's view of a node: health, status, the way a key took. Read-only, never key material.

Not part of any ETSI standard; on its own port, open to certificates of role `operator` of the node's own domain.
"""

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from node.core.keys import Direction
from node.core.ports import Ledger, Store
from node.errors import KmstnError, NotAuthorisedError, StoreError
from node.health import Health
from node.servers.callers import Callers


def operator_api(health: Health, store: Store, callers: Callers) -> FastAPI:
    """Make the application."""
    # A redirect to a path with or without a slash would be made from the Host header, which may be anything.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _no_such_path)  # type: ignore[arg-type]
    app.add_exception_handler(NotAuthorisedError, _refuse)  # type: ignore[arg-type]

    app.add_exception_handler(KmstnError, _cannot)  # type: ignore[arg-type]

    @app.get("/health")
    async def get_health(request: Request) -> dict[str, Any]:
        callers.identify(request)
        return {"healthy": not health.reasons(), "reasons": health.reasons()}

    @app.get("/status")
    async def get_status(request: Request) -> dict[str, Any]:
        callers.identify(request)
        try:
            blocks, link_keys = await store.transact(_counts)
        except StoreError as error:
            # Just then the rest of the status is wanted most.
            return {**health.describe(str(error)), "pools": [], "link_keys": []}
        return {**health.describe(), **_stocks(health, blocks, link_keys)}

    @app.get("/keys/{key_id}")
    async def get_key(key_id: str, request: Request) -> Response:
        callers.identify(request)
        record = await store.transact(lambda ledger: ledger.record(key_id.lower()))
        if record is None:
            return JSONResponse({"message": "no such key at this node"}, 404)
        return JSONResponse(asdict(record))

    return app


Counts = dict[tuple[str, Direction, bool], int]


def _counts(ledger: Ledger) -> tuple[Counts, Counts]:
    return ledger.block_counts(), ledger.link_key_counts()


def _stocks(health: Health, blocks: Counts, link_keys: Counts) -> dict[str, Any]:
    pools = [
        {
            "peer": peer,
            "outbound_blocks": blocks.get((peer, Direction.OUT, True), 0),
            "inbound_blocks": blocks.get((peer, Direction.IN, True), 0),
            "target": health.pool_target,
        }
        for peer in sorted({owner for owner, _direction, _ready in blocks} | set(health.pool_peers()))
    ]
    links = [
        {
            "link": link,
            "peer": peer,
            "outbound": link_keys.get((link, Direction.OUT, True), 0),
            "inbound": link_keys.get((link, Direction.IN, True), 0),
        }
        for link, peer in health.qkd_links
    ]
    return {"pools": pools, "link_keys": links}


async def _no_such_path(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"message": error.detail}, error.status_code, error.headers)


async def _refuse(_request: Request, error: NotAuthorisedError) -> Response:
    return JSONResponse({"message": str(error), "details": error.details}, 401)


async def _cannot(_request: Request, error: KmstnError) -> Response:
    return JSONResponse({"message": str(error)}, 503)
