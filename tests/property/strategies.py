"""The vocabulary of the laws: digests, references, hostile text."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from stager.reference import Digest, Reference

hex_digests = st.text("0123456789abcdef", min_size=64, max_size=64)
digests = hex_digests.map(Digest)

# Curated alphabets, because st.characters() reads the whole Unicode table first: a second of a suite that has ten.
_any_character = st.integers(0, 0x10FFFF).map(chr)
_odd_characters = st.sampled_from("\0\n\t/@:%[]#?\\ \udcff\udc80.-_")
_hostile_character = _any_character | _odd_characters | st.sampled_from(string.printable)
hostile_text = st.text(_hostile_character, max_size=80)
"""What argv can hold and worse: bytes that are no UTF-8 arrive as surrogates (PEP 383)."""
short_hostile_text, long_hostile_text = (st.text(_hostile_character, max_size=size) for size in (5, 300))

_alphanumeric = st.sampled_from(string.ascii_letters + string.digits)
_label = st.builds(
    lambda first, rest, last: f"{first}{rest}{last}",
    *(_alphanumeric, st.text(string.ascii_letters + string.digits + "-", max_size=10), _alphanumeric),
)
host_names = st.lists(_label, min_size=1, max_size=4).map(".".join)
hosts = host_names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda ip: f"[{ip}]")
ports = st.integers(1, 65535)

_url_characters = string.ascii_letters + string.digits + "._~!$&'()*+,;=:@%-/?"
url_tails = st.text(_url_characters, max_size=40).filter(lambda t: "@sha256:" not in t)

_path_characters = (
    string.ascii_letters
    + string.digits
    + " !\"#$%&'()*+,-.:;<=>?@[\\]^_`{|}~"
    + "\xe4\xdf\u0130\u03a3\u6f22\U0001f600\udcff"
)
_component = st.text(_path_characters, min_size=1, max_size=12).filter(lambda t: t != "." and "@sha256:" not in t)
absolute_paths = st.lists(_component, max_size=5).map(lambda parts: "/" + "/".join(parts))
relative_paths = st.lists(_component, min_size=1, max_size=4).map("/".join)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """Any HTTP URL without credentials, not necessarily canonical."""
    scheme = draw(st.sampled_from(["http", "https", "HTTP", "hTTps"]))
    port = draw(st.none() | ports.map(str) | st.just(""))
    authority = draw(hosts) + ("" if port is None else f":{port}")
    start = draw(st.sampled_from(["", "/", "?"]))
    return f"{scheme}://{authority}{start}{draw(url_tails) if start else ''}"


file_urls = absolute_paths.map(lambda path: "file://" + _quoted(path))
pins = hex_digests.map(lambda h: f"@sha256:{h}") | st.just("")
reference_texts = st.tuples(urls() | absolute_paths | file_urls, pins).map("".join)
"""Everything a user may type for a reference that is fine, relative paths left out."""


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path, errors="surrogateescape")


def parts(reference: Reference) -> tuple[str, str, str]:
    """Return everything a reference consists of: `==` compares what it prints only."""
    return reference.scheme, reference.location, str(reference.digest or "")
