"""A page on which a click on a confusion matrix shows the images behind the number.

One HTML file that opens offline: all images in one picture, of which each place shows a part,
labels and answers as digits, and a little JavaScript. A cell has an address of its own, such as
``#resnet18/cat/dog``, that can be sent to somebody. Not for figures: `evaluation` counts and
`plotting` draws.
"""

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlib import evaluation, files, report
from cifarlib.errors import InputError
from cifarlib.splits import CLASS_NAMES

COLUMNS = 100  # images in a row of the one picture
QUALITY = 90  # of JPEG; at this an eye sees no difference at the size shown

_STYLE = """
main { max-width: 76rem; }
table.matrix { font-size: .85rem; } table.matrix td { padding: 1px; }
table.matrix th { padding: .1rem .5rem; font-weight: normal; }
table.matrix thead th { writing-mode: vertical-rl; rotate: 180deg;
  text-align: left; padding: .3rem 0; }
table.matrix button { width: 3.4rem; height: 2rem; border: 1px solid #fff; font: inherit;
  cursor: pointer; }
table.matrix button:hover, table.matrix button:focus { outline: 3px solid #de8f05; }
table.matrix button[aria-pressed=true] { outline: 3px solid #d55e00; }
.two { display: grid; grid-template-columns: auto 1fr; gap: 2rem; align-items: start; }
#shown { display: flex; flex-wrap: wrap; gap: 4px; max-height: 44rem; overflow-y: auto; }
#shown i { width: 64px; height: 64px; image-rendering: pixelated; }
select { font: inherit; padding: .2rem .5rem; }
@media (max-width: 70rem) { .two { grid-template-columns: 1fr; } }
"""

_SCRIPT = """
"use strict";
const { names, models, labels, columns, size } = JSON.parse(
  document.getElementById("facts").textContent);
const rows = Math.ceil(labels.length / columns);
const $ = id => document.getElementById(id);

function places(model, truth, answer) {
  const found = [];
  for (let i = 0; i < labels.length; i++)
    if (+labels[i] === truth && +models[model][i] === answer) found.push(i);
  return found;
}

function counts(model) {
  const matrix = names.map(() => names.map(() => 0));
  for (let i = 0; i < labels.length; i++) matrix[+labels[i]][+models[model][i]]++;
  return matrix;
}

function asked() {  // the cell that the address names, as far as it names one
  const [model, truth, answer] = location.hash.slice(1).split("/").map(part => {
    try { return decodeURIComponent(part); } catch { return ""; }  // cut after a %, say
  });
  const known = Object.keys(models);
  return [known.includes(model) ? model : known[0], names.indexOf(truth), names.indexOf(answer)];
}

function images(count) {
  return count === 1 ? "1 image" : `${count} images`;
}

function go(...parts) {
  location.hash = parts.map(encodeURIComponent).join("/");
}

function draw() {
  const [model, truth, answer] = asked();
  $("model").value = model;
  const matrix = counts(model), right = matrix.reduce((sum, row, i) => sum + row[i], 0);
  $("accuracy").textContent =
    `${right.toLocaleString("en")} of ${labels.length.toLocaleString("en")} right`;
  const body = $("matrix");
  body.replaceChildren(...matrix.map((row, i) => {
    const line = document.createElement("tr"), total = row.reduce((a, b) => a + b, 0);
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = names[i];
    line.append(head);
    line.append(...row.map((count, j) => {
      const button = document.createElement("button"), share = total ? count / total : 0;
      button.textContent = count;
      button.dataset.cell = `${names[i]}/${names[j]}`;
      button.setAttribute("aria-label", `${names[i]}, answered ${names[j]}: ${images(count)}`);
      button.setAttribute("aria-pressed", i === truth && j === answer);
      const depth = i === j ? share * 0.5 : Math.min(1, share * 5);  // mistakes must be seen
      button.style.background = i === j ? `rgba(1, 115, 178, ${depth})`
                                        : `rgba(222, 143, 5, ${depth})`;
      button.onclick = () => go(model, names[i], names[j]);
      const cell = document.createElement("td");
      cell.append(button);
      return cell;
    }));
    return line;
  }));
  const shown = truth < 0 || answer < 0 ? [] : places(model, truth, answer);
  $("told").textContent = truth < 0 || answer < 0 ? "Choose a cell."
    : `${names[truth]}, answered ${names[answer]}: ${images(shown.length)}`;
  $("shown").replaceChildren(...shown.map(i => {
    const picture = document.createElement("i");
    picture.title = `test image ${i}`;
    picture.style.backgroundSize = `${columns * size}px ${rows * size}px`;
    picture.style.backgroundPosition =
      `-${(i % columns) * size}px -${Math.floor(i / columns) * size}px`;
    return picture;
  }));
}

$("model").append(...Object.keys(models).map(name => new Option(name)));
$("model").onchange = () => {
  const [, truth, answer] = asked();
  go($("model").value, ...(truth < 0 || answer < 0 ? [] : [names[truth], names[answer]]));
};
window.onhashchange = draw;
draw();
"""


def write(
    path: str | Path,
    pictures: np.ndarray,
    labels: np.ndarray,
    answers: Mapping[str, np.ndarray],
    *,
    title: str,
    told: str = "",
) -> Path:
    """Write the page.

    Args:
        path: the HTML file; its folder is made if need be.
        pictures: uint8 array of shape (n, 32, 32, 3) or (n, 32, 32, 1).
        labels: true classes, shape (n,).
        answers: by the name of a model, the classes that it gave, shape (n,).
        title: heading of the page.
        told: a paragraph below it, plain text.

    Returns:
        The file.

    Raises:
        InputError: if there is no model.
        ValueError: if images, labels and answers do not belong together.
    """
    if not answers:
        raise InputError("answers", "those of at least one model", "none", "Name a model.")
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or len(pictures) != len(labels):
        raise ValueError(
            f"pictures: expected {len(labels)} of uint8, found {pictures.dtype} {pictures.shape}"
        )
    for said in answers.values():
        evaluation.confusions(labels, said)  # refuses what does not fit
    facts = {
        "names": CLASS_NAMES,
        "labels": _digits(labels),
        "models": {name: _digits(said) for name, said in answers.items()},
        "columns": COLUMNS,
        "size": 64,
    }
    # "<" cannot end the element from within a string.
    embedded = json.dumps(facts).replace("<", "\\u003c")
    head = "".join(f'<th scope="col">{name}</th>' for name in CLASS_NAMES)
    sheet = f"#shown i {{ background-image: url(data:image/jpeg;base64,{_sheet(pictures)}); }}"
    body = (
        f"<style>{_STYLE}{sheet}</style>"
        f"<h1>{html.escape(title)}</h1><p class='facts'>{html.escape(told)}</p>"
        "<section><h2>Who is taken for whom</h2>"
        "<p><label>Model <select id='model'></select></label> <span id='accuracy'></span></p>"
        "<div class='two'><table class='matrix'>"
        "<caption>Rows are the true classes, columns the answers. A click shows the images."
        f"</caption><thead><tr><td></td>{head}</tr></thead><tbody id='matrix'></tbody></table>"
        "<div><h2 id='told' aria-live='polite'></h2><div id='shown'></div></div></div></section>"
        f"<script type='application/json' id='facts'>{embedded}</script>"
        f"<script>{_SCRIPT}</script>"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, report.page(title, body))
    return path


def _digits(classes: np.ndarray) -> str:
    return "".join(map(str, np.asarray(classes)))


def _sheet(pictures: np.ndarray) -> str:
    """Return all images in one, as base64 of a JPEG file."""
    height, width, channels = pictures.shape[1:]
    num_rows = -(-len(pictures) // COLUMNS)
    sheet = np.zeros((num_rows * COLUMNS, height, width, channels), np.uint8)
    sheet[: len(pictures)] = pictures
    sheet = sheet.reshape(num_rows, COLUMNS, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(num_rows * height, COLUMNS * width, channels)
    content = io.BytesIO()
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    picture.save(content, "JPEG", quality=QUALITY)
    return base64.b64encode(content.getvalue()).decode()
