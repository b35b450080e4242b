"""Known answers for TC3-HMAC-SHA256: requests with the signature that the vendor's own client makes for them.

Bodies are spelled as that client spells them, since every byte counts.
"""

from __future__ import annotations

from typing import NamedTuple

SECRET_ID = "AKIDEXAMPLE0000000000000000000000000"
SECRET_KEY = "SECRETKEYEXAMPLE0000000000000000"


class Vector(NamedTuple):
    name: str
    timestamp_s: int
    host: str
    body: str
    date: str
    signature: str


VECTORS = (
    Vector(
        "an English prompt",
        1700000000,
        "aiart.tencentcloudapi.com",
        '{"Prompt": "a red fox in snow", "Resolution": "1024:1024", "LogoAdd": 0, "Revise": 0, "Seed": 42}',
        "2023-11-14",
        "3d5e1a304cce3eace0abec49039a21532c0e91219ac8916afff26e89f14269ed",
    ),
    Vector(
        "a Chinese prompt in escapes",
        1735689600,
        "aiart.tencentcloudapi.com",
        r'{"Prompt": "\u96e8\u4e2d, \u7af9\u6797, \u5c0f\u8def", "Resolution": "1024:1024", "LogoAdd": 0, "Revise": 1}',
        "2025-01-01",
        "186901c551f61f8169f8e754822cd874e52bce503a6614743ef89407c494ec24",
    ),
    Vector(
        "the last second of a day in UTC",
        1767225599,
        "aiart.tencentcloudapi.com",
        '{"JobId": "1344213737283272704"}',
        "2025-12-31",
        "18c7f4986757cad7d0be7c2473edec15dbd7aa250bf837675a116239fed3e572",
    ),
    Vector(
        "a host with a port",
        1700000000,
        "127.0.0.1:18080",
        '{"JobId": "1344213737283272704"}',
        "2023-11-14",
        "99ee51b5d73fa3d4fabd15f8b28a8cad00b1d01783840bf0b14e2d68b8ad24a8",
    ),
)
