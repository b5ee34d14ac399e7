"""Reads a request's body, never more of it than the bound, and never for longer.

A body that says it is too large is refused before a byte of it is read; one that does not say (chunked) as soon as it
has grown too large. The rest stays unread, so the connection is closed behind the answer.
"""

import asyncio

from starlette.requests import ClientDisconnect, Request

from shoal_agent.shell.api.errors import ApiError
from shoal_agent.shell.api.streaming import ClientGone
from shoal_protocol.limits import API_BODY_BYTES_MAX, API_BODY_S_MAX


async def read_body(request: Request) -> bytes:
    """The whole body. ApiError 413 or 408; ClientGone if the client left."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > API_BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(API_BODY_S_MAX):
            async for chunk in request.stream():
                body += chunk
                if len(body) > API_BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        message = f"The body did not arrive within {API_BODY_S_MAX:g} s."
        raise ApiError(408, message, code="request_timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def _too_large() -> ApiError:
    message = f"The body is larger than {API_BODY_BYTES_MAX} bytes."
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})
