from __future__ import annotations

import json

import pytest

from stager.errors import InvalidReference
from stager.schedulers.request import MAX_IMAGES, MAX_REFERENCE, MAX_TEXT, Request, read

URL = "https://host/r.sif"
OTHER = "/apps/python.sif"
PINNED = f"{URL}@sha256:{'ab' * 32}"

COMMENTS: list[tuple[str, str, tuple[str, ...]]] = [
    ("nothing", "", ()),
    ("prose", "my best run so far", ()),
    ("one", f"stage-image={URL}", (URL,)),
    ("two", f"stage-image={URL},{OTHER}", (URL, OTHER)),
    ("two words", f"stage-image={URL} stage-image={OTHER}", (URL, OTHER)),
    ("pinned", f"stage-image={PINNED}", (PINNED,)),
    ("among others", f"project=x;stage-image={URL};owner=y", (URL,)),
    ("blanks of every kind", f" \t;;\r\nstage-image={URL}\n;", (URL,)),
    ("lines end it", f"stage-image={URL}\nLD_PRELOAD=/tmp/x.so", (URL,)),
    ("twice the same", f"stage-image={URL},HTTPS://HOST:443/r.sif", (URL,)),
    ("pinned or not is not the same", f"stage-image={URL},{PINNED}", (URL, PINNED)),
    ("an escaped comma", "stage-image=https://host/a%2Cb.sif", ("https://host/a%2Cb.sif",)),
    ("a query", "stage-image=https://host/get?name=a&v=1", ("https://host/get?name=a&v=1",)),
    ("IPv6", "stage-image=http://[::1]:8080/x.sif", ("http://[::1]:8080/x.sif",)),
    ("a registry", "stage-image=docker://ubuntu:22.04", ("docker://ubuntu:22.04",)),
    ("a manifest", f"stage-image=oras://h.x/a@sha256:{'ab' * 32}", (f"oras://h.x/a@sha256:{'ab' * 32}",)),
    ("a library", "stage-image=library://e/c/x:1", ("library://e/c/x:1",)),
    ("on disk", "stage-image=oci:/a/b:c,DOCKER-ARCHIVE:/x.tar:y/z:1", ("oci:/a/b:c", "DOCKER-ARCHIVE:/x.tar:y/z:1")),
    ("twice the same image", "stage-image=docker://a,docker://docker.io/library/a:latest", ("docker://a",)),
    ("shell language", f"$(id) `id` stage-image={URL} && rm -rf x", (URL,)),
    ("unicode around it", f"pr\xe9paration \u2028 stage-image={URL} \U0001f600 \udcff", (URL,)),
    ("far from where looking ends", f"stage-image={URL} " + "x" * MAX_TEXT, (URL,)),
    ("another word", f"xstage-image={URL} stage-images={URL} --stage-image={URL} Stage-Image={URL}", ()),
    ("blanks around =", f"stage-image = {URL}", ()),
    ("only blanks of ASCII part words", f"x\xa0stage-image={URL} y\x85stage-image={URL}", ()),
    ("JSON in a comment is prose", json.dumps({"stage-image": URL}), ()),
]

EXTRAS: list[tuple[str, str, tuple[str, ...]]] = [
    ("words", f"x=1; stage-image={URL}", (URL,)),
    ("text", json.dumps({"stage-image": URL}), (URL,)),
    ("text with two", json.dumps({"stage-image": f"{URL},{OTHER}"}), (URL, OTHER)),
    ("list", json.dumps({"stage-image": [URL, OTHER]}), (URL, OTHER)),
    ("list with a comma", json.dumps({"stage-image": ["/apps/a,b.sif"]}), ("/apps/a,b.sif",)),
    ("empty list", json.dumps({"stage-image": []}), ()),
    ("others' objects", json.dumps({"x": {"stage-image": 7}, "y": [1, None]}), ()),
    ("name given twice", f'{{"stage-image": "{URL}", "stage-image": "{OTHER}"}}', (URL, OTHER)),
    ("escaped name and slashes", '{"stage\\u002dimage": "https:\\/\\/host\\/r.sif"}', (URL,)),
    ("blanks before it", f' \n\t{{"stage-image": "{URL}"}}', (URL,)),
    ("no JSON, not ours", "{img_x}=true&x", ()),
    ("an array", json.dumps(["stage-image", URL]), ()),
]

REFUSED = [
    *("", ",", f"{URL},", f",{URL}", f"{URL},,{OTHER}"),
    *(
        "r.sif",
        "./r.sif",
        "../r.sif",
        "~/r.sif",
        "host/r.sif",
        "u:secret@host/r.sif",
        "rel/" * 250,
        "-rf",
        "$HOME/x",
        "C:/x",
        ":///x",
        "1://x",
    ),
    *("https://", "https:///x", "https://user:secret@host/x", "https://user@host/x", "https://@host/", "https:x"),
    *(
        "ftp://host/x",
        "docker://X",
        "docker:x",
        "oci:x",
        "shub://x/y",
        "javascript://x",
        "https://host:0/",
        "https://host:99999/",
        "https://ho%73t/",
    ),
    *("https://[::1/x", "https://host\\@evil/x", 'https://host/"', "https://host/`id`", "https://host/{x}"),
    *(f"{URL}\0", f"{URL}\x7f", f"{URL}\x1b[2J", f"{URL}\x0b", f"{URL}\x85x", f"{URL}\xa0", "https://h\xf6st/x"),
    *(
        "https://host/\uff0e\uff0e/",
        f"{URL}\u202e",
        "/apps/\udcff",
        "\ufeff/apps/x",
        "/apps/\U0001f600",
    ),
    *("file://other/x", "file:///%00", "file:///%0a", "file://", f"{URL}@sha256:", f"{URL}@sha256:{'g' * 64}"),
    *(
        "@sha256:" + "0" * 64,
        f"https://host/{'x' * MAX_REFERENCE}",
        "/" * (MAX_REFERENCE + 1),
        "https://host/" + "%" * 5000,
    ),
]


@pytest.mark.parametrize(("comment", "references"), [row[1:] for row in COMMENTS], ids=[row[0] for row in COMMENTS])
def test_comments(comment: str, references: tuple[str, ...]) -> None:
    assert read(comment, "", "") == Request(references)


@pytest.mark.parametrize(("extra", "references"), [row[1:] for row in EXTRAS], ids=[row[0] for row in EXTRAS])
def test_extra(extra: str, references: tuple[str, ...]) -> None:
    assert read("", extra, "") == Request(references)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:40])
def test_what_cannot_be_followed_is_refused_in_every_channel(text: str) -> None:
    channels = [(f"x stage-image={text}", "", ""), ("", json.dumps({"stage-image": text}), ""), ("", "", text or ",")]
    for channel in channels:
        with pytest.raises(InvalidReference) as caught:
            read(*channel)
        assert caught.value.message.isprintable()
        assert caught.value.hint
        assert len(caught.value.message) < 300
        assert "secret" not in caught.value.message


@pytest.mark.parametrize("value", [None, True, 7, 1.5, {}, {"a": URL}, [7], [[URL]], [URL, None]])
def test_extra_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(InvalidReference, match="neither a text nor a list"):
        read("", json.dumps({"stage-image": value}), "")


@pytest.mark.parametrize(
    "text",
    [
        *("{", '{"a":', '{"a":' * 5000, "{" + "[" * 4000, '{"a":' * 700 + "1" + "}" * 700, '{"a":' + "[" * 4000),
        *('{"a":' + "9" * 4000 + "}", '{"a": NaN}', '{"a": "\\ud800"}', "{}", "{\0}", '{"\\u0000": 1}'),
        *("[" * 100_000, '{"x":"' + "y" * 100_000 + '"}', "x" * 1_000_000, ";" * 1_000_000, "=" * 100_000),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_bombs_that_ask_for_nothing_are_nothing(text: str) -> None:
    assert read(text, text, "") == Request()


@pytest.mark.parametrize("text", [f'{{"stage-image": "{URL}"', '{"stage-image": "x' + "y" * MAX_TEXT + '"}'])
def test_extra_that_meant_us_and_is_broken_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match="no JSON object"):
        read("", text, "")


@pytest.mark.parametrize("text", ["/apps/a b.sif", " /apps/x", "/apps/x ", "/a, /b"])
def test_blanks_are_refused_where_they_part_nothing(text: str) -> None:
    for channel in [("", json.dumps({"stage-image": text}), ""), ("", "", text)]:
        with pytest.raises(InvalidReference, match="without blanks"):
            read(*channel)


def test_order_is_comment_extra_plugin() -> None:
    assert read("stage-image=/a", '{"stage-image": "/b"}', "/c,/a").references == ("/a", "/b", "/c")


def test_the_plugin_gives_the_list_alone() -> None:
    assert read("", "", f"{URL},{OTHER}").references == (URL, OTHER)
    with pytest.raises(InvalidReference):
        read("", "", f"stage-image={URL}")


def test_so_many_images_and_no_more() -> None:
    names = [f"/apps/{number}" for number in range(MAX_IMAGES + 1)]
    assert read("stage-image=" + ",".join([*names[:-1], *names[:-1]]), "", "").references == tuple(names[:-1])
    with pytest.raises(InvalidReference, match=f"more than {MAX_IMAGES} images"):
        read("stage-image=" + ",".join(names[:5]), "", ",".join(names[5:]))


def test_references_have_their_limit() -> None:
    longest = "/" + "x" * (MAX_REFERENCE - 1)
    assert read(f"stage-image={longest}", "", "").references == (longest,)
    with pytest.raises(InvalidReference, match="1025 characters long"):
        read(f"stage-image={longest}x", "", "")


@pytest.mark.parametrize("more", ["", " ", ";", "\n", " x", " stage-image=/never/seen", "; stage-image=not absolute"])
def test_a_word_may_end_where_looking_ends(more: str) -> None:
    word = f"stage-image={URL}"
    assert read(word.rjust(MAX_TEXT) + more, "", "").references == (URL,)


@pytest.mark.parametrize("more", ["x", ",/b", "\0", f"@sha256:{'0' * 64}"])
def test_half_a_word_is_refused(more: str) -> None:
    with pytest.raises(InvalidReference, match="goes on behind the first 4096"):
        read(f"stage-image={URL}".rjust(MAX_TEXT) + more, "", "")


def test_too_long_a_list_of_the_plugin_is_refused() -> None:
    with pytest.raises(InvalidReference, match="4096"):
        read("", "", ",".join([URL] * 1000))


def test_nothing_is_false() -> None:
    assert not read("", "", "")
    assert read("", "", URL)
