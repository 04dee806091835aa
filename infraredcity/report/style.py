"""Style and script of the page about a data set, as they stand in it; the page allows them by their hashes.

The script adds what a page alone cannot do: a filter, arrow keys between thumbnails, a larger view. It reads attributes that the
page has escaped, and writes text, never markup.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f8f8; --card: #ffffff; --ink: #1b2125; --soft: #55606a; --line: #dce0e3; --faint: #eef0f2;
  --link: #0f5c99; --series: #2a6fad; --mark: #9a4a00; --bad: #a8281e; --good: #1c6b3f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101315; --card: #181c1f; --ink: #e4e8ea; --soft: #a3aeb6; --line: #2e353a; --faint: #20262a;
    --link: #86bdf0; --series: #6ba8e0; --mark: #f2b06b; --bad: #ff9d92; --good: #7fd3a4;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html { scroll-padding-top: 5.5rem; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
a { color: var(--link); text-underline-offset: .15em; }
code, .key, .messages tbody th { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .88em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
main:focus { outline: none; }
.skip { position: absolute; left: -999rem; top: 0; z-index: 9; padding: .5rem 1rem; background: var(--card); }
.skip:focus { left: .5rem; top: .5rem; }
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
header, .layout, footer { max-width: 1320px; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
.eyebrow { margin: 0; color: var(--soft); font-size: .82rem; letter-spacing: .02em; }
h1 { margin: .1rem 0 1rem; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .7rem; font-size: 1.2rem; line-height: 1.3; }
h3 { margin: 1.6rem 0 .4rem; font-size: 1rem; overflow-wrap: anywhere; }
h4 { margin: 1rem 0 .4rem; font-size: .8rem; font-weight: 500; color: var(--soft); font-variant-numeric: tabular-nums; }
p { margin: 0 0 .8rem; max-width: 75ch; }
.note { color: var(--soft); font-size: .87rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 0 0 1rem; }
.tiles dt { color: var(--soft); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.35rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.facts { margin: 0 0 .6rem; font-size: .9rem; }
.facts div, .meanings div { display: flex; flex-wrap: wrap; gap: 0 .6rem; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.verdict { font-weight: 600; color: var(--good); } .verdict.bad, .verdict a { color: var(--bad); }
.meanings { margin: 0 0 1rem; font-size: .9rem; } .meanings dd { margin: 0; }
.meanings div { align-items: baseline; padding: .1rem 0; }
.layout { display: grid; grid-template-columns: 12rem minmax(0, 1fr); gap: 2rem; margin-top: 1rem; }
nav { position: sticky; top: 1rem; align-self: start; font-size: .9rem; }
.nav-title { margin: 0 0 .3rem; font-size: .82rem; font-weight: 500; color: var(--soft); }
nav ul { list-style: none; margin: 0; padding: 0; } nav a { display: block; padding: .2rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
main > section { padding: 1.25rem 0 1.5rem; border-top: 1px solid var(--line); }
main > section:first-child { border-top: 0; padding-top: 0; }
footer { padding-top: 1rem; padding-bottom: 3rem; color: var(--soft); font-size: .87rem; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; }
.scroll caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2.5rem); }
th, td { padding: .28rem 1.1rem .28rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: middle; }
tr > :last-child { padding-right: 0; }
thead th { font-weight: 500; color: var(--soft); vertical-align: bottom; line-height: 1.25; }
tbody th { font-weight: 500; }
th:first-child, td:first-child, .text-2 tr > :nth-child(2), .text-3 tr > :nth-child(-n+3),
.clips tr > :nth-child(-n+5), .words-last tr > :last-child {
  text-align: left;
}
.words-last tr > :last-child { padding-left: .4rem; } .words-last td:not(:last-child) { white-space: nowrap; }
.clips td, .clips tbody th { white-space: nowrap; }
.messages tbody th { font-weight: 400; overflow-wrap: anywhere; min-width: 16rem; }
.clip { display: flex; align-items: center; gap: .6rem; }
.mini { object-fit: cover; border-radius: 3px; background: #000; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem 2.5rem;
  margin: 1rem 0 1.5rem; }
.cards table { width: 100%; table-layout: fixed; align-self: start; } .cards th { overflow-wrap: anywhere; }
.cards caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.leak { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; } .leak > :first-child { flex: 1 1 24rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } .pair figure { margin: 0; font-size: .82rem; }
.pair img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #000; margin-bottom: .3rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .75rem;
  align-items: start; }
.chart { margin: 0; padding: .75rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.chart figcaption { font-size: .82rem; color: var(--soft); min-height: 2.6em; line-height: 1.35; }
.chart b { color: var(--ink); font-weight: 600; }
.clip-charts { content-visibility: auto; contain-intrinsic-size: auto 320px; }
svg { display: block; width: 100%; height: auto; margin-top: .3rem; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
.grid { fill: none; stroke: var(--line); stroke-width: 1; } .axis { fill: none; stroke: var(--soft); stroke-width: 1; }
.bars { fill: var(--series); }
.line { fill: none; stroke: var(--series); stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
.mark-line { fill: none; stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
details { margin: .3rem 0; font-size: .87rem; } summary { cursor: pointer; color: var(--link); padding: .15rem 0;
  width: max-content; max-width: 100%; }
.chart details[open] { max-height: 20rem; overflow-y: auto; }
#filter {
  position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1.2rem;
  padding: .6rem 0;
  background: var(--page); border-bottom: 1px solid var(--line);
}
#filter .note { margin: 0; } #filter output { font-variant-numeric: tabular-nums; font-size: .9rem; }
select, button {
  font: inherit; font-size: .9rem; color: var(--ink); background: var(--card); border: 1px solid var(--soft);
  border-radius: 6px;
  padding: .25rem .6rem; max-width: 100%; min-height: 2rem;
}
button { cursor: pointer; padding: .25rem .9rem; } button:hover { background: var(--faint); } label { font-size: .9rem; }
.sheet h3 { margin-bottom: 0; } .sheet > .note { margin-bottom: 0; }
.group { content-visibility: auto; contain-intrinsic-size: auto 720px; }
.thumbs { list-style: none; margin: 0; padding: 0; display: grid;
  grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: .6rem .5rem; }
.thumb { display: block; width: 104px; max-width: 100%; padding: 3px; border: 1px solid transparent; border-radius: 6px;
  color: inherit; text-decoration: none; }
.thumb:hover { background: var(--faint); }
.thumb img { display: block; width: 96px; max-width: 100%; height: auto; border-radius: 3px; background: #000; }
.thumb > span { display: block; font-size: .74rem; line-height: 1.35; }
.thumb .time { color: var(--soft); font-variant-numeric: tabular-nums; }
.thumb .key { position: relative; margin-top: .15rem; } .thumb .split { margin-left: .25rem; }
.is-suspect { border: 2px dashed var(--mark); padding: 2px; }
.is-repeat, .is-duplicate { border: 2px dotted var(--mark); padding: 2px; }
.is-frozen { border: 3px double var(--mark); padding: 1px; }
.mark { color: var(--mark); font-weight: 600; font-size: .8rem; white-space: nowrap; }
li:target .thumb { background: var(--faint); border: 2px solid var(--link); padding: 2px; width: 100%; }
li:target { grid-column: span 2; grid-row: span 2; } li:target img { width: 100%; }
dialog { width: min(46rem, calc(100vw - 1.5rem)); max-height: calc(100vh - 1.5rem); padding: 1rem 1.25rem; color: var(--ink);
  background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
dialog::backdrop { background: rgb(0 0 0 / .6); }
.bar { display: flex; align-items: center; justify-content: space-between; gap: .75rem; }
.bar h2 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
.bar output { font-size: .87rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.stage { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; margin: .9rem 0; }
.stage figure { margin: 0; flex: 1 1 16rem; } .stage img { display: block; width: 100%; height: auto; max-height: 60vh;
  object-fit: contain; background: #000; border-radius: 6px; }
.stage dl { flex: 1 1 15rem; margin: 0; display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem .9rem;
  align-content: start; font-size: .87rem; }
.stage dt { color: var(--soft); } .stage dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
dialog .note { margin: .7rem 0 0; }
@media (max-width: 860px) {
  .layout { grid-template-columns: minmax(0, 1fr); gap: 1rem; } nav { position: static; }
  nav ul { display: flex; flex-wrap: wrap; gap: 0 1.1rem; } #filter { position: static; } html { scroll-padding-top: 1rem; }
}
@media (max-width: 420px) { header, .layout, footer { padding-left: .9rem; padding-right: .9rem; } h1 { font-size: 1.4rem; }
.tiles { gap: .6rem 1.6rem; } .tiles dd { font-size: 1.15rem; } }
@media (forced-colors: active) { .bars { fill: CanvasText; } .line { stroke: CanvasText; }
.thumb { border-color: transparent; } }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --faint: #fff; --link: #000; --series: #333;
  --mark: #000; --bad: #000; --good: #000; }
  body { font-size: 10pt; } nav, #filter, .skip, details, dialog { display: none !important; }
  .layout { display: block; } .group, .clip-charts { content-visibility: visible; }
  .chart, .thumbs li, tr, .leak { break-inside: avoid; } h2, h3, h4 { break-after: avoid; } .scroll { overflow: visible; }
  .clips td, .clips tbody th { white-space: normal; }
  a { text-decoration: none; color: inherit; }
}
"""

SCRIPT = """
"use strict";
const thumbs = [...document.querySelectorAll("a.thumb")];
const filter = document.getElementById("filter");
const viewer = document.getElementById("viewer");
const find = (name) => document.getElementById(name);
const isShown = (thumb) => !thumb.parentElement.hidden;
const names = {clip: "Clip", frame: "Frame", time: "Time", run: "Run", part: "Part", split: "Split", shard: "Shard",
  bytes: "Bytes of the picture", marks: "Marks", dup: "Shows what this shows"};
let open = null;

// Of the thumbnails of a clip one is reached with Tab, the others from it with the arrow keys.
const thumbsIn = (element) => [...element.querySelectorAll("a.thumb")];
const sheets = [...document.querySelectorAll(".sheet")].map((element) => ({element, thumbs: thumbsIn(element)}));
const sheetOf = (thumb) => sheets.find((sheet) => sheet.thumbs.includes(thumb));
const makeReachable = (sheet, wanted) => {
  for (const thumb of sheet.thumbs) thumb.tabIndex = thumb === wanted ? 0 : -1;
};
const focusOn = (thumb) => {
  makeReachable(sheetOf(thumb), thumb);
  thumb.focus();
};

const applyFilter = () => {
  const wanted = (name) => find(name) === null ? "" : find(name).value;
  const clip = wanted("filter-clip"), mark = wanted("filter-mark"), split = wanted("filter-split");
  let count = 0;
  for (const sheet of sheets) {
    for (const thumb of sheet.thumbs) {
      const marks = (thumb.dataset.marks || "").split(" ").filter(Boolean);
      const fits = (clip === "" || sheet.element.dataset.clip === clip) && (split === "" || thumb.dataset.split === split)
        && (mark === "" || (mark === "any" ? marks.length > 0 : mark === "none" ? marks.length === 0 : marks.includes(mark)));
      thumb.parentElement.hidden = !fits;
      count += fits ? 1 : 0;
    }
    for (const group of sheet.element.querySelectorAll(".group")) group.hidden = group.querySelector("li:not([hidden])") === null;
    const shown = sheet.thumbs.filter(isShown);
    sheet.element.hidden = shown.length === 0;
    if (shown.length > 0) makeReachable(sheet, shown[0]);
  }
  find("filter-count").textContent = `${count.toLocaleString("en")} shown`;
};

const neighbour = (thumb, key) => {
  const shown = sheetOf(thumb).thumbs.filter(isShown);
  const place = shown.indexOf(thumb);
  if (key === "Home") return shown[0];
  if (key === "End") return shown[shown.length - 1];
  if (key === "ArrowLeft") return shown[place - 1];
  if (key === "ArrowRight") return shown[place + 1];
  // Up and down: the next row of thumbnails, and in it the one that stands closest to the same column.
  const at = thumb.getBoundingClientRect();
  const ahead = shown.map((other) => ({other, box: other.getBoundingClientRect()}))
    .filter(({box}) => key === "ArrowDown" ? box.top > at.top + 4 : box.top < at.top - 4);
  if (ahead.length === 0) return undefined;
  const tops = ahead.map(({box}) => box.top);
  const row = key === "ArrowDown" ? Math.min(...tops) : Math.max(...tops);
  const inRow = ahead.filter(({box}) => Math.abs(box.top - row) < 4);
  return inRow.reduce((best, each) => Math.abs(each.box.left - at.left) < Math.abs(best.box.left - at.left) ? each : best).other;
};

const show = (thumb) => {
  const shown = thumbs.filter(isShown);
  const place = shown.indexOf(thumb);
  open = thumb;
  find("viewer-title").textContent = thumb.dataset.key;
  find("viewer-place").textContent = `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
  const picture = thumb.querySelector("img").cloneNode();
  picture.alt = `${picture.alt}, enlarged`;
  viewer.querySelector("figure").replaceChildren(picture);
  const facts = viewer.querySelector("dl");
  facts.replaceChildren();
  for (const [name, label] of Object.entries(names)) {
    if (thumb.dataset[name] === undefined) continue;
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = label;
    value.textContent = thumb.dataset[name];
    facts.append(term, value);
  }
  viewer.querySelector("[data-do=back]").disabled = place === 0;
  viewer.querySelector("[data-do=next]").disabled = place === shown.length - 1;
};
const move = (by) => {
  const shown = thumbs.filter(isShown);
  const next = shown[shown.indexOf(open) + by];
  if (next !== undefined) show(next);
  if (document.activeElement === document.body || document.activeElement.disabled) viewer.querySelector("[data-do=close]").focus();
};

// The browser gives the focus back to the thumbnail that was opened; whoever has moved on goes on from the one last seen.
const close = () => {
  viewer.close();
  focusOn(open);
  open = null;
};

if (filter !== null) {
  filter.hidden = false;
  for (const select of filter.querySelectorAll("select")) select.addEventListener("change", applyFilter);
  applyFilter();
}
document.addEventListener("click", (event) => {
  const thumb = event.target.closest("a.thumb");
  if (thumb === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(thumb);
  viewer.showModal();
});
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (viewer.open) {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      move(event.key === "ArrowLeft" ? -1 : 1);
    } else if (event.key === "Escape") {
      event.preventDefault();
      close();
    }
    return;
  }
  const thumb = document.activeElement === null ? null : document.activeElement.closest("a.thumb");
  if (thumb === null || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
  event.preventDefault();
  const next = neighbour(thumb, event.key);
  if (next !== undefined) focusOn(next);
});
viewer.addEventListener("click", (event) => {
  const what = event.target.dataset.do;
  if (what === "close" || event.target === viewer) close();
  if (what === "back") move(-1);
  if (what === "next") move(1);
});
viewer.addEventListener("close", () => {
  if (open !== null) focusOn(open);  // closed in another way, such as the back gesture of a phone
  open = null;
});
"""
