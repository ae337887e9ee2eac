"""Laws of the trailer."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from stager import trailer
from stager.errors import DamagedImage
from stager.oci import ContainerConfig

_texts = st.text("aé =\n\"\\'", max_size=8)
_lists = st.lists(_texts, max_size=3).map(tuple)
configs = st.builds(
    ContainerConfig,
    env=st.lists(st.builds("{}={}".format, st.just("K"), _texts), max_size=3).map(tuple),
    entrypoint=_lists,
    cmd=_lists,
    working_dir=_texts,
    user=_texts,
    labels=st.dictionaries(_texts, _texts, max_size=2),
    platform=_texts,
)


@settings(max_examples=30)
@given(configs)
def test_what_is_packed_is_unpacked(config: ContainerConfig) -> None:
    packed = trailer.pack(config)
    assert len(packed) % trailer.PAGE == 0
    assert trailer.unpack(packed) == config


@settings(max_examples=30)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_none_or_damaged(data: bytes, marked: bool) -> None:
    with contextlib.suppress(DamagedImage):
        trailer.unpack(trailer.MAGIC + data if marked else data)
