"""PDFs made by hand, small enough to read."""

from collections.abc import Callable

import pytest

MakePdf = Callable[..., bytes]


@pytest.fixture
def make_pdf() -> MakePdf:
    """A PDF with these texts on its pages, drawn in Helvetica; "" is a page without any."""

    def make_pdf(*texts: str) -> bytes:
        first = 4  # the objects before the pages: catalogue, list of pages, font
        kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(texts)))
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>".encode(),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        ]
        for number, text in enumerate(texts):
            drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("cp1252") if text else b""
            objects += [
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
                b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>"
                % (first + 2 * number + 1),
                b"<< /Length %d >>\nstream\n%b\nendstream" % (len(drawn), drawn),
            ]
        file, places = b"%PDF-1.4\n", []
        for number, content in enumerate(objects, start=1):
            places.append(len(file))
            file += b"%d 0 obj\n%b\nendobj\n" % (number, content)
        table = b"".join(b"%010d 00000 n \n" % place for place in places)
        return file + (
            b"xref\n0 %d\n0000000000 65535 f \n%btrailer\n<< /Size %d /Root 1 0 R >>\n"
            b"startxref\n%d\n%%%%EOF\n" % (len(places) + 1, table, len(places) + 1, len(file))
        )

    return make_pdf
