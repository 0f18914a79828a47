"""Draw the README's picture from a run: some captions, each with all its candidates, best first, and the total under each.

python scripts/readme_picture.py RUN docs/images/best-of-8.png [rows]
"""

from __future__ import annotations

import sys
import textwrap

from PIL import Image, ImageDraw, ImageFont

from synthvlm.images import decode
from synthvlm.pipeline import Run
from synthvlm.run import fetch
from synthvlm.select import scored_sql


def main(where: str, out: str, rows: int = 6) -> None:
    run = Run.open(where)
    scores = run._scores(None)
    with run.connect() as db:
        table = f"(SELECT *, clip + 0.5 * ssim AS total FROM {scored_sql(run, scores)})"
        # Captions whose candidates differ most show best what selection is for.
        wide = fetch(db, f"SELECT id FROM {table} GROUP BY id, row ORDER BY max(total) - min(total) DESC, row LIMIT {rows}")
        names = ", ".join("'" + w["id"].replace("'", "''") + "'" for w in wide)
        found = fetch(db, f"SELECT * FROM {table} WHERE id IN ({names}) ORDER BY row, total DESC, candidate")
    groups: dict[str, list[dict]] = {}
    for r in found:
        groups.setdefault(r["id"], []).append(r)
    side, gap, text = 96, 6, 330
    count = max(len(g) for g in groups.values())
    sheet = Image.new("RGB", (text + count * (side + gap) + gap, len(groups) * (side + 30) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    for line, group in enumerate(groups.values()):
        y = line * (side + 30) + gap
        draw.multiline_text((gap + 4, y + 8), textwrap.fill(group[0]["caption"], 42), fill="#222222", font=font, spacing=5)
        for n, r in enumerate(group):
            x = text + n * (side + gap)
            picture = decode(run.store.read(r["tar"], r["offset"], r["bytes"]))
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
            if n == 0:
                draw.rectangle((x - 2, y - 2, x + side + 1, y + side + 1), outline="#1a7f37", width=3)
            draw.text((x + side / 2, y + side + 4), f"{r['total']:.2f}", fill="#1a7f37" if n == 0 else "#666666", font=small, anchor="ma")
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 6)
