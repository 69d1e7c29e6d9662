const ROWS_A_PAGE = 20;
const DROPPED_A_PAGE = 5;
const LONG = 900;
const DEBOUNCE_MS = 150;

const byId = (id) => document.getElementById(id);
const number = (count) => count.toLocaleString("en-US");

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/* Texts */

const revealed = new Set();
let allRevealed = false;
let needle = "";

/** Letters of no meaning in the shape of `text`: a hidden text is not in the document at all. */
function standIn(text) {
  const letters = "aeornstlui";
  let place = 0;
  return text.slice(0, LONG).replace(/\S/gu, () => letters[(place++ * 7) % letters.length]);
}

/** `text` with its control characters made visible. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (control) => String.fromCharCode(0x2400 + control.charCodeAt(0)));
}

function marked(text) {
  const lower = text.toLowerCase();
  if (!needle || lower.length !== text.length) return [text];
  const pieces = [];
  let start = 0;
  for (let hit = lower.indexOf(needle); hit >= 0; hit = lower.indexOf(needle, start)) {
    pieces.push(text.slice(start, hit), element("mark", "", text.slice(hit, hit + needle.length)));
    start = hit + needle.length;
  }
  return [...pieces, text.slice(start)];
}

function openText(text) {
  const body = element("div", "text", ...marked(visible(text)));
  body.dir = "auto";
  body.tabIndex = -1;
  const block = element("div", "", body);
  if (text.length > LONG || text.split("\n").length > 14) {
    body.classList.add("clamped");
    const more = element("button", "more", "Show the whole text");
    more.type = "button";
    more.addEventListener("click", () => {
      const clamped = body.classList.toggle("clamped");
      more.textContent = clamped ? "Show the whole text" : "Show less";
    });
    block.append(more);
  }
  return block;
}

function veil(text, key, what) {
  const blur = element("span", "blur", standIn(text));
  const hint = element("span", "hint", "Click to show");
  for (const part of [blur, hint]) part.setAttribute("aria-hidden", "true");
  const button = element("button", "veil", blur, hint);
  button.type = "button";
  button.setAttribute("aria-label", `${what}, hidden because it is harmful. Press to show it`);
  button.addEventListener("click", () => {
    revealed.add(key);
    const block = openText(text);
    button.replaceWith(block);
    block.firstChild.focus({ preventScroll: true });
  });
  return button;
}

function textBlock(text, key, what, harmful) {
  return harmful && !allRevealed && !revealed.has(key) ? veil(text, key, what) : openText(text);
}

function cell(label, ...children) {
  const node = element("td", "", ...children);
  node.dataset.label = label;
  return node;
}

function facts(pairs) {
  const list = element("dl", "");
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", "", name), element("dd", "", visible(String(value))));
  }
  return list;
}

function dot(colour) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("class", "dot");
  svg.setAttribute("viewBox", "0 0 10 10");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("class", ["harmful", "benign", "math"].includes(colour) ? colour : "ink");
  for (const [name, value] of [["width", 10], ["height", 10], ["rx", 2]]) rect.setAttribute(name, value);
  svg.append(rect);
  return svg;
}

/* Rows */

const promptOf = (row) => row.prompt.map((message) => message.content).join("\n\n");
const joined = (...parts) => parts.filter((part) => part !== null && part !== undefined && part !== "").join("\u00a0· ");
const similarity = (value) => (typeof value === "number" ? value.toFixed(3) : null);

function heading(domain, kind) {
  return element("span", "kind", dot(domain), joined(domain, kind));
}

function originFacts(row) {
  const origin = row.origin ?? {};
  return [
    ["id", row.id],
    ["turns", row.prompt.length > 1 ? row.prompt.length : null],
    ["origin", joined(origin.dataset, origin.config, origin.split, origin.row === null || origin.row === undefined ? null : `row\u00a0${origin.row}`)],
    ["category", origin.category],
  ];
}

function drawRow(row) {
  const harmful = row.domain === "harmful";
  const { sampling, verdict } = row;
  const about = element("td", "", heading(row.domain, row.prefill === null ? "plain" : "prefilled"), facts([
    ...originFacts(row),
    ["answer", harmful ? null : row.ground_truth],
    ["sampler", sampling && joined(sampling.sampler, sampling.model)],
    ["attempt", sampling?.attempt],
    ["words", sampling?.words],
    ["stance", verdict && joined(verdict.stance, verdict.score?.toFixed(2), verdict.judge)],
  ]));
  const prefill = row.prefill === null
    ? element("span", "note", "none: a plain row")
    : textBlock(row.prefill, `${row.id} prefill`, "Prefill", harmful);
  return element("tr", "", about,
    cell("Prompt", textBlock(promptOf(row), `${row.id} prompt`, "Prompt", harmful)), cell("Prefill", prefill));
}

function drawDropped(row, place, stage) {
  const harmful = row.domain === "harmful";
  const match = row.match ?? {};
  const key = `${stage} ${place}`;
  const about = element("td", "", heading(row.domain, row.reason), facts([
    ...originFacts(row),
    ["similarity", similarity(match.similarity)],
    [stage === "dedupe" ? "twin" : "match", joined(match.dataset, match.id)],
  ]));
  const other = typeof match.text === "string"
    ? textBlock(match.text, `${key} match`, "Matched text", harmful)
    : element("span", "note", "not recorded");
  return element("tr", "", about,
    cell("Dropped prompt", textBlock(promptOf(row), `${key} prompt`, "Dropped prompt", harmful)),
    cell("Matched text", other));
}

/* Paging */

function pager(box, move) {
  const count = element("span", "note count");
  const page = element("span", "note page");
  const steps = [["«", "First page", -Infinity], ["‹", "Previous page", -1], ["›", "Next page", 1], ["»", "Last page", Infinity]];
  const buttons = steps.map(([sign, name, by]) => {
    const button = element("button", "", sign);
    button.type = "button";
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && move(by, box));
    return button;
  });
  const controls = element("div", "", ...buttons.slice(0, 2), page, ...buttons.slice(2));
  box.replaceChildren(count, controls);
  return (text, current, last) => {
    count.textContent = text;
    page.textContent = `Page ${number(current + 1)} of ${number(last + 1)}`;
    buttons.forEach((button, place) => button.setAttribute("aria-disabled", String(place < 2 ? current === 0 : current === last)));
    controls.hidden = last === 0;
  };
}

/** A table with a pager above and below; returns functions that show other items and draw the same ones again. */
function paged(root, size, draw) {
  let items = [];
  let noun = "rows";
  let current = 0;
  const body = root.querySelector("tbody");
  const last = () => Math.max(0, Math.ceil(items.length / size) - 1);
  const updates = [...root.querySelectorAll(".pager")].map((box) => pager(box, (by, origin) => {
    current = Math.min(last(), Math.max(0, current + by));
    redraw();
    if (origin.classList.contains("bottom")) root.scrollIntoView({ block: "start", behavior: "instant" });
  }));
  function redraw() {
    const start = current * size;
    const end = Math.min(items.length, start + size);
    body.replaceChildren(...items.slice(start, end).map((item, offset) => draw(item, start + offset)));
    const text = items.length ? `${number(start + 1)}–${number(end)} of ${number(items.length)} ${noun}` : `0 ${noun}`;
    for (const update of updates) update(text, current, last());
  }
  function show(next, name) {
    [items, noun, current] = [next, name, 0];
    redraw();
  }
  return { show, redraw };
}

/* Filters */

const FILTERS = {
  domain: ["All domains", (row) => row.domain],
  kind: ["All kinds", (row) => (row.prefill === null ? "plain" : "prefilled")],
  source: ["All sources", (row) => row.origin?.dataset ?? "(no dataset)"],
  category: ["All categories", (row) => row.origin?.category ?? "(no category)"],
  stance: ["All stances", (row) => row.verdict?.stance ?? "(no verdict)"],
};

function fillFilter(name, rows) {
  const [all, valueOf] = FILTERS[name];
  const counts = new Map();
  for (const row of rows) counts.set(valueOf(row), (counts.get(valueOf(row)) ?? 0) + 1);
  const options = [...counts].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
  byId(`filter-${name}`).replaceChildren(
    new Option(all, ""),
    ...options.map(([value, count], place) => {
      const option = new Option(`${value || "(empty)"} (${number(count)})`, String(place + 1));
      option.wanted = value;
      return option;
    }),
  );
}

function haystack(row) {
  row.haystack ??= [row.id, promptOf(row), row.prefill ?? ""].join("\u0000").toLowerCase();
  return row.haystack;
}

function hits(rows) {
  const wanted = Object.entries(FILTERS)
    .map(([name, [, valueOf]]) => [valueOf, byId(`filter-${name}`).selectedOptions[0]?.wanted])
    .filter(([, value]) => value !== undefined);
  return rows.filter((row) => wanted.every(([valueOf, value]) => valueOf(row) === value)
    && (!needle || haystack(row).includes(needle)));
}

function setUpRows(rows) {
  const table = paged(byId("table"), ROWS_A_PAGE, drawRow);
  const search = byId("search");
  let timer = 0;
  function apply() {
    needle = search.value.toLowerCase();
    const found = hits(rows);
    const filtered = found.length < rows.length || needle;
    const noun = filtered ? (found.length === 1 ? "hit" : "hits") : "rows";
    table.show(found, noun);
    byId("status").textContent = filtered ? `${number(found.length)} ${noun}` : "";
  }
  Object.keys(FILTERS).forEach((name) => {
    fillFilter(name, rows);
    byId(`filter-${name}`).addEventListener("change", apply);
  });
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(apply, DEBOUNCE_MS);
  });
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    apply();
  });
  byId("filters").addEventListener("reset", () => setTimeout(apply));
  apply();
  return table;
}

/* The page */

function setUpReveal(tables) {
  byId("reveal").addEventListener("click", (event) => {
    allRevealed = !allRevealed;
    revealed.clear();
    event.currentTarget.textContent = allRevealed ? "Hide all harmful text" : "Reveal all harmful text";
    for (const table of tables) table.redraw();
  });
}

async function copy(button) {
  const shown = button.querySelector("code");
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    const before = shown.textContent;
    shown.textContent = "copied";
    setTimeout(() => { shown.textContent = before; }, 1200);
  } catch {
    shown.textContent = button.dataset.copy;
    getSelection().selectAllChildren(shown);
  }
}

for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));

try {
  const data = await unpack(byId("data").textContent);
  const tables = [setUpRows(data.rows)];
  for (const [stage, rows] of Object.entries(data.dropped)) {
    if (!rows.length) continue;
    const table = paged(byId(stage), DROPPED_A_PAGE, (row, place) => drawDropped(row, place, stage));
    table.show(rows, "dropped rows");
    tables.push(table);
  }
  setUpReveal(tables);
  byId("recipe").textContent = JSON.stringify(data.recipe, null, 2);
  document.documentElement.dataset.ready = "true";
} catch (error) {
  byId("failure").textContent = `The rows can't be unpacked (${error.message}). Open the report in a current browser.`;
  byId("failure").hidden = false;
}
