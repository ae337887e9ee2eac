from __future__ import annotations

from base64 import b64encode

import pytest
from requests.structures import CaseInsensitiveDict

from stager.sources.declared import digest_in

ONE, TWO = bytes(range(32)), bytes(32)
FIRST, SECOND = (b64encode(each).decode() for each in (ONE, TWO))


@pytest.mark.parametrize(
    ("headers", "digest"),
    [
        ({"Repr-Digest": f"sha-256=:{FIRST}:"}, ONE),
        ({"repr-digest": f"sha-512=:AAAA:, sha-256=:{FIRST}:;p=1"}, ONE),
        ({"Repr-Digest": f"sha-256=:{FIRST}:,sha-256=:{SECOND}:"}, TWO),
        ({"Digest": f"SHA-256={FIRST}"}, ONE),
        ({"Digest": f"unixsum=30637,sha-256={FIRST}"}, ONE),
        ({"Digest": f"sha-256={FIRST}", "Repr-Digest": f"sha-256=:{SECOND}:"}, TWO),
        ({"Digest": f"sha-256={FIRST}", "Repr-Digest": "sha-512=:AAAA:"}, ONE),
        ({"Repr-Digest": f"sha-256=:{FIRST}:", "Content-Encoding": "identity"}, ONE),
        ({"Repr-Digest": f"sha-256=:{FIRST}:", "Content-Encoding": "gzip"}, None),
        ({"Content-Digest": f"sha-256=:{FIRST}:"}, None),
        ({"Repr-Digest": f"SHA-256=:{FIRST}:"}, None),
        ({"Repr-Digest": f"sha-256={FIRST}"}, None),
        ({"Repr-Digest": f"sha-256=:{FIRST[:-4]}:"}, None),
        ({"Repr-Digest": f"xsha-256=:{FIRST}:"}, None),
        ({"Digest": f"sha-256={ONE.hex()}"}, None),
        ({"Repr-Digest": "sha-256=:" + "=" * 44 + ":"}, None),
        ({}, None),
    ],
)
def test_what_headers_state(headers: dict[str, str], digest: bytes | None) -> None:
    found = digest_in(CaseInsensitiveDict(headers))
    assert (found.hex if found else None) == (digest.hex() if digest else None)
