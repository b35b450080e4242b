"""ModelScope's own MCP server, whose tool is the vendor's client for tasks: submits one and polls it to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from lines import serve
from modelscope_mcp_server.client import ModelScopeClient
from modelscope_mcp_server.settings import settings
from modelscope_mcp_server.tools.aigc import register_aigc_tools


def call(base_url: str, api_key: str, fields: Mapping[str, Any], timeout_s: int = 20) -> Mapping[str, Any]:
    settings.api_inference_domain = base_url
    settings.api_token = api_key
    settings.task_poll_interval_seconds = 0
    settings.default_image_generation_timeout_seconds = timeout_s
    settings.max_poll_attempts = 2000
    return asyncio.run(_called(fields))


async def _called(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    server = FastMCP("sdk")
    register_aigc_tools(server)
    try:
        async with Client(server) as client:
            answer = await client.call_tool("generate_image", dict(fields))
        return {"fields": answer.structured_content}
    finally:
        # Its pool belongs to this loop, and its headers to this token.
        await ModelScopeClient.close_global_pool()


def told(error: Exception) -> Mapping[str, Any]:
    """The tool's own exception is what went wrong; the protocol around it keeps only its text."""
    cause = error.__cause__ if isinstance(error, ToolError) else None
    response = cause.response if isinstance(cause, httpx.HTTPStatusError) else None
    return {
        "cause": type(cause).__name__,
        "status": response.status_code if response is not None else None,
    }


if __name__ == "__main__":
    serve(call, told)
