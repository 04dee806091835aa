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
  // Up and down: the next row of thumbnails, and in it the one closest to the same column.
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

// The browser returns the focus to the thumbnail that was opened; after moving on, focus the last one shown.
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
