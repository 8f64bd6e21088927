"""Response heads that llhttp refuses and RFC 9112 allows, written the way llhttp wants them."""

from typing import Final

__all__ = ["normalize_head"]

_WHITESPACE: Final = b" \t"


def normalize_head(head: bytes) -> tuple[bytes, bool]:
    """Write a response's head as strictly as llhttp wants it, where RFC 9112 lets a recipient be
    lenient with an app.

    Lines may end in LF alone (section 2.2), a field's name may have whitespace before its colon
    (5.1), a field may be folded (5.2), ``Content-Length`` may be told several times with one value
    (6.3), and beside ``Transfer-Encoding`` it does not count (6.3). What stays malformed, or really
    ambiguous, is left for llhttp to refuse.

    Args:
        head: from the status line to the empty line, both included.

    Returns:
        The head, and whether it told its length in two ways: then the connection is not to be
        used again.
    """
    lines = head.lstrip(b"\r\n").replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    fields: list[tuple[bytes, bytes]] = []
    lengths: set[bytes] = set()
    coded = False
    for line in lines[1:]:
        if fields and line[:1] in (b" ", b"\t"):
            name, value = fields[-1]
            fields[-1] = name, value + b" " + line.strip(_WHITESPACE)
            continue
        name, colon, value = line.partition(b":")
        if not colon:
            return head, False
        fields.append((name.rstrip(_WHITESPACE), value.strip(_WHITESPACE)))
    for name, value in fields:
        if name.lower() == b"content-length":
            lengths.update(part.strip(_WHITESPACE) for part in value.split(b","))
        elif name.lower() == b"transfer-encoding":
            coded = True
    if coded or len(lengths) == 1:
        fields = [field for field in fields if field[0].lower() != b"content-length"]
        if not coded:
            fields.append((b"Content-Length", lengths.pop()))
    text = [lines[0], *(name + b": " + value for name, value in fields), b"", b""]
    return b"\r\n".join(text), coded and bool(lengths)
