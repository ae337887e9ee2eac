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

_repository_part = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,2})[a-z0-9]{1,3}){0,2}", fullmatch=True)
_repositories = st.lists(_repository_part, min_size=1, max_size=3).map("/".join)
_registry_hosts = st.builds(
    lambda host, port: f"{host}{port}/",
    st.sampled_from(["docker.io", "Index.docker.io", "ghcr.io", "LOCALHOST", "10.0.0.1", "[::1]"]),
    ports.map(lambda port: f":{port}") | st.just(""),
)
_tags = st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True) | st.just("")
# What stands before the first slash is a host if it has a dot.
_hub_repositories = _repositories.map(lambda repository: repository.replace(".", "-"))
registry_texts = st.tuples(
    st.sampled_from(["docker://", "oras://", "DOCKER://", "Oras://"]),
    st.sampled_from(["", "joe@"]),
    st.tuples(_registry_hosts, _repositories).map("".join) | _hub_repositories,
    _tags,
    pins,
).map("".join)
_library_part = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,5}[A-Za-z0-9_])?", fullmatch=True)
# Here, too, a dot in the first of several makes a host of it.
_library_parts = st.lists(_library_part, max_size=2).flatmap(
    lambda behind: st.builds(
        lambda host, first: host + "/".join([first.replace(".", "-"), *behind]),
        st.sampled_from(["", "l.x/", "L.example:8080/"]),
        _library_part,
    )
)
library_texts = st.tuples(
    st.sampled_from(["library://", "Library://", "library:///"]), _library_parts, _tags, pins
).map("".join)
_no_colons = absolute_paths.map(lambda path: path.replace(":", ""))
_names = st.from_regex(r"[A-Za-z0-9_.@-]{0,6}", fullmatch=True)
on_disk_texts = st.tuples(
    st.sampled_from(["oci:", "oci-archive:", "OCI:"]), absolute_paths, _names.map(":".__add__) | st.just("")
).map("".join)
on_disk_texts |= st.tuples(
    st.just("docker-archive:"),
    _no_colons,
    (_repositories | _repositories.map("{}:1".format)).map(":".__add__) | st.just(""),
).map("".join)
on_disk_texts = on_disk_texts.filter(lambda text: not text.partition(":")[2].startswith("//"))
image_texts = registry_texts | library_texts | on_disk_texts
"""Images of registries and libraries, in layouts and archives."""

file_texts = st.tuples(urls() | absolute_paths | file_urls, pins).map("".join)
"""What is staged as the one file that it is."""

reference_texts = file_texts | image_texts
"""Everything a user may type for a reference that is fine, relative paths left out."""


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path, errors="surrogateescape")


def parts(reference: Reference) -> tuple[str, str, str, str]:
    """Return everything a reference consists of: `==` compares what it prints, and the variant."""
    return reference.scheme, reference.location, str(reference.digest or ""), reference.variant
