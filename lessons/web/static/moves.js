/* Pictures that move: all states were drawn when the site was built; a control only swaps them. */
"use strict";

function control(described, changed) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = described.name;
  let input;
  const value = document.createElement("output");
  if (described.kind === "menu") {
    input = document.createElement("select");
    described.labels.forEach((text, k) => input.add(new Option(text, k)));
    input.value = described.start;
  } else if (described.kind === "box") {
    input = document.createElement("input");
    input.type = "checkbox";
    input.checked = described.start === 1;
  } else {
    input = document.createElement("input");
    Object.assign(input, { type: "range", min: 0, max: described.labels.length - 1, step: 1 });
    input.value = described.start;
  }
  const position = () => (described.kind === "box" ? Number(input.checked) : Number(input.value));
  const tell = () => {
    if (described.kind === "slider") value.textContent = described.labels[position()];
  };
  input.addEventListener("input", () => { tell(); changed(); });
  tell();
  label.append(name, input, value);
  return { element: label, position, size: described.labels.length };
}

function bringToLife(figure) {
  const { controls, pictures } = JSON.parse(figure.dataset.states);
  const image = figure.querySelector("img");
  const folder = image.getAttribute("src").replace(/[^/]*$/, "");
  const loaded = [];
  const loadAll = () => {
    if (loaded.length) return;
    pictures.forEach((name) => { const one = new Image(); one.src = folder + name; loaded.push(one); });
  };
  const show = () => {
    loadAll();
    const at = parts.reduce((sum, part) => sum * part.size + part.position(), 0);
    image.src = folder + pictures[at];
  };
  const parts = controls.map((described) => control(described, show));
  const panel = document.createElement("div");
  panel.className = "controls";
  panel.append(...parts.map((part) => part.element));
  figure.append(panel);
  panel.addEventListener("pointerenter", loadAll, { once: true });
  panel.addEventListener("touchstart", loadAll, { once: true, passive: true });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.moves").forEach(bringToLife);
});
