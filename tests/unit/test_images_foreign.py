from __future__ import annotations

import pytest

from stager.errors import NotAnImage
from stager.images.foreign import quoted
from tests.support.image_factory import recognised


def at(offset: int, magic: bytes) -> bytes:
    return b"\1" * offset + magic + b"\1" * 100


def tar(name: bytes) -> bytes:
    return name.ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 300


def said_of(content: bytes) -> str:
    with pytest.raises(NotAnImage) as caught:
        recognised(content)
    assert caught.value.hint
    return caught.value.message.removeprefix("this is ").removesuffix(", not a SIF, squashfs or EROFS image")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"\0" * 9000, "4096 or more zero bytes"),
        (at(0, b"\x1f\x8b\x08"), "a gzip archive"),
        (at(0, b"\xfd7zXZ\0"), "an xz archive"),
        (at(0, b"\x28\xb5\x2f\xfd"), "a zstd archive"),
        (at(0, b"BZh9"), "a bzip2 archive"),
        (at(0, b"PK\x03\x04"), "a zip archive"),
        (at(0, b"\x7fELF"), "a program (ELF)"),
        (at(1080, b"\x53\xef"), "an ext2, ext3 or ext4 file system"),
        (at(0x8001, b"CD001"), "an ISO 9660 disk"),
        (tar(b"etc/passwd"), "a tar archive"),
        (tar(b"manifest.json"), "a Docker or OCI archive"),
        (tar(b"0123456789abcdef" * 4 + b"/layer.tar"), "a Docker or OCI archive"),
        (tar(b"0123456789abcdef" * 4 + b".tar"), "a Docker or OCI archive"),
        (tar(b"blobs/sha256/"), "a Docker or OCI archive"),
        (b"#!/usr/bin/env run-singularity\n" + b"\0" * 2000, "an image of Singularity 2"),
        (b"#!/bin/sh\necho hello\n", "a script"),
        (b"root:$6$secret:19000::::::\n", "a text file"),
        ("æøå\n".encode() * 2000, "a text file"),
        (b"\xef\xbb\xbfBootstrap: docker\nFrom: debian\n", "a definition file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"\x80\x81\x82\x83\x84\x85\x86\x87\x88", "unknown data starting with 80 81 82 83 84 85 86 87"),
        (b"a", "a text file"),
        (b"text\0with a NUL", "unknown data starting with 74 65 78 74 00 77 69 74"),
    ],
)
def test_foreign_files_are_named(content: bytes, what: str) -> None:
    assert said_of(content) == what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<!DOCTYPE html><html><head><title>Sign in</title>", 'an HTML page titled "Sign in"'),
        ("\ufeff\n  <HTML lang=en><TITLE id=t>\n 404\n Not   Found </TITLE>", 'an HTML page titled "404 Not Found"'),
        ("<html><title>A &amp; B\x1b[31m &lt;x&gt;</title>", 'an HTML page titled "A & B [31m <x>"'),
        ("<html><title></title>", "an HTML page"),
        ("<html><body>no title</body>", "an HTML page"),
        ("<!-- proxy --><html><title>Blocked</title>", 'an HTML page titled "Blocked"'),
        ('<?xml version="1.0"?><Error><Code>NoSuchKey</Code>', 'an XML document saying "NoSuchKey"'),
        ("<svg></svg>", "an XML document"),
        ('{"message": "Not found", "token": "s3cret"}', 'a JSON document saying "Not found"'),
        ('{"errors": [{"code": 1, "message": "denied"}]}', 'a JSON document saying "denied"'),
        ('{"auths": {"registry": {"auth": "c2VjcmV0"}}}', "a JSON document"),
        ("[]", "a JSON document"),
        ('{"schemaVersion": 2, "layers": []}', "a manifest of a registry (JSON)"),
    ],
)
def test_what_servers_say_is_quoted_and_nothing_else(content: str, what: str) -> None:
    assert said_of(content.encode()) == what


def test_a_page_in_an_old_encoding_is_still_a_page() -> None:
    assert said_of("<html><title>Accès refusé</title>".encode("latin-1")).startswith('an HTML page titled "Acc')


def test_a_multibyte_character_cut_off_by_the_read_is_still_text() -> None:
    assert said_of(b"x" * 4095 + "é".encode() + b"x" * 100) == "a text file"


def test_long_titles_are_shortened() -> None:
    page = "<title>" + "very " * 50 + "</title>"
    title = said_of(page.encode()).removeprefix("an HTML page titled ")
    assert len(title) == 82
    assert title.endswith('…"')


def test_text_that_would_turn_a_terminal_around_is_disarmed() -> None:
    assert quoted("a\u202eb\x9bc\rd\x00e") == '"a b c d e"'
