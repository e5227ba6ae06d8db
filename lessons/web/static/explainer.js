/* The explainer: the arithmetic of one masked layer, and a picture of it in which everything is a number. */
"use strict";

const D = 3;
const LOG_2PI = Math.log(2 * Math.PI);

/* ---- arithmetic: substitution, and the Jacobian dx/du beside it ---- */

function conditional(model, a, i) {
  /* mu_i and alpha_i from the hidden units that are known; i counts from 0. */
  const h = [0, 1].map((k) => {
    const row = 2 * i + k;
    return model.W[1][row].reduce((sum, w, c) => sum + w * a[c], model.b[1][row]);
  });
  return { mu: h[0], alpha: model.bound * Math.tanh(h[1] / model.bound), s: h[1] };
}

function slopes(model, a, i) {
  /* d mu_i / dx_k and d alpha_i / dx_k for all k, through the hidden layer's tanh. */
  const at = (row, k) => model.W[1][row].reduce(
    (sum, w, c) => sum + (w ? w * (1 - a[c] * a[c]) * model.W[0][c][k] : 0), 0);
  const s = conditional(model, a, i).s;
  const clip = 1 - Math.tanh(s / model.bound) ** 2;
  const all = [...Array(D).keys()];
  return { mu: all.map((k) => at(2 * i, k)), alpha: all.map((k) => clip * at(2 * i + 1, k)) };
}

function compute(model, u) {
  const x = Array(D).fill(0), mu = [], alpha = [], J = [], terms = [];
  const a = model.b[0].map(() => 0);
  for (let i = 0; i < D; i++) {
    const here = conditional(model, a, i), slope = slopes(model, a, i);
    mu.push(here.mu);
    alpha.push(here.alpha);
    x[i] = here.mu + Math.exp(here.alpha) * u[i];
    J.push([...Array(D).keys()].map((j) => {
      let entry = i === j ? Math.exp(here.alpha) : 0;
      for (let k = 0; k < i; k++) {
        entry += (slope.mu[k] + u[i] * Math.exp(here.alpha) * slope.alpha[k]) * J[k][j];
      }
      return entry;
    }));
    terms.push(-0.5 * u[i] * u[i] - 0.5 * LOG_2PI - here.alpha);
    model.degrees.forEach((degree, r) => {
      if (degree !== i + 1) return;
      a[r] = Math.tanh(model.W[0][r].reduce((sum, w, k) => sum + w * x[k], model.b[0][r]));
    });
  }
  const sum = (values) => values.reduce((p, q) => p + q, 0);
  return { u: [...u], x, mu, alpha, hidden: a, J, terms, log_p: sum(terms), log_det: sum(alpha) };
}

function logDensity(model, x, count) {
  /* log p(x_1 .. x_count): the chain rule needs no more features than that. */
  const a = model.b[0].map((b, r) => Math.tanh(
    model.W[0][r].reduce((sum, w, k) => sum + w * (k < x.length ? x[k] : 0), b)));
  let total = 0;
  for (let i = 0; i < count; i++) {
    const { mu, alpha } = conditional(model, a, i);
    total += -0.5 * ((x[i] - mu) * Math.exp(-alpha)) ** 2 - 0.5 * LOG_2PI - alpha;
  }
  return total;
}

/* ---- steps: what is known when ---- */

const SUBSCRIPT = ["₁", "₂", "₃"];

function steps(model) {
  const all = [];
  for (let i = 0; i < D; i++) {
    all.push({ kind: "out", i, text: i
      ? `μ${SUBSCRIPT[i]} and α${SUBSCRIPT[i]}: they depend on hidden units of degree less than ${i + 1}, all known.`
      : "μ₁ and α₁ depend on nothing: they are constants." });
    all.push({ kind: "x", i, text: `x${SUBSCRIPT[i]} = μ${SUBSCRIPT[i]} + exp(α${SUBSCRIPT[i]}) u${SUBSCRIPT[i]}` });
    if (model.degrees.includes(i + 1)) {
      all.push({ kind: "hidden", i, text:
        `Hidden units of degree ${i + 1}: the last feature they depend on, x${SUBSCRIPT[i]}, has just come.` });
    }
  }
  return all;
}

/* ---- drawing ---- */

const SVG = "http://www.w3.org/2000/svg";

function draw(parent, tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

function element(parent, tag, className = "", text = "") {
  const node = document.createElement(tag);
  node.className = className;
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

const shown = (value, digits = 2) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);

const added = (values) => values.map((value, k) =>
  k ? (value < 0 ? " − " : " + ") + shown(Math.abs(value)) : shown(value)).join("");

function panel(parent, title) {
  const section = element(parent, "section");
  element(section, "h3", "", title);
  return section;
}

function svg(parent, width, height, label) {
  const node = draw(parent, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  node.style.maxWidth = `${width}px`;
  return node;
}

function network(parent, model) {
  const narrow = window.innerWidth < 480;  /* a telephone: columns closer, so that all are seen */
  const picture = svg(parent, narrow ? 430 : 620, 330, "the network, its known numbers lit");
  const H = model.degrees.length;
  const place = (n, k) => 22 + (k + 0.5) * 290 / n;
  const X = narrow
    ? { x: 24, hidden: 130, out: 240, u: 332, made: 404 }
    : { x: 50, hidden: 215, out: 390, u: 480, made: 575 };
  const lines = [];
  model.masks[0].forEach((row, r) => row.forEach((on, k) => {
    if (on) lines.push({ from: ["x", k], to: ["hidden", r],
      node: draw(picture, "line", { x1: X.x, y1: place(D, k), x2: X.hidden, y2: place(H, r) }) });
  }));
  model.masks[1].forEach((row, o) => row.forEach((on, r) => {
    if (on) lines.push({ from: ["hidden", r], to: ["out", Math.floor(o / 2)],
      node: draw(picture, "line", { x1: X.hidden, y1: place(H, r), x2: X.out, y2: place(2 * D, o) }) });
  }));
  const nodes = [];
  const circle = (kind, i, x, y, id, radius = 15) => {
    const g = draw(picture, "g", { class: "unit" });
    draw(g, "circle", { cx: x, cy: y, r: radius });
    const text = draw(g, "text", { x, y: y + 4, "data-number": id });
    nodes.push({ kind, i, g, text });
  };
  for (let k = 0; k < D; k++) circle("x", k, X.x, place(D, k), `x${k + 1}-in`, 21);
  model.degrees.forEach((m, r) => {
    circle("hidden", m - 1, X.hidden, place(H, r), `a${r + 1}`, 17);
    draw(picture, "text", { x: X.hidden + 26, y: place(H, r) + 4, class: "degree" }, `${m}`);
  });
  for (let i = 0; i < D; i++) {
    circle("out", i, X.out, place(2 * D, 2 * i), `mu${i + 1}`, 20);
    circle("out", i, X.out, place(2 * D, 2 * i + 1), `alpha${i + 1}`, 20);
    draw(picture, "text", { x: X.out + 30, y: place(2 * D, 2 * i) + 4, class: "name" }, `μ${SUBSCRIPT[i]}`);
    draw(picture, "text", { x: X.out + 30, y: place(2 * D, 2 * i + 1) + 4, class: "name" }, `α${SUBSCRIPT[i]}`);
    circle("u", i, X.u, place(D, i), `u${i + 1}`, 20);
    circle("x", i, X.made, place(D, i), `x${i + 1}`, 22);
  }
  const heading = (x, text) => draw(picture, "text", { x, y: 14, class: "name" }, text);
  heading(X.x, "x");
  heading(X.hidden, "hidden units, degrees");
  heading(X.out, "μ, α");
  heading(X.u, "u");
  heading(X.made, "x");
  return { nodes, lines };
}

function maskGrid(parent, matrix, rowStep, title, name) {
  const cell = 17, width = matrix[0].length * cell, height = matrix.length * cell;
  const box = element(parent, "div", "mask");
  element(box, "p", "note", title);
  const picture = svg(box, width + 2, height + 2, title);
  return matrix.map((row, r) => ({ step: rowStep(r), cells: row.map((on, c) => draw(picture, "rect", {
    x: 1 + c * cell, y: 1 + r * cell, width: cell - 2, height: cell - 2, class: on ? "on" : "off",
    "data-mask": `${name}-${r}-${c}` })) }));
}

function heatmap(canvas, model, range) {
  const n = canvas.width, context = canvas.getContext("2d"), image = context.createImageData(n, n);
  let top = 0;
  const p = [];
  for (let r = 0; r < n; r++) {
    for (let c = 0; c < n; c++) {
      const x = [range.x1[0] + (c + 0.5) / n * (range.x1[1] - range.x1[0]),
        range.x2[1] - (r + 0.5) / n * (range.x2[1] - range.x2[0])];
      const value = Math.exp(logDensity(model, x, 2));
      p.push(value);
      top = Math.max(top, value);
    }
  }
  p.forEach((value, k) => image.data.set([0, 114, 178, Math.round(255 * Math.sqrt(value / top))], 4 * k));
  context.putImageData(image, 0, 0);
}

/* ---- the page ---- */

function start(root, model) {
  const all = steps(model);
  const state = { u: [0.8, -0.6, 0.5], step: all.length - 1 };
  root.classList.add("explainer");

  const knobs = element(root, "div", "knobs");
  const buttons = element(knobs, "div", "buttons");
  const button = (text, act, name) => {
    const node = element(buttons, "button", "", text);
    node.type = "button";
    node.dataset.act = name;
    node.addEventListener("click", act);
    return node;
  };
  let playing = null;
  const stop = () => { clearInterval(playing); playing = null; play.textContent = "▶ play"; };
  button("start", () => { stop(); go(-1); }, "start");
  button("◀ back", () => { stop(); go(state.step - 1); }, "back");
  button("step ▶", () => { stop(); go(state.step + 1); }, "step");
  const play = button("▶ play", () => {
    if (playing) return stop();
    if (state.step >= all.length - 1) go(-1);
    play.textContent = "⏸ pause";
    playing = setInterval(() => {
      go(state.step + 1);
      if (state.step >= all.length - 1) stop();
    }, 1100);
  }, "play");
  const said = element(knobs, "p", "said");
  said.setAttribute("aria-live", "polite");
  const sliders = state.u.map((value, i) => {
    const label = element(knobs, "label");
    element(label, "span", "", `u${SUBSCRIPT[i]}`);
    const input = element(label, "input");
    Object.assign(input, { type: "range", min: -3, max: 3, step: 0.01, value });
    input.dataset.noise = i + 1;
    const output = element(label, "output");
    input.addEventListener("input", () => { state.u[i] = Number(input.value); show(); });
    return { input, output };
  });

  const units = panel(root, "The network");
  const { nodes, lines } = network(element(units, "div", "net"), model);
  const count = element(units, "p", "count");

  const row = element(root, "div", "row");
  const masks = panel(row, "The masks: a staircase each");
  const grids = element(masks, "div", "masks");
  const rows = [
    ...maskGrid(grids, model.masks[0], (r) => ["hidden", model.degrees[r] - 1], "hidden depends on x", "0"),
    ...maskGrid(grids, model.masks[1], (r) => ["out", Math.floor(r / 2)], "μ, α depend on hidden", "1"),
  ];
  const jacobian = panel(row, "The Jacobian ∂x/∂u");
  const table = element(jacobian, "table", "jacobian");
  const entries = [...Array(D).keys()].map((i) => {
    const tr = element(table, "tr");
    return [...Array(D).keys()].map((j) => {
      const td = element(tr, "td");
      td.dataset.entry = `${i + 1}${j + 1}`;
      return td;
    });
  });
  const determinant = element(jacobian, "p", "note");

  const density = panel(row, "The density under the point");
  const range = { x1: [-3.2, 3.2], x2: [-2.5, 5.5] };
  const map = element(density, "div", "map");
  const canvas = element(map, "canvas");
  canvas.width = canvas.height = 90;
  heatmap(canvas, model, range);
  const over = svg(map, 220, 220, "p(x1, x2), and where the point is: drag it");
  const point = draw(over, "circle", { r: 7, class: "point" });
  draw(over, "text", { x: 110, y: 214, class: "name" }, "x₁");
  draw(over, "text", { x: 10, y: 110, class: "name" }, "x₂");
  const sum = element(density, "p", "note");

  const drag = (event) => {
    /* From the place on the map to the noise: the first two features, backwards, one pass. */
    const box = over.getBoundingClientRect();
    const x1 = range.x1[0] + (event.clientX - box.left) / box.width * (range.x1[1] - range.x1[0]);
    const x2 = range.x2[1] - (event.clientY - box.top) / box.height * (range.x2[1] - range.x2[0]);
    const clip = (v) => Math.max(-3, Math.min(3, v));
    const first = compute(model, state.u);
    state.u[0] = clip((x1 - first.mu[0]) * Math.exp(-first.alpha[0]));
    const second = compute(model, state.u);
    state.u[1] = clip((x2 - second.mu[1]) * Math.exp(-second.alpha[1]));
    sliders.forEach(({ input }, i) => { input.value = state.u[i]; });
    if (state.step < all.length - 1) state.step = all.length - 1;
    show();
  };
  over.addEventListener("pointerdown", (event) => { over.setPointerCapture(event.pointerId); drag(event); });
  over.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });

  function go(step) {
    state.step = Math.max(-1, Math.min(all.length - 1, step));
    show();
  }

  function show() {
    const result = compute(model, state.u);
    const since = (kind, i) => all.findIndex((one) => one.kind === kind && one.i === i);
    const status = (kind, i) => {
      if (kind === "u") return "known";
      const at = since(kind, i);
      return at < state.step ? "known" : at === state.step ? "now" : "open";
    };
    const numbers = {};
    for (let i = 0; i < D; i++) {
      Object.assign(numbers, { [`x${i + 1}`]: result.x[i], [`x${i + 1}-in`]: result.x[i],
        [`mu${i + 1}`]: result.mu[i], [`alpha${i + 1}`]: result.alpha[i], [`u${i + 1}`]: result.u[i] });
      sliders[i].output.textContent = shown(result.u[i]);
    }
    result.hidden.forEach((value, r) => { numbers[`a${r + 1}`] = value; });
    nodes.forEach(({ kind, i, g, text }) => {
      const now = status(kind, i);
      g.setAttribute("class", `unit ${now}`);
      text.textContent = now === "open" ? "" : shown(numbers[text.dataset.number]);
    });
    lines.forEach(({ from, to, node }) => {
      const target = to[0] === "hidden" ? status("hidden", model.degrees[to[1]] - 1) : status("out", to[1]);
      node.setAttribute("class", target);
    });
    rows.forEach(({ step, cells }) => {
      cells.forEach((one) => { one.dataset.status = status(...step); });
    });
    said.textContent = state.step < 0 ? "Noise is there, and nothing else. Press step." : all[state.step].text;

    const done = model.degrees.filter((m) => status("hidden", m - 1) !== "open").length;
    const known = [0, 1, 2].filter((i) => status("x", i) !== "open").length;
    const passes = [0, 1, 2].filter((i) => status("out", i) !== "open").length;
    count.textContent = `Hidden units computed: ${done} by substitution, ${passes * model.degrees.length} by the loop`
      + ` of whole passes (${model.degrees.length} each).`;
    count.dataset.substitution = done;
    count.dataset.loop = passes * model.degrees.length;

    entries.forEach((line, i) => line.forEach((td, j) => {
      const now = status("x", i);
      td.className = now;
      td.textContent = now === "open" ? "" : j > i ? "0" : shown(result.J[i][j]);
    }));
    const part = (values) => values.slice(0, known).reduce((p, q) => p + q, 0);
    determinant.textContent = known
      ? `log|det| so far = ${added(result.alpha.slice(0, known))} = ${shown(part(result.alpha), 3)}`
      : "A row appears with each x.";
    const visible = known >= 2;
    point.setAttribute("visibility", visible ? "visible" : "hidden");
    point.setAttribute("cx", 220 * (result.x[0] - range.x1[0]) / (range.x1[1] - range.x1[0]));
    point.setAttribute("cy", 220 * (range.x2[1] - result.x[1]) / (range.x2[1] - range.x2[0]));
    sum.textContent = known
      ? `log p(x${known > 1 ? `₁ … x${SUBSCRIPT[known - 1]}` : "₁"}) = `
        + `${added(result.terms.slice(0, known))} = ${shown(part(result.terms), 3)} nats`
      : "The colour is p(x₁, x₂): two factors of the chain rule.";
    sum.dataset.logp = part(result.terms);
  }
  show();
  window.afnpExplainer = { compute: (u) => compute(model, u), density: (x) => logDensity(model, x, x.length), go };
}

start(document.getElementById("explainer"), JSON.parse(document.getElementById("explainer-model").textContent));
