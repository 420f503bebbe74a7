"""Edits of bytes and of lines: what bad disks, editors and copied snippets do to a file."""

from __future__ import annotations

from random import Random

SNIPPETS = (
    b"\t", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b": ", b"- ", b"{", b"[", b"'", b'"', b"#", b"\r\n",
    b"&a ", b"*a", b"!!python/object/apply:os.getcwd []",
    b"!!binary x", b"? ", b"<<: *a", b"---\n", b"...\n", b"%YAML 9.9\n", b"\xc3\x28", b"\xe2\x80\xae",
    b"@", b"`", b"~", b"1e999", b".nan",
    b"0x10", b"1_000", b"2001-01-01", b"a: &a [*a]\n", b"yes", b"[" * 3000, b"{a: " * 400, b"&a [1, *a]",
)  # fmt: skip


def edit_bytes(data: bytes, random: Random) -> bytes:
    """The bytes with one kind of damage."""
    what = random.choice("flip flip bits cut cut tail zeros drop repeat noise empty".split())
    at = random.randrange(len(data) + 1)
    near = random.randrange(min(len(data), 4000) + 1)  # headers and small files are where structure is
    at = random.choice([at, near])
    span = random.choice([1, 2, 8, 64, 1000])
    if what == "flip":
        return data[:at] + bytes(b ^ random.randrange(1, 256) for b in data[at : at + span]) + data[at + span :]
    if what == "bits":
        return data[:at] + bytes(b ^ (1 << random.randrange(8)) for b in data[at : at + 1]) + data[at + 1 :]
    if what == "cut":
        return data[:at]
    if what == "tail":
        return data + random.randbytes(span)
    if what == "zeros":
        return data[:at] + bytes(len(data[at : at + span])) + data[at + span :]
    if what == "drop":
        return data[:at] + data[at + span :]
    if what == "repeat":
        return data[:at] + data[max(at - span, 0) :]
    return random.randbytes(span) if what == "noise" else b""


def edit_text(data: bytes, random: Random) -> bytes:
    """The text with one edit of a line or of a few characters."""
    lines = data.splitlines(keepends=True) or [b""]
    at = random.randrange(len(lines))
    what = random.choice("snippet snippet head delete twice indent dedent swap join value".split())
    if what == "snippet":
        place = random.randrange(len(data) + 1)
        return data[:place] + random.choice(SNIPPETS) + data[place:]
    if what == "head":
        return random.choice(SNIPPETS) + data
    if what == "delete":
        del lines[at]
    elif what == "twice":
        lines.insert(at, lines[at])
    elif what == "indent":
        lines[at] = random.choice([b" ", b"  ", b"\t"]) + lines[at]
    elif what == "dedent":
        lines[at] = lines[at].lstrip()
    elif what == "swap":
        other = random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif what == "join":
        lines[at] = lines[at].rstrip(b"\r\n")
    else:
        lines[at] = lines[at].partition(b":")[0] + b": " + random.choice(SNIPPETS) + b"\n"
    return b"".join(lines)
